//! Drives a replay: steps the clock, publishes, asks, and lets the loop work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration as WallDuration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Duration, DurationRound, NaiveDate, Utc};

use super::gather::{self, Asked, Facts};
use super::report::summary::words;
use super::report::{Report, ReportFiles};
use super::state::ReplaySpan;
use super::world::{AskError, ServiceClient, Source, SourceError, World, local_midnight};
use crate::config::Settings;
use crate::cycle::coordinator::Consider;
use crate::cycle::saga::StepObserver;
use crate::daemon::{Daemon, StartError};
use delayd_core::clock::{Clock, ReplayClock};
use delayd_core::failure::StepFailure;
use delayd_core::ids::{CycleId, ModelVersion};
use delayd_core::own_folder;
use delayd_data::{Example, TimeZones};
use delayd_ledger::{Alias, Cycle, CycleOutcome, CycleState, LedgerError};

/// Flights in one request, at most.
const LARGEST_REQUEST: usize = 2000;
/// Pause between two checks of a cycle under way.
const CYCLE_POLL: WallDuration = WallDuration::from_millis(50);

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Folder of the recorded year.
    pub data: PathBuf,
    /// First local day of history.
    pub train_from: NaiveDate,
    /// First local day that is predicted.
    pub train_until: NaiveDate,
    /// The local day after the last one that is predicted.
    pub until: NaiveDate,
    /// Where the report goes.
    pub out: PathBuf,
}

impl ReplayOptions {
    /// Whether the data has flights to train on and to predict.
    fn find_flights(&self, source: &Source) -> Result<(), ReplayError> {
        for (from, until) in [(self.train_from, self.train_until), (self.train_until, self.until)] {
            // Days in UTC: which of them are local ones is settled once the airports are read.
            let days = source.records.iter().map(|record| record.scheduled_departure.date_naive());
            if !days.into_iter().any(|day| from <= day && day <= until) {
                return Err(ReplayError::Dates(format!(
                    "no flight of the data is scheduled from {from} until {until}"
                )));
            }
        }
        Ok(())
    }
}

/// Shows how far the replay is.
pub trait ReplayDisplay: StepObserver {
    /// The daemon runs and can be reached from outside.
    fn daemon_started(&self, _: &Daemon) {}
    /// Something worth a line.
    fn line(&self, at: DateTime<Utc>, text: &str);
    /// How far the clock is, and what is live.
    fn at(&self, now: DateTime<Utc>, share: f64, predictions: u64, live: Option<ModelVersion>);
    fn done(&self);
}

