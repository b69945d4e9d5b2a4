//! Which signals of recent operations there are, each in one line: what is
//! counted, for whom, over which time. [`super::OperationsIndex`] evaluates the
//! lines; adding a signal means adding one here and its name in
//! `delayd-features`.

use delayd_features::NumericInput;

/// Whose events are looked at: those that share this part with the flight asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Every flight.
    All,
    /// The same origin.
    Origin,
    /// The same carrier.
    Carrier,
    /// The same carrier at the same origin.
    OriginCarrier,
    /// The same destination.
    Dest,
    /// A destination in the same cell of 6° latitude by 8° longitude.
    Region,
    /// The same origin to the same cell.
    OriginRegion,
    /// The same origin and destination.
    Route,
    /// The same carrier to the same destination.
    CarrierDest,
    /// The same carrier on the same route.
    RouteCarrier,
    /// The same carrier to the same destination, leaving in the same local hour.
    CarrierDestHour,
    /// The same carrier at the same origin in the same local hour.
    OriginCarrierHour,
    /// The same carrier and flight number.
    FlightNumber,
    /// The same carrier and flight number on the same route.
    Flight,
}

impl Key {
    /// Every key.
    pub const ALL: [Self; 14] = [
        Self::All,
        Self::Origin,
        Self::Carrier,
        Self::OriginCarrier,
        Self::Dest,
        Self::Region,
        Self::OriginRegion,
        Self::Route,
        Self::CarrierDest,
        Self::RouteCarrier,
        Self::CarrierDestHour,
        Self::OriginCarrierHour,
        Self::FlightNumber,
        Self::Flight,
    ];
}

/// Something that happened to a flight, and its number. Each is known from one
/// moment on and not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// Departure delay in minutes, cut to -20..240; known at departure.
    DepartureDelay,
    /// Whether it left 15 minutes late or more; known at departure.
    DepartureLate,
    /// Arrival delay in minutes, cut to -60..240; known at arrival.
    ArrivalDelay,
    /// Whether it arrived 15 minutes late or more; known at arrival.
    ArrivalLate,
    /// Arrival delay less departure delay in minutes, cut to -60..90; known at arrival.
    EnrouteLoss,
}

impl Value {
    /// What is taken where nothing is known: the long-run means of New York's 2013.
    #[must_use]
    pub fn prior(self) -> f64 {
        match self {
            Self::DepartureDelay | Self::ArrivalDelay => 8.0,
            Self::DepartureLate | Self::ArrivalLate => 0.24,
            Self::EnrouteLoss => -5.0,
        }
    }
}

/// Which events up to the prediction time `t` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Known in `(t - minutes, t]`.
    Minutes(i64),
    /// Everything known until `t`.
    History,
    /// The last so many that are known at `t`.
    Last(usize),
    /// Everything, weighed by `exp(-age / days)`.
    Decayed {
        /// The time constant, not the half-life.
        days: u32,
    },
}

/// How a signal is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// `(sum + weight · prior) / (n + weight)` over events.
    Mean {
        /// What is averaged.
        of: Value,
        /// Over which events.
        over: Window,
        /// How many events the prior is worth.
        weight: f64,
    },
    /// Of the flights due `after_minutes` before a moment in `(t - window, t]`,
    /// the share that had not left by then. Every scheduled flight counts, so
    /// that a long delay shows while it lasts and not when it ends.
    NotGoneShare {
        /// Minutes after schedule at which is looked: 0, 15 or 30.
        after_minutes: i64,
        /// Length of the window in minutes.
        window_minutes: i64,
    },
    /// Flights scheduled by `t` that have not left.
    OverdueCount,
    /// Minutes for which those have been overdue, added up.
    OverdueMinutes,
    /// The count now less the count an hour ago.
    OverdueChange1h,
    /// The count over one more than the departures of the last hour: hours of queue.
    BacklogHours,
    /// Flights scheduled from `t` to this departure.
    ScheduledAhead,
    /// Flights scheduled within so many minutes of this departure, either side.
    ScheduledAround {
        /// Minutes either side.
        minutes: i64,
    },
    /// Share of the origin's local day that is scheduled until this departure.
    ScheduledDayShare,
}

/// One signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aggregate {
    /// The feature it fills.
    pub input: NumericInput,
    /// Whose events.
    pub key: Key,
    /// How.
    pub measure: Measure,
}

const HOUR: i64 = 60;
const DAY: i64 = 1440;

const fn mean(input: NumericInput, key: Key, of: Value, over: Window, weight: f64) -> Aggregate {
    Aggregate { input, key, measure: Measure::Mean { of, over, weight } }
}

const fn recent(input: NumericInput, key: Key, of: Value, minutes: i64) -> Aggregate {
    mean(input, key, of, Window::Minutes(minutes), 1.0)
}

const fn not_gone(input: NumericInput, key: Key, after_minutes: i64, window_minutes: i64) -> Aggregate {
    Aggregate { input, key, measure: Measure::NotGoneShare { after_minutes, window_minutes } }
}

const fn signal(input: NumericInput, key: Key, measure: Measure) -> Aggregate {
    Aggregate { input, key, measure }
}

use NumericInput as I;

