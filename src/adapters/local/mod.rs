//! Adapters that need nothing but this machine.

mod weather_csv;

pub use weather_csv::WeatherCsv;
