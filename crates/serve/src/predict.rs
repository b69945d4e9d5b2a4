//! From flights to answers, with warnings about what makes a prediction less sure than it looks, and the counting on the
//! way.

use std::borrow::Cow;

use delayd_features::{CategoryInput, FlightRow};
use serde::{Deserialize, Serialize};

use crate::flight::Flight;
use crate::replica::{Buffers, LoadedModel, Worker, now};

/// Answer of `POST /predict`, the same for one flight and for many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictResponse<'a> {
    pub model_version: Cow<'a, str>,
    pub bundle: Cow<'a, str>,
    /// Score from which a flight counts as delayed.
    pub threshold: f32,
    /// One per flight, in the order of the request.
    pub predictions: Vec<PredictedFlight>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictedFlight {
    /// Calibrated probability of arriving 15 minutes late or more.
    pub score: f32,
    /// Whether the score reaches the threshold.
    pub delayed: bool,
    pub warnings: Vec<Warning>,
}

/// Rows between two moments at which other requests of the worker get their
/// turn: a large batch must not make small requests wait.
const CHUNK: usize = 32;

/// Predicts flights and counts them. A probe is answered but not counted as
/// traffic, so that checking a replica does not look like drift.
pub(crate) async fn predict(worker: &Worker, flights: &[Flight], probe: bool) -> Vec<PredictedFlight> {
    let mut answers = Vec::with_capacity(flights.len());
    for (index, chunk) in flights.chunks(CHUNK).enumerate() {
        if index > 0 {
            tokio::task::yield_now().await;
        }
        predict_chunk(worker, chunk, probe, &mut answers);
    }
    answers
}

/// Without a pause between predicting and counting: every row that was scored
/// is counted, also when the caller disconnects in the middle of its batch.
fn predict_chunk(worker: &Worker, flights: &[Flight], probe: bool, answers: &mut Vec<PredictedFlight>) {
    let model = &worker.replica.model;
    let mut unknown = [0_u64; delayd_features::CategoryInput::ALL.len()];
    let buffers = &mut *worker.buffers.borrow_mut();
    let Buffers { scratch, chunk } = buffers;
    chunk.clear();
    for flight in flights {
        let raw = model.predictor.encoder().raw(&flight.row);
        let prediction = model.predictor.predict_raw(&flight.row, &raw, scratch);
        let indexes = scratch.category_indexes();
        for (input, _) in model.categories.iter().zip(indexes).filter(|(_, index)| **index == 0) {
            unknown[*input as usize] += 1;
        }
        let warnings = warnings_of(model, flight, indexes);
        answers.push(PredictedFlight { score: prediction.score, delayed: prediction.delayed, warnings });
        chunk.push((raw, prediction));
    }
    let mut counts = worker.replica.counters.shard(worker.shard);
    if probe {
        counts.probe_rows += flights.len() as u64;
        return;
    }
    for (flight, (raw, prediction)) in flights.iter().zip(chunk.iter()) {
        model.counter.count(&mut counts.sketch, &flight.row, raw, prediction.score);
        counts.score_sum += f64::from(prediction.score);
        counts.delayed_rows += u64::from(prediction.delayed);
    }
    counts.unknown.iter_mut().zip(unknown).for_each(|(count, more)| *count += more);
    drop(counts);
    let served: &mut dyn Iterator<Item = (&FlightRow, f32)> =
        &mut flights.iter().zip(chunk.iter()).map(|(flight, (_, prediction))| (&flight.row, prediction.score));
    worker.replica.ring.push(now(), served);
}

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