impl From<LedgerError> for ReplayError {
    fn from(error: LedgerError) -> Self {
        Self::Loop(error.into())
    }
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the data cannot be replayed")]
    Source(#[from] SourceError),
    #[error("{0}")]
    State(String),
    #[error("{0}")]
    Dates(String),
    #[error("the daemon cannot start")]
    Start(#[from] StartError),
    #[error("the loop failed: {0}")]
    Loop(#[from] StepFailure),
    #[error("a log could not be put into the object store")]
    Store(#[from] delayd_core::error::PortError),
    #[error("a log could not be written")]
    Csv(#[from] csv::Error),
    #[error("the service cannot be asked")]
    Ask(#[from] AskError),
    #[error("the first model did not go live: {0}")]
    NoFirstModel(String),
    #[error("the report could not be made: {0}")]
    Report(String),
}

/// Replays, and leaves the report in `options.out`.
pub async fn replay(
    options: &ReplayOptions,
    settings: Settings,
    display: Arc<dyn ReplayDisplay>,
) -> Result<(Report, ReportFiles), ReplayError> {
    let began = Instant::now();
    if !(options.train_from < options.train_until && options.train_until < options.until) {
        return Err(ReplayError::Dates("expected --train-from before --train-until before --until".to_owned()));
    }
    let source = Source::read(&options.data, &settings)?;
    for line in source.rejected.iter().take(5) {
        display.line(DateTime::UNIX_EPOCH, &format!("left out: {line}"));
    }
    options.find_flights(&source)?;
    // A report that cannot be written is an error now, and not after everything.
    let out = &options.out;
    own_folder::create(out).map_err(|error| ReplayError::Report(format!("{}: {error}", out.display())))?;
    // Only now: a mistake in the arguments must not destroy what the last replay left.
    super::state::take_over(&settings.daemon.state_dir)?;
    let mut driver = Driver::start(options, settings, source, display).await?;
    driver.first_model().await?;
    driver.run().await?;
    let Driver { daemon, facts, .. } = driver;
    let report = gather::report(&daemon, facts, began.elapsed(), out).await?;
    daemon.env.cluster.tear_down().await.map_err(StepFailure::from)?;
    Ok(report)
}

struct Driver {
    daemon: Daemon,
    clock: Arc<ReplayClock>,
    world: World,
    display: Arc<dyn ReplayDisplay>,
    facts: Facts,
}

impl Driver {
    async fn start(
        options: &ReplayOptions,
        settings: Settings,
        source: Source,
        display: Arc<dyn ReplayDisplay>,
    ) -> Result<Self, ReplayError> {
        let horizon = Duration::minutes(i64::from(settings.ingestion.horizon_minutes));
        let history_from = first_moment(options.train_from, &source, &settings)?;
        let Source { mut records, weather, airports, digest, .. } = source;
        records.retain(|record| record.scheduled_departure >= history_from);
        let dataset = super::report::DatasetInfo {
            name: options.data.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            source: "flights, hourly weather and airports as recorded".to_owned(),
            digest: digest.to_string(),
            rows: records.len() as u64,
        };
        let seed = settings.training.seed;
        let clock = Arc::new(ReplayClock::starting_at(history_from));
        let observer: Arc<dyn StepObserver> = display.clone();
        let give_up = |gone: crate::supervision::GivenUp| {
            tracing::error!(actor = gone.actor, failure = gone.failure, "an actor was given up")
        };
        let daemon = Daemon::start(settings, clock.clone() as Arc<dyn Clock>, observer, give_up)?;
        let last = options.until.pred_opt().unwrap_or(options.until);
        let span = ReplaySpan { from: options.train_until, until: last };
        span.mark(&daemon.env.ledger, history_from).await?;
        display.daemon_started(&daemon);
        let store = &daemon.env.object_store;
        store.put(&daemon.settings.ingestion.airports_key, airports).await?;
        let weather_key = format!("{}{}", daemon.settings.weather.prefix, weather.0);
        store.put(&weather_key, weather.1).await?;
        let questions = questions(&daemon, &records, options).await?;
        let (from, until) = match (questions.first(), questions.last()) {
            (Some(first), Some(last)) => {
                let hour = Duration::hours(1);
                let from = first.prediction_time.duration_trunc(hour).unwrap_or(first.prediction_time);
                (from, last.prediction_time + horizon + Duration::days(1))
            }
            _ => {
                let text =
                    format!("no flight of the data is scheduled from {} until {}", options.train_until, options.until);
                return Err(ReplayError::Dates(text));
            }
        };
        let world = World::new(records, questions);
        Ok(Self {
            daemon,
            clock,
            world,
            display,
            facts: Facts { asked: Vec::new(), requests: 0, request_errors: 0, from, until, seed, dataset },
        })
    }

    /// Publishes the history and lets the loop make its first model.
    async fn first_model(&mut self) -> Result<(), ReplayError> {
        self.clock.advance_to(self.facts.from);
        self.publish().await?;
        let ingested = self.daemon.ingest().await?;
        self.display.line(
            self.facts.from,
            &format!(
                "history: {} logs, {} flights, {} in quarantine",
                ingested.objects, ingested.accepted, ingested.quarantined
            ),
        );
        let considered = self.daemon.coordinator.ask(Consider::default()).await?;
        let Some(cycle) = considered.cycle else { return Err(ReplayError::NoFirstModel(considered.reason)) };
        let finished = self.followed(cycle, self.facts.from, &considered.reason).await?;
        if finished.outcome == Some(CycleOutcome::Deployed) {
            Ok(())
        } else {
            Err(ReplayError::NoFirstModel(finished.detail))
        }
    }

    /// Waits for a cycle, and shows why it starts and how it ends.
    async fn followed(&self, cycle: CycleId, at: DateTime<Utc>, reason: &str) -> Result<Cycle, ReplayError> {
        self.display.line(at, &format!("{cycle} starts: {reason}"));
        let finished = self.await_cycle(cycle).await?;
        let outcome = finished.outcome.map_or_else(|| "is waiting".to_owned(), |outcome| words(outcome.as_str()));
        self.display.line(at, &format!("{cycle} {outcome}: {}", finished.detail));
        Ok(finished)
    }

    async fn await_cycle(&self, cycle: CycleId) -> Result<Cycle, ReplayError> {
        loop {
            let found = self.daemon.env.ledger.cycle(cycle).await?;
            let found = found.ok_or_else(|| ReplayError::Report(format!("{cycle} vanished from the ledger")))?;
            if found.state != CycleState::Running {
                return Ok(found);
            }
            tokio::time::sleep(CYCLE_POLL).await;
        }
    }

    async fn publish(&mut self) -> Result<(), ReplayError> {
        for (key, body) in self.world.logs_until(self.clock.now())? {
            self.daemon.env.object_store.put(&key, body).await?;
        }
        Ok(())
    }

    /// Hour by hour: ask about the flights of the hour; once a day, when it is
    /// night over the airports, publish the logs, monitor, and let the loop decide.
    async fn run(&mut self) -> Result<(), ReplayError> {
        let client = ServiceClient::new(&self.daemon.env.cluster.service_url())?;
        let day_starts = i64::from(self.daemon.settings.monitoring.day_starts_minutes_utc) + 60;
        let mut now = self.facts.from;
        let mut live = self.live().await?;
        while now < self.facts.until {
            let next = now + Duration::hours(1);
            self.ask_about(&client, now, next).await;
            self.clock.advance_to(next);
            now = next;
            if (now.timestamp() / 60) % (24 * 60) == day_starts % (24 * 60) {
                self.night(now).await?;
                live = self.live().await?;
            }
            let share = (now - self.facts.from).num_minutes() as f64
                / (self.facts.until - self.facts.from).num_minutes().max(1) as f64;
            self.display.at(now, share, self.facts.asked.len() as u64, live);
        }
        self.display.done();
        Ok(())
    }

    async fn live(&self) -> Result<Option<ModelVersion>, ReplayError> {
        let live = self.daemon.env.ledger.model_by_alias(Alias::Live).await?;
        Ok(live.map(|model| model.version))
    }

    async fn ask_about(&mut self, client: &ServiceClient, from: DateTime<Utc>, until: DateTime<Utc>) {
        let flights: Vec<Example> = self.world.questions(from, until).to_vec();
        for batch in flights.chunks(LARGEST_REQUEST) {
            self.facts.requests += 1;
            match client.ask(batch).await {
                Ok(answer) => {
                    let model: Option<ModelVersion> = answer.model_version.parse().ok();
                    let rows = batch.iter().zip(answer.predictions);
                    self.facts.asked.extend(rows.filter_map(|(example, row)| {
                        Some(Asked { example: example.clone(), score: row.score, model: model? })
                    }));
                }
                Err(error) => {
                    self.facts.request_errors += 1;
                    tracing::error!(error = %delayd_core::error::chain(&error), "a request failed");
                }
            }
        }
    }

    async fn night(&mut self, now: DateTime<Utc>) -> Result<(), ReplayError> {
        self.publish().await?;
        self.daemon.ingest().await?;
        let (seen, considered) = self.daemon.observe().await?;
        if !seen.silent.is_empty() {
            tracing::warn!(replicas = seen.silent.join("; "), "replicas did not answer the monitor");
        }
        if let Some(cycle) = considered.cycle {
            self.followed(cycle, now, &considered.reason).await?;
        }
        self.daemon.deliver_alerts().await?;
        Ok(())
    }
}

/// Local midnight at the origin with the most flights.
fn first_moment(day: NaiveDate, source: &Source, settings: &Settings) -> Result<DateTime<Utc>, ReplayError> {
    let zones = zones_of(&source.airports, settings)?;
    let zone = source.records.first().and_then(|record| zones.get(&record.origin)).unwrap_or(chrono_tz::UTC);
    Ok(local_midnight(day, zone))
}

fn zones_of(airports: &Bytes, settings: &Settings) -> Result<TimeZones, ReplayError> {
    let read = || {
        let (mut table, _) = delayd_data::airports::parse_airports(
            "airports",
            airports,
            &settings.ingestion.time_zones,
            &settings.ingestion.limits,
        )?;
        delayd_data::airports::supplement(&mut table);
        TimeZones::of(&table)
    };
    read().map_err(|error| ReplayError::Source(SourceError::Data(error)))
}

/// What the airline will ask: every flight of the predicted days with what was
/// known at its prediction time. The operations index answers only from events
/// known by then, so making them ahead reveals nothing early.
async fn questions(
    daemon: &Daemon,
    records: &[delayd_data::FlightRecord],
    options: &ReplayOptions,
) -> Result<Vec<Example>, ReplayError> {
    let reference = daemon.data.reference().await?;
    let zones = TimeZones::of(&reference.airports).map_err(|error| ReplayError::Source(SourceError::Data(error)))?;
    let examples = daemon.data.examples(records.to_vec(), &reference).await?;
    let wanted = |example: &Example| {
        let day = zones.local(&example.row.origin, example.row.scheduled_departure).date();
        day >= options.train_until && day < options.until
    };
    let mut wanted: Vec<Example> = examples.into_iter().filter(wanted).collect();
    wanted.sort_by_key(|example| example.prediction_time);
    Ok(wanted)
}
