//! Seconds by step, kept in the order in which the steps ran. JSON writes it as
//! an object; a `BTreeMap` would sort the steps by name and lose their order.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Wall seconds of each step of a cycle, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepSeconds(pub Vec<(String, f64)>);

impl StepSeconds {
    /// The seconds of one step, where it ran.
    #[must_use]
    pub fn of(&self, step: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == step).map(|(_, secs)| *secs)
    }
}

impl<S: Into<String>> FromIterator<(S, f64)> for StepSeconds {
    fn from_iter<I: IntoIterator<Item = (S, f64)>>(steps: I) -> Self {
        Self(steps.into_iter().map(|(step, secs)| (step.into(), secs)).collect())
    }
}

impl Serialize for StepSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(step, secs)| (step, secs)))
    }
}

impl<'de> Deserialize<'de> for StepSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = StepSeconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of seconds by step")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StepSeconds, A::Error> {
                let mut steps = Vec::new();
                while let Some(step) = map.next_entry()? {
                    steps.push(step);
                }
                Ok(StepSeconds(steps))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_order_through_json() {
        let steps: StepSeconds = [("train", 9.5), ("gate", 1.0), ("approve", 0.1)].into_iter().collect();
        let json = serde_json::to_string(&steps).unwrap();
        assert_eq!(json, r#"{"train":9.5,"gate":1.0,"approve":0.1}"#);
        assert_eq!(serde_json::from_str::<StepSeconds>(&json).unwrap(), steps);
        assert_eq!(steps.of("gate"), Some(1.0));
        assert_eq!(steps.of("push"), None);
    }
}
