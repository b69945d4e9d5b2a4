//! Episodes of trouble: from the first alarm to the first evaluation that is quiet
//! again. An episode is told once, however often it is looked at; the next one is
//! told anew, also on the same model.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The episodes that last, by what is alarming (`drift/model_v3`), with their first alarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Episodes(BTreeMap<String, DateTime<Utc>>);

impl Episodes {
    /// An alarm at `now`: answers the alert's deduplication key, `<what>/<date of the
    /// episode's first alarm>`. One that ends and begins again on the same day has the
    /// same key: what flutters is told once a day at most.
    pub fn alarm(&mut self, what: &str, now: DateTime<Utc>) -> String {
        let began = *self.0.entry(what.to_owned()).or_insert(now);
        format!("{what}/{}", began.date_naive())
    }

    /// An evaluation that found nothing: the episode is over.
    pub fn quiet(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Forgets the episodes of every model but this one.
    pub fn keep_only(&mut self, model: &str) {
        self.0.retain(|what, _| what.rsplit_once('/').is_some_and(|(_, of)| of == model));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn an_episode_keeps_its_key_and_the_next_one_has_another() {
        let mut episodes = Episodes::default();
        let first = episodes.alarm("drift/model_v1", at("2013-03-01T06:00:00Z"));
        assert_eq!(first, "drift/model_v1/2013-03-01");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-03-04T06:00:00Z")), first);
        episodes.quiet("drift/model_v1");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-05-02T06:00:00Z")), "drift/model_v1/2013-05-02");
    }

    #[test]
    fn episodes_of_earlier_models_and_other_kinds_do_not_mix() {
        let mut episodes = Episodes::default();
        episodes.alarm("drift/model_v1", at("2013-03-01T06:00:00Z"));
        episodes.alarm("drift/model_v11", at("2013-03-02T06:00:00Z"));
        episodes.quiet("performance/model_v11");
        episodes.keep_only("model_v11");
        assert_eq!(episodes.alarm("drift/model_v11", at("2013-03-09T06:00:00Z")), "drift/model_v11/2013-03-02");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-03-09T06:00:00Z")), "drift/model_v1/2013-03-09");
    }
}
