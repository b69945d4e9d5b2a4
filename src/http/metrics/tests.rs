use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::supervision::SupervisionPolicy;
use delayd_core::clock::SystemClock;
use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;
use delayd_core::ports::{Cluster, ObjectStore, Release, Replica, RolloutProgress};
use delayd_ledger::Ledger;
use delayd_outside::local::{FolderStore, LogNotifier, OciLayoutRegistry, WeatherCsv};

/// A cluster that nobody reaches.
#[derive(Debug)]
struct Away;

impl Away {
    fn error() -> PortError {
        PortError::new(ErrorKind::Unavailable, "asking the cluster", "connection refused")
    }
}

#[async_trait]
impl Cluster for Away {
    async fn apply(
        &self,
        _: &Release,
        _: Duration,
        _: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        Err(Self::error())
    }
    async fn current(&self) -> Result<Option<Release>, PortError> {
        Err(Self::error())
    }
    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        Err(Self::error())
    }
    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        Err(Self::error())
    }
    fn service_url(&self) -> String {
        String::new()
    }
    async fn tear_down(&self) -> Result<(), PortError> {
        Err(Self::error())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Err(Self::error())
    }
}

fn env(folder: &Path) -> Env {
    let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.join("store")).unwrap());
    Env {
        clock: Arc::new(SystemClock),
        ledger: Ledger::open(&folder.join("ledger.sqlite")).unwrap(),
        weather: Arc::new(WeatherCsv::new(store.clone(), "weather/")),
        trainer: Arc::new(crate::testing::NoTrainer),
        object_store: store,
        image_registry: Arc::new(OciLayoutRegistry::open(&folder.join("images")).unwrap()),
        cluster: Arc::new(Away),
        notifier: Arc::new(LogNotifier),
    }
}

fn metrics(folder: &Path) -> Metrics {
    let mut settings = Settings::default();
    settings.daemon.state_dir = folder.to_owned();
    Metrics::new(&settings).unwrap()
}

#[tokio::test]
async fn a_source_that_is_away_costs_its_own_metrics_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let (env, metrics) = (env(folder.path()), metrics(folder.path()));
    let supervision = Supervision::new(SupervisionPolicy::default(), |_| ());
    for scrapes in 1..=2 {
        let page = metrics.render(&env, &supervision).await.unwrap();
        assert!(page.contains(&format!("delayd_scrape_errors_total{{source=\"cluster\"}} {scrapes}\n")), "{page}");
        assert!(page.contains("delayd_scrape_errors_total{source=\"ledger\"} 0\n"), "{page}");
        assert!(!page.contains("delayd_replicas{"), "{page}");
        for there in ["delayd_live_model_version 0\n", "delayd_ledger_size_bytes{file=\"main\"}", "process_open_fds "] {
            assert!(page.contains(there), "no {there} in {page}");
        }
    }
}

#[tokio::test]
async fn every_family_is_in_the_catalogue_with_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let (env, metrics) = (env(folder.path()), metrics(folder.path()));
    metrics.finished(CycleId(1), "train", Duration::from_secs(3), None);
    metrics.timer_ran("ingestion", env.now(), Duration::from_secs(1), None);
    let supervision = Supervision::new(SupervisionPolicy::default(), |_| ());
    let page = metrics.render(&env, &supervision).await.unwrap();
    let mut names = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let known = catalogue::SECTIONS.iter().flat_map(|section| section.metrics).find(|known| known.name == name);
        assert_eq!(known.map(|known| known.kind.name()), Some(kind), "{name}");
        assert!(names.insert(name), "{name} comes twice");
    }
    assert!(names.contains("delayd_step_duration_seconds") && names.contains("delayd_timer_runs_total"), "{names:?}");
    assert!(names.len() > 50, "{names:?}");
}

#[tokio::test]
async fn a_scrape_reads_a_year_of_traffic_in_the_ledger() {
    const ROWS: u32 = 400_000;
    let folder = tempfile::tempdir().unwrap();
    let (env, metrics) = (env(folder.path()), metrics(folder.path()));
    let fill = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO outcomes SELECT 'UA', i % 9000, 'EWR', 'IAH', i * 1000000, i % 5 = 0, i * 1000000 FROM n"
    );
    let predictions = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO served_predictions
         SELECT 'r', i, 'UA', i % 9000, 'EWR', 'IAH', i * 1000000, i * 1000000, 0.2, 1 FROM n"
    );
    let filled =
        env.ledger.write("filling a ledger", move |tx| Ok(tx.execute(&fill, [])? + tx.execute(&predictions, [])?));
    assert_eq!(filled.await.unwrap(), 2 * ROWS as usize);
    let supervision = Supervision::new(SupervisionPolicy::default(), |_| ());
    let page = metrics.render(&env, &supervision).await.unwrap();
    assert!(page.contains("delayd_ingestion_watermark_timestamp_seconds 400000\n"), "{page}");
    assert!(page.contains("delayd_scrape_errors_total{source=\"ledger\"} 0\n"), "{page}");
}
