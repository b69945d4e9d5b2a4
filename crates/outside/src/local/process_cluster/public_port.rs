//! Whether replicas answer where clients ask them: on the public port, which all of them share.
//!
//! The kernel chooses which replica gets a connection, so that none can be asked by name
//! there. The port is asked over and over instead, each time by a new connection, and every
//! answer names its replica: one that answers nothing of many requests is not reached by
//! clients either. Its administrative port, which has a thread of its own, proves nothing.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use futures::future::join_all;
use serde::Deserialize;

use super::ProcessCluster;
use delayd_core::error::chain;

/// Requests in one round, for each replica that listens.
const REQUESTS_PER_REPLICA: usize = 4;
/// Rounds at most. With [`REQUESTS_PER_REPLICA`] a replica that is fine misses all of them
/// once in ten million times: (1 - 1/n)^(16 n) is about e^-16.
const ROUNDS: usize = 4;

/// The part of `/health/ready`'s answer that is read.
#[derive(Deserialize)]
struct Answer {
    replica: Option<String>,
}

/// What came of asking the public port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PublicAnswers {
    named: BTreeSet<String>,
    /// Answers that name no replica, as those of services before 0.1.0's `replica`.
    unnamed: usize,
    asked: usize,
    failure: Option<String>,
}

impl PublicAnswers {
    /// Whether clients reach a replica.
    pub(super) fn reach(&self, name: &str) -> Result<(), String> {
        // An answer without a name may be anybody's.
        if self.named.contains(name) || self.unnamed > 0 || self.asked == 0 {
            return Ok(());
        }
        let Self { asked, .. } = self;
        Err(match &self.failure {
            Some(failure) => {
                format!("it answered none of {asked} requests to the public port, of which some failed: {failure}")
            }
            None => format!("it answered none of {asked} requests to the public port; others answered all of them"),
        })
    }

    fn note(&mut self, answer: Result<Option<String>, String>) {
        self.asked += 1;
        match answer {
            Ok(Some(name)) => {
                self.named.insert(name);
            }
            Ok(None) => self.unnamed += 1,
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn settles(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.named.contains(*name)) || self.unnamed > 0
    }
}

impl ProcessCluster {
    /// Asks the public port until each of these replicas has answered, or often enough.
    pub(super) async fn ask_public_port(&self, names: &[&str]) -> PublicAnswers {
        let mut answers = PublicAnswers::default();
        if names.is_empty() {
            return answers;
        }
        // All that may still listen share the connections, also those that are not asked about.
        let requests = REQUESTS_PER_REPLICA * self.state().replicas.len().max(names.len());
        for _ in 0..ROUNDS {
            let round = join_all((0..requests).map(|_| self.ask_once())).await;
            round.into_iter().for_each(|answer| answers.note(answer));
            if answers.settles(names) {
                break;
            }
        }
        answers
    }

    /// The name of the replica that answered.
    async fn ask_once(&self) -> Result<Option<String>, String> {
        let answer = self.public_http.get(format!("{}/health/ready", self.public_url())).send().await;
        let body = match answer {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        let body = body.map_err(|error| chain(&error))?;
        Ok(serde_json::from_slice::<Answer>(&body).ok().and_then(|answer| answer.replica))
    }

    /// Where clients of this machine find the service.
    pub(super) fn public_url(&self) -> String {
        let host = if self.config.listen.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.config.listen };
        format!("http://{}", SocketAddr::new(host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_answers_no_client_is_not_reached() {
        let (mine, other) = (Ok(Some("mine".to_owned())), Ok(Some("other".to_owned())));
        let (unnamed, silence) = (Ok(None), Err("timed out".to_owned()));
        let cases = [
            (vec![], true, "nobody asked"),
            (vec![&mine, &silence], true, "it answered, whatever else happened"),
            (vec![&other, &silence], false, "silence, and another answered"),
            (vec![&silence, &silence], false, "silence"),
            (vec![&other, &other], false, "another answered everything"),
            (vec![&unnamed, &silence], true, "an older service says no name"),
        ];
        for (given, reached, why) in cases {
            let mut answers = PublicAnswers::default();
            given.into_iter().for_each(|answer| answers.note(answer.clone()));
            assert_eq!(answers.reach("mine").is_ok(), reached, "{why}: {answers:?}");
        }
    }
}
