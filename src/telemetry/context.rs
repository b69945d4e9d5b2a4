//! The span of a cycle.

use tracing::Span;

pub use delayd_core::spans::{TRACEPARENT, carried, spawn_blocking, step_span, undo_span, worker_span};
use delayd_ledger::Cycle;

/// The span of a cycle. At the level of errors, because a span that a filter leaves
/// out would take its fields from the errors inside.
#[must_use]
pub fn cycle_span(cycle: &Cycle) -> Span {
    tracing::error_span!("cycle", trace.id = %cycle.trace_id(), cycle.id = %cycle.id)
}
