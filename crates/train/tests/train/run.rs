//! A whole training run on made-up flights: what it learns, that it repeats itself
//! bit by bit, how it starts from an earlier model, and how it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use delayd_core::error::ErrorKind;
use delayd_data::Example;
use delayd_features::{FitOptions, NumericInput};
use delayd_judge::evaluation::{EvaluationOptions, LookupTable, Majority, evaluate};
use delayd_model::{Bundle, GoldenRow, PredictScratch, Predictor};
use delayd_train::{TrainedModel, TrainingError, TrainingInput, train};
use delayd_training_job::params::{ClassWeighting, OptimizerKind, ThresholdChoice, ValidationTail};
use delayd_training_job::report::StartedFrom;
use delayd_training_job::tune::TrialOutcome;
use delayd_training_job::{Progress, TrainingControl, TrainingParameters, TuningParameters};

fn parameters() -> TrainingParameters {
    TrainingParameters {
        hidden: 32,
        blocks: 1,
        batch_size: 256,
        max_epochs: 6,
        learning_rate: 5e-3,
        validation_tail: ValidationTail::Days(10.0),
        ..TrainingParameters::default()
    }
}

fn run_with(
    examples: &[Example],
    parameters: TrainingParameters,
    fit: &FitOptions,
    previous: Option<&Bundle>,
    tuning: Option<&TuningParameters>,
    control: &TrainingControl,
) -> Result<TrainedModel, TrainingError> {
    let (airports, holidays) = (crate::airports(), crate::holidays());
    let dataset = Some("sha256:test");
    let input = TrainingInput {
        examples,
        sample_weights: None,
        airports: &airports,
        holidays: &holidays,
        fit,
        dataset,
        previous,
    };
    train(&input, &parameters.check()?, tuning, control)
}

fn run(examples: &[Example], parameters: TrainingParameters) -> Result<TrainedModel, TrainingError> {
    run_with(examples, parameters, &crate::fit_options(), None, None, &TrainingControl::default())
}

