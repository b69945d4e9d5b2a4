//! The spans of a cycle's work, and how they are carried onto other threads and processes.

use tokio::task::JoinHandle;
use tracing::Span;

use crate::ids::TraceId;

pub fn step_span(step: &'static str) -> Span {
    tracing::error_span!("step", step)
}

pub fn undo_span(step: &'static str) -> Span {
    tracing::error_span!("undo", step, undo = true)
}

/// The environment variable that hands a trace on to another process, as OpenTelemetry names it.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// The span of a worker of another process, in the trace that its environment names.
pub fn worker_span(job: &str) -> Span {
    let trace = std::env::var(TRACEPARENT).ok().and_then(|header| TraceId::of_traceparent(&header));
    match trace {
        Some(trace) => tracing::error_span!("training_job", trace.id = %trace, training.job = job),
        None => tracing::error_span!("training_job", training.job = job),
    }
}

/// Work that, on whichever thread it runs, belongs to the caller's span.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// [`tokio::task::spawn_blocking`] within the caller's span.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(carried(work))
}
