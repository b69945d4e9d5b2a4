-- Times are microseconds since 1970 (UTC), documents are JSON text, digests are
-- `sha256:…`, booleans are 0 or 1.

CREATE TABLE sequences (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE cycles (
    id          INTEGER PRIMARY KEY,
    reason      TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('running', 'waiting_approval', 'finished')),
    outcome     TEXT,
    detail      TEXT    NOT NULL DEFAULT '',
    run         INTEGER NOT NULL UNIQUE,
    model       INTEGER NOT NULL,
    deployment  INTEGER NOT NULL UNIQUE,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK ((state = 'finished') = (outcome IS NOT NULL))
);
-- At most one cycle is open: what makes the reserved model number its own.
CREATE UNIQUE INDEX one_open_cycle ON cycles (state <> 'finished') WHERE state <> 'finished';

CREATE TABLE steps (
    cycle       INTEGER NOT NULL REFERENCES cycles (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    wall_ms     INTEGER,
    progress    TEXT    NOT NULL DEFAULT '',
    output      TEXT,
    error       TEXT,
    PRIMARY KEY (cycle, position)
) WITHOUT ROWID;

CREATE TABLE objects (
    object_key       TEXT    NOT NULL,
    digest           TEXT    NOT NULL,
    size_bytes       INTEGER NOT NULL,
    rows_accepted    INTEGER NOT NULL,
    rows_quarantined INTEGER NOT NULL,
    status           TEXT    NOT NULL,
    error            TEXT,
    ingested_at      INTEGER NOT NULL,
    PRIMARY KEY (object_key, digest)
) WITHOUT ROWID;
CREATE INDEX objects_by_time ON objects (ingested_at);

CREATE TABLE datasets (
    version     TEXT    PRIMARY KEY,
    cycle       INTEGER NOT NULL REFERENCES cycles (id),
    manifest    TEXT    NOT NULL,
    row_count   INTEGER NOT NULL,
    from_time   INTEGER NOT NULL,
    until_time  INTEGER NOT NULL,
    validation  TEXT    NOT NULL,
    created_at  INTEGER NOT NULL
);
CREATE INDEX datasets_by_time ON datasets (created_at);

CREATE TABLE dataset_objects (
    dataset    TEXT NOT NULL REFERENCES datasets (version) ON DELETE CASCADE,
    object_key TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (dataset, object_key, digest),
    FOREIGN KEY (object_key, digest) REFERENCES objects (object_key, digest)
) WITHOUT ROWID;

CREATE TABLE runs (
    id          INTEGER PRIMARY KEY,
    cycle       INTEGER NOT NULL REFERENCES cycles (id),
    dataset     TEXT    NOT NULL REFERENCES datasets (version),
    parameters  TEXT    NOT NULL,
    seed        INTEGER NOT NULL,
    device      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    epochs      TEXT    NOT NULL,
    trials      TEXT    NOT NULL,
    metrics     TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER
);

CREATE TABLE models (
    version       INTEGER PRIMARY KEY,
    bundle        TEXT    NOT NULL,
    bundle_key    TEXT    NOT NULL,
    dataset       TEXT    NOT NULL REFERENCES datasets (version),
    run           INTEGER NOT NULL REFERENCES runs (id),
    cycle         INTEGER NOT NULL REFERENCES cycles (id),
    drift_reason  TEXT,
    parent        INTEGER REFERENCES models (version),
    metrics       TEXT    NOT NULL,
    registered_at INTEGER NOT NULL
);

CREATE TABLE aliases (
    alias    TEXT    PRIMARY KEY CHECK (alias IN ('candidate', 'live', 'previous')),
    model    INTEGER NOT NULL REFERENCES models (version),
    moved_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE alias_history (
    id         INTEGER PRIMARY KEY,
    alias      TEXT    NOT NULL,
    from_model INTEGER REFERENCES models (version),
    to_model   INTEGER REFERENCES models (version),
    moved_at   INTEGER NOT NULL
);

CREATE TABLE images (
    tag           TEXT    NOT NULL,
    digest        TEXT    NOT NULL,
    reference     TEXT    NOT NULL,
    model         INTEGER NOT NULL REFERENCES models (version),
    size_bytes    INTEGER NOT NULL,
    layers_pushed INTEGER NOT NULL,
    layers_reused INTEGER NOT NULL,
    pushed_at     INTEGER NOT NULL,
    PRIMARY KEY (tag, digest)
) WITHOUT ROWID;
CREATE INDEX images_by_model ON images (model);

CREATE TABLE deployments (
    id         INTEGER PRIMARY KEY,
    cycle      INTEGER REFERENCES cycles (id),
    model      INTEGER NOT NULL REFERENCES models (version),
    release    TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    previous   INTEGER REFERENCES deployments (id),
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
);
CREATE INDEX deployments_by_model ON deployments (model);

CREATE TABLE verifications (
    deployment INTEGER NOT NULL REFERENCES deployments (id),
    at         INTEGER NOT NULL,
    passed     INTEGER NOT NULL,
    report     TEXT    NOT NULL,
    PRIMARY KEY (deployment, at)
) WITHOUT ROWID;

CREATE TABLE drift_reports (
    id          INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    model       INTEGER NOT NULL REFERENCES models (version),
    window_from INTEGER NOT NULL,
    window_until INTEGER NOT NULL,
    drifted     INTEGER NOT NULL,
    report      TEXT    NOT NULL
);

CREATE TABLE decisions (
    id           INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    cycle        INTEGER REFERENCES cycles (id),
    kind         TEXT    NOT NULL,
    inputs       TEXT    NOT NULL,
    tests        TEXT    NOT NULL,
    alternatives TEXT    NOT NULL,
    outcome      TEXT    NOT NULL,
    reason       TEXT    NOT NULL
);
CREATE INDEX decisions_by_cycle ON decisions (cycle);

CREATE TABLE outbox (
    id              INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,
    severity        TEXT    NOT NULL,
    dedup_key       TEXT    NOT NULL UNIQUE,
    title           TEXT    NOT NULL,
    body            TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    delivered_at    INTEGER,
    last_error      TEXT
);
CREATE INDEX outbox_due ON outbox (next_attempt_at) WHERE state = 'pending';

CREATE TABLE served_predictions (
    replica             TEXT    NOT NULL,
    seq                 INTEGER NOT NULL,
    carrier             TEXT    NOT NULL,
    flight_number       INTEGER NOT NULL,
    origin              TEXT    NOT NULL,
    dest                TEXT    NOT NULL,
    scheduled_departure INTEGER NOT NULL,
    prediction_time     INTEGER NOT NULL,
    score               REAL    NOT NULL,
    -- No foreign key: a replica may serve a model whose registration was lost with a restored backup.
    model               INTEGER NOT NULL,
    PRIMARY KEY (replica, seq)
) WITHOUT ROWID;
CREATE INDEX served_by_flight
    ON served_predictions (scheduled_departure, carrier, flight_number, origin, dest);
CREATE INDEX served_by_time ON served_predictions (prediction_time);

CREATE TABLE outcomes (
    carrier             TEXT    NOT NULL,
    flight_number       INTEGER NOT NULL,
    origin              TEXT    NOT NULL,
    dest                TEXT    NOT NULL,
    scheduled_departure INTEGER NOT NULL,
    delayed             INTEGER NOT NULL,
    known_at            INTEGER NOT NULL,
    PRIMARY KEY (scheduled_departure, carrier, flight_number, origin, dest)
) WITHOUT ROWID;
CREATE INDEX outcomes_by_time ON outcomes (known_at);

CREATE TABLE metrics_windows (
    at    INTEGER NOT NULL,
    model INTEGER NOT NULL,
    body  TEXT    NOT NULL,
    PRIMARY KEY (at, model)
) WITHOUT ROWID;

CREATE TABLE settings (
    name       TEXT    PRIMARY KEY,
    value      TEXT    NOT NULL,
    changed_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    detail  TEXT    NOT NULL
);
