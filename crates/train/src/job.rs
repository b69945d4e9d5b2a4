//! One training job, from a dataset's examples to a bundle in a folder: the same on
//! whichever machine the worker runs.

use std::path::Path;

use chrono::{DateTime, Utc};
use delayd_core::ids::Digest;
use delayd_data::{Example, TrainingSet};
use delayd_features::FitOptions;
use delayd_judge::evaluation::{EvaluationOptions, LookupTable, Majority, evaluate};
use delayd_model::{Bundle, Predictor};
use delayd_training_job::policy::{Part, part_of, sample_weights};
use delayd_training_job::tune::{TrialRecord, TrialTask};
use delayd_training_job::{TrainingControl, TrainingJob, TuningParameters};

use crate::TrainingError;
use crate::run::{TrainedModel, TrainingInput, train, train_trial};

#[derive(Debug)]
pub struct FinishedJob {
    pub trained: TrainedModel,
    pub bundle: Digest,
    pub roc_auc: f64,
}

/// A job with what its digests stand for.
#[derive(Debug, Clone, Copy)]
pub struct JobInputs<'a> {
    pub job: &'a TrainingJob,
    pub set: &'a TrainingSet,
    pub live: Option<&'a Bundle>,
}

impl JobInputs<'_> {
    fn part(&self, wanted: &[Part]) -> Vec<Example> {
        let (job, examples) = (self.job, &self.set.examples);
        let kept = examples.iter().filter(|example| wanted.contains(&part_of(example, job.as_of, &job.holdout)));
        kept.cloned().collect()
    }

    fn with_input<T>(&self, learned: &[Example], work: impl FnOnce(&TrainingInput<'_>) -> T) -> T {
        let times: Vec<DateTime<Utc>> = learned.iter().map(|example| example.prediction_time).collect();
        let weights = sample_weights(&times, self.job.as_of, &self.job.policy);
        let fit = FitOptions { horizon_minutes: self.job.timing.horizon_minutes, ..FitOptions::default() };
        work(&TrainingInput {
            examples: learned,
            sample_weights: Some(&weights),
            airports: &self.set.reference.airports,
            holidays: &self.set.reference.holidays,
            fit: &fit,
            dataset: Some(self.job.dataset.as_str()),
            previous: self.live,
        })
    }

    /// Tunes where the job says so, trains, judges, and writes the bundle to `dir`,
    /// which must not exist yet. Blocks for as long as it takes.
    pub fn train_into(&self, dir: &Path, control: &TrainingControl) -> Result<FinishedJob, TrainingError> {
        let learned = self.part(&[Part::Training]);
        let checked = self.job.parameters.clone().check()?;
        let tuning = self.job.tuning.as_ref();
        let mut trained = self.with_input(&learned, |input| train(input, &checked, tuning, control))?;
        let judged = self.part(&[Part::Recent, Part::Seasonal]);
        let roc_auc = self.evaluate(&mut trained, &learned, &judged)?;
        let bundle = trained.bundle.write_to(dir)?;
        let bundle: Digest =
            bundle.parse().map_err(|error: delayd_core::ids::InvalidId| TrainingError::Folder(error.to_string()))?;
        Ok(FinishedJob { trained, bundle, roc_auc })
    }

    /// Runs one trial of the job's search. Blocks for as long as it takes.
    pub fn run_trial(
        &self,
        tuning: &TuningParameters,
        task: &TrialTask,
        control: &TrainingControl,
    ) -> Result<TrialRecord, TrainingError> {
        let learned = self.part(&[Part::Training]);
        let checked = self.job.parameters.clone().check()?;
        self.with_input(&learned, |input| train_trial(input, &checked, tuning, task, control))
    }

    /// Puts the evaluation on the held-out rows beside the metrics. Latency is
    /// left to the gate: a measured time would give every run another digest.
    fn evaluate(
        &self,
        trained: &mut TrainedModel,
        learned: &[Example],
        judged: &[Example],
    ) -> Result<f64, TrainingError> {
        let predictor = Predictor::from_bundle(&trained.bundle)?;
        let lookup = LookupTable::fit(learned, &self.set.reference.airports);
        let options = EvaluationOptions { latency_calls: 0, ..EvaluationOptions::default() };
        let report = match evaluate(&predictor, judged, Majority::fit(learned), &lookup, &options) {
            Ok(report) => report,
            Err(nothing) => {
                tracing::warn!(error = %nothing, "the model is judged by its validation tail alone");
                return Ok(trained.report.validation.roc_auc.unwrap_or(0.5));
            }
        };
        let roc_auc = report.model.roc_auc.unwrap_or(0.5);
        if let Some(metrics) = trained.bundle.metrics.as_object_mut() {
            metrics.insert("evaluation".to_owned(), serde_json::to_value(&report)?);
        }
        Ok(roc_auc)
    }
}
