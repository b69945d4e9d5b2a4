//! The same flights with something wrong about their inputs: how far does the metric fall? A failed source takes away the
//! inputs that belong to it at once.

use delayd_features::{FlightRow, KnownWhen, NumericInput};
use delayd_model::Predictor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::evaluation::metrics::{log_loss, roc_auc};
use crate::evaluation::score_rows;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    None,
    /// The weather source is down.
    MissingWeather,
    /// Nothing is known of recent operations.
    MissingOperations,
    /// Every carrier is one the model never saw.
    UnseenCarrier,
    /// Every airport is one the model never saw.
    UnseenAirports,
    /// Every known number is off by Gaussian noise of this many of its standard deviations.
    Noise(f64),
    /// Every known number is off, one way, by this many of its standard deviations.
    Shifted(f64),
}

impl Perturbation {
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::MissingWeather,
        Self::MissingOperations,
        Self::UnseenCarrier,
        Self::UnseenAirports,
        Self::Noise(0.3),
        Self::Shifted(0.5),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MissingWeather => "missing_weather",
            Self::MissingOperations => "missing_operations",
            Self::UnseenCarrier => "unseen_carrier",
            Self::UnseenAirports => "unseen_airports",
            Self::Noise(_) => "noise",
            Self::Shifted(_) => "shifted",
        }
    }

    /// The rows with that wrong about them. `seed` fixes the noise.
    pub fn apply(self, rows: &[&FlightRow], seed: u64) -> Vec<FlightRow> {
        let mut changed: Vec<FlightRow> = rows.iter().map(|row| (*row).clone()).collect();
        match self {
            Self::None => {}
            Self::MissingWeather => forget(&mut changed, is_weather),
            Self::MissingOperations => forget(&mut changed, is_operations),
            Self::UnseenCarrier => changed.iter_mut().for_each(|row| "??".clone_into(&mut row.carrier)),
            Self::UnseenAirports => changed.iter_mut().for_each(|row| {
                "???".clone_into(&mut row.origin);
                "???".clone_into(&mut row.dest);
            }),
            Self::Noise(size) => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                displace(&mut changed, || size * f64::from(standard_normal(&mut random)));
            }
            Self::Shifted(size) => displace(&mut changed, || size),
        }
        changed
    }
}

fn forget(rows: &mut [FlightRow], unknown: impl Fn(NumericInput) -> bool) {
    for row in rows {
        for input in NumericInput::ALL.iter().filter(|input| input.is_context() && unknown(**input)) {
            row.set(*input, f32::NAN);
        }
    }
}

/// Moves every known number by so many standard deviations of these rows.
fn displace(rows: &mut [FlightRow], mut by: impl FnMut() -> f64) {
    for input in NumericInput::ALL.iter().filter(|input| input.is_context()) {
        let known = rows.iter().map(|row| f64::from(row.get(*input))).filter(|value| value.is_finite());
        let (count, sum, squares) =
            known.fold((0.0_f64, 0.0, 0.0), |(n, sum, squares), value| (n + 1.0, sum + value, squares + value * value));
        if count < 2.0 {
            continue;
        }
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0).sqrt();
        for row in rows.iter_mut() {
            // `NaN` plus anything stays `NaN`: the unknown stays unknown.
            row.set(*input, (f64::from(row.get(*input)) + by() * deviation) as f32);
        }
    }
}

/// What a perturbation does to the metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerturbedMetrics {
    pub perturbation: Perturbation,
    pub roc_auc: Option<f64>,
    pub log_loss: Option<f64>,
    /// ROC-AUC under it less that without it.
    pub roc_auc_change: Option<f64>,
}

