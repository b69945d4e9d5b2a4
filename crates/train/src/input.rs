//! What a run is given.

use std::collections::BTreeMap;

use delayd_data::Example;
use delayd_features::{Airport, FitOptions, HolidayCalendar};
use delayd_model::Bundle;

/// What a run learns from.
#[derive(Debug, Clone, Copy)]
pub struct TrainingInput<'a> {
    /// Flights; those without an outcome are left out.
    pub examples: &'a [Example],
    /// A weight per example, from the training policy; all the same without.
    pub sample_weights: Option<&'a [f32]>,
    /// Airports for the feature spec.
    pub airports: &'a BTreeMap<String, Airport>,
    /// Holidays for the feature spec.
    pub holidays: &'a HolidayCalendar,
    /// Which features.
    pub fit: &'a FitOptions,
    /// The dataset's version, for the record.
    pub dataset: Option<&'a str>,
    /// The live model, for a warm start.
    pub previous: Option<&'a Bundle>,
}
