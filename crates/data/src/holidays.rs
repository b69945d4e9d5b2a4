//! Holidays and events beyond the computed US federal ones: iCalendar files and
//! lists of events, as extra days of the [`HolidayCalendar`].

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{Datelike, Days, NaiveDate};
use delayd_features::HolidayCalendar;

use super::error::DataError;
use super::formats::{ParseLimits, container};

/// An event longer than this is no holiday but a season.
const LONGEST_EVENT_DAYS: u64 = 31;

/// The last year in which an event counts that recurs for ever.
const LAST_YEAR: i32 = 2100;

/// Reads the days of an iCalendar file (RFC 5545): each `VEVENT` from `DTSTART` up
/// to but not including `DTEND`. Events that recur yearly count until their `UNTIL`
/// or `COUNT`, or else until 2100; other recurrences are told as faults.
///
/// # Errors
/// When it is no iCalendar text; a fault of one event is in the second answer.
pub fn parse_icalendar(key: &str, body: &Bytes) -> Result<(BTreeMap<NaiveDate, String>, Vec<String>), DataError> {
    let malformed = |found: &str| DataError::Malformed {
        key: key.to_owned(),
        place: "line 1".into(),
        found: found.into(),
        expected: "an iCalendar file that begins with BEGIN:VCALENDAR".into(),
        advice: "Export the calendar as .ics again",
    };
    let text = std::str::from_utf8(body).map_err(|_| malformed("the text is not UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}');
    if !text.trim_start().to_ascii_uppercase().starts_with("BEGIN:VCALENDAR") {
        return Err(malformed("something else"));
    }
    let mut days = BTreeMap::new();
    let mut faults = Vec::new();
    let mut event: Option<Event> = None;
    for (line, content) in unfold(text) {
        let (name, value) = content.split_once(':').unwrap_or((content.as_str(), ""));
        let name = name.split(';').next().unwrap_or("").to_ascii_uppercase();
        match (name.as_str(), value.trim(), &mut event) {
            ("BEGIN", "VEVENT", _) => event = Some(Event { line, ..Event::default() }),
            ("END", "VEVENT", _) => {
                if let Some(event) = event.take() {
                    event.add_to(key, &mut days, &mut faults);
                }
            }
            ("DTSTART", value, Some(event)) => event.start = Some(value.to_owned()),
            ("DTEND", value, Some(event)) => event.end = Some(value.to_owned()),
            ("SUMMARY", value, Some(event)) => event.name = unescape(value),
            ("RRULE", value, Some(event)) => event.recurrence = Some(value.to_ascii_uppercase()),
            _ => {}
        }
    }
    if let Some(event) = event {
        faults.push(format!("{key}: line {}: the event has no END:VEVENT; the file seems cut off", event.line));
    }
    Ok((days, faults))
}

#[derive(Debug, Default)]
struct Event {
    line: usize,
    start: Option<String>,
    end: Option<String>,
    name: String,
    recurrence: Option<String>,
}

impl Event {
    fn add_to(&self, key: &str, days: &mut BTreeMap<NaiveDate, String>, faults: &mut Vec<String>) {
        let date = |text: &Option<String>| NaiveDate::parse_from_str(text.as_deref()?.get(..8)?, "%Y%m%d").ok();
        let Some(start) = date(&self.start) else {
            let found = self.start.as_deref().unwrap_or("");
            faults.push(format!("{key}: line {}: DTSTART is `{found}`, expected a date such as 20131225", self.line));
            return;
        };
        let end = date(&self.end).filter(|end| *end > start).or_else(|| start.succ_opt()).unwrap_or(start);
        let length = (end - start).num_days().unsigned_abs();
        if length > LONGEST_EVENT_DAYS {
            faults.push(format!(
                "{key}: line {}: the event lasts {length} days; expected at most {LONGEST_EVENT_DAYS}",
                self.line
            ));
            return;
        }
        let recurrence = self.recurrence.as_deref();
        let years = recurrence.map_or(Some(1), |rule| yearly(rule, start)).unwrap_or_else(|| {
            faults.push(format!(
                "{key}: line {}: the recurrence `{}` is not read; only the first day counts",
                self.line,
                recurrence.unwrap_or_default()
            ));
            1
        });
        for year in 0..years {
            let first = start.checked_add_months(chrono::Months::new(12 * year));
            for offset in 0..length {
                if let Some(day) = first.and_then(|first| first.checked_add_days(Days::new(offset))) {
                    days.insert(day, self.name.clone());
                }
            }
        }
    }
}

/// How many years an event counts that recurs every year on its day (RFC 5545, 3.3.10);
/// `None` for every other rule.
fn yearly(rule: &str, start: NaiveDate) -> Option<u32> {
    let mut last = NaiveDate::from_ymd_opt(LAST_YEAR, 12, 31)?;
    let mut count = u32::MAX;
    let mut is_yearly = false;
    for part in rule.split(';') {
        match part.split_once('=')? {
            ("FREQ", frequency) => is_yearly = frequency == "YEARLY",
            ("INTERVAL", "1") | ("WKST", _) => {}
            ("COUNT", number) => count = number.parse().ok()?,
            ("UNTIL", until) => last = NaiveDate::parse_from_str(until.get(..8)?, "%Y%m%d").ok()?,
            // The day of DTSTART in other words; a rule that names another is none of ours.
            ("BYMONTH", month) if month.parse() == Ok(start.month()) => {}
            ("BYMONTHDAY", day) if day.parse() == Ok(start.day()) => {}
            _ => return None,
        }
    }
    let years = last.years_since(start).map_or(1, |years| years.saturating_add(1));
    is_yearly.then(|| years.min(count).max(1))
}

/// Joins continuation lines, which begin with a space or a tab (RFC 5545, 3.1).
fn unfold(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix([' ', '\t']), lines.last_mut()) {
            (Some(rest), Some((_, last))) => last.push_str(rest),
            _ => lines.push((number + 1, line.trim_end_matches('\r').to_owned())),
        }
    }
    lines
}

