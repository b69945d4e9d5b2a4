//! Whether the daemon deserves a beat: a pure judgement over what supervision and the
//! timers say of themselves.

use std::time::Duration;

use crate::supervision::{ActorState, ActorStatus};

/// What is wrong with the daemon as a whole; `None` when it is well. An actor that
/// hangs or was given up, an actor whose silence even its watcher has missed, and timers
/// that do not come round.
#[must_use]
pub fn illness(actors: &[ActorStatus], overdue: &[String], silence_limit: Duration) -> Option<String> {
    let silent =
        |actor: &ActorStatus| actor.state == ActorState::Running && actor.last_beat_secs > silence_limit.as_secs_f64();
    let of_actors = actors.iter().filter_map(|actor| match actor.state {
        ActorState::Hung => Some(format!("actor `{}` hangs", actor.name)),
        ActorState::Dead => Some(format!("actor `{}` was given up", actor.name)),
        _ if silent(actor) => {
            Some(format!("actor `{}` is silent for {:.0} s and nobody has noticed", actor.name, actor.last_beat_secs))
        }
        _ => None,
    });
    let of_timers = overdue.iter().map(|timer| format!("timer `{timer}` stands still"));
    let all: Vec<String> = of_actors.chain(of_timers).collect();
    if all.is_empty() { None } else { Some(all.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(name: &str, state: ActorState, last_beat_secs: f64) -> ActorStatus {
        let name = name.to_owned();
        ActorStatus {
            name,
            state,
            restarts: 0,
            last_beat_secs,
            waiting_senders: 0,
            current_work: None,
            last_failure: None,
        }
    }

    #[test]
    fn a_beat_is_withheld_for_what_the_daemon_cannot_repair_itself() {
        let well = actor("data", ActorState::Running, 1.0);
        let table = [
            (vec![well.clone()], vec![], None, "all is well"),
            (vec![actor("data", ActorState::Restarting, 80.0)], vec![], None, "supervision is at it"),
            (vec![well.clone(), actor("training", ActorState::Hung, 70.0)], vec![], Some("`training` hangs"), "hung"),
            (vec![actor("monitor", ActorState::Dead, 5.0)], vec![], Some("`monitor` was given up"), "dead"),
            (vec![actor("data", ActorState::Running, 91.0)], vec![], Some("silent for 91 s"), "its watcher sleeps"),
            (vec![well], vec!["alerts".to_owned()], Some("`alerts` stands still"), "a timer does not come round"),
        ];
        for (actors, overdue, expected, reason) in table {
            let found = illness(&actors, &overdue, Duration::from_secs(90));
            match expected {
                None => assert_eq!(found, None, "{reason}"),
                Some(part) => assert!(found.clone().unwrap_or_default().contains(part), "{reason}: {found:?}"),
            }
        }
    }
}
