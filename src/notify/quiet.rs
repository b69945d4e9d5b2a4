//! Quiet hours: when nothing is sent that can wait.

use chrono::{DateTime, Duration, LocalResult, NaiveDate, NaiveDateTime, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use delayd_core::fault::Fault;

const MINUTES_PER_DAY: u32 = 24 * 60;
/// Periods that follow on each other are joined; more than this many in a row
/// would mean that it is never loud.
const JOINED_PERIODS: usize = 15;

/// `[notification.quiet_hours]`: while they last, alerts that are not critical are
/// held back, and sent together when they end. The log is never quiet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuietHours {
    /// IANA time zone of the periods.
    pub time_zone: String,
    /// When it is quiet; never when empty.
    pub periods: Vec<QuietPeriod>,
}

impl Default for QuietHours {
    fn default() -> Self {
        Self { time_zone: "UTC".to_owned(), periods: Vec::new() }
    }
}

/// A period that comes again every week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietPeriod {
    /// The days on which it begins.
    pub days: Vec<Weekday>,
    /// When it begins, `22:00`.
    pub from: String,
    /// When it ends, `07:00`: on the next day unless that is later than `from`. `24:00` is midnight.
    pub until: String,
}

/// Quiet hours that were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuietSchedule {
    zone: Tz,
    periods: Vec<Period>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Period {
    days: Vec<Weekday>,
    from_minute: u32,
    /// Above a day's minutes where it ends on the next day.
    until_minute: u32,
}

impl QuietHours {
    /// The schedule they describe.
    pub fn schedule(&self) -> Result<QuietSchedule, Vec<Fault>> {
        let mut faults = Vec::new();
        let zone = self.time_zone.parse::<Tz>();
        if zone.is_err() {
            faults.push(fault("time_zone", &self.time_zone, "an IANA time zone such as Europe/Berlin"));
        }
        let mut periods = Vec::new();
        for (number, period) in self.periods.iter().enumerate() {
            match period.checked(number) {
                Ok(period) => periods.push(period),
                Err(found) => faults.extend(found),
            }
        }
        match zone {
            Ok(zone) if faults.is_empty() => {
                let schedule = QuietSchedule { zone, periods };
                if schedule.is_always_quiet() {
                    return Err(vec![fault("periods", "always quiet", "periods that end: nothing would ever be sent")]);
                }
                Ok(schedule)
            }
            _ => Err(faults),
        }
    }
}

fn fault(key: &str, found: &str, expected: &str) -> Fault {
    Fault { key: format!("notification.quiet_hours.{key}"), found: format!("`{found}`"), expected: expected.to_owned() }
}

impl QuietPeriod {
    fn checked(&self, number: usize) -> Result<Period, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut time = |key: &str, text: &str, latest: u32| {
            let minute = minute_of_day(text).filter(|minute| *minute <= latest);
            if minute.is_none() {
                faults.push(fault(&format!("periods[{number}].{key}"), text, "a time of day such as 22:00"));
            }
            minute
        };
        let from = time("from", &self.from, MINUTES_PER_DAY - 1);
        let until = time("until", &self.until, MINUTES_PER_DAY);
        if self.days.is_empty() {
            faults.push(fault(&format!("periods[{number}].days"), "", "days such as [\"Sat\", \"Sun\"]"));
        }
        if from.is_some() && from == until {
            faults.push(fault(&format!("periods[{number}].until"), &self.until, "another time than `from`"));
        }
        match (from, until) {
            (Some(from_minute), Some(until)) if faults.is_empty() => {
                let until_minute = if until > from_minute { until } else { until + MINUTES_PER_DAY };
                Ok(Period { days: self.days.clone(), from_minute, until_minute })
            }
            _ => Err(faults),
        }
    }
}

/// Minutes since midnight of `HH:MM`.
fn minute_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60).then_some(hours * 60 + minutes)
}

impl QuietSchedule {
    /// It is never quiet.
    pub fn never() -> Self {
        Self { zone: Tz::UTC, periods: Vec::new() }
    }

    /// When the quiet that holds at `now` ends; `None` where it is not quiet.
    /// Periods that overlap or follow on each other count as one.
    pub fn ends(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut end = self.end_of_period(now)?;
        for _ in 0..JOINED_PERIODS {
            match self.end_of_period(end) {
                Some(later) => end = later,
                None => break,
            }
        }
        Some(end)
    }

    /// Whether periods follow on each other without end. Any moment shows it: where it
    /// is always quiet, it is quiet then, and still quiet when that quiet ends.
    fn is_always_quiet(&self) -> bool {
        self.ends(DateTime::UNIX_EPOCH).is_some_and(|end| self.end_of_period(end).is_some())
    }

