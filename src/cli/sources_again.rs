//! `delayd datasets DIGEST --verify` and `--rebuild`: is a dataset still what a model
//! learnt from, and can it be made again? Both only read, from the configured store.

use std::collections::BTreeMap;

use serde_json::json;

use super::commands::CliError;
use super::show::{Shown, dataset_named};
use super::source::Source;
use super::validate::stored_airports;
use crate::config::Settings;
use crate::open;
use delayd_core::error::{PortError, chain};
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_data::contract::Contract;
use delayd_data::dataset::{rebuild_dataset, verify_dataset};
use delayd_data::frozen::{frozen_inputs, load_frozen};
use delayd_data::parts::SourceJudge;
use delayd_data::{DataError, ObjectReader};

/// The store, or the data in it, fails.
fn failed(error: &DataError) -> CliError {
    CliError::Failed(chain(error))
}

pub(super) fn store_failed(error: &PortError) -> CliError {
    CliError::Failed(chain(error))
}

pub(super) async fn verify(source: &Source, settings: &Settings, prefix: &str) -> Result<Shown, CliError> {
    let version = dataset_named(source, prefix).await?.version;
    let store = open::object_store(settings).map_err(|error| store_failed(&error))?;
    let found = verify_dataset(store.as_ref(), &version).await.map_err(|error| failed(&error))?;
    if found.is_intact() {
        let text = format!("{version} is what it was, and so is every flight log that it was made of");
        return Shown::new(&found, text);
    }
    let mut lines = vec![format!("{version} is not what it was:")];
    lines.extend(found.rows.iter().map(|difference| format!("  its rows: {difference}")));
    lines.extend(found.sources.iter().map(|difference| format!("  it cannot be made again: {difference}")));
    Err(CliError::Failed(lines.join("\n")))
}

pub(super) async fn rebuild(source: &Source, settings: &Settings, prefix: &str) -> Result<Shown, CliError> {
    let version = dataset_named(source, prefix).await?.version;
    let store = open::object_store(settings).map_err(|error| store_failed(&error))?;
    let ingestion = &settings.ingestion;
    let contract = Contract::configured(&ingestion.contract_path).map_err(|error| failed(&error))?;
    let airports = airports_of(settings, store.as_ref(), &version).await?;
    let (mapping, reader) = (ingestion.column_mapping.clone(), ObjectReader::within(ingestion.limits));
    let judge = SourceJudge::new(contract, airports, mapping, reader).map_err(|error| failed(&error))?;
    let rows = rebuild_dataset(store.as_ref(), &version, &judge).await.map_err(|error| failed(&error))?;
    let text = format!("{version} was made again from its flight logs: the same {rows} rows");
    Shown::new(&json!({ "version": version, "rows": rows }), text)
}

/// The airports that were frozen with the dataset, or those that count now.
async fn airports_of(
    settings: &Settings,
    store: &dyn ObjectStore,
    version: &Digest,
) -> Result<BTreeMap<String, delayd_features::Airport>, CliError> {
    match frozen_inputs(store, version).await.map_err(|error| failed(&error))? {
        Some(inputs) => {
            let (_, reference) = load_frozen(store, version, &inputs).await.map_err(|error| failed(&error))?;
            Ok(reference.airports)
        }
        None => stored_airports(settings, store).await,
    }
}
