//! Every test that runs on one machine, in one binary: linking is the slow part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod ci_builders;
mod ci_cycle;
mod ci_servers;
mod ci_source;
mod cluster_contract;
mod cycle_logs;
mod data_stage;
mod debian_package;
mod flight_logs;
mod http_api;
mod image_registry_contract;
mod image_registry_ecr;
mod image_registry_failures;
mod image_registry_oci;
mod k8s_manifests;
mod ledger_backup;
mod ledger_records;
mod ledger_store;
mod live_and_served;
mod loop_end_to_end;
mod metrics_documented;
mod monitoring_decisions;
mod monitoring_drift;
mod monitoring_performance;
mod monitoring_windows;
mod notification_channels;
mod notification_commands;
mod notification_outbox;
mod object_store_contract;
mod packaging;
mod prometheus_scrapes;
mod s3_object_store;
mod saga_outages;
mod secrets_stay_secret;
mod service_manager;
mod supervision_restarts;
mod trainer_contract;
mod trainer_processes;
mod trainer_waiting;
mod trainer_worker;
mod training_gate;
mod verification_deployments;
mod weather_outside;
mod wrapped_ports;
mod wrong_inputs;
