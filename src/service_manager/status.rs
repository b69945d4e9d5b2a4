//! The daemon's status over its life, as the service manager gets it: one line that says where the loop is, which
//! `systemctl status delayd` shows.

use std::time::Duration;

use super::ServiceManager;
use delayd_core::error::chain;
use delayd_ledger::{Alias, AliasRecord, Cycle, CycleState, Ledger, LedgerError, Step, StepState};

/// How often the daemon is asked whether it answers, until it does.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// How often the loop is checked.
const STATUS_PAUSE: Duration = Duration::from_secs(2);
/// An unchanged status is sent again after this many checks, in case another one replaced it.
const RESEND_AFTER: u32 = 15;

/// Reports that the daemon is ready as soon as it `answers`, and from then on where the loop is. Never returns.
pub(crate) async fn attend(manager: &ServiceManager, ledger: &Ledger, answers: impl AsyncFn() -> bool) {
    if !manager.is_there() {
        return std::future::pending().await;
    }
    while !answers().await {
        tokio::time::sleep(ANSWER_PAUSE).await;
    }
    manager.ready("it answers");
    let (mut sent, mut checks) = (String::new(), 0);
    loop {
        match loop_status(ledger).await {
            Ok(status) => {
                checks += 1;
                if status != sent || checks >= RESEND_AFTER {
                    manager.status(&status);
                    (sent, checks) = (status, 0);
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "the loop's position could not be read for the status"),
        }
        tokio::time::sleep(STATUS_PAUSE).await;
    }
}

/// Where the loop is: the live model, and the cycle under way with its step.
async fn loop_status(ledger: &Ledger) -> Result<String, LedgerError> {
    let aliases = ledger.aliases().await?;
    let cycle = ledger.open_cycle().await?;
    let steps = match &cycle {
        Some(cycle) => ledger.steps_of(cycle.id).await?,
        None => Vec::new(),
    };
    Ok(line(&aliases, cycle.as_ref(), &steps))
}

fn line(aliases: &[AliasRecord], cycle: Option<&Cycle>, steps: &[Step]) -> String {
    let live = aliases.iter().find(|alias| alias.alias == Alias::Live);
    let live = live.map_or_else(|| "no model is live yet".to_owned(), |alias| format!("{} is live", alias.model));
    let Some(cycle) = cycle else { return format!("{live}; watching") };
    let what = match cycle.state {
        CycleState::WaitingApproval => format!("{} already serves and is waiting for approval", cycle.model),
        _ => steps.iter().max_by_key(|step| step.position).map_or_else(|| "starting".to_owned(), step_text),
    };
    format!("{live}; {} ({}): {what}", cycle.id, cycle.reason.word())
}

fn step_text(step: &Step) -> String {
    let attempt = if step.attempt > 1 { format!(", attempt {}", step.attempt) } else { String::new() };
    let progress = if step.progress.is_empty() || step.state != StepState::Running {
        String::new()
    } else {
        format!(", {}", step.progress)
    };
    format!("step {} {}{attempt}{progress}", step.name, step.state)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use delayd_core::ids::ModelVersion;
    use delayd_ledger::CycleReason;

    #[tokio::test]
    async fn the_line_follows_the_loop() {
        let at = DateTime::from_timestamp(1_357_000_000, 0).unwrap();
        let ledger = Ledger::in_memory().unwrap();
        assert_eq!(loop_status(&ledger).await.unwrap(), "no model is live yet; watching");
        let cycle = ledger.begin_cycle(CycleReason::Bootstrap, at).await.unwrap();
        assert_eq!(loop_status(&ledger).await.unwrap(), "no model is live yet; cycle_1 (bootstrap): starting");
        ledger.step_started(cycle.id, 30, "train", at).await.unwrap();
        ledger.step_progress(cycle.id, "epoch 3 of 20").await.unwrap();
        let training = "no model is live yet; cycle_1 (bootstrap): step train running, epoch 3 of 20";
        assert_eq!(loop_status(&ledger).await.unwrap(), training);
        ledger.set_cycle_state(cycle.id, CycleState::WaitingApproval).await.unwrap();
        let waiting = "no model is live yet; cycle_1 (bootstrap): model_v1 already serves and is waiting for approval";
        assert_eq!(loop_status(&ledger).await.unwrap(), waiting);
    }

    #[test]
    fn a_live_model_is_named() {
        let moved_at = DateTime::from_timestamp(0, 0).unwrap();
        let live = AliasRecord { alias: Alias::Live, model: ModelVersion(2), moved_at };
        assert_eq!(line(&[live], None, &[]), "model_v2 is live; watching");
    }
}
