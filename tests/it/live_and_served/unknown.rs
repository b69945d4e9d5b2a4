//! A cluster that serves what the ledger does not say.

use delayd::config::ApprovalMode;
use delayd::http::Metrics;
use delayd::stages::live_service::live_service;
use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Release, Severity};
use delayd_ledger::{CycleOutcome, StepState};

use super::world::{Material, Place, alerts, assert_step, cycle_until, deployed, finished, in_system, live, told};

/// What a newer ledger than this one had deployed.
fn of_a_lost_ledger(known: &Release) -> Release {
    Release { deployment: DeploymentId(9), model: ModelVersion(9), bundle: Digest::of(b"lost"), ..known.clone() }
}

#[test]
fn with_an_older_ledger_restored_a_release_is_deployed_and_undone_to_the_live_models_own() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = cycle_until(&ledger, place.path(), Material::made_up(2), "push").await;
        drop(ledger);
        place.cluster.serve(&of_a_lost_ledger(&first.release));
        let daemon = place.start().await;
        daemon.resume().await.unwrap();
        // There is no such bundle, so its verification fails, after it was deployed.
        let ended = finished(&daemon, second.cycle.id).await;
        assert_eq!(ended.outcome, Some(CycleOutcome::RolledBack), "{}", ended.detail);
        let (good, bad) = (first.release.deployment, second.release.deployment);
        assert_eq!(place.cluster.applied(), [bad, good]);
        let ledger = &daemon.env.ledger;
        assert_step(ledger, second.cycle.id, "verify", StepState::Failed).await;
        assert_eq!(ledger.deployment(bad).await.unwrap().unwrap().previous, Some(good));
        let body = told(ledger, Severity::Warning, "serves a deployment unknown to this ledger").await;
        assert!(body.contains("deployment_9 of model_v9"), "{body}");
        assert_eq!(live(ledger).await, Some(ModelVersion(1)));
        assert!(live_service(&daemon.env).await.unwrap().unwrap().served, "ledger and cluster agree again");
    });
}

#[test]
fn a_live_model_that_does_not_serve_is_told_once_and_measured() {
    in_system(async {
        let place = Place::new(ApprovalMode::Automatic);
        let ledger = place.env().ledger;
        let first = deployed(&ledger, place.path(), Material::made_up(1)).await;
        let second = deployed(&ledger, place.path(), Material::made_up(2)).await;
        drop(ledger);
        place.cluster.serve(&second.release);
        let daemon = place.start().await;
        let metrics = Metrics::new(&daemon.settings).unwrap();
        let measured = async || {
            let page = metrics.render(&daemon.env, daemon.supervision()).await.unwrap();
            page.lines().find(|line| line.starts_with("delayd_live_model_served")).map(str::to_owned)
        };
        daemon.resume().await.unwrap();
        assert!(alerts(&daemon.env.ledger).await.is_empty(), "what is live serves");
        assert_eq!(measured().await.as_deref(), Some("delayd_live_model_served 1"));

        for (serves, said) in [
            (Some(first.release.clone()), "the cluster serves deployment_1 of model_v1."),
            (Some(of_a_lost_ledger(&first.release)), "a deployment unknown to this ledger"),
            (None, "the cluster serves nothing."),
        ] {
            match &serves {
                Some(release) => place.cluster.serve(release),
                None => delayd_core::ports::Cluster::tear_down(&place.cluster).await.unwrap(),
            }
            let before = alerts(&daemon.env.ledger).await.len();
            let day = daemon.env.now().date_naive();
            daemon.resume().await.unwrap();
            daemon.resume().await.unwrap();
            let all = alerts(&daemon.env.ledger).await;
            // Midnight may lie between the two.
            assert!(all.len() == before + 1 || daemon.env.now().date_naive() != day, "{all:?}");
            let found = all.iter().find(|(_, _, body)| body.contains(said)).unwrap_or_else(|| panic!("{all:?}"));
            assert_eq!((found.0, found.1.as_str()), (Severity::Critical, "model_v2 is live but not being served"));
            assert!(found.2.contains("`delayd rollback` brings model_v1 back"), "{}", found.2);
            assert_eq!(measured().await.as_deref(), Some("delayd_live_model_served 0"));
        }

        // While a cycle is open another release may serve: nothing can be said.
        daemon.env.ledger.begin_cycle(delayd_ledger::CycleReason::Scheduled, daemon.env.now()).await.unwrap();
        assert_eq!((live_service(&daemon.env).await.unwrap(), measured().await), (None, None));
    });
}
