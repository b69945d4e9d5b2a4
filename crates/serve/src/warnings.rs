//! What makes a prediction less sure than it looks: told with it, not refused.

use std::borrow::Cow;

use delayd_features::CategoryInput;
use serde::{Deserialize, Serialize};

use crate::flight::Flight;
use crate::model::LoadedModel;

/// One reason to trust a prediction less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A stable word for programs: `unknown_carrier`, `unknown_origin`,
    /// `unknown_dest`, `unknown_route`, `unknown_airport`, `missing_context`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    pub msg: String,
}

/// Names listed of the context that is missing.
const NAMES_LISTED: usize = 5;

/// The warnings of one flight; `indexes` are its encoded categories.
pub(crate) fn warnings_of(model: &LoadedModel, flight: &Flight, indexes: &[u32]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let row = &flight.row;
    for (input, _) in model.categories.iter().zip(indexes).filter(|(_, index)| **index == 0) {
        let (kind, value): (_, &str) = match input {
            CategoryInput::Carrier => ("unknown_carrier", &row.carrier),
            CategoryInput::Origin => ("unknown_origin", &row.origin),
            CategoryInput::Dest => ("unknown_dest", &row.dest),
            CategoryInput::Route => ("unknown_route", &format!("{}-{}", row.origin, row.dest)),
            // An hour without departures in training says nothing about the request.
            CategoryInput::DepartureHour | CategoryInput::Weekday => continue,
        };
        let msg = format!("the model was not trained on the {} {value}", input.name());
        warnings.push(Warning { kind: kind.into(), msg });
    }
    for airport in [&row.origin, &row.dest] {
        if !model.predictor.encoder().knows_airport(airport) {
            let msg = format!("airport {airport} has no known position and time zone; its local time is taken as UTC");
            warnings.push(Warning { kind: "unknown_airport".into(), msg });
        }
    }
    warnings.extend(missing_context(model, flight.named_context));
    warnings
}

fn missing_context(model: &LoadedModel, named: u128) -> Option<Warning> {
    let missing = || model.context.iter().filter(|input| named & (1 << (**input as usize)) == 0);
    let count = missing().count();
    if count == 0 {
        return None;
    }
    let names: Vec<&str> = missing().take(NAMES_LISTED).map(|input| input.name()).collect();
    let more = if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
    let all = model.context.len();
    let msg = format!(
        "{count} of {all} context numbers were not given: {}{more}; give null where one is not known",
        names.join(", ")
    );
    Some(Warning { kind: "missing_context".into(), msg })
}