/// Judges the same rows under every perturbation.
pub fn robustness(predictor: &Predictor, rows: &[&FlightRow], labels: &[bool], seed: u64) -> Vec<PerturbedMetrics> {
    let mut results: Vec<PerturbedMetrics> = Vec::with_capacity(Perturbation::ALL.len());
    for perturbation in Perturbation::ALL {
        let scores = score_rows(predictor, &perturbation.apply(rows, seed));
        let found = roc_auc(&scores, labels);
        let whole = results.first().map_or(found, |first| first.roc_auc);
        results.push(PerturbedMetrics {
            perturbation,
            roc_auc: found,
            log_loss: log_loss(&scores, labels, None),
            roc_auc_change: found.zip(whole).map(|(found, whole)| found - whole),
        });
    }
    results
}

/// One draw from the standard normal distribution (Box & Muller 1958).
pub fn standard_normal(random: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.random::<f32>()).max(f32::MIN_POSITIVE).ln()).sqrt();
    radius * (std::f32::consts::TAU * random.random::<f32>()).cos()
}

/// Whether an input comes from the weather source.
pub fn is_weather(input: NumericInput) -> bool {
    use NumericInput as N;
    matches!(
        input,
        N::Temperature
            | N::DewPoint
            | N::Humidity
            | N::WindSpeed
            | N::WindGust
            | N::WindFromEast
            | N::WindFromNorth
            | N::Precipitation
            | N::Precipitation6h
            | N::Pressure
            | N::PressureChange
            | N::Visibility
            | N::VisibilityLowest
            | N::PrecipitationHighest
            | N::WeatherAge
            | N::WeatherSeverity
    )
}

/// Whether an input comes from the operations of the hours before.
pub fn is_operations(input: NumericInput) -> bool {
    input.is_context() && !is_weather(input) && input.known_when() == KnownWhen::PredictionTime
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<FlightRow> {
        (0..100)
            .map(|n| {
                let mut row = FlightRow::scheduled("B6", n, "JFK", "LAX", "2013-03-05T15:00:00Z".parse().unwrap());
                row.set(NumericInput::Temperature, n as f32);
                row.set(NumericInput::OriginOverdue, 3.0);
                row
            })
            .collect()
    }

    fn apply(perturbation: Perturbation) -> Vec<FlightRow> {
        let rows = rows();
        perturbation.apply(&rows.iter().collect::<Vec<_>>(), 1)
    }

    #[test]
    fn a_failed_source_takes_its_own_inputs_away_and_no_others() {
        let row = &apply(Perturbation::MissingWeather)[5];
        assert!(row.get(NumericInput::Temperature).is_nan() && row.get(NumericInput::OriginOverdue) == 3.0);
        let row = &apply(Perturbation::MissingOperations)[5];
        assert!(row.get(NumericInput::OriginOverdue).is_nan() && row.get(NumericInput::Temperature) == 5.0);
    }

    #[test]
    fn a_shift_is_one_way_and_noise_is_seeded_and_both_ways() {
        let shifted = apply(Perturbation::Shifted(0.5));
        // The deviation of 0..99 is 28.87.
        assert!((shifted[0].get(NumericInput::Temperature) - 14.43).abs() < 0.01);
        let temperatures = || -> Vec<f32> {
            apply(Perturbation::Noise(0.3)).iter().map(|row| row.get(NumericInput::Temperature)).collect()
        };
        assert_eq!(temperatures(), temperatures());
        let noisy = apply(Perturbation::Noise(0.3));
        let higher = noisy
            .iter()
            .zip(rows())
            .filter(|(noisy, row)| noisy.get(NumericInput::Temperature) > row.get(NumericInput::Temperature));
        assert!((30..70).contains(&higher.count()));
        assert!(noisy[0].get(NumericInput::Visibility).is_nan());
    }

    #[test]
    fn every_input_of_the_prediction_time_is_either_weather_or_operations() {
        for input in NumericInput::ALL {
            let late = input.known_when() == KnownWhen::PredictionTime;
            assert_eq!(late, is_weather(*input) || is_operations(*input), "{}", input.name());
            assert!(!(is_weather(*input) && is_operations(*input)));
        }
    }
}
