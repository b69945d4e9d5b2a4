//! The last predictions, kept in memory until the daemon has fetched them: it
//! needs them to compare with outcomes that arrive days later.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use delayd_features::FlightRow;
use delayd_model::admin::ServedPrediction;

/// A short upper-case code in place: no heap, so that 65,536 records fit in 4 MB.
#[derive(Debug, Clone, Copy)]
struct Code([u8; 4]);

impl Code {
    fn of(text: &str) -> Self {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
        Self(bytes)
    }

    fn text(self) -> String {
        self.0.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
struct Record {
    received_at: DateTime<Utc>,
    scheduled_departure: DateTime<Utc>,
    flight_number: u32,
    score: f32,
    carrier: Code,
    origin: Code,
    dest: Code,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    last_sequence: u64,
}

/// A bounded list of predictions; the oldest make room for new ones.
#[derive(Debug)]
pub(crate) struct PredictionRing {
    capacity: usize,
    kept: Mutex<Kept>,
}

/// Predictions after a sequence number.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) predictions: Vec<ServedPrediction>,
    pub(crate) next_after: u64,
    pub(crate) lost: u64,
    pub(crate) more: bool,
}

impl PredictionRing {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), kept: Mutex::default() }
    }

    /// Adds predictions with consecutive sequence numbers.
    pub(crate) fn push<'a>(&self, received_at: DateTime<Utc>, predictions: impl Iterator<Item = (&'a FlightRow, f32)>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, score) in predictions {
            if kept.records.len() == self.capacity {
                kept.records.pop_front();
            }
            kept.last_sequence += 1;
            kept.records.push_back(Record {
                received_at,
                scheduled_departure: row.scheduled_departure,
                flight_number: row.flight_number,
                score,
                carrier: Code::of(&row.carrier),
                origin: Code::of(&row.origin),
                dest: Code::of(&row.dest),
            });
        }
    }

    /// The last sequence number given; 0 where there is none.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).last_sequence
    }

    /// At most `limit` predictions after `after`. An `after` from the future
    /// (of an earlier process of the same name) counts as the very beginning.
    pub(crate) fn page(&self, after: u64, limit: usize, model_version: &str) -> Page {
        let (first, lost, records, last) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let last = kept.last_sequence;
            let wanted = if after > last { 1 } else { after + 1 };
            let oldest = last + 1 - kept.records.len() as u64;
            let first = wanted.max(oldest);
            let records = kept.records.iter().skip((first - oldest) as usize).take(limit).copied();
            (first, first - wanted, records.collect::<Vec<_>>(), last)
        };
        let next_after = first - 1 + records.len() as u64;
        let served = |(seq, record): (u64, Record)| ServedPrediction {
            seq,
            received_at: record.received_at,
            carrier: record.carrier.text(),
            flight_number: record.flight_number,
            origin: record.origin.text(),
            dest: record.dest.text(),
            scheduled_departure: record.scheduled_departure,
            score: record.score,
            model_version: model_version.to_owned(),
        };
        Page { predictions: (first..).zip(records).map(served).collect(), next_after, lost, more: next_after < last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, count: u32) -> PredictionRing {
        let ring = PredictionRing::new(capacity);
        let departure = DateTime::UNIX_EPOCH;
        for n in 1..=count {
            let row = FlightRow::scheduled("B6", n, "JFK", "KLAX", departure);
            ring.push(departure, std::iter::once((&row, 0.5)));
        }
        ring
    }

    fn numbers(page: &Page) -> Vec<(u64, u32)> {
        page.predictions.iter().map(|served| (served.seq, served.flight_number)).collect()
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let ring = filled(10, 5);
        let first = ring.page(0, 3, "model_v1");
        assert_eq!(numbers(&first), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!((first.next_after, first.lost, first.more), (3, 0, true));
        let second = ring.page(first.next_after, 3, "model_v1");
        assert_eq!(numbers(&second), [(4, 4), (5, 5)]);
        assert_eq!((second.next_after, second.more), (5, false));
        let third = ring.page(second.next_after, 3, "model_v1");
        assert_eq!((third.predictions.len(), third.next_after), (0, 5));
    }

    #[test]
    fn what_was_overwritten_is_told_as_lost() {
        let page = filled(4, 10).page(2, 100, "model_v1");
        assert_eq!(numbers(&page), [(7, 7), (8, 8), (9, 9), (10, 10)]);
        assert_eq!(page.lost, 4);
    }

    #[test]
    fn codes_of_two_three_and_four_letters_come_back_as_they_were() {
        let page = filled(1, 1).page(0, 1, "model_v1");
        let served = &page.predictions[0];
        assert_eq!([&*served.carrier, &*served.origin, &*served.dest], ["B6", "JFK", "KLAX"]);
    }

    #[test]
    fn a_reader_that_is_ahead_of_a_new_process_begins_anew() {
        let page = filled(10, 2).page(999, 10, "model_v1");
        assert_eq!(numbers(&page), [(1, 1), (2, 2)]);
        let empty = filled(10, 0).page(999, 10, "model_v1");
        assert_eq!((empty.next_after, empty.lost, empty.more), (0, 0, false));
    }
}
