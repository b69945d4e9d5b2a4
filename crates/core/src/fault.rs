//! A configured value that is not accepted, so that all of them can be reported at once.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub key: String,
    pub found: String,
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}; expected {}", self.key, self.found, self.expected)
    }
}

/// The rules of a configuration section that its values break.
pub fn broken_rules(section: &str, rules: &[(bool, &str)]) -> Vec<String> {
    rules.iter().filter(|(holds, _)| !holds).map(|(_, rule)| format!("{section}: {rule}")).collect()
}

/// Finite, and above 0.
pub fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}
