//! Runs the search's trials on threads of this process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use delayd_core::error::chain;
use delayd_model::Architecture;
use delayd_training_job::params::{CheckedParameters, TrainingParameters};
use delayd_training_job::report::{Progress, TrainingControl};
use delayd_training_job::tune::{
    Search, TrialOutcome, TrialRecord, TrialTask, TuningParameters, TuningReport, derived_seed,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::device::panicked;
use crate::error::{TrainingError, stop_if_asked};
use crate::rows::LabelledRows;
use crate::trainer::{Start, TrainingSets, fit_members};
use crate::weights::fresh;

/// What trials learn from, and how long they may take.
pub(crate) struct TrialRunner<'a> {
    sets: TrainingSets,
    architecture: &'a (dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &'a TrainingControl,
    deadline: Option<Instant>,
}

impl<'a> TrialRunner<'a> {
    /// A runner over the budget's share of the rows; its wall time begins now.
    pub(crate) fn new(
        tuning: &TuningParameters,
        sets: &TrainingSets,
        architecture: &'a (dyn Fn(&TrainingParameters) -> Architecture + Sync),
        control: &'a TrainingControl,
    ) -> Result<Self, TrainingError> {
        let sets = TrainingSets { train: sets.train.thinned(tuning.max_rows)?, tail: sets.tail.share() };
        let deadline = tuning.wall_time_secs.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Ok(Self { sets, architecture, control, deadline })
    }

    pub(crate) fn run(&self, task: &TrialTask) -> TrialRecord {
        run_trial(task, &self.sets, self.architecture, self.control, self.deadline)
    }

    fn run_round(&self, tasks: &[TrialTask], tuning: &TuningParameters) -> Vec<TrialRecord> {
        let threads = tasks.first().map_or(1, |task| task.parameters.torch_threads);
        let workers = if tuning.parallel == 0 { threads } else { tuning.parallel }.clamp(1, tasks.len().max(1));
        let next = AtomicUsize::new(0);
        let records = Mutex::new(Vec::with_capacity(tasks.len()));
        // Borrowed one by one: tensors go to a thread only as a share of its own.
        let (architecture, control, deadline) = (self.architecture, self.control, self.deadline);
        let work = |sets: TrainingSets| {
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let record = run_trial(task, &sets, architecture, control, deadline);
                control.tell(&Progress::trial_finished(&record, tasks.len()));
                records.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(record);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let sets = self.sets.share();
                let work = &work;
                scope.spawn(move || work(sets));
            }
        });
        records.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Searches; answers the best parameters and every trial.
pub(crate) fn search(
    base: &CheckedParameters,
    tuning: &TuningParameters,
    sets: &TrainingSets,
    architecture: &(dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &TrainingControl,
) -> Result<(CheckedParameters, TuningReport), TrainingError> {
    let mut search = Search::new(base, tuning)?;
    let runner = TrialRunner::new(tuning, sets, architecture, control)?;
    loop {
        let tasks = search.tasks();
        if tasks.is_empty() {
            return Ok(search.result()?);
        }
        let records = runner.run_round(&tasks, tuning);
        if control.is_cancelled() {
            return Err(TrainingError::Cancelled { epoch: 0 });
        }
        search.finish_round(records);
    }
}

fn run_trial(
    task: &TrialTask,
    sets: &TrainingSets,
    architecture: &(dyn Fn(&TrainingParameters) -> Architecture + Sync),
    control: &TrainingControl,
    deadline: Option<Instant>,
) -> TrialRecord {
    let began = Instant::now();
    // One member on one thread: trials run side by side, and what is right for one
    // member is right for all of them.
    let parameters = task.parameters.clone();
    let run = TrainingParameters { members: 1, torch_threads: 1, max_epochs: task.epochs, ..parameters };
    // What is in use now is measured whatever the time.
    let control = TrainingControl {
        deadline: deadline.filter(|_| task.trial != 0),
        progress: std::sync::Arc::new(|_| ()),
        cancel: std::sync::Arc::clone(&control.cancel),
    };
    let fit = || {
        stop_if_asked(&control, 0)?;
        let shape = architecture(&run);
        let mut random = ChaCha8Rng::seed_from_u64(derived_seed(run.seed, "weights", 0));
        let weights = fresh(&shape, log_odds(&sets.train), &mut random);
        fit_members(&shape, sets, &[Start { weights, warm: false }], &run, &control)
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fit));
    let outcome = match result.unwrap_or_else(|payload| Err(panicked(&*payload))) {
        Ok(members) => members.first().map_or(TrialOutcome::OutOfTime, |member| TrialOutcome::Finished {
            validation_log_loss: member.best.validation_log_loss,
            validation_roc_auc: member.best.validation_roc_auc,
        }),
        Err(TrainingError::Cancelled { .. }) => TrialOutcome::OutOfTime,
        Err(error) => TrialOutcome::Failed { reason: chain(&error) },
    };
    task.ended(outcome, began.elapsed().as_secs_f64())
}

pub(crate) fn log_odds(rows: &LabelledRows) -> f64 {
    let (positives, rows) = (rows.positives(), rows.rows());
    ((positives as f64 + 0.5) / ((rows - positives) as f64 + 0.5)).ln()
}
