//! What reference data hold, how two versions differ, and whether a fetched one
//! may replace the one before. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::NaiveDate;
use delayd_features::Airport;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::airports::{AirportChanges, parse_airports};
use crate::formats::ParseLimits;
use crate::holidays::{parse_events_csv, parse_icalendar};
use delayd_core::Stored;
use delayd_core::ports::ReferenceKind;
use delayd_core::ports::Severity;

/// Codes or days that an alert names, at most; all are in the ledger.
const NAMED_IN_ALERTS: usize = 20;

/// What was read from one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Airports by IATA code.
    Airports(BTreeMap<String, Airport>),
    /// Days with their names.
    Days(BTreeMap<NaiveDate, String>),
}

/// Content with the faults of single entries.
#[derive(Debug)]
pub struct ParsedContent {
    /// The content.
    pub content: Content,
    /// Entries that the object itself holds; the built-in airports are not counted.
    pub entries: u64,
    /// Faults of single entries.
    pub faults: Vec<String>,
}

impl Content {
    /// Reads an object. `time_zones` is `[ingestion.time_zones]`.
    ///
    /// # Errors
    /// When it is not what its kind says, or passes a bound.
    pub fn parse(
        kind: ReferenceKind,
        key: &str,
        body: &Bytes,
        time_zones: &BTreeMap<String, String>,
        limits: &ParseLimits,
    ) -> Result<ParsedContent, DataError> {
        let days = |(days, faults): (BTreeMap<NaiveDate, String>, Vec<String>)| ParsedContent {
            entries: days.len() as u64,
            content: Self::Days(days),
            faults,
        };
        match kind {
            ReferenceKind::Airports => {
                let (airports, mut report) = parse_airports(key, body, time_zones, limits)?;
                report.rejected.extend(without_time_zone(key, &report.without_time_zone));
                let entries = (airports.len() - report.supplemented.len()) as u64;
                Ok(ParsedContent { content: Self::Airports(airports), entries, faults: report.rejected })
            }
            ReferenceKind::Holidays => parse_icalendar(key, body, limits).map(days),
            ReferenceKind::Events => parse_events_csv(key, body, limits).map(days),
        }
    }

    /// How it differs from an earlier version.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> ReferenceChanges {
        match (before, self) {
            (Self::Airports(before), Self::Airports(after)) => {
                ReferenceChanges::Airports(AirportChanges::between(before, after))
            }
            (Self::Days(before), Self::Days(after)) => {
                let days = |of: &BTreeMap<NaiveDate, String>| of.keys().copied().collect::<BTreeSet<_>>();
                let (before, after) = (days(before), days(after));
                ReferenceChanges::Days {
                    added: after.difference(&before).copied().collect(),
                    removed: before.difference(&after).copied().collect(),
                }
            }
            _ => ReferenceChanges::Unknown { why: "the version before is of another kind".to_owned() },
        }
    }
}

/// Airports that are left out because nobody knows what their clocks show, in one line.
fn without_time_zone(key: &str, regions: &BTreeMap<String, u64>) -> Option<String> {
    let count: u64 = regions.values().sum();
    let told: Vec<String> = regions.iter().map(|(region, count)| format!("{region} ({count})")).collect();
    (count > 0).then(|| {
        format!(
            "{key}: {count} airports are left out, and flights to them go to quarantine: no time zone is known for \
             {}. Name their zones in ingestion.time_zones, by IATA code, ISO region or ISO country",
            named(&told)
        )
    })
}

/// Whether a fetched document may replace the copy: `None`, or the reason why not.
/// `before` is how many entries the copy holds, where there is one.
#[must_use]
pub fn refused(fetched: &Result<ParsedContent, DataError>, before: Option<u64>, smallest_share: f64) -> Option<String> {
    let entries = match fetched {
        Err(error) => return Some(format!("it cannot be read ({error})")),
        Ok(parsed) => parsed.entries,
    };
    if entries == 0 {
        return Some("it holds no entry at all".to_owned());
    }
    let before = before?;
    let smallest = smallest_share * before as f64;
    ((entries as f64) < smallest).then(|| {
        format!("it holds {entries} entries and the copy {before}: less than {smallest_share} of it is suspicious")
    })
}

/// How a version differs from the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum ReferenceChanges {
    /// There was none before.
    First,
    /// Airports.
    Airports(AirportChanges),
    /// Days of holidays or events.
    Days {
        /// New days.
        added: Vec<NaiveDate>,
        /// Days that are none any more.
        removed: Vec<NaiveDate>,
    },
    /// The version before cannot be read any more.
    Unknown {
        /// Why.
        why: String,
    },
}

impl Stored for ReferenceChanges {
    const NAME: &'static str = "change of the reference data";
}

impl ReferenceChanges {
    /// Severity, title and body of the alert that tells it; `None` where there is
    /// nothing to tell.
    #[must_use]
    pub fn told(&self, kind: ReferenceKind) -> Option<(Severity, String, String)> {
        match self {
            Self::First => None,
            Self::Airports(changes) if changes.is_empty() => None,
            Self::Airports(changes) => Some(told_airports(changes)),
            Self::Days { added, removed } if added.is_empty() && removed.is_empty() => None,
            Self::Days { added, removed } => {
                let title = format!("{kind} changed: {} days more, {} days less", added.len(), removed.len());
                let body = format!("New: {}. Gone: {}.", named(added), named(removed));
                Some((Severity::Info, title, body))
            }
            Self::Unknown { why } => {
                Some((Severity::Info, format!("{kind} changed"), format!("What changed cannot be told: {why}.")))
            }
        }
    }
}

