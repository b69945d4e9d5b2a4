//! What the ledger's tables keep, refuse, and answer.

use chrono::{DateTime, Utc};
use delayd_core::Document;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, DeploymentId, Digest, FlightKey, ModelVersion, RunId};
use delayd_core::ports::{PushedImage, Severity};
use delayd_ledger::{
    Alias, Cycle, CycleOutcome, CycleReason, Dataset, Decision, Deployment, DeploymentState, ImageRecord,
    IngestedObject, KnownOutcome, Ledger, MetricsWindow, Model, NewDecision, ObjectRef, ObjectsLooked, Page, Run,
    ServedPrediction, StepState,
};
use delayd_testkit::records;
use serde_json::json;

fn at(secs: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_360_000_000 + secs, 0).unwrap()
}

fn looked(object: &IngestedObject) -> ObjectsLooked {
    ObjectsLooked { objects: vec![object.clone()], ..ObjectsLooked::default() }
}

async fn register(ledger: &Ledger, cycle: &Cycle, parent: Option<ModelVersion>) -> Model {
    let object = records::object("flights/2013-01.csv", at(0));
    let source = ObjectRef { key: object.key.clone(), digest: object.digest.clone() };
    let (sources, manifest) = (vec![source], json!({"sources": 1}).into());
    let dataset = Dataset { sources, manifest, ..records::dataset(cycle, Digest::of(b"manifest"), at(1)) };
    let (parameters, metrics) = (json!({"lr": 0.001}).into(), Document::from(json!({"auc": 0.75})));
    let run = records::run(cycle, &dataset.version, at(2));
    let run = Run { parameters, seed: u64::MAX, metrics: metrics.clone(), finished_at: Some(at(3)), ..run };
    let bundle = Digest::of(cycle.model.to_string().as_bytes());
    let model = Model { parent, metrics, ..records::model(cycle, &dataset.version, bundle, at(4)) };
    // Everything twice: every insert is safe to repeat.
    for _ in 0..2 {
        ledger.record_objects(looked(&object)).await.unwrap();
        ledger.insert_dataset(dataset.clone()).await.unwrap();
        ledger.save_run(run.clone()).await.unwrap();
        ledger.register_model(model.clone()).await.unwrap();
    }
    // The same rows are the same dataset, whichever cycle froze them first.
    let stored = ledger.dataset(dataset.version.clone()).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.sources, stored.rows), (dataset.version, dataset.sources, dataset.rows));
    assert_eq!(ledger.run(run.id).await.unwrap(), Some(run));
    model
}

async fn finished_cycle(ledger: &Ledger, parent: Option<ModelVersion>) -> Model {
    let cycle = ledger.begin_cycle(CycleReason::Scheduled, at(0)).await.unwrap();
    let model = register(ledger, &cycle, parent).await;
    ledger.finish_cycle(cycle.id, CycleOutcome::Deployed, "", at(9)).await.unwrap();
    model
}

#[tokio::test]
async fn one_cycle_is_open_at_a_time_and_an_unused_model_number_is_used_by_the_next() {
    let ledger = Ledger::in_memory().unwrap();
    let first = ledger.begin_cycle(CycleReason::Bootstrap, at(0)).await.unwrap();
    assert_eq!((first.id, first.run, first.model), (CycleId(1), RunId(1), ModelVersion(1)));
    let second = ledger.begin_cycle(CycleReason::Scheduled, at(1)).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);
    assert!(second.to_string().contains("cycle_1 is still running"), "{second}");
    ledger.finish_cycle(first.id, CycleOutcome::Failed, "no data", at(2)).await.unwrap();
    ledger.finish_cycle(first.id, CycleOutcome::Failed, "no data", at(3)).await.unwrap();
    let other_end = ledger.finish_cycle(first.id, CycleOutcome::Deployed, "", at(3)).await;
    assert_eq!(other_end.unwrap_err().kind(), ErrorKind::Conflict);
    let second = ledger.begin_cycle(CycleReason::Manual { by: "ann".into(), why: "try".into() }, at(4)).await.unwrap();
    assert_eq!((second.id, second.run, second.model), (CycleId(2), RunId(2), ModelVersion(1)));
    register(&ledger, &second, None).await;
    ledger.finish_cycle(second.id, CycleOutcome::KeptLive, "", at(5)).await.unwrap();
    assert_eq!(ledger.begin_cycle(CycleReason::Scheduled, at(6)).await.unwrap().model, ModelVersion(2));
    assert_eq!(ledger.cycles(Page { offset: 1, limit: 1 }).await.unwrap()[0].id, CycleId(2));
}

