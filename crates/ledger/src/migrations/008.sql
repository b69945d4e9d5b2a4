-- What a start after a crash must know of a cycle that people or a failure had a say in:
-- who approved it, why it is being undone (set before the first undo), and who wants it to stop.
-- Whoever sets one of them names `state` too, so that `cycle_changed` tells of it.
ALTER TABLE cycles ADD COLUMN approved_by TEXT;
ALTER TABLE cycles ADD COLUMN undoing TEXT;
ALTER TABLE cycles ADD COLUMN cancel TEXT;

-- What came of what a person asked for: `done…`, `refused: …`, `failed: …`; `asked` while nobody knows yet,
-- empty in entries of a delayd that did not note it.
ALTER TABLE audit ADD COLUMN outcome TEXT NOT NULL DEFAULT '';
CREATE TRIGGER IF NOT EXISTS deed_ended AFTER UPDATE OF outcome ON audit BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.at, 'audit_outcome', 'audit_' || NEW.id, NEW.action);
END;
