//! Which rows are learnt from, which judge, and how much each weighs.

use chrono::{DateTime, Duration, Utc};

use crate::error::TrainingError;
use delayd_data::Example;
use delayd_training_job::params::{ClassWeighting, TrainingParameters, ValidationTail};

/// The rows of a run, as indexes into its examples, in time order.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    pub train: Vec<usize>,
    /// Kept for early stopping, calibration and threshold: the newest.
    pub tail: Vec<usize>,
    pub tail_start: DateTime<Utc>,
}

/// Whether the flight came late; `false` where the outcome is not known.
pub(crate) fn is_delayed(example: &Example) -> bool {
    example.outcome.is_some_and(|outcome| outcome.delayed)
}

/// Splits the rows with an outcome at one moment. A row predicted before that
/// moment whose outcome came after it belongs to neither part: at the moment of
/// the split nobody could have learnt from it.
pub fn split(examples: &[Example], parameters: &TrainingParameters) -> Result<Split, TrainingError> {
    let mut order: Vec<usize> = (0..examples.len()).filter(|index| examples[*index].outcome.is_some()).collect();
    // A total order, so that the order in which sources were read changes nothing.
    order.sort_by(|a, b| sort_key(&examples[*a]).cmp(&sort_key(&examples[*b])));
    let needed = parameters.min_rows;
    if order.len() < needed {
        return Err(TrainingError::TooFewRows { what: "rows with an outcome", found: order.len(), needed });
    }
    let tail_start = tail_start(examples, &order, parameters.validation_tail);
    let known_before = |index: &usize| {
        let example = &examples[*index];
        example.prediction_time < tail_start && example.outcome.is_some_and(|outcome| outcome.known_at <= tail_start)
    };
    let train: Vec<usize> = order.iter().copied().filter(known_before).collect();
    let tail: Vec<usize> =
        order.iter().copied().filter(|index| examples[*index].prediction_time >= tail_start).collect();
    check_part(examples, &train, "rows before the validation tail", needed / 2)?;
    check_part(examples, &tail, "rows in the validation tail", 20)?;
    Ok(Split { train, tail, tail_start })
}

fn sort_key(example: &Example) -> (DateTime<Utc>, DateTime<Utc>, &str, u32, &str, &str) {
    let row = &example.row;
    (example.prediction_time, row.scheduled_departure, &row.carrier, row.flight_number, &row.origin, &row.dest)
}

fn tail_start(examples: &[Example], order: &[usize], tail: ValidationTail) -> DateTime<Utc> {
    let time_at = |position: usize| examples[order[position]].prediction_time;
    match tail {
        ValidationTail::Fraction(part) => {
            let position = (order.len() as f64 * (1.0 - part)) as usize;
            time_at(position.min(order.len() - 1))
        }
        ValidationTail::Days(days) => time_at(order.len() - 1) - Duration::seconds((days * 86_400.0) as i64),
    }
}

fn check_part(examples: &[Example], rows: &[usize], part: &'static str, needed: usize) -> Result<(), TrainingError> {
    if rows.len() < needed.max(2) {
        return Err(TrainingError::TooFewRows { what: part, found: rows.len(), needed: needed.max(2) });
    }
    let delayed = rows.iter().filter(|index| is_delayed(&examples[**index])).count();
    let missing = match (delayed, rows.len() - delayed) {
        (0, _) => "delayed",
        (_, 0) => "punctual",
        _ => return Ok(()),
    };
    Err(TrainingError::OneClass { part, rows: rows.len(), missing })
}

/// The weight of each row by its age: `0.5 ^ (age / half-life)`, the newest 1.
pub fn age_weights(examples: &[Example], rows: &[usize], half_life_days: Option<f64>) -> Vec<f32> {
    let newest = rows.iter().map(|index| examples[*index].prediction_time).max();
    let (Some(half_life), Some(newest)) = (half_life_days, newest) else { return vec![1.0; rows.len()] };
    let age_days = |index: &usize| (newest - examples[*index].prediction_time).num_seconds() as f64 / 86_400.0;
    rows.iter().map(|index| 0.5_f64.powf(age_days(index) / half_life) as f32).collect()
}

/// How many times more a delayed row weighs than a punctual one.
pub fn positive_weight(weighting: ClassWeighting, positives: usize, rows: usize) -> f64 {
    match weighting {
        ClassWeighting::None => 1.0,
        ClassWeighting::Balanced => (rows - positives) as f64 / positives.max(1) as f64,
        ClassWeighting::Factor(factor) => factor,
    }
}
