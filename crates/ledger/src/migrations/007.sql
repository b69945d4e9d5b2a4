-- A run keeps its whole training record: commit, library versions, rows, calibration.
ALTER TABLE runs ADD COLUMN record TEXT NOT NULL DEFAULT 'null';

-- A model says why its cycle was begun, not only where that was drift.
ALTER TABLE models RENAME COLUMN drift_reason TO reason;
UPDATE models SET reason = (
    SELECT CASE json_extract(cycles.reason, '$.kind')
        WHEN 'bootstrap' THEN 'bootstrap: there was no live model'
        WHEN 'drift' THEN 'data drift (' || json_extract(cycles.reason, '$.report') || '): '
            || json_extract(cycles.reason, '$.summary')
        WHEN 'performance' THEN 'concept drift: ' || json_extract(cycles.reason, '$.summary')
        WHEN 'scheduled' THEN 'scheduled'
        WHEN 'manual' THEN 'asked for by ' || json_extract(cycles.reason, '$.by')
            || coalesce(': ' || nullif(json_extract(cycles.reason, '$.why'), ''), '')
    END
    FROM cycles WHERE cycles.id = models.cycle
);
