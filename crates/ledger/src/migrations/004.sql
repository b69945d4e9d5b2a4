-- Steps were numbered 1, 2, 3 …; they are now numbered 10, 20, 30 …, so that a
-- step can be put between two others. By way of negative numbers, because a
-- position is part of the key and must not meet another row's old one.
UPDATE steps SET position = -10 * position;
UPDATE steps SET position = -position;

-- A tag that was taken away again is no longer what the export tells.
ALTER TABLE images ADD COLUMN withdrawn_at INTEGER;

CREATE TABLE builds (
    cycle          INTEGER PRIMARY KEY REFERENCES cycles (id) ON DELETE CASCADE,
    repository     TEXT    NOT NULL,
    revision       TEXT    NOT NULL,
    commit_id      TEXT    NOT NULL,
    subdirectory   TEXT    NOT NULL,
    command        TEXT    NOT NULL,
    command_digest TEXT    NOT NULL,
    toolchain      TEXT    NOT NULL,
    binary_digest  TEXT    NOT NULL,
    size_bytes     INTEGER NOT NULL,
    reused         INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    finished_at    INTEGER NOT NULL
);
