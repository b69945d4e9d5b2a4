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
//! The index lives with the flights: [`OperationsIndex::add`] takes them by scheduled departure,
//! [`OperationsIndex::advance`] applies what became known, [`OperationsIndex::forget`] drops what no signal reaches
//! any more. Building it over a history gives the same bits as feeding it flight by flight. Per key the events lie
//! sorted by time with running sums, so that a signal costs a few binary searches.

mod events;
mod series;
mod table;

pub use table::{AGGREGATES, Aggregate, Key, Measure, Value, Window};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use chrono::{DateTime, Timelike, Utc};
use delayd_features::{Airport, FlightRow, NumericInput};
use rayon::prelude::*;

use super::error::DataError;
use super::flight::FlightRecord;
use super::local_time::TimeZones;
use events::{Cause, DUE, Events, FlightEvents, Pending};
use series::{KeyHasher, Series};

/// Seconds since 1970.
type Moment = i64;

type KeyIndexes = HashMap<u128, u32, KeyHasher>;

/// How far back the windows of [`AGGREGATES`] reach, in seconds, with a day to spare. Longer memories are running sums.
const LONGEST_WINDOW: Moment = 31 * 24 * 3600;

/// Answers for a flight and a moment what recent operations looked like.
#[derive(Debug)]
pub struct OperationsIndex {
    names: HashMap<String, u32>,
    regions: HashMap<String, u32>,
    zones: TimeZones,
    keys: BTreeMap<Key, KeyIndexes>,
    /// Every sort of event that the aggregates need of every key.
    series: Vec<(Key, Events, Vec<Series>)>,
    /// Where in `series` a pair lies.
    places: HashMap<(Key, Events), usize, KeyHasher>,
    aggregates: Vec<Aggregate>,
    /// What is to become known.
    pending: BinaryHeap<Reverse<Pending>>,
    flights: usize,
}

impl OperationsIndex {
    /// An index that knows of no flight, with the signals of [`AGGREGATES`].
    ///
    /// # Errors
    /// When an airport's time zone is unknown.
    pub fn empty(airports: &BTreeMap<String, Airport>) -> Result<Self, DataError> {
        Self::with_aggregates(&[], airports, AGGREGATES)
    }

    /// An index over finished, running and merely scheduled flights, with all that became known of them.
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
        let needed: BTreeSet<(Key, Events)> =
            aggregates.iter().flat_map(|a| needed_events(a).into_iter().map(|events| (a.key, events))).collect();
        let mut index = Self {
            names: HashMap::new(),
            regions: airports.iter().map(|(code, airport)| (code.clone(), region(airport))).collect(),
            zones: TimeZones::of(airports)?,
            keys: needed.iter().map(|(key, _)| (*key, KeyIndexes::default())).collect(),
            places: needed.iter().copied().zip(0..).collect(),
            series: needed.into_iter().map(|(key, events)| (key, events, Vec::new())).collect(),
            aggregates: aggregates.to_vec(),
            pending: BinaryHeap::new(),
            flights: 0,
        };
        let mut by_departure: Vec<&FlightRecord> = records.iter().collect();
        by_departure.sort_by_key(|record| record.scheduled_departure);
        by_departure.into_iter().for_each(|record| index.add(record));
        index.advance(DateTime::<Utc>::MAX_UTC);
        Ok(index)
    }

    /// Takes a flight, scheduled not before those that were taken. Its schedule counts at once, what became of it
    /// when [`Self::advance`] reaches the moment from which that was known.
    pub fn add(&mut self, record: &FlightRecord) {
        for name in [&record.carrier, &record.origin, &record.dest] {
            if !self.names.contains_key(name.as_str()) {
                self.names.insert(name.clone(), self.names.len() as u32 + 1);
            }
        }
        let FlightRecord { carrier, flight_number, origin, dest, scheduled_departure, .. } = record;
        let parts = self.parts(carrier, *flight_number, origin, dest, *scheduled_departure);
        let mut slots = [0; Key::ALL.len()];
        for (key, indexes) in &mut self.keys {
            let next = indexes.len() as u32;
            slots[*key as usize] = *indexes.entry(parts.of(*key)).or_insert(next);
        }
        self.flights += 1;
        let events = FlightEvents::of(record);
        self.apply(&events, &slots, Cause::Scheduled);
        self.pending.extend(events.pending(slots).map(Reverse));
    }

    /// Applies everything that was known by `until`.
    pub fn advance(&mut self, until: DateTime<Utc>) {
        let until = until.timestamp();
        while self.pending.peek().is_some_and(|Reverse(next)| next.moment <= until) {
            if let Some(Reverse(known)) = self.pending.pop() {
                self.apply(&known.events, &known.slots, known.cause);
            }
        }
    }

    /// Drops what no question about `from` or later reaches.
    pub fn forget(&mut self, from: DateTime<Utc>) {
        let horizon = from.timestamp() - LONGEST_WINDOW;
        self.series
            .par_iter_mut()
            .for_each(|(_, _, of_key)| of_key.iter_mut().for_each(|series| series.forget(horizon)));
    }

    /// Adds the events of one cause to the series of the flight's keys.
    fn apply(&mut self, flight: &FlightEvents, slots: &[u32; Key::ALL.len()], cause: Cause) {
        for (key, kind, of_key) in &mut self.series {
            if kind.cause() != cause {
                continue;
            }
            let Some((moment, value)) = flight.event(*kind) else { continue };
            let slot = slots[*key as usize] as usize;
            if slot >= of_key.len() {
                of_key.resize_with(slot + 1, || Series::new(kind.decay_seconds()));
            }
            if let Some(series) = of_key.get_mut(slot) {
                series.push(moment, value);
            }
        }
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

    fn series(&self, key: Key, events: Events, query: &Query) -> &Series {
        let slot = query.slots[key as usize];
        let found = slot.and_then(|slot| {
            let (_, _, of_key) = self.series.get(*self.places.get(&(key, events))?)?;
            of_key.get(slot as usize)
        });
        found.unwrap_or(Series::empty())
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
            Window::History => series.history(query.at),
            Window::Last(count) => series.last(count, query.at),
            Window::Decayed { .. } => series.decayed(query.at),
        };
        smoothed(sum, count, weight, of.prior())
    }

    /// Flights overdue at `at`, and the minutes for which they have been.
    fn overdue(&self, key: Key, at: Moment, query: &Query) -> (f64, f64) {
        let (due_at, due) = self.series(key, Events::NotGone { after_minutes: DUE }, query).history(at);
        let (gone_due_at, gone) = self.series(key, Events::Removed, query).history(at);
        let count = due - gone;
        (count, (count * at as f64 - (due_at - gone_due_at)) / 60.0)
    }
}

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
