use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;

use delayd_model::Sketch;
use delayd_model::admin::{LatencyHistogram, ReplicaPhase, ReplicaReport, RequestCounts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::testing::{FixedCluster, env, live_model};
use delayd_core::clock::ReplayClock;
use delayd_core::ids::{DeploymentId, FlightKey};
use delayd_judge::evaluation::Metrics;
use delayd_ledger::{KnownOutcome, Page, ServedPrediction};
use delayd_outside::service::ScrapePolicy;

const MODEL: ModelVersion = ModelVersion(1);

fn start() -> DateTime<Utc> {
    "2013-03-01T05:00:00Z".parse().unwrap()
}

struct World {
    _folder: tempfile::TempDir,
    clock: Arc<ReplayClock>,
    cluster: Arc<FixedCluster>,
    bundle: Bundle,
    stage: MonitorStage,
}

impl World {
    /// A live model whose validation promised a ROC-AUC of 1, judged from ten flights on.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, cluster) = (Arc::new(ReplayClock::starting_at(start())), Arc::new(FixedCluster::default()));
        let env = env(folder.path(), clock.clone(), cluster.clone());
        let mut settings = Settings::default();
        settings.monitoring.performance.minimum_rows = 10;
        settings.monitoring.performance.minimum_delayed = 2;
        settings.monitoring.performance.minimum_days = 1;
        settings.monitoring.performance.replicates = 50;
        let mut bundle = delayd_model::testing::tiny_bundle(1);
        let promised = Metrics::of(&[0.1, 0.2, 0.8, 0.9], &[false, false, true, true], 0.3);
        bundle.metrics = serde_json::json!({ "validation": promised });
        live_model(folder.path(), &env.ledger, &bundle, start()).await;
        let stage = MonitorStage {
            bundles: BundleStore::new(folder.path().join("bundles")),
            scraper: Arc::new(Scraper::new(ScrapePolicy { timeout_ms: 500, ..ScrapePolicy::default() }).unwrap()),
            settings: Arc::new(settings),
            checking: Arc::default(),
            env,
        };
        Self { _folder: folder, clock, cluster, bundle, stage }
    }

    /// Flights of a day and the two before it, whose scores say nothing of their delays.
    async fn bad_flights(&self, day: i64) {
        self.flights(day, |number| f64::from(number % 7) / 10.0).await;
    }

    /// The same, with all delays foreseen.
    async fn good_flights(&self, day: i64) {
        self.flights(day, |number| if number % 3 == 0 { 0.9 } else { 0.1 }).await;
    }

    async fn flights(&self, last_day: i64, score: impl Fn(u32) -> f64) {
        for day in last_day - 2..=last_day {
            let at = start() + Duration::days(day);
            let flight = |number: u32| FlightKey {
                carrier: "AA".to_owned(),
                flight_number: number,
                origin: "JFK".to_owned(),
                dest: "LAX".to_owned(),
                scheduled_departure: at,
            };
            let numbers = 0..200_u32;
            let predictions = numbers.clone().map(|number| ServedPrediction {
                replica: format!("a of {at}"),
                seq: u64::from(number),
                flight: flight(number),
                prediction_time: at,
                score: score(number),
                model: MODEL,
            });
            self.stage.env.ledger.insert_predictions(predictions.collect()).await.unwrap();
            let outcomes = numbers.map(|number| KnownOutcome {
                flight: flight(number),
                delayed: number % 3 == 0,
                known_at: at + Duration::minutes(1),
            });
            self.stage.env.ledger.upsert_outcomes(outcomes.collect()).await.unwrap();
        }
    }

    async fn check(&self, at: DateTime<Utc>) -> Observed {
        self.clock.advance_to(at);
        Observe.run(&self.stage).await.unwrap()
    }

    async fn verdict(&self, at: DateTime<Utc>) -> PerformanceStatus {
        self.check(at).await.performance.unwrap().status
    }

    async fn alerts(&self) -> Vec<String> {
        let alerts = self.stage.env.ledger.alerts(Page { offset: 0, limit: 100 }).await.unwrap();
        alerts.into_iter().map(|alert| alert.alert.dedup_key).rev().collect()
    }

    fn report(&self, name: &str, phase: ReplicaPhase, rows: u64) -> ReplicaReport {
        ReplicaReport {
            replica: name.to_owned(),
            model_version: MODEL.to_string(),
            bundle: "b".to_owned(),
            feature_hash: "f".to_owned(),
            phase,
            started_at: start(),
            reported_at: start(),
            requests: RequestCounts { ok: rows, client_errors: 0, server_errors: 0 },
            in_flight: 0,
            latency: LatencyHistogram::default(),
            sketch: Sketch { rows, ..self.bundle.reference.empty_sketch() },
            unknown_categories: BTreeMap::new(),
            last_sequence: 0,
            memory_bytes: None,
        }
    }
}

