//! Limits that keep a few clients from silencing an HTTP server for everybody else.
//!
//! A connection costs a descriptor and some memory, and a client decides how long it
//! lasts: by sending a request slowly, by reading an answer slowly, by opening many.
//! Every server of delayd therefore listens through [`http_service`]: a request must
//! arrive whole within a deadline, an answer must be taken within another, one client
//! holds so many connections at most, and all clients together fewer than the process
//! has descriptors for. [`raise_open_file_limit`] makes room at the start.
//!
//! It deliberately does not limit how often a client asks, does not read what is sent,
//! and knows neither routes nor roles.

mod connections;
mod limits;
mod progress;
mod server;
mod stream;

pub use actix_server::{Server, ServerBuilder};
pub use connections::{Client, CloseReason, Connections, Slot};
pub use limits::{Limits, raise_open_file_limit};
pub use progress::{arrived_late, receive_in_time};
pub use server::{Guard, Socket, http_service, plain};
pub use stream::LimitedStream;
