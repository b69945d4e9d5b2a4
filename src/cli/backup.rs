//! `delayd backup` and `delayd restore`: the ledger's copies.

use std::path::Path;

use super::commands::CliError;
use super::show::Shown;
use crate::config::Settings;
use crate::daemon::ledger_path;
use delayd_core::clock::{Clock, SystemClock};
use delayd_core::error::chain;
use delayd_ledger::{CheckedBackup, Ledger, LedgerError, check_backup, ensure_unused, recover_copy};

/// Writes a copy while the daemon runs or does not, and looks at it again from the disk.
pub(super) async fn backup(settings: &Settings, file: &Path) -> Result<Shown, CliError> {
    if file.exists() {
        return Err(CliError::Usage(format!("{} exists already; name a file that does not", file.display())));
    }
    Ledger::open_read_only(&ledger_path(&settings.daemon.state_dir))?.backup_to(file).await?;
    let written = check_backup(file)?;
    Shown::new(&written, format!("{} is whole: {}", file.display(), content(&written)))
}

/// Puts a copy in the ledger's place; refused while a daemon has it.
pub(super) fn restore(settings: &Settings, file: &Path) -> Result<Shown, CliError> {
    let path = ledger_path(&settings.daemon.state_dir);
    let stamp = SystemClock.now().format("%Y%m%dT%H%M%SZ").to_string();
    let restored = Ledger::restore(&path, file, &stamp).map_err(|error| match error {
        LedgerError::Locked { .. } => CliError::Refused(chain(&error)),
        error => error.into(),
    })?;
    let mut text = format!("{} is restored: {}", path.display(), content(&restored.backup));
    if let Some(aside) = &restored.set_aside {
        text.push_str(&format!("\nwhat was there is kept as {}", aside.display()));
    }
    Shown::new(&restored, text)
}

/// Copies what can still be read of a damaged ledger.
pub(super) fn recover(settings: &Settings, file: &Path) -> Result<Shown, CliError> {
    let path = ledger_path(&settings.daemon.state_dir);
    ensure_unused(&path).map_err(|error| CliError::Refused(chain(&error)))?;
    let report = recover_copy(&path, file)?;
    let mut text = format!("{} holds what could be read of {}:", file.display(), path.display());
    for table in &report.tables {
        let damage = table.damage.as_ref().map_or_else(String::new, |damage| format!("; rows may be lost: {damage}"));
        text.push_str(&format!("\n  {} rows of {}{damage}", table.rows, table.name));
    }
    text.push_str(&format!("\nput it in the ledger's place with `delayd restore {}`", file.display()));
    Shown::new(&report, text)
}

fn content(backup: &CheckedBackup) -> String {
    let known = |what: &Option<String>| what.clone().unwrap_or_else(|| "none".to_owned());
    let megabytes = backup.bytes as f64 / 1e6;
    format!("{megabytes:.1} MB, newest cycle {}, live model {}", known(&backup.newest_cycle), known(&backup.live_model))
}
