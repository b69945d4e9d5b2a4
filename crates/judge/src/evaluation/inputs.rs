//! Which inputs belong together: what a failed source takes away at once.

use delayd_features::{KnownWhen, NumericInput};

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

    #[test]
    fn every_input_of_the_prediction_time_is_either_weather_or_operations() {
        for input in NumericInput::ALL {
            let late = input.known_when() == KnownWhen::PredictionTime;
            assert_eq!(late, is_weather(*input) || is_operations(*input), "{}", input.name());
            assert!(!(is_weather(*input) && is_operations(*input)));
        }
    }
}
