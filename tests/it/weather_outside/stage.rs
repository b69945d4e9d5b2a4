//! What the data stage makes of weather that is partly away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::TimeDelta;
use delayd::config::Settings;
use delayd::data::DataStage;
use delayd::env::Env;
use delayd::saga::{Saga, StepName, StepObserver};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, Digest};
use delayd_core::ports::Severity;
use delayd_data::FlightRecord;
use delayd_data::contract::Contract;
use delayd_data::dataset::{BuildContext, DatasetWindow, build_dataset, store_dataset};
use delayd_data::formats::{ParseLimits, parquet};
use delayd_data::sources::SourceVersion;
use delayd_features::NumericInput;
use delayd_ledger::{CycleReason, Dataset, IngestedObject, ObjectRef, ObjectStatus, ObjectsLooked, Page, StepState};
use delayd_outside::cloud::OpenMeteoSettings;

use crate::weather_outside::documents::{alerts, env};
use crate::weather_outside::world::{AIRPORTS, World, settings, utc};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};

const NOW: &str = "2013-07-17T10:30:00Z";

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
        let world = World::at(test, NOW).await?;
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
        let (key, body) = ("flights/1.parquet", Bytes::from(parquet::write_flights(&flights()).unwrap()));
        self.world.store.put(key, body.clone()).await.unwrap();
        let reference = self.stage(0.0).reference().await.unwrap();
        let contract = Contract::built_in().unwrap();
        let limits = ParseLimits::default();
        let context =
            BuildContext { contract: &contract, airports: &reference.airports, mapping: None, limits: &limits };
        let window = DatasetWindow {
            from: utc("2013-07-01T00:00:00Z"),
            until: utc(NOW),
            as_of: utc(NOW),
            policy: policy.into(),
        };
        let built =
            build_dataset(self.world.store.as_ref(), &[SourceVersion::of(key, &body)], &window, context).await.unwrap();
        assert_eq!(built.records.len(), 921);
        let version = store_dataset(self.world.store.as_ref(), &built.manifest, &built.records).await.unwrap();
        let ledger = &self.env.ledger;
        let cycle = match ledger.cycles(Page::newest(1)).await.unwrap().first() {
            Some(cycle) => cycle.id,
            None => ledger.begin_cycle(CycleReason::Bootstrap, utc(NOW)).await.unwrap().id,
        };
        let digest = Digest::of(&body);
        let object = IngestedObject {
            key: key.into(),
            digest: digest.clone(),
            size_bytes: body.len() as u64,
            rows_accepted: 1,
            rows_quarantined: 0,
            rows_duplicate: 0,
            unused_columns: Vec::new(),
            quarantine_key: None,
            resolved_at: None,
            status: ObjectStatus::Ingested,
            error: None,
            ingested_at: utc(NOW),
        };
        ledger.record_objects(ObjectsLooked { objects: vec![object], ..ObjectsLooked::default() }).await.unwrap();
        let dataset = Dataset {
            version: version.clone(),
            cycle,
            sources: vec![ObjectRef { key: key.into(), digest }],
            manifest: serde_json::json!({}).into(),
            rows: 1,
            from: window.from,
            until: window.until,
            validation: serde_json::json!({}).into(),
            created_at: utc(NOW),
        };
        ledger.insert_dataset(dataset).await.unwrap();
        version
    }
}

#[tokio::test]
async fn a_part_that_is_away_is_recorded_with_the_dataset_and_told_once_a_day() {
    let Some(home) = Home::new("a_part_that_is_away_is_recorded…").await else { return };
    let version = home.dataset("all").await;
    home.proxy.set(Mood::Down);
    let stage = home.stage(0.0);
    let set = stage.training_set(&version).await.unwrap();
    let known = |departs: &str| {
        let of = |example: &&delayd_data::Example| example.row.scheduled_departure == utc(departs);
        let example = set.examples.iter().find(of).unwrap();
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
    assert_eq!(stage.training_set(&version).await.unwrap().examples.len(), 921);
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

struct Silent;

impl StepObserver for Silent {
    fn started(&self, _: CycleId, _: &str) {}
    fn finished(&self, _: CycleId, _: &str, _: Duration, _: Option<&StepFailure>) {}
}

#[tokio::test]
async fn a_step_of_the_saga_waits_out_an_outage_of_the_weather_and_goes_on_by_itself() {
    let Some(home) = Home::new("a_step_of_the_saga_waits_out_an_outage…").await else { return };
    let version = home.dataset("all").await;
    home.proxy.set(Mood::Down);
    let stage = home.stage(0.9);
    let cycle = home.env.ledger.cycles(Page::newest(1)).await.unwrap()[0].id;
    // The pauses of a daemon with the default configuration.
    let retry = Settings::default().daemon.step_retry();
    let saga = Saga::new(home.env.clone(), cycle, retry, Arc::new(Silent));
    let (proxy, begun) = (home.proxy.clone(), Instant::now());
    let outage = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.set(Mood::Pass);
        Instant::now()
    });
    let attempt = || async { stage.training_set(&version).await.map(|set| set.examples.len()) };
    assert_eq!(saga.step(StepName::new(5, "train"), attempt).await.unwrap(), 921);
    let (done, back) = (Instant::now(), outage.await.unwrap());
    eprintln!("outage of {:?}; the step was done {:?} after its end", back - begun, done - back);
    let step = &home.env.ledger.steps_of(cycle).await.unwrap()[0];
    assert_eq!(step.state, StepState::Done);
    assert!(step.attempt > 1, "it was tried again");
    let titles: Vec<String> = alerts(&home.env).await.into_iter().map(|(_, title, _)| title).collect();
    assert!(titles.iter().any(|title| title.starts_with("weather is incomplete")), "{titles:?}");
}