/// Every signal of operations. The list and its constants come from a study on
/// New York's 2013: forward selection under prequential evaluation.
pub const AGGREGATES: &[Aggregate] = &[
    signal(I::OriginScheduled2h, Key::Origin, Measure::ScheduledAround { minutes: HOUR }),
    signal(I::OriginScheduledAhead, Key::Origin, Measure::ScheduledAhead),
    signal(I::OriginDayShare, Key::Origin, Measure::ScheduledDayShare),
    signal(I::AllOverdue, Key::All, Measure::OverdueCount),
    signal(I::AllOverdueChange, Key::All, Measure::OverdueChange1h),
    signal(I::OriginOverdue, Key::Origin, Measure::OverdueCount),
    signal(I::OriginBacklog, Key::Origin, Measure::BacklogHours),
    signal(I::OriginCarrierOverdueMinutes, Key::OriginCarrier, Measure::OverdueMinutes),
    not_gone(I::AllNotOnTime1h, Key::All, 0, HOUR),
    not_gone(I::OriginNotOnTime1h, Key::Origin, 0, HOUR),
    not_gone(I::CarrierNotOnTime1h, Key::Carrier, 0, HOUR),
    not_gone(I::AllLate3h, Key::All, 15, 3 * HOUR),
    not_gone(I::OriginLate1h, Key::Origin, 15, HOUR),
    not_gone(I::OriginLate3h, Key::Origin, 15, 3 * HOUR),
    not_gone(I::CarrierLate3h, Key::Carrier, 15, 3 * HOUR),
    not_gone(I::CarrierLate30Min3h, Key::Carrier, 30, 3 * HOUR),
    not_gone(I::OriginCarrierLate3h, Key::OriginCarrier, 15, 3 * HOUR),
    not_gone(I::OriginRegionLate3h, Key::OriginRegion, 15, 3 * HOUR),
    recent(I::OriginDepartureDelay3h, Key::Origin, Value::DepartureDelay, 3 * HOUR),
    recent(I::CarrierDepartedLate3h, Key::Carrier, Value::DepartureLate, 3 * HOUR),
    recent(I::OriginCarrierDepartedLate3h, Key::OriginCarrier, Value::DepartureLate, 3 * HOUR),
    recent(I::AllEnrouteLoss6h, Key::All, Value::EnrouteLoss, 6 * HOUR),
    recent(I::OriginEnrouteLoss3h, Key::Origin, Value::EnrouteLoss, 3 * HOUR),
    recent(I::CarrierEnrouteLoss6h, Key::Carrier, Value::EnrouteLoss, 6 * HOUR),
    recent(I::RegionEnrouteLoss3h, Key::Region, Value::EnrouteLoss, 3 * HOUR),
    recent(I::RegionEnrouteLoss6h, Key::Region, Value::EnrouteLoss, 6 * HOUR),
    recent(I::RegionEnrouteLoss24h, Key::Region, Value::EnrouteLoss, DAY),
    recent(I::DestEnrouteLoss12h, Key::Dest, Value::EnrouteLoss, 12 * HOUR),
    recent(I::DestEnrouteLoss24h, Key::Dest, Value::EnrouteLoss, DAY),
    recent(I::RouteEnrouteLoss24h, Key::Route, Value::EnrouteLoss, DAY),
    recent(I::CarrierDestEnrouteLoss24h, Key::CarrierDest, Value::EnrouteLoss, DAY),
    recent(I::OriginCarrierArrivalDelay24h, Key::OriginCarrier, Value::ArrivalDelay, DAY),
    recent(I::CarrierDestArrivalDelay24h, Key::CarrierDest, Value::ArrivalDelay, DAY),
    recent(I::RouteCarrierArrivalDelay24h, Key::RouteCarrier, Value::ArrivalDelay, DAY),
    mean(I::OriginCarrierArrivalDelayLast10, Key::OriginCarrier, Value::ArrivalDelay, Window::Last(10), 1.0),
    mean(I::OriginLate7d, Key::Origin, Value::ArrivalLate, Window::Minutes(7 * DAY), 30.0),
    mean(I::OriginCarrierLate30d, Key::OriginCarrier, Value::ArrivalLate, Window::Minutes(30 * DAY), 30.0),
    mean(I::CarrierDestHourDelay30d, Key::CarrierDestHour, Value::ArrivalDelay, Window::Minutes(30 * DAY), 30.0),
    mean(I::CarrierDestHourLateHistory, Key::CarrierDestHour, Value::ArrivalLate, Window::History, 30.0),
    mean(I::OriginCarrierHourLateHistory, Key::OriginCarrierHour, Value::ArrivalLate, Window::History, 30.0),
    mean(I::FlightDelayLast30, Key::Flight, Value::ArrivalDelay, Window::Last(30), 2.0),
    mean(I::FlightDelayDecayed7d, Key::Flight, Value::ArrivalDelay, Window::Decayed { days: 7 }, 3.0),
    mean(I::FlightNumberDelayDecayed30d, Key::FlightNumber, Value::ArrivalDelay, Window::Decayed { days: 30 }, 3.0),
];

/// The share of flights that have not left so many minutes after schedule, in
/// the long run; the prior of [`Measure::NotGoneShare`].
pub(super) fn not_gone_prior(after_minutes: i64) -> f64 {
    match after_minutes {
        ..15 => 0.4,
        15..30 => 0.24,
        _ => 0.15,
    }
}