fn told_airports(changes: &AirportChanges) -> (Severity, String, String) {
    let AirportChanges { opened, closed, moved } = changes;
    let (new, gone, away) = (opened.len(), closed.len(), moved.len());
    let title = format!("airports changed: {new} new, {gone} closed, {away} moved");
    let moves: Vec<String> = moved
        .iter()
        .map(|airport| match &airport.time_zone {
            Some((before, after)) => format!("{} ({:.1} miles, {before} to {after})", airport.code, airport.miles),
            None => format!("{} ({:.1} miles)", airport.code, airport.miles),
        })
        .collect();
    let body = format!(
        "New: {}. Closed: {}. Moved: {}. Flights to a closed airport go to quarantine from now on, those in old logs \
         too; new and moved airports count from the next dataset on. If this is wrong, put the earlier file back: the \
         ledger (GET /api/v1/reference) names its copy.",
        named(opened),
        named(closed),
        named(&moves)
    );
    // A new airport harms nobody; one that is gone or elsewhere may be a mistake.
    let severity = if closed.is_empty() && moved.is_empty() { Severity::Info } else { Severity::Warning };
    (severity, title, body)
}

fn named<T: ToString>(all: &[T]) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    let named: Vec<String> = all.iter().take(NAMED_IN_ALERTS).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(NAMED_IN_ALERTS);
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::airports::MovedAirport;

    fn parsed(entries: u64) -> Result<ParsedContent, DataError> {
        Ok(ParsedContent { content: Content::Days(BTreeMap::new()), entries, faults: Vec::new() })
    }

    #[test]
    fn what_cannot_be_read_and_what_shrank_does_not_replace_the_copy() {
        for (fetched, before, taken, reason) in [
            (parsed(10), None, true, "the first one"),
            (parsed(0), None, false, "nothing in it"),
            (parsed(5), Some(10), true, "exactly half is still taken"),
            (parsed(4), Some(10), false, "under half"),
            (parsed(40), Some(10), true, "growth is no fault"),
            (Err(DataError::EmptyObject { key: "a".into() }), None, false, "empty"),
        ] {
            assert_eq!(refused(&fetched, before, 0.5).is_none(), taken, "{reason}");
        }
    }

    #[test]
    fn airports_without_a_time_zone_are_told_with_the_key_that_names_it() {
        let text = "id,ident,type,name,latitude_deg,longitude_deg,elevation_ft,continent,iso_country,iso_region,iata_code\n\
            5,XX,large_airport,Far,1,2,3,XX,XX,XX-1,FAR\n6,XY,large_airport,Off,1,2,3,XX,XX,XX-1,OFF\n";
        let (kind, limits) = (ReferenceKind::Airports, ParseLimits::default());
        let parsed = Content::parse(kind, "a.csv", &Bytes::from(text), &BTreeMap::new(), &limits).unwrap();
        let [fault] = parsed.faults.as_slice() else { panic!("{:?}", parsed.faults) };
        assert!(fault.contains("2 airports are left out") && fault.contains("XX-1 (2)"), "{fault}");
        assert!(fault.contains("ingestion.time_zones"), "{fault}");
    }

    #[test]
    fn closed_airports_are_a_warning_and_new_ones_are_news() {
        let mut changes = AirportChanges { opened: vec!["NEW".into()], ..AirportChanges::default() };
        let told = |changes: &AirportChanges| ReferenceChanges::Airports(changes.clone()).told(ReferenceKind::Airports);
        assert_eq!(told(&changes).unwrap().0, Severity::Info);
        changes.closed = (0..30).map(|n| format!("A{n}")).collect();
        changes.moved.push(MovedAirport { code: "MOV".into(), miles: 3.25, time_zone: Some(("a".into(), "b".into())) });
        let (severity, title, body) = told(&changes).unwrap();
        assert_eq!((severity, title.as_str()), (Severity::Warning, "airports changed: 1 new, 30 closed, 1 moved"));
        assert!(body.contains("A19 and 10 more") && body.contains("MOV (3.2 miles, a to b)"), "{body}");
        assert!(told(&AirportChanges::default()).is_none());
    }

    #[test]
    fn days_that_came_and_went_are_told() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let of = |days: &[&str]| Content::Days(days.iter().map(|text| (day(text), "x".to_owned())).collect());
        let changes = of(&["2013-01-01", "2013-07-04"]).changes_since(&of(&["2013-01-01", "2013-05-27"]));
        let expected = ReferenceChanges::Days { added: vec![day("2013-07-04")], removed: vec![day("2013-05-27")] };
        assert_eq!(changes, expected);
        assert!(changes.told(ReferenceKind::Holidays).unwrap().2.contains("Gone: 2013-05-27"));
        let json = serde_json::to_value(&changes).unwrap();
        assert_eq!(json["what"], "days");
        assert_eq!(serde_json::from_value::<ReferenceChanges>(json).unwrap(), expected);
    }
}
