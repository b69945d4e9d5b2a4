-- Whoever looks at an alert sees when it is delivered, given up, or tried again.
CREATE TRIGGER IF NOT EXISTS delivery_changed AFTER UPDATE OF state ON deliveries WHEN NEW.state <> OLD.state BEGIN
    INSERT INTO events (at, kind, subject, state)
    VALUES (coalesce(NEW.delivered_at, NEW.next_attempt_at), 'alert', 'alert_' || NEW.alert, NEW.state);
END;
