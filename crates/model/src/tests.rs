//! A bundle is written as a whole, verified at every reading, and refused when
//! anything about it is not what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::error::Error;
use std::fs;
use std::path::Path;

use crate::testing::{random_weights, tiny_bundle, tiny_rows};
use crate::{Bundle, BundleError, GoldenError, NetError, PredictScratch, Predictor};
use delayd_features::FlightRow;
use proptest::prelude::*;
use tempfile::TempDir;

fn written(bundle: &Bundle) -> (TempDir, std::path::PathBuf, String) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("bundle");
    let digest = bundle.write_to(&dir).unwrap();
    (folder, dir, digest)
}

/// Changes one file and its entry in the manifest, as a careless hand would.
fn replace(dir: &Path, file: &str, change: &dyn Fn(&mut serde_json::Value)) {
    use sha2::{Digest, Sha256};
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap();
    change(&mut value);
    let bytes = serde_json::to_vec(&value).unwrap();
    if file != "manifest.json" {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        replace(dir, "manifest.json", &|manifest| manifest["files"][file]["sha256"] = sha256.clone().into());
    }
    fs::write(dir.join(file), bytes).unwrap();
}

#[test]
fn a_bundle_comes_back_from_the_disk_as_it_was_and_scores_the_same() {
    let bundle = tiny_bundle(1);
    let (_folder, dir, digest) = written(&bundle);
    let (read, found) = Bundle::read_from(&dir).unwrap();
    assert_eq!(found, digest);
    assert_eq!(bundle.digest().unwrap(), digest);
    assert_eq!((&read.features, &read.model, &read.weights), (&bundle.features, &bundle.model, &bundle.weights));
    assert_eq!((&read.reference, &read.golden), (&bundle.reference, &bundle.golden));
    let (a, b) = (Predictor::from_bundle(&bundle).unwrap(), Predictor::from_bundle(&read).unwrap());
    let mut scratch = PredictScratch::default();
    for row in tiny_rows(9, 50) {
        assert_eq!(a.predict(&row, &mut scratch), b.predict(&row, &mut scratch));
    }
}

#[test]
fn the_same_seed_gives_the_same_digest_and_another_seed_another() {
    assert_eq!(tiny_bundle(5).digest().unwrap(), tiny_bundle(5).digest().unwrap());
    assert_ne!(tiny_bundle(5).digest().unwrap(), tiny_bundle(6).digest().unwrap());
}

