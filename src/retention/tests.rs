use std::fs;
use std::path::Path;

use super::*;
use crate::testing::{FixedCluster, env, live_model};
use delayd_core::clock::ReplayClock;
use delayd_core::ids::Digest;
use delayd_core::ports::PushedImage;
use delayd_ledger::{CycleReason, FlightKey, ImageRecord, KnownOutcome, MetricsWindow, ServedPrediction};

fn at(day: i64) -> DateTime<Utc> {
    "2013-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day)
}

fn flight(number: u32, day: i64) -> FlightKey {
    FlightKey {
        carrier: "AA".to_owned(),
        flight_number: number,
        origin: "JFK".to_owned(),
        dest: "LAX".to_owned(),
        scheduled_departure: at(day),
    }
}

/// A retention at day 200 of a ledger with a prediction and an outcome on each day.
async fn retention(folder: &Path) -> Retention {
    let clock = Arc::new(ReplayClock::starting_at(at(200)));
    let env = env(folder, clock, Arc::new(FixedCluster::default()));
    let days = 0..200_i64;
    let predictions = days.clone().map(|day| ServedPrediction {
        replica: "a".to_owned(),
        seq: day.unsigned_abs(),
        flight: flight(1, day),
        prediction_time: at(day),
        score: 0.5,
        model: ModelVersion(1),
    });
    env.ledger.insert_predictions(predictions.collect()).await.unwrap();
    let outcomes = days.map(|day| KnownOutcome { flight: flight(1, day), delayed: false, known_at: at(day) });
    env.ledger.upsert_outcomes(outcomes.collect()).await.unwrap();
    let mut settings = Settings::default();
    settings.daemon.state_dir = folder.to_owned();
    Retention { env, settings: Arc::new(settings) }
}

#[tokio::test]
async fn what_is_old_goes_and_what_monitoring_and_retraining_need_stays() {
    let folder = tempfile::tempdir().unwrap();
    let retention = retention(folder.path()).await;
    let ledger = &retention.env.ledger;
    live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(1), at(60)).await;
    let scored_before = ledger.scored_outcomes(at(186), at(200)).await.unwrap();
    let counts_before = ledger.outcome_counts(at(60)).await.unwrap();
    let removed = retention.turn().await.unwrap();
    // 120 days are kept of predictions; outcomes since the live model was trained, which is longer ago.
    assert_eq!((removed.predictions, removed.outcomes), (80, 60));
    assert_eq!(ledger.scored_outcomes(at(186), at(200)).await.unwrap(), scored_before);
    assert_eq!(ledger.outcome_counts(at(60)).await.unwrap(), counts_before);
    assert_eq!(retention.turn().await.unwrap(), Removed::default(), "a second turn finds nothing");
    let record = ledger.setting::<RetentionRecord>(SETTING).await.unwrap().unwrap();
    assert_eq!((record.at, record.removed), (at(200), removed));
}

#[tokio::test]
async fn without_a_live_model_every_outcome_counts_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let retention = retention(folder.path()).await;
    assert_eq!(retention.turn().await.unwrap().outcomes, 0);
}

#[tokio::test]
async fn of_the_monitors_looks_all_then_one_an_hour_then_one_a_day_stay() {
    let folder = tempfile::tempdir().unwrap();
    let retention = retention(folder.path()).await;
    let ledger = &retention.env.ledger;
    // Four looks an hour for a day: today, 20 days ago, 100 days ago.
    for day in [199, 180, 100] {
        for quarter in 0..96 {
            let at = at(day) + Duration::minutes(15 * quarter);
            let body = serde_json::json!({}).into();
            ledger.save_metrics_window(MetricsWindow { at, model: ModelVersion(1), body }).await.unwrap();
        }
    }
    assert_eq!(retention.turn().await.unwrap().metrics_windows, 72 + 95);
    let kept = async |day| ledger.metrics_windows(at(day), at(day + 1)).await.unwrap();
    assert_eq!((kept(199).await.len(), kept(180).await.len()), (96, 24));
    let oldest = kept(100).await;
    assert_eq!((oldest.len(), oldest[0].at), (1, at(100) + Duration::minutes(15 * 95)), "a day's last look stays");
    assert_eq!(retention.turn().await.unwrap().metrics_windows, 0);
}

#[tokio::test]
async fn a_pushed_package_and_an_old_runs_folder_go_and_the_open_cycles_stay() {
    let folder = tempfile::tempdir().unwrap();
    let retention = retention(folder.path()).await;
    let ledger = &retention.env.ledger;
    live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(1), at(60)).await;
    live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(2), at(190)).await;
    let open = ledger.begin_cycle(CycleReason::Scheduled, at(199)).await.unwrap();
    assert_eq!(open.model, ModelVersion(3));
    let image = PushedImage {
        reference: "delay-ml:model_v1".to_owned(),
        tag: "model_v1".to_owned(),
        digest: Digest::of(b"image"),
        size_bytes: 1,
        layers_pushed: 1,
        layers_reused: 0,
    };
    ledger.save_image(ImageRecord { image, model: ModelVersion(1), pushed_at: at(61) }).await.unwrap();
    let folders = ["packages/model_v1", "packages/model_v2", "packages/model_v3", "packages/notes"];
    let folders = folders.iter().chain(&["runs/run_1", "runs/run_2", "runs/run_3", "runs/elsewhere"]);
    for name in folders.clone() {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("file"), "x").unwrap();
    }
    let removed = retention.turn().await.unwrap();
    assert_eq!((removed.packages, removed.run_folders), (1, 1));
    let gone: Vec<&&str> = folders.filter(|name| !folder.path().join(name).exists()).collect();
    // model_v2 was never pushed, run_2 is ten days old, model_v3 and run_3 are under way.
    assert_eq!(gone, [&"packages/model_v1", &"runs/run_1"]);
}
