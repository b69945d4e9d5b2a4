//! One flight as training and evaluation see it: what was known at its
//! prediction time, and what came of it.

use chrono::{DateTime, Utc};
use delayd_features::FlightRow;

/// What came of a flight, once it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Arrived 15 minutes late or more (the US Bureau of Transportation Statistics' `ArrDel15`).
    pub delayed: bool,
    /// Arrival delay in minutes, negative when early.
    pub arrival_delay_minutes: i32,
    /// When it arrived, and so when the outcome was known.
    pub known_at: DateTime<Utc>,
}

/// One flight with its point-in-time inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What was known at the prediction time.
    pub row: FlightRow,
    /// When it was predicted.
    pub prediction_time: DateTime<Utc>,
    /// `None` where it never arrived (cancelled, diverted) or has not yet.
    pub outcome: Option<Outcome>,
}
