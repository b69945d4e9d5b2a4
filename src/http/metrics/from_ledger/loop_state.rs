//! Cycles, decisions, the governor, and alerts.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};

use super::{by_name, moment, number, put_counts};
use crate::cycle::snapshot;
use crate::cycle::steps::STEPS;
use crate::http::metrics::catalogue as names;
use crate::http::metrics::counted::seconds;
use crate::http::metrics::page::Page;
use delayd_core::ports::ChannelKind;
use delayd_judge::governor::{GovernorPolicy, standing};
use delayd_ledger::{CycleState, Snapshot};

const REASONS: [&str; 5] = ["bootstrap", "drift", "performance", "scheduled", "manual"];
const OUTCOMES: [&str; 6] = ["deployed", "kept_live", "failed", "cancelled", "rolled_back", "stuck"];

pub(super) fn cycles(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    ended(page, connection)?;
    open(page, connection)?;
    let last = "SELECT name, wall_ms / 1000.0 FROM steps s WHERE state IN ('done', 'undone') AND wall_ms IS NOT NULL
                AND cycle = (SELECT max(cycle) FROM steps o WHERE o.name = s.name AND o.wall_ms IS NOT NULL
                             AND o.state IN ('done', 'undone'))";
    for (step, wall) in by_name(connection, last, [])? {
        if let Some(step) = STEPS.map(|row| row.step).into_iter().find(|known| known.name == step) {
            page.put(&names::STEP_LAST_SECONDS, &[step.name], wall);
        }
    }
    for (label, outcome) in [("start_cycle", "start a cycle"), ("hold", "hold")] {
        decisions(page, connection, "retrain", label, outcome)?;
    }
    for (label, outcome) in [("deploy_challenger", "deploy the challenger"), ("keep_live", "keep the live model")] {
        decisions(page, connection, "gate", label, outcome)?;
    }
    Ok(())
}

fn decisions(
    page: &mut Page,
    connection: &Connection,
    kind: &'static str,
    label: &'static str,
    outcome: &str,
) -> rusqlite::Result<()> {
    let sql = "SELECT count(*) FROM decisions WHERE kind = ?1 AND outcome = ?2";
    let count = number(connection, sql, params![kind, outcome])?;
    page.put(&names::DECISIONS, &[kind, label], count.unwrap_or(0.0));
    Ok(())
}

fn ended(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT json_extract(reason, '$.kind') || '/' || outcome, count(*) FROM cycles
               WHERE outcome IS NOT NULL GROUP BY 1";
    let counts = by_name(connection, sql, [])?;
    for reason in REASONS {
        for outcome in OUTCOMES {
            let key = format!("{reason}/{outcome}");
            let count = counts.iter().find(|(other, _)| *other == key).map_or(0.0, |(_, count)| *count);
            page.put(&names::CYCLES, &[reason, outcome], count);
        }
    }
    page.put_some(&names::CYCLE_FINISHED, &[], moment(connection, "SELECT max(finished_at) FROM cycles", [])?);
    let failures = "SELECT count(*) FROM cycles WHERE state = 'finished' AND id > coalesce(
                      (SELECT max(id) FROM cycles WHERE outcome NOT IN ('failed', 'stuck')), 0)";
    page.put(&names::CYCLE_FAILURES, &[], number(connection, failures, [])?.unwrap_or(0.0));
    // A cycle that ended stuck is over for whoever begins the next one; until then a person must look.
    let stuck = "SELECT count(*) FROM steps WHERE state = 'stuck' AND cycle = (SELECT max(id) FROM cycles)";
    page.put(&names::STEPS_STUCK, &[], number(connection, stuck, [])?.unwrap_or(0.0));
    Ok(())
}

fn open(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let open = connection
        .prepare_cached("SELECT id, state, started_at FROM cycles WHERE state <> 'finished'")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, CycleState>(1)?, row.get::<_, f64>(2)?)))
        .optional()?;
    let state = open.map_or("", |(_, state, _)| state.as_str());
    page.put_state(&names::CYCLE_STATE, &[], &["running", "waiting_approval"], state);
    page.put_some(&names::CYCLE_STARTED, &[], open.map(|(_, _, at)| at / 1e6));
    let running = "SELECT name, attempt FROM steps WHERE cycle = ?1 AND state = 'running' ORDER BY position LIMIT 1";
    let step: Option<(String, f64)> = match open {
        Some((id, ..)) => {
            connection.prepare_cached(running)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?
        }
        None => None,
    };
    let all = STEPS.map(|row| row.step.name);
    page.put_state(&names::CYCLE_STEP, &[], &all, step.as_ref().map_or("", |(name, _)| name.as_str()));
    page.put(&names::CYCLE_STEP_ATTEMPTS, &[], step.map_or(0.0, |(_, attempt)| attempt));
    Ok(())
}

pub(super) fn governor(
    page: &mut Page,
    ledger: &Snapshot<'_>,
    policy: &GovernorPolicy,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    page.put(&names::PAUSED, &[], f64::from(u8::from(snapshot::paused(ledger)?.is_some())));
    let standing = standing(&snapshot::governor(ledger)?, policy, now);
    let left = |until: Option<DateTime<Utc>>| until.map_or(0.0, |until| (seconds(until) - seconds(now)).max(0.0));
    page.put(&names::COOLDOWN_LEFT, &[], left(standing.cooldown_until));
    page.put(&names::BACKOFF_LEFT, &[], left(standing.backoff_until));
    page.put(&names::BUDGET_LEFT, &[], f64::from(standing.budget_left));
    page.put(&names::BREAKER_OPEN, &[], f64::from(u8::from(standing.breaker_open)));
    Ok(())
}

pub(super) fn alerts(page: &mut Page, connection: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    let alerts = by_name(connection, "SELECT severity, count(*) FROM outbox GROUP BY severity", [])?;
    put_counts(page, &names::ALERTS, &["info", "warning", "critical"], &alerts);
    // An endpoint is `channel` or `channel:address`: addresses are no labels.
    let sql = "SELECT substr(endpoint, 1, instr(endpoint || ':', ':') - 1) || '/' || state, count(*)
               FROM deliveries GROUP BY 1";
    let counts = by_name(connection, sql, [])?;
    for channel in ChannelKind::ALL.map(ChannelKind::name) {
        let count = |state: &str| {
            let key = format!("{channel}/{state}");
            counts.iter().find(|(other, _)| *other == key).map_or(0.0, |(_, count)| *count)
        };
        for state in ["pending", "dead"] {
            page.put(&names::UNDELIVERED, &[channel, state], count(state));
        }
        page.put(&names::DELIVERED, &[channel], count("delivered"));
    }
    let oldest = moment(connection, "SELECT min(since) FROM deliveries WHERE state = 'pending'", [])?;
    page.put_some(&names::OLDEST_PENDING, &[], oldest);
    let active = "SELECT count(*) FROM silences WHERE ended_at IS NULL AND begins <= ?1 AND until > ?1";
    page.put(&names::SILENCES, &[], number(connection, active, [now.timestamp_micros()])?.unwrap_or(0.0));
    Ok(())
}
