//! The S3 object store against a server that speaks the protocol and checks
//! signatures (see `support/s3_server.rs` for what it is), and against moto's where
//! that is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, dead_code, reason = "helpers are shared by inclusion")]

mod check;
mod conditions;
mod contract;
mod data;
mod failures;
mod large;
mod measured;
mod moto;
mod secrets;

use bytes::Bytes;

/// Bytes that are not alike anywhere, so that parts in the wrong order are noticed.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
