//! What a run is given.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use delayd_data::{DataError, Example};
use delayd_features::{Airport, FitOptions, HolidayCalendar};
use delayd_model::Bundle;

/// Stretches of examples in time order; all of one prediction time come together.
pub type Stretches<'a> = Box<dyn Iterator<Item = Result<Vec<Example>, DataError>> + 'a>;

/// Examples that a run goes through several times, instead of holding all of them in memory.
pub trait ExampleSource {
    fn examples(&self) -> Result<Stretches<'_>, DataError>;

    /// The same flights and outcomes; what the rows know of weather and operations may be left out.
    fn outcomes(&self) -> Result<Stretches<'_>, DataError> {
        self.examples()
    }
}

impl ExampleSource for &[Example] {
    fn examples(&self) -> Result<Stretches<'_>, DataError> {
        let mut examples = self.to_vec();
        examples.sort_by_key(|example| example.prediction_time);
        Ok(Box::new(std::iter::once(Ok(examples))))
    }
}

/// The weight of each flight by its prediction time.
pub type SampleWeights<'a> = dyn Fn(&[DateTime<Utc>]) -> Vec<f32> + 'a;

/// What a run is trained on.
#[derive(Clone, Copy)]
pub struct TrainingInput<'a> {
    /// Flights; those without an outcome are left out.
    pub examples: &'a dyn ExampleSource,
    /// From the training policy; all the same without.
    pub sample_weights: Option<&'a SampleWeights<'a>>,
    pub airports: &'a BTreeMap<String, Airport>,
    pub holidays: &'a HolidayCalendar,
    /// Which features.
    pub fit: &'a FitOptions,
    /// The dataset's version, for the record.
    pub dataset: Option<&'a str>,
    /// The live model, for a warm start.
    pub previous: Option<&'a Bundle>,
}
