//! Recent operations, point in time: what an observer knew about delays, queues
//! and landings when a flight was predicted.
//!
//! Every event has a moment from which it is known, and an answer for `t` reads
//! only events known by `t`: a departure from the moment the aircraft left, an
//! arrival from its landing, a flight as overdue once its time has come and it
//! has not left. A cancelled flight looks exactly like one that is late until
//! three hours after schedule, when it counts as given up; the index never peeks
//! at the word "cancelled" before. Schedules are known ahead. So the same index,
//! built from a year of finished flights, may be asked for any moment of that year.
//!
//! Per key the events lie sorted by time with running sums, so that a signal
//! costs a few binary searches.

mod series;
mod table;

pub use table::{AGGREGATES, Aggregate, Key, Measure, Value, Window};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Timelike, Utc};
use delayd_features::{Airport, FlightRow, NumericInput};
use rayon::prelude::*;

use super::error::DataError;
use super::flight::FlightRecord;
use super::local_time::TimeZones;
use series::{KeyHasher, Series};

/// Seconds since 1970.
type Moment = i64;

/// A cancelled flight counts as given up this long after schedule.
const GIVEN_UP_AFTER: Moment = 3 * 3600;
/// A flight that has not left for a day is no longer waited for.
const FORGOTTEN_AFTER: Moment = 24 * 3600;

/// The sorted events that one line of the table needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Events {
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

type KeyIndexes = HashMap<u128, u32, KeyHasher>;

/// Answers for a flight and a moment what recent operations looked like.
#[derive(Debug)]
pub struct OperationsIndex {
    names: HashMap<String, u32>,
    regions: HashMap<String, u32>,
    zones: TimeZones,
    keys: BTreeMap<Key, KeyIndexes>,
    series: HashMap<(Key, Events), Vec<Series>, KeyHasher>,
    aggregates: Vec<Aggregate>,
    flights: usize,
}

impl OperationsIndex {
    /// Builds the index over finished, running and merely scheduled flights, with
    /// the signals of [`AGGREGATES`].
    ///
    /// # Errors
    /// When an airport's time zone is unknown.
    pub fn new(records: &[FlightRecord], airports: &BTreeMap<String, Airport>) -> Result<Self, DataError> {
        Self::with_aggregates(records, airports, AGGREGATES)
    }

    /// The same with a table of one's own.
    ///
    /// # Errors
    /// When an airport's time zone is unknown.
    pub fn with_aggregates(
        records: &[FlightRecord],
        airports: &BTreeMap<String, Airport>,
        aggregates: &[Aggregate],
    ) -> Result<Self, DataError> {
        let zones = TimeZones::of(airports)?;
        let regions = airports.iter().map(|(code, airport)| (code.clone(), region(airport))).collect();
        let mut names = HashMap::new();
        for record in records {
            for name in [&record.carrier, &record.origin, &record.dest] {
                if !names.contains_key(name.as_str()) {
                    names.insert(name.clone(), names.len() as u32 + 1);
                }
            }
        }
        let mut index = Self {
            names,
            regions,
            zones,
            keys: BTreeMap::new(),
            series: HashMap::default(),
            aggregates: aggregates.to_vec(),
            flights: records.len(),
        };
        index.build(records);
        Ok(index)
    }