#[tokio::test]
async fn the_database_itself_refuses_a_second_open_cycle() {
    let ledger = Ledger::in_memory().unwrap();
    ledger.begin_cycle(CycleReason::Bootstrap, at(0)).await.unwrap();
    let forced = ledger.write("forcing a second cycle", |t| {
        t.execute(
            "INSERT INTO cycles (id, reason, state, run, model, deployment, started_at)
                   VALUES (99, '{\"kind\":\"scheduled\"}', 'waiting_approval', 99, 99, 99, 0)",
            [],
        )
    });
    assert_eq!(forced.await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn steps_count_their_attempts_and_a_done_step_is_not_started_again() {
    let ledger = Ledger::in_memory().unwrap();
    let cycle = ledger.begin_cycle(CycleReason::Bootstrap, at(0)).await.unwrap().id;
    assert_eq!(ledger.step_started(cycle, 0, "ingest", at(1)).await.unwrap(), 1);
    assert_eq!(ledger.step_started(cycle, 0, "ingest", at(2)).await.unwrap(), 2, "after a crash");
    ledger.step_progress(cycle, "3 of 9 objects").await.unwrap();
    ledger.step_done(cycle, 0, json!({"rows": 9}).into(), at(3), 1500).await.unwrap();
    assert_eq!(ledger.step_started(cycle, 0, "ingest", at(4)).await.unwrap_err().kind(), ErrorKind::Conflict);
    ledger.step_started(cycle, 1, "train", at(5)).await.unwrap();
    ledger.step_failed(cycle, 1, "no rows", at(6), 10).await.unwrap();
    ledger.step_undo_failed(cycle, 0, "store is away", at(7)).await.unwrap();
    ledger.step_undone(cycle, 0, at(8)).await.unwrap();
    ledger.step_stuck(cycle, 1, "cannot be undone", at(9)).await.unwrap();
    assert_eq!(ledger.step_undone(cycle, 7, at(9)).await.unwrap_err().kind(), ErrorKind::NotFound);
    let steps = ledger.steps_of(cycle).await.unwrap();
    let states: Vec<_> = steps.iter().map(|step| (step.name.as_str(), step.state, step.attempt)).collect();
    assert_eq!(states, [("ingest", StepState::Undone, 2), ("train", StepState::Stuck, 1)]);
    assert_eq!(steps[0].output, Some(json!({"rows": 9}).into()));
    assert_eq!(steps[1].error.as_deref(), Some("cannot be undone"));
}

#[tokio::test]
async fn live_and_previous_move_together_and_a_rollback_is_safe_to_repeat() {
    let ledger = Ledger::in_memory().unwrap();
    let v1 = finished_cycle(&ledger, None).await.version;
    let v2 = finished_cycle(&ledger, Some(v1)).await.version;
    ledger.promote(v1, at(10)).await.unwrap();
    ledger.set_candidate(Some(v2), at(11)).await.unwrap();
    for _ in 0..2 {
        ledger.promote(v2, at(12)).await.unwrap();
    }
    let pointed =
        |aliases: Vec<delayd_ledger::AliasRecord>| -> Vec<_> { aliases.iter().map(|a| (a.alias, a.model)).collect() };
    assert_eq!(pointed(ledger.aliases().await.unwrap()), [(Alias::Live, v2), (Alias::Previous, v1)]);
    for _ in 0..2 {
        assert_eq!(ledger.rollback_alias(v2, at(13)).await.unwrap(), Some(v1));
    }
    assert_eq!(pointed(ledger.aliases().await.unwrap()), [(Alias::Live, v1)]);
    assert_eq!(ledger.model_by_alias(Alias::Live).await.unwrap().unwrap().version, v1);
    let unknown = ledger.promote(ModelVersion(9), at(14)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(pointed(ledger.aliases().await.unwrap()), [(Alias::Live, v1)], "a refused promotion moves nothing");
    assert_eq!(ledger.alias_history(Page::default()).await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_model_is_never_changed_and_numbers_leave_no_gap() {
    let ledger = Ledger::in_memory().unwrap();
    let model = finished_cycle(&ledger, None).await;
    let changed = Model { bundle: Digest::of(b"other"), ..model.clone() };
    assert_eq!(ledger.register_model(changed).await.unwrap_err().kind(), ErrorKind::Conflict);
    let gap = Model { version: ModelVersion(3), ..model.clone() };
    assert!(ledger.register_model(gap).await.unwrap_err().to_string().contains("the next is model_v2"));
    let orphan = Model { version: ModelVersion(2), run: RunId(77), ..model };
    assert_eq!(ledger.register_model(orphan).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn lineage_leads_from_sources_to_deployments() {
    let ledger = Ledger::in_memory().unwrap();
    let v1 = finished_cycle(&ledger, None).await;
    let v2 = finished_cycle(&ledger, Some(v1.version)).await;
    let image = PushedImage { tag: "delay-ml:model_v2".into(), ..records::image(v2.version) };
    let deployment = records::deployment(records::release(&v2, &image), DeploymentState::Applied, at(20));
    let deployment = Deployment { cycle: Some(v2.cycle), ..deployment };
    for _ in 0..2 {
        let record = ImageRecord { image: image.clone(), model: v2.version, pushed_at: at(19) };
        ledger.save_image(record).await.unwrap();
        ledger.insert_deployment(deployment.clone()).await.unwrap();
        ledger.set_deployment_state(deployment.id, DeploymentState::Approved, at(21)).await.unwrap();
    }
    assert_eq!(ledger.approved_deployment().await.unwrap().unwrap().id, deployment.id);
    let lineage = ledger.lineage(v2.version).await.unwrap();
    assert_eq!(lineage.nodes.len(), 7);
    assert_eq!(lineage.edges.len(), 6);
    let tree = lineage.tree();
    for part in ["flights/2013-01.csv", "dataset ", "run_2", "model_v1", "delay-ml:model_v2", "deployment_2 (approved"]
    {
        assert!(tree.contains(part), "{part} is missing in\n{tree}");
    }
    let unknown = ledger.lineage(ModelVersion(8)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_image_of_a_model_that_was_rolled_back_is_not_the_one_reported() {
    let ledger = Ledger::in_memory().unwrap();
    let v1 = finished_cycle(&ledger, None).await;
    let v2 = finished_cycle(&ledger, Some(v1.version)).await;
    for (model, secs) in [(&v1, 20), (&v2, 30)] {
        let image = records::image(model.version);
        let release = records::release(model, &image);
        ledger.save_image(ImageRecord { image, model: model.version, pushed_at: at(secs) }).await.unwrap();
        let deployment = records::deployment(release, DeploymentState::Approved, at(secs));
        ledger.insert_deployment(deployment).await.unwrap();
    }
    let told = async || ledger.standing_image(None).await.unwrap().map(|record| record.model);
    assert_eq!(told().await, Some(v2.version));
    ledger.set_deployment_state(DeploymentId(v2.version.0), DeploymentState::RolledBack, at(40)).await.unwrap();
    assert_eq!(told().await, Some(v1.version), "what was taken back is nothing to run");
    let asked = ledger.standing_image(Some(v2.version)).await.unwrap().map(|record| record.model);
    assert_eq!(asked, Some(v2.version), "whoever names it gets it");
}

#[tokio::test]
async fn a_decision_reads_back_with_everything_that_was_weighed() {
    let ledger = Ledger::in_memory().unwrap();
    let decision = NewDecision {
        at: at(0),
        cycle: None,
        kind: "gate".into(),
        inputs: json!({"live": "model_v1"}).into(),
        tests: json!([{"name": "auc", "passed": true}]).into(),
        alternatives: json!(["keep the live model"]).into(),
        outcome: "promote".into(),
        reason: "AUC is higher".into(),
    };
    let id = ledger.decide(decision.clone()).await.unwrap();
    let NewDecision { at, cycle, kind, inputs, tests, alternatives, outcome, reason } = decision;
    let kept = Decision { id, at, cycle, kind, inputs, tests, alternatives, outcome, reason };
    assert_eq!(ledger.why(id).await.unwrap(), Some(kept));
}

#[tokio::test]
async fn the_same_event_is_one_alert() {
    let ledger = Ledger::in_memory().unwrap();
    let alert = records::alert("cycle_1/failed", Severity::Warning, at(0));
    let id = ledger.enqueue_alert(alert.clone()).await.unwrap();
    let routed = ledger.alert(id).await.unwrap().unwrap().alert;
    ledger.write("routing", move |tx| tx.route_alert(&routed, &[], at(1))).await.unwrap();
    assert_eq!(ledger.enqueue_alert(alert).await.unwrap(), id);
    assert!(ledger.write("looking", |tx| tx.unrouted_alerts(10)).await.unwrap().is_empty());
}

fn flight(number: u32) -> FlightKey {
    FlightKey {
        carrier: "B6".into(),
        flight_number: number,
        origin: "JFK".into(),
        dest: "LAX".into(),
        scheduled_departure: at(7200),
    }
}

fn served(seq: u64, number: u32, time: i64, score: f64) -> ServedPrediction {
    ServedPrediction {
        replica: "replica-1".into(),
        seq,
        flight: flight(number),
        prediction_time: at(time),
        score,
        model: ModelVersion(1),
    }
}

#[tokio::test]
async fn an_outcome_is_scored_once_by_the_last_prediction_before_it_was_known() {
    let ledger = Ledger::in_memory().unwrap();
    let rows = vec![served(1, 10, 0, 0.1), served(2, 10, 60, 0.7), served(3, 10, 90_000, 0.99), served(4, 11, 0, 0.2)];
    assert_eq!(ledger.insert_predictions(rows.clone()).await.unwrap(), 4);
    assert_eq!(ledger.insert_predictions(rows).await.unwrap(), 0, "a repeated fetch adds nothing");
    let known = |number, delayed| KnownOutcome { flight: flight(number), delayed, known_at: at(20_000) };
    ledger.upsert_outcomes(vec![known(10, false), known(12, true)]).await.unwrap();
    ledger.upsert_outcomes(vec![known(10, true)]).await.unwrap();
    let scored = ledger.scored_outcomes(at(0), at(20_001)).await.unwrap();
    assert_eq!(scored.len(), 1, "neither the flight without an outcome nor the one never asked for");
    assert_eq!((scored[0].score, scored[0].delayed, scored[0].carrier.as_str()), (0.7, true, "B6"));
    assert!(ledger.scored_outcomes(at(0), at(20_000)).await.unwrap().is_empty(), "the end is exclusive");
    assert_eq!(ledger.prune_predictions(at(80_000)).await.unwrap(), 3);
    let newer = KnownOutcome { flight: flight(13), delayed: false, known_at: at(30_000) };
    ledger.upsert_outcomes(vec![newer]).await.unwrap();
    let before = ledger.outcome_counts(at(25_000)).await.unwrap();
    for removed in [2, 0] {
        assert_eq!(ledger.prune_outcomes(at(80_000), at(90_000)).await.unwrap(), removed, "the newest stays");
        assert_eq!(ledger.outcome_counts(at(25_000)).await.unwrap(), before, "pruned outcomes are still counted");
    }
}

#[tokio::test]
async fn thousands_of_predictions_are_stored_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.db")).unwrap();
    let rows: Vec<_> = (0..20_000).map(|n| served(n, n as u32, n as i64, 0.5)).collect();
    assert_eq!(ledger.insert_predictions(rows).await.unwrap(), 20_000);
    assert_eq!(ledger.prune_predictions(at(20_000)).await.unwrap(), 20_000);
}

#[tokio::test]
async fn windows_for_a_chart_are_thinned_evenly_and_keep_the_newest() {
    let ledger = Ledger::in_memory().unwrap();
    for minute in 0..100 {
        let window =
            MetricsWindow { at: at(60 * minute), model: ModelVersion(1), body: json!({ "minute": minute }).into() };
        ledger.save_metrics_window(window).await.unwrap();
    }
    let minutes = async |points| {
        let found = ledger.metrics_windows_thinned(at(0), at(6000), points).await.unwrap();
        found
            .iter()
            .map(|window| serde_json::to_value(&window.body).unwrap()["minute"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(minutes(10).await, [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]);
    assert_eq!(minutes(1).await, [99]);
    assert_eq!(minutes(0).await, [99], "nothing at all is no chart");
    let many = minutes(70).await;
    assert!(many.len() == 50 && many.last() == Some(&99), "{many:?}");
    assert_eq!(minutes(100).await.len(), 100);
    assert_eq!(minutes(5000).await.len(), 100);
    assert!(ledger.metrics_windows_thinned(at(6000), at(9000), 10).await.unwrap().is_empty());
}