    /// The latest end among the periods that hold at `now`.
    fn end_of_period(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let today = now.with_timezone(&self.zone).date_naive();
        let begun = [today.pred_opt(), Some(today)].into_iter().flatten();
        let spans = begun.flat_map(|day| self.periods.iter().filter_map(move |period| self.span(period, day)));
        spans.filter(|(from, until)| *from <= now && now < *until).map(|(_, until)| until).max()
    }

    fn span(&self, period: &Period, day: NaiveDate) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        use chrono::Datelike;
        if !period.days.contains(&day.weekday()) {
            return None;
        }
        let moment =
            |minute: u32| self.instant(day.and_time(chrono::NaiveTime::MIN) + Duration::minutes(minute.into()));
        Some((moment(period.from_minute)?, moment(period.until_minute)?))
    }

    /// The instant of a local time: the first of two where clocks are put back,
    /// and where they skip it, the time an hour later.
    fn instant(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let found = match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at),
            LocalResult::None => self.zone.from_local_datetime(&(local + Duration::hours(1))).earliest(),
        };
        found.map(|at| at.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

    fn period(days: &[Weekday], from: &str, until: &str) -> QuietPeriod {
        QuietPeriod { days: days.to_vec(), from: from.to_owned(), until: until.to_owned() }
    }

    fn hours(time_zone: &str, periods: Vec<QuietPeriod>) -> QuietHours {
        QuietHours { time_zone: time_zone.to_owned(), periods }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn quiet_lasts_until_the_period_ends() {
        // New York is at UTC-4 in summer, UTC-5 in winter; 2013-06-03 is a Monday.
        let nights = period(&WEEK, "22:00", "07:00");
        let noon = period(&[Weekday::Wed], "12:00", "13:30");
        let schedule = hours("America/New_York", vec![nights, noon]).schedule().unwrap();
        let table = [
            ("2013-06-04T01:59:00Z", None, "21:59 on Monday"),
            ("2013-06-04T02:00:00Z", Some("2013-06-04T11:00:00Z"), "22:00 on Monday, until 7:00 on Tuesday"),
            ("2013-06-04T10:59:59Z", Some("2013-06-04T11:00:00Z"), "just before seven"),
            ("2013-06-04T11:00:00Z", None, "the end does not belong to it"),
            ("2013-06-05T16:30:00Z", Some("2013-06-05T17:30:00Z"), "noon of a Wednesday"),
            ("2013-06-06T16:30:00Z", None, "noon of a Thursday"),
            ("2013-03-10T04:00:00Z", Some("2013-03-10T11:00:00Z"), "an hour is lost that night: 7:00 is at UTC-4"),
            ("2013-11-03T04:00:00Z", Some("2013-11-03T12:00:00Z"), "an hour is won that night: 7:00 is at UTC-5"),
        ];
        for (now, expected, reason) in table {
            assert_eq!(schedule.ends(at(now)), expected.map(at), "{reason}");
        }
    }

    #[test]
    fn periods_that_follow_on_each_other_are_one() {
        let weekend = period(&[Weekday::Sat, Weekday::Sun], "00:00", "24:00");
        let schedule = hours("UTC", vec![period(&WEEK, "22:00", "07:00"), weekend]).schedule().unwrap();
        assert_eq!(schedule.ends(at("2013-06-07T23:00:00Z")), Some(at("2013-06-10T07:00:00Z")), "Friday to Monday");
    }

    #[test]
    fn a_time_that_the_clocks_skip_is_an_hour_later() {
        let schedule = hours("America/New_York", vec![period(&[Weekday::Sun], "02:30", "05:00")]).schedule().unwrap();
        assert_eq!(schedule.ends(at("2013-03-10T07:29:00Z")), None);
        assert_eq!(schedule.ends(at("2013-03-10T07:30:00Z")), Some(at("2013-03-10T09:00:00Z")));
    }

    #[test]
    fn it_is_never_quiet_without_periods_and_may_not_be_quiet_for_ever() {
        assert_eq!(QuietSchedule::never().ends(at("2013-06-03T00:00:00Z")), None);
        let always = hours("UTC", vec![period(&WEEK, "00:00", "24:00")]).schedule().unwrap_err();
        assert!(always[0].to_string().contains("always quiet"), "{}", always[0]);
        assert!(hours("UTC", vec![period(&WEEK, "00:00", "23:59")]).schedule().is_ok());
    }

    #[test]
    fn every_wrong_value_is_reported() {
        let wrong = hours("Mars/Olympus", vec![period(&[], "25:00", "7"), period(&WEEK, "07:00", "07:00")]);
        let told: Vec<String> = wrong.schedule().unwrap_err().iter().map(ToString::to_string).collect();
        for part in ["time_zone", "periods[0].days", "periods[0].from", "periods[0].until", "periods[1].until"] {
            assert!(told.iter().any(|fault| fault.contains(part)), "{part} is missing in {told:#?}");
        }
    }
}
