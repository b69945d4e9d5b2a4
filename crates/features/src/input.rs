//! Every number and category a model may read, with its unit and the moment
//! from which it is known. Adding a feature starts with a line here.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// When a value becomes known, in the order of a flight's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownWhen {
    /// With the published schedule, weeks ahead.
    Schedule,
    /// At the prediction time, from what was observed until then.
    PredictionTime,
    /// When the flight has left the gate. No feature may use it.
    Departure,
    /// When the flight has arrived. No feature may use it.
    Arrival,
}

/// How a number is bent before it is standardised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// As it is.
    Identity,
    /// `sign(x) · ln(1 + |x|)`, for heavy tails.
    SignedLog,
}

impl Transform {
    /// Applies the transform.
    pub fn apply(self, value: f32) -> f32 {
        match self {
            Self::Identity => value,
            Self::SignedLog => value.signum() * value.abs().ln_1p(),
        }
    }
}

macro_rules! numeric_inputs {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $known:ident, $transform:ident, $context:literal;)+) => {
        /// A number a model may read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum NumericInput { $($(#[doc = $doc])+ $variant,)+ }

        impl NumericInput {
            /// Every input, in the order of their indexes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in specs, requests and metrics.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name),+ } }

            /// What the number is, with its unit.
            pub fn doc(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+)),+ } }

            /// When it is known.
            pub fn known_when(self) -> KnownWhen { match self { $(Self::$variant => KnownWhen::$known),+ } }

            /// How it is bent before standardising.
            pub fn transform(self) -> Transform { match self { $(Self::$variant => Transform::$transform),+ } }

            /// Whether the caller supplies it (weather, operations); the others
            /// are computed from the schedule.
            pub fn is_context(self) -> bool { match self { $(Self::$variant => $context),+ } }

            /// The input of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                static BY_NAME: LazyLock<HashMap<&'static str, NumericInput>> =
                    LazyLock::new(|| NumericInput::ALL.iter().map(|input| (input.name(), *input)).collect());
                BY_NAME.get(name).copied()
            }
        }
    };
}

