//! To come.

mod example;

pub use example::{Example, Outcome};
