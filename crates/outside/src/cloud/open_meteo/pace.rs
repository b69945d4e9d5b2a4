//! Keeps below the API's limit of calls per minute.
//!
//! Open-Meteo weighs a request: a place counts one call for up to ten variables
//! over up to two weeks, and in proportion beyond (`calculateQueryWeight` of its
//! server, as of 2025; free use allows 600 a minute, 5,000 an hour, 10,000 a day).
//! Requests are spread evenly and never bunched, so that no minute, wherever it
//! begins, holds more than the limit and one request.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Variables that weigh one call.
const VARIABLES_OF_A_CALL: f64 = 10.0;
/// Days that weigh one call.
const DAYS_OF_A_CALL: f64 = 14.0;

/// What a request counts for.
pub(super) fn weight(places: usize, days: i64, variables: usize) -> f64 {
    let variables = variables as f64 / VARIABLES_OF_A_CALL;
    let of_a_place = (variables * (days as f64 / DAYS_OF_A_CALL).max(1.0)).max(1.0);
    places as f64 * of_a_place
}

/// Gives every request its moment.
#[derive(Debug)]
pub(super) struct Pacer {
    per_call: Duration,
    /// When the next request may go; none was sent yet without.
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(super) fn new(calls_per_minute: u32) -> Self {
        Self { per_call: Duration::from_secs(60) / calls_per_minute.max(1), next: Mutex::new(None) }
    }

    /// Waits for the moment of a request of this weight.
    pub(super) async fn turn(&self, weight: f64) {
        let moment = {
            let mut next = self.next.lock().await;
            let (moment, then) = reserve(*next, Instant::now(), self.per_call.mul_f64(weight));
            *next = Some(then);
            moment
        };
        tokio::time::sleep_until(moment).await;
    }
}

/// The moment of a request that takes `cost` of the time, and that of the next one.
fn reserve(next: Option<Instant>, now: Instant, cost: Duration) -> (Instant, Instant) {
    let moment = next.map_or(now, |next| next.max(now));
    (moment, moment + cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_weighs_what_open_meteo_says() {
        for (places, days, variables, expected, reason) in [
            (1, 1, 9, 1.0, "nothing is under one call"),
            (3, 14, 10, 3.0, "places add up"),
            (1, 14, 15, 1.5, "fifteen variables are one and a half calls"),
            (1, 28, 15, 3.0, "four weeks of them are three"),
            (2, 28, 5, 2.0, "few variables make up for many days"),
        ] {
            assert!((weight(places, days, variables) - expected).abs() < 1e-9, "{reason}");
        }
    }

    #[test]
    fn requests_are_spread_and_a_pause_is_not_saved_up() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (first, next) = reserve(None, start, second * 2);
        assert_eq!((first, next), (start, start + second * 2));
        let (queued, next) = reserve(Some(next), start, second);
        assert_eq!((queued, next), (start + second * 2, start + second * 3));
        let later = start + second * 60;
        assert_eq!(reserve(Some(next), later, second), (later, later + second));
    }
}
