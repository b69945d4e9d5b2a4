//! The operator's page in a real browser.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod browser;
mod page_in_a_browser;
