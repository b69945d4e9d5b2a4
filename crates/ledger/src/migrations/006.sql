-- What an administrator has to see of flight logs, and of datasets that were not made.

-- Rows that said again what another row said: neither taken nor set aside.
ALTER TABLE objects ADD COLUMN rows_duplicate INTEGER NOT NULL DEFAULT 0;
-- Columns that nothing reads, as a JSON list.
ALTER TABLE objects ADD COLUMN unused_columns TEXT NOT NULL DEFAULT '[]';
-- Where the rows that were set aside lie.
ALTER TABLE objects ADD COLUMN quarantine_key TEXT;
-- When the same key was read after all.
ALTER TABLE objects ADD COLUMN resolved_at INTEGER;

-- What validation found in a dataset that broke the contract; no version is made of such a one.
CREATE TABLE refused_datasets (
    cycle      INTEGER PRIMARY KEY REFERENCES cycles (id),
    row_count  INTEGER NOT NULL,
    validation TEXT    NOT NULL,
    refused_at INTEGER NOT NULL
);
CREATE INDEX refused_datasets_by_time ON refused_datasets (refused_at);
