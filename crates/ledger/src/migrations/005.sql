-- Every change that somebody may want to watch, in the order in which it was
-- committed: what the event stream tells. Triggers write it, so that no change
-- can be stored without being told. `at` is the changed row's own time.

CREATE TABLE IF NOT EXISTS events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    state   TEXT    NOT NULL
);

-- The stream is for watching, the tables are the record: the last 10,000 are kept.
CREATE TRIGGER IF NOT EXISTS events_pruned AFTER INSERT ON events BEGIN
    DELETE FROM events WHERE id <= NEW.id - 10000;
END;

CREATE TRIGGER IF NOT EXISTS cycle_begun AFTER INSERT ON cycles BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.started_at, 'cycle', 'cycle_' || NEW.id, coalesce(NEW.outcome, NEW.state));
END;
-- Waiting for approval has no time of its own: the last step's end is when it began.
CREATE TRIGGER IF NOT EXISTS cycle_changed AFTER UPDATE OF state ON cycles BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (coalesce(NEW.finished_at,
                     (SELECT max(coalesce(finished_at, started_at)) FROM steps WHERE cycle = NEW.id),
                     NEW.started_at),
            'cycle', 'cycle_' || NEW.id, coalesce(NEW.outcome, NEW.state));
END;

CREATE TRIGGER IF NOT EXISTS step_begun AFTER INSERT ON steps BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.started_at, 'step', 'cycle_' || NEW.cycle || '/' || NEW.name, NEW.state);
END;
CREATE TRIGGER IF NOT EXISTS step_changed AFTER UPDATE OF state, attempt, progress ON steps BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (coalesce(NEW.finished_at, NEW.started_at), 'step', 'cycle_' || NEW.cycle || '/' || NEW.name, NEW.state);
END;

CREATE TRIGGER IF NOT EXISTS run_begun AFTER INSERT ON runs BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (coalesce(NEW.finished_at, NEW.started_at), 'run', 'run_' || NEW.id, NEW.state);
END;
CREATE TRIGGER IF NOT EXISTS run_changed AFTER UPDATE ON runs BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (coalesce(NEW.finished_at, NEW.started_at), 'run', 'run_' || NEW.id, NEW.state);
END;

CREATE TRIGGER IF NOT EXISTS model_registered AFTER INSERT ON models BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.registered_at, 'model', 'model_v' || NEW.version, 'registered');
END;
-- The state is the model that the alias names now; empty where it names none.
CREATE TRIGGER IF NOT EXISTS alias_moved AFTER INSERT ON alias_history BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.moved_at, 'alias', NEW.alias, coalesce('model_v' || NEW.to_model, ''));
END;

CREATE TRIGGER IF NOT EXISTS image_pushed AFTER INSERT ON images BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.pushed_at, 'image', NEW.tag, 'pushed');
END;
CREATE TRIGGER IF NOT EXISTS image_withdrawn AFTER UPDATE OF withdrawn_at ON images WHEN NEW.withdrawn_at IS NOT NULL BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.withdrawn_at, 'image', NEW.tag, 'withdrawn');
END;

CREATE TRIGGER IF NOT EXISTS deployment_begun AFTER INSERT ON deployments BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.created_at, 'deployment', 'deployment_' || NEW.id, NEW.state);
END;
CREATE TRIGGER IF NOT EXISTS deployment_changed AFTER UPDATE OF state ON deployments BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.changed_at, 'deployment', 'deployment_' || NEW.id, NEW.state);
END;
CREATE TRIGGER IF NOT EXISTS deployment_verified AFTER INSERT ON verifications BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.at, 'verification', 'deployment_' || NEW.deployment, iif(NEW.passed, 'passed', 'failed'));
END;

CREATE TRIGGER IF NOT EXISTS drift_judged AFTER INSERT ON drift_reports BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (NEW.at, 'drift', 'drift_' || NEW.id, iif(NEW.drifted, 'drifted', 'stable'));
END;
CREATE TRIGGER IF NOT EXISTS window_measured AFTER INSERT ON metrics_windows BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.at, 'metrics', 'model_v' || NEW.model, 'measured');
END;
CREATE TRIGGER IF NOT EXISTS decision_taken AFTER INSERT ON decisions BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.at, 'decision', 'decision_' || NEW.id, NEW.outcome);
END;
CREATE TRIGGER IF NOT EXISTS alert_raised AFTER INSERT ON outbox BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.at, 'alert', 'alert_' || NEW.id, NEW.severity);
END;
CREATE TRIGGER IF NOT EXISTS silence_begun AFTER INSERT ON silences BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.begins, 'silence', 'silence_' || NEW.id, 'begun');
END;
CREATE TRIGGER IF NOT EXISTS silence_ended AFTER UPDATE OF ended_at ON silences WHEN NEW.ended_at IS NOT NULL BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.ended_at, 'silence', 'silence_' || NEW.id, 'ended');
END;
-- What people ask for, pause and resume among it, is noted in the audit first.
CREATE TRIGGER IF NOT EXISTS deed_noted AFTER INSERT ON audit BEGIN
    INSERT INTO events (at, kind, subject, state) VALUES (NEW.at, 'audit', 'audit_' || NEW.id, NEW.action);
END;
