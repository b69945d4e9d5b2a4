//! Reference data: airports, holidays and events, and how one version differs from the next. Who fetches and records
//! them is the daemon's business.

mod content;
mod policy;
pub mod stored;
mod table;

use std::collections::BTreeMap;

use delayd_features::{Airport, HolidayCalendar};
use serde::{Deserialize, Serialize};

pub use content::{Content, ParsedContent, ReferenceChanges, refused};
pub use policy::ReferencePolicy;
pub use table::AirportTable;

/// Airports and holidays as the store has them now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceData {
    /// Airports by IATA code.
    pub airports: BTreeMap<String, Airport>,
    /// Holidays and events.
    pub holidays: HolidayCalendar,
}