    /// How many flights it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights == 0
    }

    /// Sets every signal of operations in a row, as known at `at`.
    pub fn fill(&self, row: &mut FlightRow, at: DateTime<Utc>) {
        let parts = self.parts(&row.carrier, row.flight_number, &row.origin, &row.dest, row.scheduled_departure);
        let mut slots = [None; Key::ALL.len()];
        for (key, indexes) in &self.keys {
            slots[*key as usize] = indexes.get(&parts.of(*key)).copied();
        }
        let query = Query {
            slots,
            at: at.timestamp(),
            scheduled: row.scheduled_departure.timestamp(),
            local_day: self.zones.local_day(&row.origin, row.scheduled_departure),
        };
        for aggregate in &self.aggregates {
            row.set(aggregate.input, self.evaluate(aggregate, &query) as f32);
        }
    }

    /// The signals alone, by input.
    #[must_use]
    pub fn signals(&self, row: &FlightRow, at: DateTime<Utc>) -> BTreeMap<NumericInput, f32> {
        let mut row = row.clone();
        self.fill(&mut row, at);
        self.aggregates.iter().map(|aggregate| (aggregate.input, row.get(aggregate.input))).collect()
    }

    fn parts(&self, carrier: &str, number: u32, origin: &str, dest: &str, departure: DateTime<Utc>) -> KeyParts {
        let name = |text: &str| self.names.get(text).copied().unwrap_or(0);
        KeyParts {
            carrier: name(carrier),
            origin: name(origin),
            dest: name(dest),
            number,
            hour: self.zones.local(origin, departure).hour(),
            region: self.regions.get(dest).copied().unwrap_or(0),
        }
    }

    fn build(&mut self, records: &[FlightRecord]) {
        let events: Vec<FlightEvents> = records.par_iter().map(FlightEvents::of).collect();
        let parts: Vec<KeyParts> = records
            .par_iter()
            .map(|r| self.parts(&r.carrier, r.flight_number, &r.origin, &r.dest, r.scheduled_departure))
            .collect();
        let needed: BTreeSet<(Key, Events)> =
            self.aggregates.iter().flat_map(|a| needed_events(a).into_iter().map(|events| (a.key, events))).collect();
        let keys: BTreeSet<Key> = needed.iter().map(|(key, _)| *key).collect();
        let slots: BTreeMap<Key, (KeyIndexes, Vec<u32>)> =
            keys.into_par_iter().map(|key| (key, number_keys(key, &parts))).collect();
        let kinds: BTreeSet<Events> = needed.iter().map(|(_, kind)| *kind).collect();
        let sorted: BTreeMap<Events, Vec<(Moment, f64, u32)>> =
            kinds.into_par_iter().map(|kind| (kind, sorted_events(kind, &events))).collect();
        let needed: Vec<(Key, Events)> = needed.into_iter().collect();
        self.series = needed
            .into_par_iter()
            .map(|(key, kind)| {
                let (count, flights) = slots.get(&key).map_or((0, &[][..]), |(map, of)| (map.len(), of.as_slice()));
                let mut series = vec![Series::new(decay_seconds(kind)); count];
                for (moment, value, flight) in sorted.get(&kind).into_iter().flatten() {
                    let slot = flights.get(*flight as usize).map_or(usize::MAX, |slot| *slot as usize);
                    if let Some(series) = series.get_mut(slot) {
                        series.push(*moment, *value);
                    }
                }
                ((key, kind), series)
            })
            .collect();
        self.keys = slots.into_iter().map(|(key, (indexes, _))| (key, indexes)).collect();
    }

    fn series(&self, key: Key, events: Events, query: &Query) -> &Series {
        let slot = query.slots[key as usize];
        slot.and_then(|slot| self.series.get(&(key, events))?.get(slot as usize)).unwrap_or(Series::empty())
    }

    fn evaluate(&self, aggregate: &Aggregate, query: &Query) -> f64 {
        let key = aggregate.key;
        let scheduled = || self.series(key, Events::Scheduled, query);
        match aggregate.measure {
            Measure::Mean { of, over, weight } => self.mean(key, of, over, weight, query),
            Measure::NotGoneShare { after_minutes, window_minutes } => {
                // A flight's fate so many minutes after schedule is visible from then on.
                let until = query.at - after_minutes * 60;
                let series = self.series(key, Events::NotGone { after_minutes }, query);
                let (late, count) = series.between(until - window_minutes * 60, until);
                smoothed(late, count, 1.0, table::not_gone_prior(after_minutes))
            }
            Measure::OverdueCount => self.overdue(key, query.at, query).0,
            Measure::OverdueMinutes => self.overdue(key, query.at, query).1,
            Measure::OverdueChange1h => {
                self.overdue(key, query.at, query).0 - self.overdue(key, query.at - 3600, query).0
            }
            Measure::BacklogHours => {
                let departures = self.series(key, Events::Known(Value::DepartureDelay), query);
                let (_, departed) = departures.between(query.at - 3600, query.at);
                self.overdue(key, query.at, query).0 / (departed + 1.0)
            }
            Measure::ScheduledAhead => scheduled().between(query.at, query.scheduled).1,
            Measure::ScheduledAround { minutes } => {
                // Both ends count: one second before the first.
                scheduled().between(query.scheduled - minutes * 60 - 1, query.scheduled + minutes * 60).1
            }
            Measure::ScheduledDayShare => {
                let (from, until) = (query.local_day.0.timestamp() - 1, query.local_day.1.timestamp() - 1);
                let (_, so_far) = scheduled().between(from, query.scheduled);
                let (_, all_day) = scheduled().between(from, until);
                so_far / all_day.max(1.0)
            }
        }
    }

    fn mean(&self, key: Key, of: Value, over: Window, weight: f64, query: &Query) -> f64 {
        let events = match over {
            Window::Decayed { days } => Events::KnownDecayed { value: of, days },
            _ => Events::Known(of),
        };
        let series = self.series(key, events, query);
        let (sum, count) = match over {
            Window::Minutes(minutes) => series.between(query.at - minutes * 60, query.at),
            Window::History => series.between(Moment::MIN, query.at),
            Window::Last(count) => series.last(count, query.at),
            Window::Decayed { .. } => series.decayed(query.at),
        };
        smoothed(sum, count, weight, of.prior())
    }

    /// Flights overdue at `at`, and the minutes for which they have been.
    fn overdue(&self, key: Key, at: Moment, query: &Query) -> (f64, f64) {
        let (due_at, due) = self.series(key, Events::NotGone { after_minutes: DUE }, query).between(Moment::MIN, at);
        let (gone_due_at, gone) = self.series(key, Events::Removed, query).between(Moment::MIN, at);
        let count = due - gone;
        (count, (count * at as f64 - (due_at - gone_due_at)) / 60.0)
    }
}

