//! Holidays and the days around them.

use std::collections::BTreeMap;

use chrono::{Datelike, Days, NaiveDate, Weekday};
use serde::{Deserialize, Serialize};

/// Where a day lies against the holidays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayKind {
    /// The day is a holiday (or the weekday on which it is observed).
    pub holiday: bool,
    /// The day after is one.
    pub before_holiday: bool,
    /// The day before was one.
    pub after_holiday: bool,
    /// Whole days to the nearest holiday within a week, either side; 7 where there is none.
    pub days_to_nearest: u8,
}

/// US federal holidays, computed for any year, and extra days from a calendar
/// file or a list of events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HolidayCalendar {
    /// Whether the US federal holidays count.
    pub us_federal: bool,
    /// Extra days with their names.
    pub extra: BTreeMap<NaiveDate, String>,
}

impl HolidayCalendar {
    /// The US federal holidays and nothing else.
    pub fn us_federal() -> Self {
        Self { us_federal: true, extra: BTreeMap::new() }
    }

    /// The holiday that a day is, if it is one.
    pub fn name_of(&self, day: NaiveDate) -> Option<String> {
        if let Some(name) = self.extra.get(&day) {
            return Some(name.clone());
        }
        if !self.us_federal {
            return None;
        }
        us_federal_holidays(day.year()).into_iter().find(|(date, _)| *date == day).map(|(_, name)| name.to_owned())
    }

    /// Every holiday from the first day of `from` to the last of `until` (years, inclusive).
    pub fn days(&self, from: i32, until: i32) -> BTreeMap<NaiveDate, String> {
        let mut days = self.extra.clone();
        if self.us_federal {
            for (date, name) in (from..=until).flat_map(us_federal_holidays) {
                days.entry(date).or_insert_with(|| name.to_owned());
            }
        }
        days
    }

    /// How a day lies against a set of holidays made by [`HolidayCalendar::days`].
    pub fn kind_of(days: &BTreeMap<NaiveDate, String>, day: NaiveDate) -> DayKind {
        let at = |offset: i64| {
            let other = if offset < 0 {
                day.checked_sub_days(Days::new(offset.unsigned_abs()))
            } else {
                day.checked_add_days(Days::new(offset.unsigned_abs()))
            };
            other.is_some_and(|other| days.contains_key(&other))
        };
        let nearest = (0..7_u8).find(|distance| at(i64::from(*distance)) || at(-i64::from(*distance)));
        DayKind { holiday: at(0), before_holiday: at(1), after_holiday: at(-1), days_to_nearest: nearest.unwrap_or(7) }
    }
}

/// The US federal holidays of a year (5 U.S.C. § 6103), on the weekday on which
/// they are observed: a Saturday's on the Friday before, a Sunday's on the
/// Monday after. Juneteenth counts from 2021.
pub fn us_federal_holidays(year: i32) -> Vec<(NaiveDate, &'static str)> {
    let fixed = |month, day, name| NaiveDate::from_ymd_opt(year, month, day).map(|date| (observed(date), name));
    let nth = |month, weekday, n, name| {
        NaiveDate::from_weekday_of_month_opt(year, month, weekday, n).map(|date| (date, name))
    };
    let memorial_day = (4..=5)
        .rev()
        .find_map(|n| NaiveDate::from_weekday_of_month_opt(year, 5, Weekday::Mon, n))
        .map(|date| (date, "Memorial Day"));
    let days = [
        fixed(1, 1, "New Year's Day"),
        nth(1, Weekday::Mon, 3, "Martin Luther King Jr. Day"),
        nth(2, Weekday::Mon, 3, "Washington's Birthday"),
        memorial_day,
        if year >= 2021 { fixed(6, 19, "Juneteenth") } else { None },
        fixed(7, 4, "Independence Day"),
        nth(9, Weekday::Mon, 1, "Labor Day"),
        nth(10, Weekday::Mon, 2, "Columbus Day"),
        fixed(11, 11, "Veterans Day"),
        nth(11, Weekday::Thu, 4, "Thanksgiving Day"),
        fixed(12, 25, "Christmas Day"),
    ];
    days.into_iter().flatten().collect()
}

fn observed(date: NaiveDate) -> NaiveDate {
    match date.weekday() {
        Weekday::Sat => date.pred_opt().unwrap_or(date),
        Weekday::Sun => date.succ_opt().unwrap_or(date),
        _ => date,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn the_federal_holidays_of_2013_fall_where_the_law_puts_them() {
        let days: Vec<String> = us_federal_holidays(2013).iter().map(|(date, _)| date.to_string()).collect();
        let expected = [
            "2013-01-01",
            "2013-01-21",
            "2013-02-18",
            "2013-05-27",
            "2013-07-04",
            "2013-09-02",
            "2013-10-14",
            "2013-11-11",
            "2013-11-28",
            "2013-12-25",
        ];
        assert_eq!(days, expected);
    }

    #[test]
    fn a_saturday_holiday_is_observed_on_friday_and_a_sunday_one_on_monday() {
        let names = |year| us_federal_holidays(year);
        assert!(names(2020).contains(&(day("2020-07-03"), "Independence Day")));
        assert!(names(2021).contains(&(day("2021-07-05"), "Independence Day")));
        assert!(names(2022).iter().any(|(_, name)| *name == "Juneteenth"));
    }

    #[test]
    fn the_days_around_a_holiday_are_told_apart() {
        let days = HolidayCalendar::us_federal().days(2013, 2013);
        let kind = |text| HolidayCalendar::kind_of(&days, day(text));
        assert!(kind("2013-11-27").before_holiday && !kind("2013-11-27").holiday);
        assert!(kind("2013-11-28").holiday);
        assert!(kind("2013-11-29").after_holiday);
        assert_eq!(kind("2013-12-01").days_to_nearest, 3);
        assert_eq!(kind("2013-08-10").days_to_nearest, 7);
    }

    #[test]
    fn an_extra_day_counts_beside_the_computed_ones() {
        let mut calendar = HolidayCalendar::us_federal();
        calendar.extra.insert(day("2013-02-03"), "Super Bowl".to_owned());
        assert_eq!(calendar.name_of(day("2013-02-03")).as_deref(), Some("Super Bowl"));
        assert_eq!(calendar.name_of(day("2013-12-25")).as_deref(), Some("Christmas Day"));
        assert_eq!(calendar.name_of(day("2013-12-26")), None);
    }
}
