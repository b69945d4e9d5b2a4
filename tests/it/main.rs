//! Every test that runs on one machine, in one binary: linking is the slow part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod ci_builders;
mod ci_cycle;
mod ci_source;
mod cluster_contract;
mod command_line;
mod data_bounds;
mod data_formats;
mod data_ingest;
mod decisions;
mod flight_logs;
mod http_access;
mod http_api;
mod image_registry_ecr;
mod image_registry_failures;
mod image_registry_oci;
mod installation;
mod ledger_files;
mod ledger_records;
mod loop_end_to_end;
mod monitoring_verdicts;
mod notification_commands;
mod notification_mail;
mod notification_outbox;
mod notification_webhooks;
mod notification_world;
mod operator_commands;
mod packaging;
mod ports;
mod prometheus;
mod rollbacks;
mod s3_contract;
mod s3_failures;
mod s3_large;
mod saga_and_supervision;
mod secrets_and_logs;
mod trainer_contract;
mod trainer_pools;
mod verification;
mod weather_documents;
mod weather_failures;
mod weather_source;
mod weather_stage;