fn unescape(text: &str) -> String {
    text.replace("\\,", ",").replace("\\;", ";").replace("\\n", " ").replace("\\\\", "\\")
}

/// Reads events from a CSV with the columns `date` and `name`. A day counts
/// everywhere: an event at one airport only, named in a column `airport`, is no day of
/// the calendar, and is told as a fault.
///
/// # Errors
/// When the object cannot be read or lacks a column; a fault of one row is in
/// the second answer.
pub fn parse_events_csv(key: &str, body: &Bytes) -> Result<(BTreeMap<NaiveDate, String>, Vec<String>), DataError> {
    let (_, mut rows) = container::open(key, body, &ParseLimits::default())?;
    let missing: Vec<String> =
        ["date", "name"].iter().filter(|name| rows.column(name).is_none()).map(|name| (*name).to_owned()).collect();
    if !missing.is_empty() {
        let found = rows.header().join(", ");
        return Err(DataError::MissingColumns { key: key.to_owned(), layout: "events".into(), missing, found });
    }
    let at = |name: &str| rows.column(name).unwrap_or(usize::MAX);
    let (date, name, airport) = (at("date"), at("name"), at("airport"));
    let mut days = BTreeMap::new();
    let mut faults = Vec::new();
    while let Some(row) = rows.next_row()? {
        let cell = |position: usize| row.cells.get(position).map_or("", String::as_str);
        match (&row.fault, cell(date).parse::<NaiveDate>()) {
            (Some(fault), _) => faults.push(format!("{key}: line {}: {fault}", row.line)),
            (None, Err(_)) => faults.push(format!(
                "{key}: line {}: column `date`: found `{}`, expected a date such as 2013-12-25",
                row.line,
                cell(date)
            )),
            (None, Ok(_)) if !cell(airport).is_empty() => faults.push(format!(
                "{key}: line {}: column `airport`: found `{}`; an event at one airport does not count, only days that \
                 count everywhere. Leave the column empty for that, or remove the row",
                row.line,
                cell(airport)
            )),
            (None, Ok(day)) => {
                days.insert(day, cell(name).to_owned());
            }
        }
    }
    Ok((days, faults))
}

/// Adds days to a calendar; a day that is there keeps its name.
pub fn extend_calendar(calendar: &mut HolidayCalendar, days: BTreeMap<NaiveDate, String>) {
    for (day, name) in days {
        calendar.extra.entry(day).or_insert(name);
    }
}