numeric_inputs! {
    /// Local time of departure, sine of the daily angle.
    DepartureTimeSin = "departure_time_sin", Schedule, Identity, false;
    /// Local time of departure, cosine of the daily angle.
    DepartureTimeCos = "departure_time_cos", Schedule, Identity, false;
    /// Local time of departure in hours since midnight.
    DepartureHour = "departure_hour_local", Schedule, Identity, false;
    /// Local time of arrival, sine of the daily angle.
    ArrivalTimeSin = "arrival_time_sin", Schedule, Identity, false;
    /// Local time of arrival, cosine of the daily angle.
    ArrivalTimeCos = "arrival_time_cos", Schedule, Identity, false;
    /// Day of the week at the origin, sine of the weekly angle.
    WeekdaySin = "weekday_sin", Schedule, Identity, false;
    /// Day of the week at the origin, cosine of the weekly angle.
    WeekdayCos = "weekday_cos", Schedule, Identity, false;
    /// Saturday or Sunday at the origin, 0 or 1.
    Weekend = "is_weekend", Schedule, Identity, false;
    /// A holiday at the origin, 0 or 1.
    Holiday = "is_holiday", Schedule, Identity, false;
    /// The day before a holiday, 0 or 1.
    BeforeHoliday = "is_day_before_holiday", Schedule, Identity, false;
    /// The day after a holiday, 0 or 1.
    AfterHoliday = "is_day_after_holiday", Schedule, Identity, false;
    /// Days to the nearest holiday, 0 to 7.
    HolidayDistance = "days_to_nearest_holiday", Schedule, Identity, false;
    /// Distance in statute miles.
    Distance = "distance_miles", Schedule, SignedLog, false;
    /// Scheduled duration, gate to gate, in minutes.
    ScheduledDuration = "scheduled_duration_minutes", Schedule, Identity, false;
    /// Scheduled block speed in miles per hour: little padding shows as a high one.
    ScheduledSpeed = "scheduled_speed_mph", Schedule, Identity, false;

    /// Temperature at the origin in °C, last observation.
    Temperature = "temperature_c", PredictionTime, Identity, true;
    /// Dew point at the origin in °C, last observation.
    DewPoint = "dew_point_c", PredictionTime, Identity, true;
    /// Relative humidity at the origin in percent, last observation.
    Humidity = "humidity_pct", PredictionTime, Identity, true;
    /// Wind speed at the origin in km/h, last observation.
    WindSpeed = "wind_speed_kmh", PredictionTime, Identity, true;
    /// Wind gusts at the origin in km/h, last observation; the wind speed where no gust was told.
    WindGust = "wind_gust_kmh", PredictionTime, Identity, true;
    /// Eastward component of where the wind comes from, in km/h.
    WindFromEast = "wind_from_east_kmh", PredictionTime, Identity, true;
    /// Northward component of where the wind comes from, in km/h.
    WindFromNorth = "wind_from_north_kmh", PredictionTime, Identity, true;
    /// Precipitation of the last hour at the origin in mm.
    Precipitation = "precipitation_mm", PredictionTime, SignedLog, true;
    /// Precipitation of the last six hours at the origin in mm.
    Precipitation6h = "precipitation_6h_mm", PredictionTime, SignedLog, true;
    /// Sea-level pressure at the origin in hPa.
    Pressure = "pressure_hpa", PredictionTime, Identity, true;
    /// Change of that pressure over three hours in hPa.
    PressureChange = "pressure_change_3h_hpa", PredictionTime, Identity, true;
    /// Visibility at the origin in km.
    Visibility = "visibility_km", PredictionTime, Identity, true;
    /// Lowest visibility at any watched airport in km.
    VisibilityLowest = "visibility_lowest_km", PredictionTime, Identity, true;
    /// Highest precipitation of the last hour at any watched airport in mm.
    PrecipitationHighest = "precipitation_highest_mm", PredictionTime, SignedLog, true;
    /// Strongest gust at any watched airport in km/h.
    WindGustHighest = "wind_gust_highest_kmh", PredictionTime, Identity, true;
    /// Age of the weather observation at the prediction time, in hours.
    WeatherAge = "weather_age_hours", PredictionTime, SignedLog, true;
    /// Weather severity, 0 to 1 (see `severity`), computed from the observation.
    WeatherSeverity = "weather_severity", PredictionTime, Identity, false;

    /// Departures scheduled at the origin within an hour either side.
    OriginScheduled2h = "origin_scheduled_departures_2h", Schedule, Identity, true;
    /// Departures scheduled at the origin between the prediction time and this departure.
    OriginScheduledAhead = "origin_scheduled_departures_ahead", Schedule, Identity, true;
    /// Share of the origin's departures of the local day that are scheduled until this one.
    OriginDayShare = "origin_day_share", Schedule, Identity, true;

    /// Flights overdue at all watched airports: scheduled to have left, not gone.
    AllOverdue = "all_overdue_count", PredictionTime, SignedLog, true;
    /// Change of the number of overdue flights at all watched airports over an hour.
    AllOverdueChange = "all_overdue_change_1h", PredictionTime, SignedLog, true;
    /// Flights overdue at the origin.
    OriginOverdue = "origin_overdue_count", PredictionTime, SignedLog, true;
    /// Flights overdue at the origin, in hours of its present departure rate.
    OriginBacklog = "origin_backlog_hours", PredictionTime, SignedLog, true;
    /// Minutes overdue, summed over the carrier's flights at the origin.
    OriginCarrierOverdueMinutes = "origin_carrier_overdue_minutes", PredictionTime, SignedLog, true;

    /// Share of the last hour's scheduled departures at all watched airports that had not left on time.
    AllNotOnTime1h = "all_not_on_time_share_1h", PredictionTime, Identity, true;
    /// Share of the last hour's scheduled departures at the origin that had not left on time.
    OriginNotOnTime1h = "origin_not_on_time_share_1h", PredictionTime, Identity, true;
    /// Share of the carrier's last hour's scheduled departures that had not left on time.
    CarrierNotOnTime1h = "carrier_not_on_time_share_1h", PredictionTime, Identity, true;
    /// Share of the last three hours' scheduled departures at all watched airports that were not gone after 15 minutes.
    AllLate3h = "all_late_share_3h", PredictionTime, Identity, true;
    /// Share of the last hour's scheduled departures at the origin that were not gone after 15 minutes.
    OriginLate1h = "origin_late_share_1h", PredictionTime, Identity, true;
    /// Share of the last three hours' scheduled departures at the origin that were not gone after 15 minutes.
    OriginLate3h = "origin_late_share_3h", PredictionTime, Identity, true;
    /// Share of the carrier's last three hours' scheduled departures that were not gone after 15 minutes.
    CarrierLate3h = "carrier_late_share_3h", PredictionTime, Identity, true;
    /// Share of the carrier's last three hours' scheduled departures that were not gone after 30 minutes.
    CarrierLate30Min3h = "carrier_late_30min_share_3h", PredictionTime, Identity, true;
    /// Share of the carrier's last three hours' departures at the origin that were not gone after 15 minutes.
    OriginCarrierLate3h = "origin_carrier_late_share_3h", PredictionTime, Identity, true;
    /// Share of the last three hours' departures from the origin to the destination's region that were not gone after 15 minutes.
    OriginRegionLate3h = "origin_region_late_share_3h", PredictionTime, Identity, true;

    /// Mean departure delay in minutes at the origin, departures of the last three hours.
    OriginDepartureDelay3h = "origin_departure_delay_mean_3h", PredictionTime, SignedLog, true;
    /// Share of the carrier's departures of the last three hours that left 15 minutes late or more.
    CarrierDepartedLate3h = "carrier_departed_late_share_3h", PredictionTime, Identity, true;
    /// Share of the carrier's departures at the origin in the last three hours that left 15 minutes late or more.
    OriginCarrierDepartedLate3h = "origin_carrier_departed_late_share_3h", PredictionTime, Identity, true;

    /// Minutes lost or won after departure, mean of all landings of the last six hours.
    AllEnrouteLoss6h = "all_enroute_loss_mean_6h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings from the origin in the last three hours.
    OriginEnrouteLoss3h = "origin_enroute_loss_mean_3h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of the carrier's landings of the last six hours.
    CarrierEnrouteLoss6h = "carrier_enroute_loss_mean_6h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings in the destination's region in the last three hours.
    RegionEnrouteLoss3h = "region_enroute_loss_mean_3h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings in the destination's region in the last six hours.
    RegionEnrouteLoss6h = "region_enroute_loss_mean_6h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings in the destination's region in the last 24 hours.
    RegionEnrouteLoss24h = "region_enroute_loss_mean_24h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings at the destination in the last twelve hours.
    DestEnrouteLoss12h = "dest_enroute_loss_mean_12h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings at the destination in the last 24 hours.
    DestEnrouteLoss24h = "dest_enroute_loss_mean_24h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of landings on the route in the last 24 hours.
    RouteEnrouteLoss24h = "route_enroute_loss_mean_24h", PredictionTime, SignedLog, true;
    /// Minutes lost or won after departure, mean of the carrier's landings at the destination in the last 24 hours.
    CarrierDestEnrouteLoss24h = "carrier_dest_enroute_loss_mean_24h", PredictionTime, SignedLog, true;

    /// Mean arrival delay in minutes of the carrier's flights at the origin, landed in the last 24 hours.
    OriginCarrierArrivalDelay24h = "origin_carrier_arrival_delay_mean_24h", PredictionTime, SignedLog, true;
    /// Mean arrival delay in minutes of the carrier at the destination, landed in the last 24 hours.
    CarrierDestArrivalDelay24h = "carrier_dest_arrival_delay_mean_24h", PredictionTime, SignedLog, true;
    /// Mean arrival delay in minutes of the carrier on the route, landed in the last 24 hours.
    RouteCarrierArrivalDelay24h = "route_carrier_arrival_delay_mean_24h", PredictionTime, SignedLog, true;
    /// Mean arrival delay in minutes of the carrier's last 10 landings from the origin.
    OriginCarrierArrivalDelayLast10 = "origin_carrier_arrival_delay_mean_last_10", PredictionTime, SignedLog, true;

    /// Share of late arrivals from the origin, last 7 days, smoothed.
    OriginLate7d = "origin_late_arrival_share_7d", PredictionTime, Identity, true;
    /// Share of late arrivals of the carrier from the origin, last 30 days, smoothed.
    OriginCarrierLate30d = "origin_carrier_late_arrival_share_30d", PredictionTime, Identity, true;
    /// Mean arrival delay in minutes of the carrier, destination and hour of day, last 30 days, smoothed.
    CarrierDestHourDelay30d = "carrier_dest_hour_arrival_delay_mean_30d", PredictionTime, SignedLog, true;
    /// Share of late arrivals of the carrier, destination and hour of day over the whole history, smoothed.
    CarrierDestHourLateHistory = "carrier_dest_hour_late_arrival_share_history", PredictionTime, Identity, true;
    /// Share of late arrivals of the carrier, origin and hour of day over the whole history, smoothed.
    OriginCarrierHourLateHistory = "origin_carrier_hour_late_arrival_share_history", PredictionTime, Identity, true;
    /// Mean arrival delay in minutes of the last 30 flights of this number on the route, smoothed.
    FlightDelayLast30 = "flight_arrival_delay_mean_last_30", PredictionTime, SignedLog, true;
    /// Mean arrival delay in minutes of this number on the route, decaying over 7 days, smoothed.
    FlightDelayDecayed7d = "flight_arrival_delay_decayed_7d", PredictionTime, SignedLog, true;
    /// Mean arrival delay in minutes of the flight number on any route, decaying over 30 days, smoothed.
    FlightNumberDelayDecayed30d = "flight_number_arrival_delay_decayed_30d", PredictionTime, SignedLog, true;
}

