//! The data stage from the outside: formats, contract, ingest, datasets, point in
//! time. Real data is used where `DELAYD_DATA` or `.data/nycflights13` has it.

mod formats;
mod ingest;
mod operations;
mod real;
mod sources;
mod support;
mod validation;
