//! To come.
/// The ledger.
#[derive(Clone, Debug)]
pub struct Ledger;
