//! The inference service, as its clients and the daemon ask it: predictions through its public address, counts and
//! outcomes from each replica. Nothing is judged here.

pub mod probe;
mod question;
pub mod scrape;

pub use question::FlightQuestion;
pub use scrape::Scraper;
