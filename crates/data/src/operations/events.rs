//! What happens to a flight as its observers see it, and from when each thing is known.

use std::cmp::Ordering;

use super::{Key, Moment, Value};
use crate::flight::FlightRecord;

/// A cancelled flight counts as given up this long after schedule.
const GIVEN_UP_AFTER: Moment = 3 * 3600;
/// A flight that has not left for a day is no longer waited for.
const FORGOTTEN_AFTER: Moment = 24 * 3600;

/// Stands for "the scheduled time itself" among the not-gone values.
pub(super) const DUE: i64 = -1;

/// The sorted events that one line of the table needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Events {
    /// At the scheduled departure.
    Scheduled,
    /// At the scheduled departure, with whether it was still there so many minutes later.
    NotGone { after_minutes: i64 },
    /// At the moment a flight is no longer overdue; the value is its scheduled time.
    Removed,
    /// At the moment the value is known.
    Known(Value),
    /// The same with decaying sums.
    KnownDecayed { value: Value, days: u32 },
}

/// What a flight's life looked like from outside, in seconds and minutes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlightEvents {
    scheduled: Moment,
    departed: Option<Moment>,
    removed: Moment,
    departure_delay: f64,
    arrival: Option<(Moment, f64)>,
}

impl FlightEvents {
    pub(super) fn of(record: &FlightRecord) -> Self {
        let scheduled = record.scheduled_departure.timestamp();
        let departed = record.departed_at.map(|moment| moment.timestamp());
        let given_up = scheduled + if record.cancelled { GIVEN_UP_AFTER } else { FORGOTTEN_AFTER };
        let arrival = match (record.arrived_at, record.arrival_delay_minutes) {
            (Some(arrived), Some(delay)) => Some((arrived.timestamp(), f64::from(delay))),
            _ => None,
        };
        Self {
            scheduled,
            departed,
            removed: departed.map_or(given_up, |moment| moment.max(scheduled).min(scheduled + FORGOTTEN_AFTER)),
            departure_delay: departed.map_or(f64::NAN, |moment| (moment - scheduled) as f64 / 60.0),
            arrival,
        }
    }

    /// Whether it had not left so many minutes after schedule, seen at that
    /// moment: one that leaves at that very minute counts as late by it, but one
    /// that leaves exactly on schedule counts as on time.
    fn not_gone(&self, after_minutes: i64) -> bool {
        let bound = self.scheduled + after_minutes * 60;
        self.departed.is_none_or(|moment| if after_minutes == 0 { moment > bound } else { moment >= bound })
    }

    pub(super) fn event(&self, kind: Events) -> Option<(Moment, f64)> {
        match kind {
            Events::Scheduled => Some((self.scheduled, 0.0)),
            Events::NotGone { after_minutes: DUE } => Some((self.scheduled, self.scheduled as f64)),
            Events::NotGone { after_minutes } => {
                Some((self.scheduled, f64::from(u8::from(self.not_gone(after_minutes)))))
            }
            Events::Removed => Some((self.removed, self.scheduled as f64)),
            Events::Known(value) | Events::KnownDecayed { value, .. } => self.known(value),
        }
    }

    /// What becomes known of the flight, and when.
    pub(super) fn pending(self, slots: [u32; Key::ALL.len()]) -> impl Iterator<Item = Pending> {
        let removed = (Cause::Removed, Some(self.removed));
        let departed = (Cause::Departed, self.departed);
        let arrived = (Cause::Arrived, self.arrival.map(|(moment, _)| moment));
        [removed, departed, arrived]
            .into_iter()
            .filter_map(move |(cause, moment)| Some(Pending { moment: moment?, cause, events: self, slots }))
    }

    fn known(&self, value: Value) -> Option<(Moment, f64)> {
        let late = |delay: f64| f64::from(u8::from(delay >= 15.0));
        let delay = self.departure_delay;
        match value {
            Value::DepartureDelay => self.departed.map(|at| (at, delay.clamp(-20.0, 240.0))),
            Value::DepartureLate => self.departed.map(|at| (at, late(delay))),
            Value::ArrivalDelay => self.arrival.map(|(at, arrival)| (at, arrival.clamp(-60.0, 240.0))),
            Value::ArrivalLate => self.arrival.map(|(at, arrival)| (at, late(arrival))),
            Value::EnrouteLoss if delay.is_nan() => None,
            Value::EnrouteLoss => self.arrival.map(|(at, arrival)| (at, (arrival - delay).clamp(-60.0, 90.0))),
        }
    }
}

/// What makes events of a flight known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The schedule, and what the clock alone tells of it.
    Scheduled,
    /// It is no longer waited for.
    Removed,
    Departed,
    Arrived,
}

impl Events {
    /// The time constant of sums that decay.
    pub(super) fn decay_seconds(self) -> Option<f64> {
        match self {
            Self::KnownDecayed { days, .. } => Some(f64::from(days) * 86_400.0),
            _ => None,
        }
    }

    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Scheduled | Self::NotGone { .. } => Cause::Scheduled,
            Self::Removed => Cause::Removed,
            Self::Known(value) | Self::KnownDecayed { value, .. } => match value {
                Value::DepartureDelay | Value::DepartureLate => Cause::Departed,
                Value::ArrivalDelay | Value::ArrivalLate | Value::EnrouteLoss => Cause::Arrived,
            },
        }
    }
}

/// Something that becomes known of a flight, ordered by moment, cause and value: the order of the flights does not
/// change the sums.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) moment: Moment,
    pub(super) cause: Cause,
    pub(super) events: FlightEvents,
    pub(super) slots: [u32; Key::ALL.len()],
}

impl Pending {
    fn value(&self) -> f64 {
        match self.cause {
            Cause::Arrived => self.events.arrival.map_or(0.0, |(_, delay)| delay),
            Cause::Departed => self.events.departure_delay,
            Cause::Scheduled | Cause::Removed => self.events.scheduled as f64,
        }
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |pending: &Self| (pending.moment, pending.cause);
        of(self).cmp(&of(other)).then(self.value().total_cmp(&other.value()))
    }
}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pending {}
