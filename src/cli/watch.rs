//! `--watch`: an answer again and again; `delayd events`: what happens as it happens.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use futures::StreamExt;

use super::commands::{CliError, stop_signal};
use super::remote::Remote;
use delayd_ledger::Event;

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows what `answer` gives whenever it changed, until Ctrl-C. A failure is shown in
/// its place and tried again: a daemon that restarts is no reason to stop looking.
pub(super) async fn watch<F, Fut>(every_secs: u32, answer: F) -> Result<(), CliError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<String, CliError>>,
{
    let terminal = std::io::stdout().is_terminal();
    let mut shown = None;
    let stop = stop_signal();
    tokio::pin!(stop);
    loop {
        let text = match answer().await {
            Ok(text) => text,
            Err(error @ CliError::NoDaemon(_)) => format!("{error}\n(tried again every {every_secs} s)"),
            Err(error) => return Err(error),
        };
        if shown.as_ref() != Some(&text) {
            let written = if terminal { write(&format!("{CLEAR}{text}\n")) } else { write(&format!("{text}\n")) };
            if !written? {
                return Ok(());
            }
            shown = Some(text);
        }
        tokio::select! {
            _ = &mut stop => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(u64::from(every_secs))) => {}
        }
    }
}

/// Prints each event in a line of its own, as JSON where that is wanted.
pub(super) async fn events(remote: &Remote, after: Option<u64>, json: bool) -> Result<(), CliError> {
    let path = after.map_or_else(|| "events".to_owned(), |after| format!("events?after={after}"));
    let mut stream = remote.stream(&path).await?.bytes_stream();
    let mut pending = Vec::new();
    let stop = stop_signal();
    tokio::pin!(stop);
    loop {
        let piece = tokio::select! {
            _ = &mut stop => return Ok(()),
            piece = stream.next() => piece,
        };
        let Some(piece) = piece else { return Err(CliError::NoDaemon("the daemon ended the stream".to_owned())) };
        let piece = piece.map_err(|error| CliError::NoDaemon(format!("the stream broke off: {error}")))?;
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let event: Event = serde_json::from_slice(data)
                .map_err(|error| CliError::Failed(format!("an event in another form: {error}")))?;
            let data = String::from_utf8_lossy(data);
            let text = if json { data.into_owned() } else { format!("{}\n", told(&event)) };
            if !write(&text)? {
                return Ok(());
            }
        }
    }
}

fn told(event: &Event) -> String {
    format!("{}  {:<12} {:<28} {}", event.at.format("%Y-%m-%d %H:%M:%S"), event.kind, event.subject, event.state)
}

/// Whether somebody still reads.
fn write(text: &str) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Failed(format!("standard output: {error}"))),
    }
}