/// A category a model may read; all are known with the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CategoryInput {
    /// The carrier.
    Carrier,
    /// The origin airport.
    Origin,
    /// The destination airport.
    Dest,
    /// Origin and destination, `JFK-LAX`.
    Route,
    /// Hour of the scheduled departure at the origin's local time, `0` to `23`.
    DepartureHour,
    /// Day of the week at the origin, `mon` to `sun`.
    Weekday,
}

impl CategoryInput {
    /// Every category.
    pub const ALL: &'static [Self] =
        &[Self::Carrier, Self::Origin, Self::Dest, Self::Route, Self::DepartureHour, Self::Weekday];

    /// The name in specs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Carrier => "carrier",
            Self::Origin => "origin",
            Self::Dest => "dest",
            Self::Route => "route",
            Self::DepartureHour => "departure_hour",
            Self::Weekday => "weekday",
        }
    }

    /// The category of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|input| input.name() == name)
    }
}

/// Why a feature spec cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SpecError {
    #[error("feature spec has format {found}; this build reads format {expected}")]
    Format { found: u32, expected: u32 },
    #[error("feature spec names the input `{0}`, which this build does not know")]
    UnknownInput(String),
    #[error("airport {airport} has the unknown time zone `{time_zone}`")]
    UnknownTimeZone { airport: String, time_zone: String },
    #[error("feature `{0}` has a standard deviation that is not a positive number")]
    Scale(String),
    #[error("cannot fit features on an empty training set")]
    Empty,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_input_has_a_name_of_its_own_and_none_is_known_only_after_departure() {
        let names: HashSet<_> = NumericInput::ALL.iter().map(|input| input.name()).collect();
        assert_eq!(names.len(), NumericInput::COUNT);
        for (index, input) in NumericInput::ALL.iter().enumerate() {
            assert_eq!(*input as usize, index);
            assert!(input.known_when() <= KnownWhen::PredictionTime, "{} is known too late", input.name());
            assert_eq!(NumericInput::from_name(input.name()), Some(*input));
        }
    }
}
