//! Holidays and events beyond the computed US federal ones: iCalendar files and
//! lists of events, as extra days of the [`HolidayCalendar`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::iter::{Enumerate, Peekable};
use std::str::Lines;

use bytes::Bytes;
use chrono::{Datelike, Days, NaiveDate};
use delayd_features::HolidayCalendar;

use super::error::DataError;
use super::formats::{ParseLimits, container};

/// An event longer than this is no holiday but a season.
const LONGEST_EVENT_DAYS: u64 = 31;

/// The last year in which an event counts that recurs for ever.
const LAST_YEAR: i32 = 2100;

/// Days of one calendar, at most; a line of text may stand for tens of thousands.
const MAX_DAYS: usize = 200_000;

/// Longest name of a day, in characters.
const MAX_NAME_CHARS: usize = 200;

/// Faults that are told, at most; all are counted.
const MAX_FAULTS: usize = 100;

/// Days by date, and the faults of single entries.
pub type DaysAndFaults = (BTreeMap<NaiveDate, String>, Vec<String>);

/// Reads the days of an iCalendar file (RFC 5545): each `VEVENT` from `DTSTART` up
/// to but not including `DTEND`. Events that recur yearly count until their `UNTIL`
/// or `COUNT`, or else until 2100; other recurrences are told as faults.
///
/// # Errors
/// When it is no iCalendar text, or passes a bound; a fault of one event is in the second answer.
pub fn parse_icalendar(key: &str, body: &Bytes, limits: &ParseLimits) -> Result<DaysAndFaults, DataError> {
    limits.check_stored(key, body.len() as u64)?;
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
    let mut found = Found::new(key);
    let mut event: Option<Event> = None;
    let mut lines = Unfolded { lines: text.lines().enumerate().peekable() };
    while let Some((line, content)) = lines.next_within(key, limits)? {
        let (name, value) = content.split_once(':').unwrap_or((content.as_str(), ""));
        let name = name.split(';').next().unwrap_or("").to_ascii_uppercase();
        match (name.as_str(), value.trim(), &mut event) {
            ("BEGIN", "VEVENT", _) => event = Some(Event { line, ..Event::default() }),
            ("END", "VEVENT", _) => {
                if let Some(event) = event.take() {
                    event.add_to(&mut found)?;
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
        found.fault(event.line, format_args!("the event has no END:VEVENT; the file seems cut off"));
    }
    Ok(found.finish())
}

/// What was found so far.
struct Found<'a> {
    key: &'a str,
    days: BTreeMap<NaiveDate, String>,
    entries: usize,
    faults: Vec<String>,
    fault_count: usize,
}

impl<'a> Found<'a> {
    fn new(key: &'a str) -> Self {
        Self { key, days: BTreeMap::new(), entries: 0, faults: Vec::new(), fault_count: 0 }
    }

    fn fault(&mut self, line: impl Display, what: impl Display) {
        self.fault_count += 1;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(format!("{}: line {line}: {what}", self.key));
        }
    }

    /// Adds a day that a line names.
    fn day(&mut self, line: impl Display, day: NaiveDate, name: &str) -> Result<(), DataError> {
        self.entries += 1;
        if self.entries > MAX_DAYS {
            return Err(DataError::Malformed {
                key: self.key.to_owned(),
                place: format!("line {line}"),
                found: format!("more than {MAX_DAYS} days, up to here"),
                expected: "a calendar of holidays or events".to_owned(),
                advice: "Leave out what is no holiday, and end what recurs (UNTIL)",
            });
        }
        self.days.insert(day, name.chars().take(MAX_NAME_CHARS).collect());
        Ok(())
    }

    fn finish(mut self) -> DaysAndFaults {
        if self.fault_count > self.faults.len() {
            self.faults.push(format!("{}: {} more faults", self.key, self.fault_count - self.faults.len()));
        }
        (self.days, self.faults)
    }
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
    fn add_to(&self, found: &mut Found<'_>) -> Result<(), DataError> {
        let date = |text: &Option<String>| NaiveDate::parse_from_str(text.as_deref()?.get(..8)?, "%Y%m%d").ok();
        let Some(start) = date(&self.start) else {
            let start = excerpt(self.start.as_deref().unwrap_or(""));
            found.fault(self.line, format_args!("DTSTART is `{start}`, expected a date such as 20131225"));
            return Ok(());
        };
        let end = date(&self.end).filter(|end| *end > start).or_else(|| start.succ_opt()).unwrap_or(start);
        let length = (end - start).num_days().unsigned_abs();
        if length > LONGEST_EVENT_DAYS {
            let what = format_args!("the event lasts {length} days; expected at most {LONGEST_EVENT_DAYS}");
            found.fault(self.line, what);
            return Ok(());
        }
        let recurrence = self.recurrence.as_deref();
        let years = recurrence.map_or(Some(1), |rule| yearly(rule, start)).unwrap_or_else(|| {
            let rule = excerpt(recurrence.unwrap_or_default());
            found.fault(self.line, format_args!("the recurrence `{rule}` is not read; only the first day counts"));
            1
        });
        for year in 0..years {
            let first = start.checked_add_months(chrono::Months::new(12 * year));
            for offset in 0..length {
                if let Some(day) = first.and_then(|first| first.checked_add_days(Days::new(offset))) {
                    found.day(self.line, day, &self.name)?;
                }
            }
        }
        Ok(())
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

/// Lines with those that continue them, which begin with a space or a tab (RFC 5545, 3.1).
struct Unfolded<'a> {
    lines: Peekable<Enumerate<Lines<'a>>>,
}

impl Unfolded<'_> {
    /// The next line with its number.
    fn next_within(&mut self, key: &str, limits: &ParseLimits) -> Result<Option<(usize, String)>, DataError> {
        let Some((number, line)) = self.lines.next() else { return Ok(None) };
        let place = format!("line {}", number + 1);
        if number as u64 >= limits.max_rows {
            return Err(limits.too_many_rows(key, &place, format!("more than {} lines", limits.max_rows)));
        }
        let mut line = line.trim_end_matches('\r').to_owned();
        while let Some((_, more)) = self.lines.next_if(|(_, more)| more.starts_with([' ', '\t'])) {
            line.push_str(&more[1..]);
            if line.len() as u64 > limits.max_line_bytes {
                return Err(limits.too_long(key, &place, format!("longer than {} bytes", limits.max_line_bytes)));
            }
        }
        if line.len() as u64 > limits.max_line_bytes {
            return Err(limits.too_long(key, &place, format!("{} bytes", line.len())));
        }
        Ok(Some((number + 1, line)))
    }
}

/// The beginning of a text that a fault quotes.
fn excerpt(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).collect()
}

