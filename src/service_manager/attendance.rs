//! What the service manager is told over the daemon's life.

use std::time::Duration;

use super::{ServiceManager, loop_status};
use delayd_core::error::chain;
use delayd_ledger::Ledger;

/// How often the daemon is asked whether it answers, until it does.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// How often the loop is looked at.
const STATUS_PAUSE: Duration = Duration::from_secs(2);
/// So many looks after which a status is told again, in case another one took its place.
const TOLD_AGAIN: u32 = 15;

/// Tells that the daemon is ready as soon as it `answers`, and from then on where the
/// loop is. Never returns.
pub async fn attend(manager: &ServiceManager, ledger: &Ledger, answers: impl AsyncFn() -> bool) {
    if !manager.is_there() {
        return std::future::pending().await;
    }
    while !answers().await {
        tokio::time::sleep(ANSWER_PAUSE).await;
    }
    manager.ready("it answers");
    let (mut told, mut looks) = (String::new(), 0);
    loop {
        match loop_status(ledger).await {
            Ok(status) => {
                looks += 1;
                if status != told || looks >= TOLD_AGAIN {
                    manager.status(&status);
                    (told, looks) = (status, 0);
                }
            }
            Err(error) => tracing::warn!(error = chain(&error), "where the loop is could not be read for the status"),
        }
        tokio::time::sleep(STATUS_PAUSE).await;
    }
}
