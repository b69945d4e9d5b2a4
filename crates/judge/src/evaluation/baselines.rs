//! What a model must beat: always saying the same, and looking rates up in a table.

use std::collections::BTreeMap;

use chrono::{Offset, TimeZone, Timelike};
use chrono_tz::Tz;
use delayd_data::Example;
use delayd_features::{Airport, FlightRow};
use serde::{Deserialize, Serialize};

/// Says of every flight that it is as likely late as flights are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Majority {
    /// Share of late flights among the training rows.
    pub rate: f32,
}

impl Majority {
    /// Counts the examples with an outcome; one half without any.
    pub fn fit<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut cell = Cell::default();
        examples.into_iter().filter_map(|example| example.outcome).for_each(|outcome| cell.add(outcome.delayed));
        Self { rate: cell.rate() }
    }
}

/// Flights and late ones among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    pub rows: u64,
    pub delayed: u64,
}

impl Cell {
    /// The share of late flights; one half without any.
    pub fn rate(self) -> f32 {
        if self.rows == 0 { 0.5 } else { (self.delayed as f64 / self.rows as f64) as f32 }
    }

    fn add(&mut self, delayed: bool) {
        self.rows += 1;
        self.delayed += u64::from(delayed);
    }

    /// The rate, drawn towards `prior` as if `strength` more flights had had it.
    fn smoothed(self, prior: f64, strength: f64) -> f64 {
        (self.delayed as f64 + strength * prior) / (self.rows as f64 + strength)
    }
}

/// Share of late flights by carrier, origin and hour of departure, each cell drawn
/// towards carrier and origin, that towards the carrier, that towards all flights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupTable {
    /// How many flights of the coarser rate are added to each cell.
    pub strength: f64,
    pub all: Cell,
    /// By key: `B6`, `B6|JFK`, `B6|JFK|17`.
    pub cells: BTreeMap<String, Cell>,
    /// Time zones of the origins, for the local hour.
    pub time_zones: BTreeMap<String, String>,
}

impl LookupTable {
    /// Flights added to a cell from the coarser rate.
    pub const STRENGTH: f64 = 50.0;

    /// A table that has counted nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        let (all, cells, time_zones) = (Cell::default(), BTreeMap::new(), BTreeMap::new());
        Self { strength: Self::STRENGTH, all, cells, time_zones }
    }

    /// Counts the examples with an outcome.
    #[must_use]
    pub fn fit<'a>(examples: impl IntoIterator<Item = &'a Example>, airports: &BTreeMap<String, Airport>) -> Self {
        let mut table = Self::empty();
        examples.into_iter().for_each(|example| table.count(example, airports));
        table
    }

    /// Counts an example, where it has an outcome.
    pub fn count(&mut self, example: &Example, airports: &BTreeMap<String, Airport>) {
        let Some(outcome) = example.outcome else { return };
        let row = &example.row;
        if !self.time_zones.contains_key(&row.origin) {
            let zone = airports.get(&row.origin).map_or("UTC", |airport| airport.time_zone.as_str());
            self.time_zones.insert(row.origin.clone(), zone.to_owned());
        }
        self.all.add(outcome.delayed);
        for key in self.keys(row) {
            self.cells.entry(key).or_default().add(outcome.delayed);
        }
    }

    /// From the coarsest to the finest.
    fn keys(&self, row: &FlightRow) -> [String; 3] {
        let FlightRow { carrier, origin, .. } = row;
        let hour = self.local_hour(row);
        [carrier.clone(), format!("{carrier}|{origin}"), format!("{carrier}|{origin}|{hour}")]
    }

    fn local_hour(&self, row: &FlightRow) -> u32 {
        let zone = self.time_zones.get(&row.origin).and_then(|name| name.parse::<Tz>().ok()).unwrap_or(Tz::UTC);
        let departure = row.scheduled_departure.naive_utc();
        (departure + zone.offset_from_utc_datetime(&departure).fix()).hour()
    }

    /// The rate of the flight's cell; of a coarser one where the cell is unknown.
    pub fn score(&self, row: &FlightRow) -> f32 {
        let all = if self.all.rows == 0 { 0.5 } else { self.all.delayed as f64 / self.all.rows as f64 };
        let rate = self
            .keys(row)
            .iter()
            .fold(all, |prior, key| self.cells.get(key).map_or(prior, |cell| cell.smoothed(prior, self.strength)));
        rate as f32
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Duration, Utc};
    use delayd_data::Outcome;

    use super::*;

    fn example(carrier: &str, departure: &str, delayed: bool) -> Example {
        let departure: DateTime<Utc> = departure.parse().unwrap();
        let outcome = Outcome { delayed, arrival_delay_minutes: 0, known_at: departure + Duration::hours(3) };
        Example {
            row: FlightRow::scheduled(carrier, 1, "JFK", "LAX", departure),
            prediction_time: departure - Duration::hours(2),
            outcome: Some(outcome),
        }
    }

    fn airports() -> BTreeMap<String, Airport> {
        let time_zone = "America/New_York".to_owned();
        let airport = Airport { latitude_deg: 40.6, longitude_deg: -73.8, elevation_ft: 13.0, time_zone };
        BTreeMap::from([("JFK".to_owned(), airport)])
    }

    #[test]
    fn a_cell_is_drawn_towards_the_coarser_rates_and_an_unknown_carrier_gets_the_overall_one() {
        // 17:00 UTC is 12:00 in New York's winter.
        let mut examples = vec![example("AA", "2013-01-05T17:00:00Z", true); 50];
        examples.extend(vec![example("B6", "2013-01-05T17:00:00Z", false); 50]);
        let table = LookupTable::fit(&examples, &airports());
        assert_eq!(table.cells["AA|JFK|12"], Cell { rows: 50, delayed: 50 });
        // all 0.5 -> carrier (50 + 25) / 100 -> origin (50 + 37.5) / 100 -> hour (50 + 43.75) / 100
        let score = table.score(&examples[0].row);
        assert!((score - 0.9375).abs() < 1e-6, "{score}");
        assert!(table.score(&examples[60].row) < 0.1);
        assert_eq!(table.score(&example("ZZ", "2013-01-05T17:00:00Z", true).row), 0.5);
    }

    #[test]
    fn the_table_survives_json_and_an_empty_one_says_one_half() {
        let table = LookupTable::fit(&[example("AA", "2013-07-05T17:00:00Z", true)], &airports());
        let read: LookupTable = serde_json::from_str(&serde_json::to_string(&table).unwrap()).unwrap();
        assert_eq!(read, table);
        let empty = LookupTable::fit(std::iter::empty(), &airports());
        assert_eq!(empty.score(&example("AA", "2013-07-05T17:00:00Z", true).row), 0.5);
        assert_eq!(Majority::fit(std::iter::empty()).rate, 0.5);
    }

    #[test]
    fn the_majority_says_the_base_rate() {
        let examples: Vec<Example> = (0..4).map(|n| example("AA", "2013-01-05T17:00:00Z", n == 0)).collect();
        assert_eq!(Majority::fit(&examples).rate, 0.25);
    }
}
