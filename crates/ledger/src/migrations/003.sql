-- What the reference data were at each time, each version with how it differs
-- from the one before. Newest of a kind = largest id.
CREATE TABLE reference_versions (
    id         INTEGER PRIMARY KEY,
    kind       TEXT    NOT NULL CHECK (kind IN ('airports', 'holidays', 'events')),
    digest     TEXT    NOT NULL,
    object_key TEXT    NOT NULL,
    origin     TEXT    NOT NULL CHECK (origin IN ('store', 'url')),
    entries    INTEGER NOT NULL,
    changes    TEXT    NOT NULL,
    noticed_at INTEGER NOT NULL
);
CREATE INDEX reference_versions_by_kind ON reference_versions (kind, id);

-- How much of the weather was known when a dataset's examples were assembled last.
CREATE TABLE dataset_weather (
    dataset  TEXT    PRIMARY KEY REFERENCES datasets (version) ON DELETE CASCADE,
    at       INTEGER NOT NULL,
    share    REAL    NOT NULL,
    coverage TEXT    NOT NULL
) WITHOUT ROWID;
CREATE INDEX dataset_weather_by_time ON dataset_weather (at);
