//! How often somebody may ask.

use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::http::StatusCode;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::session::Peer;
use crate::http::error::Problem;

/// Wrong tokens that one address may send at once, and per minute in the long run.
const WRONG_TOKENS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// So many clients are remembered before those that are quiet are forgotten.
const REMEMBERED: usize = 4096;

type Keyed = RateLimiter<String, HashMapStateStore<String>, DefaultClock>;

/// The limits, by client.
pub(in crate::http) struct Limits {
    requests: Keyed,
    wrong_tokens: Keyed,
    clock: DefaultClock,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("clients", &self.requests.len()).finish_non_exhaustive()
    }
}

impl Limits {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let requests = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self {
            requests: RateLimiter::hashmap(requests),
            wrong_tokens: RateLimiter::hashmap(Quota::per_minute(WRONG_TOKENS)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request.
    pub(super) fn request(&self, client: &str) -> Result<(), Problem> {
        forget_quiet(&self.requests);
        self.requests.check_key(&client.to_owned()).map_err(|until| {
            let secs = whole_secs(until.wait_time_from(self.clock.now()));
            too_many(format!("{client} asks too often (http.requests_per_second); ask again in {secs} s"), secs)
        })
    }

    /// Counts a wrong token. A right one is not refused for it: otherwise somebody
    /// behind the same address could keep the operators out.
    pub(super) fn wrong_token(&self, peer: &Peer) -> Result<(), Problem> {
        forget_quiet(&self.wrong_tokens);
        self.wrong_tokens.check_key(&peer.to_string()).map_err(|until| {
            let secs = whole_secs(until.wait_time_from(self.clock.now()));
            too_many(format!("too many wrong tokens from {peer}; try again in {secs} s"), secs)
        })
    }
}

fn forget_quiet(limiter: &Keyed) {
    if limiter.len() > REMEMBERED {
        limiter.retain_recent();
    }
}

fn whole_secs(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn too_many(detail: String, retry_after_secs: u64) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(retry_after_secs)
}
