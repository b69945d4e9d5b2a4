//! The inference service.
fn main() {}