#[test]
fn a_damaged_file_is_named_with_both_digests() {
    let (_folder, dir, _) = written(&tiny_bundle(1));
    let path = dir.join("weights.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Bundle::read_from(&dir).unwrap_err();
    assert!(matches!(&error, BundleError::Damaged { file, .. } if file == "weights.safetensors"), "{error}");
}

#[test]
fn every_missing_file_is_named() {
    let bundle = tiny_bundle(1);
    for file in ["manifest.json", "features.json", "model.json", "weights.safetensors", "reference.json"] {
        let (_folder, dir, _) = written(&bundle);
        fs::remove_file(dir.join(file)).unwrap();
        let error = Bundle::read_from(&dir).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn a_manifest_that_does_not_list_a_file_is_refused() {
    let (_folder, dir, _) = written(&tiny_bundle(1));
    replace(&dir, "manifest.json", &|manifest| {
        manifest["files"].as_object_mut().unwrap().remove("golden.json");
    });
    assert!(matches!(Bundle::read_from(&dir), Err(BundleError::Unlisted(file)) if file == "golden.json"));
}

#[test]
fn a_manifest_cannot_reach_outside_its_folder() {
    let (_folder, dir, _) = written(&tiny_bundle(1));
    replace(&dir, "manifest.json", &|manifest| {
        manifest["files"]["../secret"] = serde_json::json!({ "sha256": "", "size_bytes": 0 });
    });
    assert!(matches!(Bundle::read_from(&dir), Err(BundleError::FileName(name)) if name == "../secret"));
}

#[test]
fn another_format_and_another_feature_spec_are_refused() {
    let (_folder, dir, _) = written(&tiny_bundle(1));
    replace(&dir, "manifest.json", &|manifest| manifest["format"] = 2.into());
    assert!(matches!(Bundle::read_from(&dir), Err(BundleError::Format { found: 2, expected: 1 })));

    let (_folder, dir, _) = written(&tiny_bundle(1));
    replace(&dir, "features.json", &|spec| spec["horizon_minutes"] = 60.into());
    assert!(matches!(Bundle::read_from(&dir), Err(BundleError::FeatureHash { .. })));
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_named_with_line_and_column() {
    let (_folder, dir, _) = written(&tiny_bundle(1));
    replace(&dir, "model.json", &|model| model["threshold"] = "high".into());
    let error = Bundle::read_from(&dir).unwrap_err();
    let cause = error.source().unwrap().to_string();
    assert!(error.to_string().contains("model.json") && cause.contains("line 1 column"), "{error}: {cause}");
}

#[test]
fn a_golden_row_that_does_not_come_out_is_refused_with_both_scores() {
    let mut bundle = tiny_bundle(1);
    bundle.golden[3].score += 0.01;
    let error = Predictor::from_bundle(&bundle).unwrap_err();
    assert!(matches!(error, BundleError::Golden(GoldenError::Differs { index: 3, .. })), "{error}");

    let mut bundle = tiny_bundle(1);
    bundle.golden[0].score = f32::NAN;
    assert!(Predictor::from_bundle(&bundle).is_err());

    let mut bundle = tiny_bundle(1);
    bundle.golden[0].context.insert("departure_delay".to_owned(), 1.0);
    assert!(matches!(
        Predictor::from_bundle(&bundle),
        Err(BundleError::Golden(GoldenError::UnknownInput { index: 0, .. }))
    ));
}

#[test]
fn weights_that_are_not_finite_misshapen_missing_or_no_safetensors_are_refused() {
    let sound = tiny_bundle(1);
    let with = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = sound.clone();
        change(&mut bundle);
        match Predictor::from_bundle(&bundle) {
            Err(BundleError::Net(error)) => error,
            other => panic!("expected a fault of the weights, got {other:?}"),
        }
    };
    let nan = with(&|bundle| {
        let end = bundle.weights.len();
        bundle.weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    assert!(matches!(nan, NetError::NotFinite(_)), "{nan}");
    let misshapen = with(&|bundle| bundle.model.architecture.hidden += 1);
    assert!(matches!(misshapen, NetError::Shape { .. }), "{misshapen}");
    let missing = with(&|bundle| bundle.model.architecture.members += 1);
    assert!(matches!(&missing, NetError::Missing(name) if name.starts_with("member.2.")), "{missing}");
    let cut = with(&|bundle| bundle.weights.truncate(100));
    assert!(matches!(cut, NetError::Format(_)), "{cut}");
}

#[test]
fn an_architecture_that_makes_no_network_is_refused_before_anything_is_divided_by_it() {
    for change in [
        (|bundle| bundle.model.architecture.members = 0) as fn(&mut Bundle),
        |bundle| bundle.model.architecture.hidden = 0,
        |bundle| bundle.model.architecture.embedding_widths[0] = 0,
        |bundle| bundle.model.architecture.embedding_widths.truncate(1),
        |bundle| bundle.model.architecture.blocks = 1 << 20,
    ] {
        let mut bundle = tiny_bundle(1);
        change(&mut bundle);
        let error = Predictor::from_bundle(&bundle).unwrap_err();
        assert!(matches!(error, BundleError::Net(NetError::Architecture(_))), "{error}");
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    for change in [
        (|bundle| bundle.model.architecture.numeric_width += 1) as fn(&mut Bundle),
        |bundle| bundle.model.architecture.cardinalities[0] += 1,
        |bundle| bundle.model.threshold = 1.5,
        |bundle| bundle.model.threshold = f32::NAN,
        |bundle| bundle.model.calibration.slope = f64::INFINITY,
    ] {
        let mut bundle = tiny_bundle(1);
        change(&mut bundle);
        bundle.weights = random_weights(&bundle.model.architecture, 1);
        let error = Predictor::from_bundle(&bundle).unwrap_err();
        assert!(matches!(error, BundleError::Mismatch(_)), "{error}");
    }
}

#[test]
fn a_write_that_fails_leaves_nothing_behind_and_what_was_there_untouched() {
    let bundle = tiny_bundle(1);
    let (folder, dir, digest) = written(&bundle);
    assert!(matches!(tiny_bundle(2).write_to(&dir), Err(BundleError::Io { .. })));
    assert_eq!(Bundle::read_from(&dir).unwrap().1, digest);
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["bundle"]);

    let blocked = folder.path().join("a_file");
    fs::write(&blocked, "x").unwrap();
    let error = bundle.write_to(&blocked.join("bundle")).unwrap_err();
    assert!(error.to_string().contains("a_file"), "{error}");
}

#[test]
fn a_link_where_the_staging_folder_could_be_guessed_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let guessed = place.path().join(format!(".bundle.partial-{}", std::process::id()));
    std::os::unix::fs::symlink(place.path().join("elsewhere"), &guessed).unwrap();
    tiny_bundle(1).write_to(&place.path().join("bundle")).unwrap();
    assert!(guessed.is_symlink() && !place.path().join("elsewhere").exists());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "only the bundle was made");
}

#[test]
fn the_reference_counts_every_row_of_the_training_set_once_per_input() {
    let reference = tiny_bundle(1).reference;
    assert_eq!(reference.rows, 400);
    let counts = reference.numerics.iter().map(|numeric| &numeric.counts);
    let counts = counts.chain(reference.categories.iter().map(|category| &category.counts));
    for counts in counts.chain([&reference.score_counts]) {
        assert_eq!(counts.iter().sum::<u64>(), 400);
    }
}

#[test]
fn the_layout_follows_the_bins_and_not_the_counts() {
    let reference = tiny_bundle(1).reference;
    let mut counted = reference.clone();
    counted.score_counts[0] += 1;
    assert_eq!(counted.layout(), reference.layout());
    let mut shifted = reference.clone();
    shifted.numerics[0].edges[0] += 0.25;
    assert_ne!(shifted.layout(), reference.layout());
    let mut joined = reference.clone();
    let second = joined.categories[0].values.remove(1);
    joined.categories[0].values[0].push_str(&second);
    assert_ne!(joined.layout(), reference.layout());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_flight_however_strange_gets_a_probability(
        carrier in "[A-Z0-9]{0,3}", origin in "\\PC{0,20}", dest in "[A-Z]{0,4}",
        secs in -4_000_000_000_i64..8_000_000_000, minutes in -5000_i64..5000,
        values in prop::collection::vec(prop::num::f32::ANY, 8),
    ) {
        let predictor = Predictor::from_bundle(&tiny_bundle(1)).unwrap();
        let departure = chrono::DateTime::from_timestamp(secs, 0).unwrap();
        let mut row = FlightRow::scheduled(carrier, 1, origin, dest, departure);
        row.scheduled_arrival = Some(departure + chrono::Duration::minutes(minutes));
        for (slot, value) in row.context.iter_mut().zip(values.iter().cycle()) {
            *slot = *value;
        }
        let score = predictor.predict(&row, &mut PredictScratch::default()).score;
        prop_assert!((0.0..=1.0).contains(&score), "{score}");
    }
}
