//! `/api/v1`: the ledger's records for programs, and what an administrator may ask.

mod alerts;
mod commands;
mod cycle_log;
mod cycles;
mod events;
mod models;
mod monitoring;
mod openapi;
mod releases;
mod runs;
mod status;

use actix_web::http::StatusCode;
use actix_web::web;
use serde::Deserialize;

pub use alerts::{AlertRetried, LONGEST_SILENCE_DAYS, SilenceBody};
pub use commands::CommandBody;
pub use events::Streams;
pub use openapi::document as openapi_document;

use super::error::{Problem, nothing_here};
use delayd_ledger::Page;

/// Entries that one answer lists at most.
const LONGEST_LISTING: u64 = 1000;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/api/v1")
            .configure(status::routes)
            .configure(cycles::routes)
            .configure(cycle_log::routes)
            .configure(runs::routes)
            .configure(models::routes)
            .configure(releases::routes)
            .configure(monitoring::routes)
            .configure(alerts::routes)
            .configure(events::routes)
            .configure(openapi::routes)
            .configure(commands::routes)
            .default_service(web::to(nothing_here)),
    );
}

/// Which part of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Entries to answer at most.
    #[serde(default = "usual_listing")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: u64,
    /// Entries to leave out, from the newest on.
    #[serde(default)]
    #[param(minimum = 0, default = 0, maximum = 9007199254740991_i64)]
    offset: u64,
}

fn usual_listing() -> u64 {
    50
}

impl Listing {
    fn page(&self) -> Result<Page, Problem> {
        if !(1..=LONGEST_LISTING).contains(&self.limit) {
            let text = format!("limit is {}; expected 1 to {LONGEST_LISTING}", self.limit);
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
        }
        Ok(Page { offset: self.offset, limit: self.limit })
    }
}

/// An id in the path or the query.
fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}
