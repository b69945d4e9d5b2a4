//! The data stage from the outside: formats, contract, ingest, datasets, point in
//! time. Real data is used where `DELAYD_DATA` or `.data/nycflights13` has it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

mod crafted_parquet;
mod formats;
mod huge;
mod ingest;
mod operations;
mod real;
mod sources;
use delayd_testkit::data_support as support;
mod validation;