/// Stands for "the scheduled time itself" among the not-gone values.
const DUE: i64 = -1;

struct Query {
    slots: [Option<u32>; Key::ALL.len()],
    at: Moment,
    scheduled: Moment,
    local_day: (DateTime<Utc>, DateTime<Utc>),
}

fn smoothed(sum: f64, count: f64, weight: f64, prior: f64) -> f64 {
    (sum + weight * prior) / (count + weight)
}

/// The parts of a flight of which keys are made, as numbers; 0 is "never seen".
#[derive(Debug, Clone, Copy)]
struct KeyParts {
    carrier: u32,
    origin: u32,
    dest: u32,
    number: u32,
    hour: u32,
    region: u32,
}

impl KeyParts {
    fn of(&self, key: Key) -> u128 {
        let join = |parts: [u32; 4]| parts.iter().fold(0_u128, |joined, part| (joined << 32) | u128::from(*part));
        let Self { carrier, origin, dest, number, hour, region } = *self;
        match key {
            Key::All => 0,
            Key::Origin => join([origin, 0, 0, 0]),
            Key::Carrier => join([carrier, 0, 0, 0]),
            Key::OriginCarrier => join([origin, carrier, 0, 0]),
            Key::Dest => join([dest, 0, 0, 0]),
            Key::Region => join([region, 0, 0, 0]),
            Key::OriginRegion => join([origin, region, 0, 0]),
            Key::Route => join([origin, dest, 0, 0]),
            Key::CarrierDest => join([carrier, dest, 0, 0]),
            Key::RouteCarrier => join([origin, dest, carrier, 0]),
            Key::CarrierDestHour => join([carrier, dest, hour, 0]),
            Key::OriginCarrierHour => join([origin, carrier, hour, 0]),
            Key::FlightNumber => join([carrier, number, 0, 0]),
            Key::Flight => join([carrier, number, origin, dest]),
        }
    }
}

/// The airport's cell of 6° latitude by 8° longitude, from 1.
fn region(airport: &Airport) -> u32 {
    let cell = |degrees: f64, size: f64| (degrees / size).floor().clamp(0.0, 100.0) as u32;
    1 + cell(airport.latitude_deg + 90.0, 6.0) * 128 + cell(airport.longitude_deg + 180.0, 8.0)
}

/// What a flight's life looked like from outside, in seconds and minutes.
#[derive(Debug, Clone, Copy)]
struct FlightEvents {
    scheduled: Moment,
    departed: Option<Moment>,
    removed: Moment,
    departure_delay: f64,
    arrival: Option<(Moment, f64)>,
}

impl FlightEvents {
    fn of(record: &FlightRecord) -> Self {
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

    fn event(&self, kind: Events) -> Option<(Moment, f64)> {
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

fn needed_events(aggregate: &Aggregate) -> Vec<Events> {
    let overdue = [Events::NotGone { after_minutes: DUE }, Events::Removed];
    match aggregate.measure {
        Measure::Mean { of, over: Window::Decayed { days }, .. } => vec![Events::KnownDecayed { value: of, days }],
        Measure::Mean { of, .. } => vec![Events::Known(of)],
        Measure::NotGoneShare { after_minutes, .. } => vec![Events::NotGone { after_minutes }],
        Measure::OverdueCount | Measure::OverdueMinutes | Measure::OverdueChange1h => overdue.to_vec(),
        Measure::BacklogHours => [&overdue[..], &[Events::Known(Value::DepartureDelay)]].concat(),
        Measure::ScheduledAhead | Measure::ScheduledAround { .. } | Measure::ScheduledDayShare => {
            vec![Events::Scheduled]
        }
    }
}

fn number_keys(key: Key, parts: &[KeyParts]) -> (KeyIndexes, Vec<u32>) {
    let mut indexes = KeyIndexes::default();
    let slots = parts
        .iter()
        .map(|parts| {
            let next = indexes.len() as u32;
            *indexes.entry(parts.of(key)).or_insert(next)
        })
        .collect();
    (indexes, slots)
}

fn sorted_events(kind: Events, flights: &[FlightEvents]) -> Vec<(Moment, f64, u32)> {
    let mut events: Vec<_> = flights
        .iter()
        .zip(0_u32..)
        .filter_map(|(flight, number)| flight.event(kind).map(|(moment, value)| (moment, value, number)))
        .collect();
    // The value breaks ties, so that the sums do not depend on the order of the files.
    events.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    events
}

fn decay_seconds(kind: Events) -> Option<f64> {
    match kind {
        Events::KnownDecayed { days, .. } => Some(f64::from(days) * 86_400.0),
        _ => None,
    }
}
