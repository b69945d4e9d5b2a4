//! The contract of `ImageRegistry`. The registry must not know `delay-ml` yet.

use delayd_core::error::ErrorKind;
use delayd_core::ports::ImageRegistry;

use super::layouts;

const REPOSITORY: &str = "delay-ml";

pub async fn keeps_the_whole_contract(registry: &dyn ImageRegistry) {
    let folder = tempfile::tempdir().unwrap();
    let (first, first_layout) = layouts::image(folder.path(), 1);
    let (second, second_layout) = layouts::image(folder.path(), 2);

    // An unknown tag resolves to nothing and may be removed.
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), None);
    registry.remove_tag(REPOSITORY, "model_v1").await.unwrap();

    // A push uploads all layers once.
    let pushed = registry.push(&first_layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!((pushed.layers_pushed, pushed.layers_reused), (2, 0));
    assert_eq!((pushed.digest.clone(), pushed.size_bytes), (first.manifest.clone(), first.size_bytes));
    assert_eq!(pushed.tag, "delay-ml:model_v1");
    assert!(pushed.reference.ends_with(&format!("@{}", first.manifest)), "{}", pushed.reference);
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(first.manifest.clone()));

    // Pushing it again is the same as once.
    let again = registry.push(&first_layout, REPOSITORY, "model_v1").await.unwrap();
    assert_eq!((again.layers_pushed, again.layers_reused), (0, 2));
    assert_eq!(again.digest, pushed.digest);

    // Of the next version only the model's layer is new.
    let next = registry.push(&second_layout, REPOSITORY, "model_v2").await.unwrap();
    assert_eq!((next.layers_pushed, next.layers_reused), (1, 1));
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(first.manifest.clone()));

    // A push moves a tag, and removing one leaves the others alone.
    registry.push(&second_layout, REPOSITORY, "live").await.unwrap();
    registry.push(&first_layout, REPOSITORY, "live").await.unwrap();
    assert_eq!(registry.resolve(REPOSITORY, "live").await.unwrap(), Some(first.manifest.clone()));
    registry.remove_tag(REPOSITORY, "live").await.unwrap();
    registry.remove_tag(REPOSITORY, "live").await.unwrap();
    assert_eq!(registry.resolve(REPOSITORY, "live").await.unwrap(), None);
    assert_eq!(registry.resolve(REPOSITORY, "model_v1").await.unwrap(), Some(first.manifest));
    assert_eq!(registry.resolve(REPOSITORY, "model_v2").await.unwrap(), Some(second.manifest));

    names_that_are_none_are_refused(registry, &first_layout).await;
    a_damaged_layout_is_refused(registry, folder.path()).await;
}

async fn names_that_are_none_are_refused(registry: &dyn ImageRegistry, layout: &std::path::Path) {
    for (repository, tag) in
        [("../up", "a"), ("Upper", "a"), ("", "a"), ("a", ""), ("a", "b/c"), ("a", ".."), ("a", "-b")]
    {
        let error = registry.push(layout, repository, tag).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{repository}:{tag}: {error}");
    }
}

async fn a_damaged_layout_is_refused(registry: &dyn ImageRegistry, folder: &std::path::Path) {
    let (third, layout) = layouts::image(folder, 3);
    let blob = layout.join("blobs/sha256").join(third.model_layer.hex());
    std::fs::write(&blob, "not the layer").unwrap();
    let error = registry.push(&layout, REPOSITORY, "model_v3").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(third.model_layer.as_str()), "{error}");
    assert_eq!(registry.resolve(REPOSITORY, "model_v3").await.unwrap(), None, "no tag without its blobs");
}
