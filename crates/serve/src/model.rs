//! The bundle that this replica serves, checked and made ready.

use std::path::Path;

use delayd_features::{CategoryInput, NumericInput};
use delayd_model::{Bundle, Predictor, Sketch, SketchCounter};

use crate::error::StartError;

/// The model and everything about it that answers tell.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    pub(crate) predictor: Predictor,
    pub(crate) counter: SketchCounter,
    pub(crate) empty_sketch: Sketch,
    pub(crate) version: String,
    pub(crate) bundle: String,
    pub(crate) feature_hash: String,
    /// Categories that the network reads, in the order of their indexes.
    pub(crate) categories: Vec<CategoryInput>,
    /// Numbers that the network reads and the caller supplies.
    pub(crate) context: Vec<NumericInput>,
}

impl LoadedModel {
    /// Reads a bundle, verifies its digests and checks its golden rows.
    pub(crate) fn load(dir: &Path, version: &str) -> Result<Self, StartError> {
        let failed = |source| StartError::Bundle { path: dir.to_owned(), source };
        let (bundle, digest) = Bundle::read_from(dir).map_err(failed)?;
        let predictor = Predictor::from_bundle(&bundle).map_err(failed)?;
        if bundle.golden.is_empty() {
            tracing::warn!(bundle.digest = %digest, "bundle has no golden rows: nothing shows that it is served as it was trained");
        }
        let inputs = bundle.features.numerics.iter().filter_map(|feature| NumericInput::from_name(&feature.input));
        Ok(Self {
            counter: bundle.reference.counter(),
            empty_sketch: bundle.reference.empty_sketch(),
            version: version.to_owned(),
            bundle: digest,
            feature_hash: bundle.features.hash(),
            categories: bundle.features.categories.iter().map(|feature| feature.input).collect(),
            context: inputs.filter(|input| input.is_context()).collect(),
            predictor,
        })
    }
}