fn replica(name: &str, state: ReplicaState, admin_url: &str) -> Replica {
    Replica {
        name: name.to_owned(),
        model: MODEL,
        deployment: DeploymentId(1),
        state,
        admin_url: admin_url.to_owned(),
        restarts: 0,
        memory_bytes: None,
        reason: None,
    }
}

/// The administrative address of a replica: answers with its report and an empty
/// page of predictions, and notes what it is asked.
async fn served(report: &ReplicaReport, lost: u64) -> (String, Arc<StdMutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(StdMutex::new(Vec::new()));
    let page = serde_json::json!({
        "replica": report.replica, "started_at": report.started_at, "phase": report.phase,
        "predictions": [], "next_after": 0, "lost": lost, "more": false,
    });
    let (report, noted) = (serde_json::to_string(report).unwrap(), asked.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let body = if request.contains("/admin/v1/sketch") { report.clone() } else { page.to_string() };
            noted.lock().unwrap().push(request.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_bad_day_counts_once_however_often_it_is_checked_and_the_history_stays_small() {
    let world = World::new().await;
    let minute = Duration::seconds(60);
    world.bad_flights(0).await;
    let noon = start() + Duration::hours(7);
    for look in 0..12 {
        assert_eq!(world.verdict(noon + minute * look).await, PerformanceStatus::Suspected, "look {look}");
    }
    let history = world.stage.recall().await.unwrap().performance_history;
    assert_eq!(history[&MODEL].len(), 1);
    // The same window on the two next days: now it has lasted.
    assert_eq!(world.verdict(noon + Duration::days(1)).await, PerformanceStatus::Suspected);
    assert!(world.alerts().await.is_empty());
    assert_eq!(world.verdict(noon + Duration::days(2)).await, PerformanceStatus::Degraded);
    assert_eq!(world.verdict(noon + Duration::days(2) + minute).await, PerformanceStatus::Degraded);
    assert_eq!(world.alerts().await, ["performance/model_v1/2013-03-03"]);
    assert_eq!(world.stage.recall().await.unwrap().performance_history[&MODEL].len(), 3);
}

#[tokio::test]
async fn a_memory_with_an_entry_for_every_check_is_cut_to_one_a_day() {
    let world = World::new().await;
    let mut memory = world.stage.recall().await.unwrap();
    let look = |minute| performance::PerformanceSummary {
        at: start() + Duration::minutes(minute),
        worse: if minute % 1440 == 1439 { vec!["auc".to_owned()] } else { Vec::new() },
    };
    memory.performance_history.insert(MODEL, (0..3 * 1440).map(look).collect());
    memory.forget(&world.stage.settings.monitoring, start() + Duration::days(3));
    let days = &memory.performance_history[&MODEL];
    assert_eq!(days.len(), 3);
    assert!(days.iter().all(|day| day.worse == ["auc"]), "a day's last look stands for it: {days:?}");
}

#[tokio::test]
async fn a_second_episode_on_the_same_model_raises_an_alert_again() {
    let world = World::new().await;
    let noon = start() + Duration::hours(7);
    world.bad_flights(0).await;
    for day in 0..43 {
        match day {
            // The bad days have left the window, and what comes in it now is as promised.
            20 => world.good_flights(20).await,
            40 => world.bad_flights(40).await,
            _ => {}
        }
        let verdict = world.verdict(noon + Duration::days(day)).await;
        assert!(day != 20 || verdict == PerformanceStatus::Holding, "{verdict:?}");
    }
    assert_eq!(world.alerts().await, ["performance/model_v1/2013-03-03", "performance/model_v1/2013-04-12"]);
}

#[tokio::test]
async fn ready_replicas_that_are_silent_and_predictions_that_were_lost_are_kept_with_the_check() {
    let world = World::new().await;
    let (url, _) = served(&world.report("a", ReplicaPhase::Ready, 5), 3).await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    *world.cluster.replicas.lock().unwrap() = vec![
        replica("a", ReplicaState::Ready, &url),
        replica("b", ReplicaState::Ready, &closed),
        replica("c", ReplicaState::Starting, &closed),
    ];
    for look in 1..=2 {
        let at = start() + Duration::minutes(look);
        let seen = world.check(at).await;
        assert_eq!((seen.replicas, seen.silent.len(), seen.predictions_lost), (1, 1, 3));
        let windows = world.stage.env.ledger.metrics_windows(at, at + Duration::seconds(1)).await.unwrap();
        let kept: ReplicasSeen = windows[0].body.read::<WindowSeen>().unwrap().replicas.unwrap();
        assert!(kept.silent[0].contains("replica b at"), "{kept:?}");
        assert_eq!((kept.predictions_lost, kept.predictions_lost_total), (3, 3 * look.unsigned_abs()));
    }
}

#[tokio::test]
async fn the_last_counts_of_a_drained_replica_are_fetched_and_stored_before_it_is_released() {
    let world = World::new().await;
    let (draining, asked_early) = served(&world.report("a", ReplicaPhase::Draining, 4), 0).await;
    let (drained, asked) = served(&world.report("b", ReplicaPhase::Drained, 7), 0).await;
    *world.cluster.replicas.lock().unwrap() =
        vec![replica("a", ReplicaState::Draining, &draining), replica("b", ReplicaState::Draining, &drained)];
    let collected = CollectDraining.run(&world.stage).await.unwrap();
    assert_eq!((collected.draining, collected.released, collected.rows), (2, 1, 11));
    let told = asked.lock().unwrap().clone();
    assert_eq!(told.last().map(String::as_str), Some("POST /admin/v1/collected"), "{told:?}");
    assert!(asked_early.lock().unwrap().iter().all(|one| !one.contains("collected")), "its counts may still grow");
    let book = world.stage.recall().await.unwrap().book;
    let day = book.drift_window(&MODEL.to_string(), start() + Duration::days(1), 7).unwrap().unwrap();
    assert_eq!(day.sketch.rows, 11);
}

/// A replica that answers every flight with the score that its golden row should get, and so much more.
async fn scoring(bundle: &Bundle, more: f32) -> (String, Arc<StdMutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (golden, asked) = (bundle.golden.clone(), Arc::new(StdMutex::new(Vec::new())));
    let noted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = String::new();
            let flight = loop {
                let mut piece = [0; 8192];
                let length = stream.read(&mut piece).await.unwrap();
                request.push_str(&String::from_utf8_lossy(&piece[..length]));
                if request.starts_with("GET") {
                    break serde_json::Value::Null;
                }
                let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                match serde_json::from_str::<serde_json::Value>(body) {
                    Ok(flight) => break flight,
                    Err(_) if length > 0 => {}
                    Err(_) => break serde_json::Value::Null,
                }
            };
            let row = golden.iter().find(|row| {
                flight["flight_number"] == row.flight_number
                    && flight["scheduled_departure"] == serde_json::to_value(row.scheduled_departure).unwrap()
            });
            noted.lock().unwrap().push(request);
            let Some(row) = row else { continue };
            let body = serde_json::json!({
                "model_version": MODEL.to_string(), "bundle": "b", "predictions": [{ "score": row.score + more }],
            });
            let body = body.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test]
async fn golden_rows_are_asked_once_an_hour_as_probes_and_another_score_is_critical() {
    let world = World::new().await;
    let (fine, asked) = scoring(&world.bundle, 0.0).await;
    let (wrong, _) = scoring(&world.bundle, 0.2).await;
    let rows = world.bundle.golden.len();
    *world.cluster.replicas.lock().unwrap() = vec![replica("a", ReplicaState::Ready, &fine)];
    let golden_asked = || asked.lock().unwrap().iter().filter(|one| one.starts_with("POST /predict")).count();
    let minutes = |minutes| start() + Duration::minutes(minutes);
    world.check(minutes(0)).await;
    world.check(minutes(59)).await;
    assert_eq!(golden_asked(), rows, "not asked again within the hour");
    assert!(
        asked.lock().unwrap().iter().filter(|one| one.starts_with("POST")).all(|one| one.contains("x-delayd-probe: 1"))
    );
    world.check(minutes(61)).await;
    assert_eq!(golden_asked(), 2 * rows);
    assert!(world.alerts().await.is_empty());
    world.cluster.replicas.lock().unwrap().push(replica("b", ReplicaState::Ready, &wrong));
    for look in [125, 190] {
        world.check(minutes(look)).await;
    }
    let alerts = world.stage.env.ledger.alerts(Page { offset: 0, limit: 10 }).await.unwrap();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let alert = &alerts[0].alert;
    assert_eq!((alert.severity, alert.dedup_key.as_str()), (Severity::Critical, "train_serve/model_v1/2013-03-01"));
    assert!(alert.body.contains("by b was served"), "{}", alert.body);
    let windows = world.stage.env.ledger.metrics_windows(minutes(190), minutes(191)).await.unwrap();
    assert_eq!(windows[0].body.read::<WindowSeen>().unwrap().train_serve.unwrap().report.different, rows as u64);
}