#[test]
fn a_run_learns_the_pattern_and_its_bundle_serves_what_libtorch_computed() {
    let model = run(&crate::examples(8000, 60, 1), parameters()).unwrap();
    let report = &model.report;
    assert!(report.validation.roc_auc.unwrap() > 0.75, "{:?}", report.validation);
    assert!(report.validation.expected_calibration_error.unwrap() < 0.05);
    assert!(report.largest_disagreement < GoldenRow::TOLERANCE);
    assert_eq!(report.record.device, "cpu");
    assert_eq!(report.bundle_digest, model.bundle.digest().unwrap());
    assert_eq!(report.record.train_rows + report.record.tail_rows, report_rows(report));
    // What the delay was made of is what the model uses.
    let used: Vec<&str> = report.importance.iter().take(3).map(|(name, _)| name.as_str()).collect();
    for input in ["origin_overdue_count", "wind_speed_kmh"] {
        assert!(used.contains(&input), "{input} is not among {used:?}");
    }
    assert!((report.importance.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle");
    assert_eq!(model.bundle.write_to(&path).unwrap(), report.bundle_digest);
    let (read, _) = Bundle::read_from(&path).unwrap();
    Predictor::from_bundle(&read).unwrap();
    assert_eq!(read.golden.len(), 16);
    assert!(read.golden.iter().any(|row| row.carrier == "??") && read.golden.iter().any(|row| row.origin == "???"));
    assert!(read.golden.iter().any(|row| row.context.is_empty()));
    assert!(read.card.contains("ROC-AUC") && read.training["parameters"]["seed"] == 2013);
    assert!(read.reference.rows > 1000 && read.reference.score_counts.iter().sum::<u64>() == read.reference.rows);
}

/// The purged rows around the split are in neither part.
fn report_rows(report: &delayd_training_job::TrainingReport) -> usize {
    let purged = 8000 - report.record.train_rows - report.record.tail_rows;
    assert!((1..60).contains(&purged), "{purged} rows were left out around the split");
    8000 - purged
}

#[test]
fn the_same_examples_parameters_and_seed_give_the_same_bundle_bit_by_bit() {
    let mut examples = crate::examples(3000, 60, 2);
    let two = TrainingParameters { members: 2, max_epochs: 2, ..parameters() };
    let first = run(&examples, two.clone()).unwrap();
    // The order in which the sources were read must not matter.
    examples.reverse();
    let again = run(&examples, two.clone()).unwrap();
    assert_eq!(first.bundle.weights, again.bundle.weights);
    assert_eq!(first.report.bundle_digest, again.report.bundle_digest);
    let other = run(&examples, TrainingParameters { seed: 7, ..two }).unwrap();
    assert_ne!(first.report.bundle_digest, other.report.bundle_digest);
}

#[test]
fn early_stopping_keeps_the_best_epoch_and_not_the_last() {
    let greedy = TrainingParameters {
        hidden: 128,
        dropout: 0.0,
        learning_rate: 2e-2,
        max_epochs: 40,
        patience: 3,
        batch_size: 64,
        ..parameters()
    };
    let report = run(&crate::examples(1500, 60, 3), greedy).unwrap().report;
    let best = report.record.best_epochs[0];
    let epochs: Vec<f64> = report.epochs.iter().map(|epoch| epoch.validation_log_loss).collect();
    assert_eq!(epochs.len(), best + 3, "it stops three epochs after the best");
    assert!(epochs.iter().all(|loss| *loss >= epochs[best - 1]));
    // The tail's metrics are those of the best epoch: ranking survives calibration.
    assert!((report.validation.roc_auc.unwrap() - report.epochs[best - 1].validation_roc_auc.unwrap()).abs() < 1e-3);
}

#[test]
fn every_optimiser_weighting_and_threshold_trains() {
    let examples = crate::examples(3000, 60, 4);
    let weighted = TrainingParameters {
        optimizer: OptimizerKind::Adam,
        class_weighting: ClassWeighting::Balanced,
        threshold: ThresholdChoice::TargetRecall(0.7),
        history_half_life_days: Some(20.0),
        label_smoothing: 0.02,
        ..parameters()
    };
    let report = run(&examples, weighted).unwrap().report;
    assert!(report.record.positive_weight > 1.2);
    assert!(report.validation.recall >= 0.7 && report.validation.recall < 0.8);
    // Weighted classes, and still honest probabilities.
    assert!(report.validation.expected_calibration_error.unwrap() < 0.08);
    assert!(report.epochs.iter().all(|epoch| epoch.validation_log_loss < 0.75), "{:?}", report.epochs);
}

#[test]
fn a_warm_start_says_at_first_what_the_earlier_model_said_though_carriers_and_features_changed() {
    let examples = crate::examples(4000, 60, 5);
    let first = run(&examples, parameters()).unwrap();
    // Another window: other means, one carrier gone, a new one, one feature more.
    let mut later: Vec<Example> = crate::examples(4000, 60, 6)
        .into_iter()
        .map(|mut example| {
            example.row.set(NumericInput::Temperature, example.row.get(NumericInput::Temperature) + 10.0);
            example.row.set(NumericInput::Pressure, 1013.0);
            if example.row.carrier == "AA" {
                "HA".clone_into(&mut example.row.carrier);
            }
            example
        })
        .collect();
    later.sort_by_key(|example| example.prediction_time);
    let mut fit = crate::fit_options();
    fit.numerics.push(NumericInput::Pressure.name().to_owned());
    let control = TrainingControl::default();
    let warm = run_with(&later, parameters(), &fit, Some(&first.bundle), None, &control).unwrap();
    assert_eq!(warm.report.record.started_from, StartedFrom::EarlierWeights);
    let cold = run_with(&later, TrainingParameters { warm_start: false, ..parameters() }, &fit, None, None, &control);
    let start = &warm.report.epochs[0];
    assert_eq!((start.epoch, start.train_loss), (0, None));
    // Before any step it ranks the new tail as the earlier predictor does.
    let predictor = Predictor::from_bundle(&first.bundle).unwrap();
    let mut scratch = PredictScratch::default();
    let tail: Vec<&Example> =
        later.iter().filter(|example| example.prediction_time >= warm.report.record.tail_from).collect();
    let scores: Vec<f32> = tail.iter().map(|example| predictor.predict(&example.row, &mut scratch).score).collect();
    let labels: Vec<bool> = tail.iter().map(|example| example.outcome.unwrap().delayed).collect();
    let before = delayd_judge::evaluation::metrics::roc_auc(&scores, &labels).unwrap();
    assert!((start.validation_roc_auc.unwrap() - before).abs() < 0.01, "{start:?} against {before}");
    assert!(matches!(cold.unwrap().report.record.started_from, StartedFrom::Scratch(_)));
}

#[test]
fn a_network_of_another_shape_starts_from_scratch_and_says_why() {
    let examples = crate::examples(2000, 60, 7);
    let short = TrainingParameters { max_epochs: 1, ..parameters() };
    let first = run(&examples, short.clone()).unwrap();
    let wider = TrainingParameters { hidden: 48, ..short };
    let control = TrainingControl::default();
    let second = run_with(&examples, wider, &crate::fit_options(), Some(&first.bundle), None, &control).unwrap();
    let reason = StartedFrom::Scratch("the network's width changed".to_owned());
    assert_eq!(second.report.record.started_from, reason);
}

#[test]
fn the_search_records_every_trial_keeps_what_is_in_use_as_trial_0_and_repeats_itself() {
    let examples = crate::examples(3000, 60, 8);
    let base = TrainingParameters { learning_rate: 1e-6, max_epochs: 3, ..parameters() };
    let mut tuning =
        TuningParameters { trials: 6, wall_time_secs: None, max_rows: 2000, ..TuningParameters::default() };
    tuning.space.hidden = vec![16, 32];
    tuning.space.batch_size = vec![128, 256];
    let search = || {
        let control = TrainingControl::default();
        run_with(&examples, base.clone(), &crate::fit_options(), None, Some(&tuning), &control).unwrap()
    };
    let first = search();
    let report = first.report.tuning.as_ref().unwrap();
    assert_eq!(report.trials[0].parameters.learning_rate, 1e-6);
    assert_eq!(report.trials.iter().filter(|trial| trial.round == 0).count(), 6);
    assert_eq!(report.trials.iter().filter(|trial| trial.round == 1).count(), 2);
    assert!(report.trials.iter().all(|trial| matches!(trial.outcome, TrialOutcome::Finished { .. })));
    assert_ne!(report.best_trial, 0, "a learning rate of a millionth is not the best");
    assert!(first.report.record.parameters.learning_rate > 1e-6);
    assert_eq!(first.report.bundle_digest, search().report.bundle_digest);
}

#[test]
fn a_search_without_time_measures_what_is_in_use_and_goes_on_with_it() {
    let examples = crate::examples(2000, 60, 9);
    let tuning = TuningParameters { trials: 5, wall_time_secs: Some(0), ..TuningParameters::default() };
    let control = TrainingControl::default();
    let base = TrainingParameters { max_epochs: 1, ..parameters() };
    let model = run_with(&examples, base, &crate::fit_options(), None, Some(&tuning), &control).unwrap();
    let report = model.report.tuning.unwrap();
    assert!(report.out_of_time && report.best_trial == 0);
    assert!(report.trials[1..].iter().all(|trial| trial.outcome == TrialOutcome::OutOfTime));
}

#[test]
fn a_run_tells_its_progress_and_stops_when_it_is_cancelled() {
    let examples = crate::examples(4000, 60, 10);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let cancel = Arc::new(AtomicBool::new(false));
    let (news, stop) = (Arc::clone(&seen), Arc::clone(&cancel));
    let control = TrainingControl::new(Arc::clone(&cancel), move |progress| {
        if matches!(progress, Progress::EpochFinished { record, .. } if record.epoch == 2) {
            stop.store(true, Ordering::Relaxed);
        }
        news.lock().unwrap().push(progress.clone());
    });
    let error = run_with(&examples, parameters(), &crate::fit_options(), None, None, &control).unwrap_err();
    assert!(matches!(error, TrainingError::Cancelled { epoch: 3 }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let seen = seen.lock().unwrap();
    assert!(matches!(seen[0], Progress::Encoding { tail_rows, .. } if tail_rows > 100));
    assert_eq!(seen.len(), 3);
}

#[test]
fn training_sets_that_cannot_teach_are_refused_with_a_reason() {
    let examples = crate::examples(2000, 60, 11);
    let few = run(&examples[..100], parameters()).unwrap_err();
    assert!(few.to_string().contains("100 rows with an outcome, at least 500 are needed"), "{few}");
    let mut punctual = examples.clone();
    punctual.iter_mut().for_each(|example| example.outcome.as_mut().unwrap().delayed = false);
    let error = run(&punctual, parameters()).unwrap_err();
    assert!(error.to_string().contains("holds no delayed flight"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut unknown = examples;
    unknown.iter_mut().for_each(|example| example.outcome = None);
    assert!(matches!(run(&unknown, parameters()), Err(TrainingError::TooFewRows { found: 0, .. })));
}

#[test]
fn a_loss_that_runs_away_ends_the_run_and_names_the_learning_rate() {
    let wild =
        TrainingParameters { learning_rate: 1.0, weight_decay: 1e30, optimizer: OptimizerKind::AdamW, ..parameters() };
    let error = run(&crate::examples(2000, 60, 12), wild).unwrap_err();
    assert!(matches!(error, TrainingError::NotFinite { .. }), "{error}");
    assert!(error.to_string().contains("lower `learning_rate` (now 1)"), "{error}");
}

#[test]
fn an_evaluation_sets_the_model_beside_its_baselines_by_slice_and_under_perturbation() {
    let examples = crate::examples(9000, 60, 13);
    let (train_rows, later) = examples.split_at(7000);
    let model = run(train_rows, parameters()).unwrap();
    let predictor = Predictor::from_bundle(&model.bundle).unwrap();
    let lookup = LookupTable::fit(train_rows, &crate::airports());
    let options = EvaluationOptions { latency_calls: 100, ..EvaluationOptions::default() };
    let report = evaluate(&predictor, later, Majority::fit(train_rows), &lookup, &options).unwrap();
    assert_eq!(report.model.rows, 2000);
    assert!(report.model.roc_auc > report.lookup.roc_auc && report.lookup.roc_auc > report.majority.roc_auc);
    let interval = report.intervals.roc_auc.unwrap();
    assert!(interval.low < interval.value && interval.value < interval.high);
    assert!(report.slices.iter().any(|slice| slice.value == "B6" && slice.roc_auc.is_some()));
    assert!(report.slices.iter().any(|slice| slice.value == "2013-04"));
    let under = |name: &str| report.robustness.iter().find(|under| under.perturbation.name() == name).unwrap();
    assert!(under("missing_operations").roc_auc_change.unwrap() < -0.02);
    assert_eq!(under("none").roc_auc_change, Some(0.0));
    assert!(report.latency.as_ref().unwrap().per_row.p95_us > 0.0);
    let json = serde_json::to_string(&report).unwrap();
    let read: delayd_judge::evaluation::EvaluationReport = serde_json::from_str(&json).unwrap();
    assert_eq!((read.model.confusion, read.slices.len()), (report.model.confusion, report.slices.len()));
    assert!(evaluate(&predictor, &[], Majority::fit(train_rows), &lookup, &options).is_err());
}
