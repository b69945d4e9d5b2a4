-- Alerts are delivered per channel and addressee, can be silenced, and are told
-- together where they belong together.

CREATE TABLE silences (
    id       INTEGER PRIMARY KEY,
    prefix   TEXT    NOT NULL,
    begins   INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    why      TEXT    NOT NULL,
    ended_at INTEGER,
    ended_by TEXT
);

CREATE TABLE deliveries (
    alert           INTEGER NOT NULL REFERENCES outbox (id),
    endpoint        TEXT    NOT NULL,
    -- What sort of event, for grouping; the alert's key up to the first slash.
    topic           TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    -- The message it goes out with: the lowest alert in it. Given before the first
    -- attempt, so that a repeated message holds the same alerts.
    message         INTEGER,
    -- Whether it was held back by quiet hours or the rate limit.
    held            INTEGER NOT NULL DEFAULT 0,
    -- All attempts, and those which the other side refused.
    attempts        INTEGER NOT NULL DEFAULT 0,
    refusals        INTEGER NOT NULL DEFAULT 0,
    -- Since when it is tried.
    since           INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    delivered_at    INTEGER,
    last_error      TEXT,
    PRIMARY KEY (alert, endpoint)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (endpoint, next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_told ON deliveries (endpoint, delivered_at) WHERE state = 'delivered';

-- Until now there was the log alone. What is still pending is routed anew.
INSERT INTO deliveries
    (alert, endpoint, topic, state, message, attempts, refusals, since, next_attempt_at, delivered_at, last_error)
SELECT id, 'log', substr(dedup_key, 1, instr(dedup_key || '/', '/') - 1), state, id, attempts,
       CASE state WHEN 'dead' THEN attempts ELSE 0 END, at, next_attempt_at, delivered_at, last_error
FROM outbox
WHERE state <> 'pending';

DROP INDEX outbox_due;
ALTER TABLE outbox DROP COLUMN attempts;
ALTER TABLE outbox DROP COLUMN next_attempt_at;
ALTER TABLE outbox DROP COLUMN delivered_at;
ALTER TABLE outbox DROP COLUMN last_error;
ALTER TABLE outbox ADD COLUMN routed_at INTEGER;
ALTER TABLE outbox ADD COLUMN silence INTEGER REFERENCES silences (id);
UPDATE outbox SET routed_at = at WHERE state <> 'pending';
CREATE INDEX outbox_unrouted ON outbox (id) WHERE routed_at IS NULL;