fn unescape(text: &str) -> String {
    text.replace("\\,", ",").replace("\\;", ";").replace("\\n", " ").replace("\\\\", "\\")
}

/// Reads events from a CSV with the columns `date` and `name`. A day counts
/// everywhere: an event at one airport only, named in a column `airport`, is no day of
/// the calendar, and is told as a fault.
///
/// # Errors
/// When the object cannot be read, passes a bound or lacks a column; a fault of one row is in
/// the second answer.
pub fn parse_events_csv(key: &str, body: &Bytes, limits: &ParseLimits) -> Result<DaysAndFaults, DataError> {
    let (_, mut rows) = container::open(key, body, limits)?;
    let missing: Vec<String> =
        ["date", "name"].iter().filter(|name| rows.column(name).is_none()).map(|name| (*name).to_owned()).collect();
    if !missing.is_empty() {
        let found = rows.header().join(", ");
        return Err(DataError::MissingColumns { key: key.to_owned(), layout: "events".into(), missing, found });
    }
    rows.read_only(["date", "name", "airport"]);
    let at = |name: &str| rows.column(name).unwrap_or(usize::MAX);
    let (date, name, airport) = (at("date"), at("name"), at("airport"));
    let mut found = Found::new(key);
    while let Some(row) = rows.next_row()? {
        let cell = |position: usize| row.cells.get(position).map_or("", String::as_str);
        match (&row.fault, cell(date).parse::<NaiveDate>()) {
            (Some(fault), _) => found.fault(row.line, fault),
            (None, Err(_)) => {
                let date = excerpt(cell(date));
                let what = format_args!("column `date`: found `{date}`, expected a date such as 2013-12-25");
                found.fault(row.line, what);
            }
            (None, Ok(_)) if !cell(airport).is_empty() => {
                let airport = excerpt(cell(airport));
                let what = format_args!(
                    "column `airport`: found `{airport}`; an event at one airport does not count, only days that \
                     count everywhere. Leave the column empty for that, or remove the row"
                );
                found.fault(row.line, what);
            }
            (None, Ok(day)) => found.day(row.line, day, cell(name))?,
        }
    }
    Ok(found.finish())
}

/// Adds days to a calendar; a day that is there keeps its name.
pub fn extend_calendar(calendar: &mut HolidayCalendar, days: BTreeMap<NaiveDate, String>) {
    for (day, name) in days {
        calendar.extra.entry(day).or_insert(name);
    }
}
