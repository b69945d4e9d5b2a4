//! `delayd-serve`: reads the command line, starts a replica, stops on a signal.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use delayd_serve::{LogFormat, Options, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    log_to_stderr(options.log);
    match actix_web::rt::System::new().block_on(serve(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("delayd-serve: {error}");
            let mut cause = error.source();
            while let Some(next) = cause {
                line = format!("{line}: {next}");
                cause = next.source();
            }
            // Standard error is the last place to report it; when that is closed too, only the code is left.
            let _ = writeln!(std::io::stderr(), "{}", line.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), StartError> {
    let listen = |kind| signal(kind).map_err(StartError::Signal);
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let service = delayd_serve::start(options).await?;
    let told_to_stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    service.run_until(told_to_stop).await
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,actix_server=warn"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_ansi(false).init(),
    }
}
