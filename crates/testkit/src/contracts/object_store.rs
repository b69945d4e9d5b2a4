//! The contract of `ObjectStore`. The store must be empty at the start of each function.

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;

pub async fn keeps_the_whole_contract(store: &dyn ObjectStore) {
    what_was_put_is_got_back(store).await;
    put_replaces(store).await;
    a_missing_object_is_not_found_and_deleting_it_is_no_error(store).await;
    list_is_sorted_and_bounded_by_its_prefix(store).await;
    what_is_no_key_is_refused(store).await;
    of_many_concurrent_writers_one_is_read_whole(store).await;
    a_reader_sees_the_old_or_the_new_object_and_nothing_between(store).await;
}

async fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
}

async fn clear(store: &dyn ObjectStore) {
    for key in keys(store, "").await {
        store.delete(&key).await.unwrap();
    }
    assert!(keys(store, "").await.is_empty());
}

async fn what_was_put_is_got_back(store: &dyn ObjectStore) {
    let large = Bytes::from(vec![7_u8; 3 << 20]);
    for (key, body) in [
        ("flights/2013-01-01.csv", Bytes::from_static(b"carrier,origin\n")),
        ("empty", Bytes::new()),
        ("bundles/model_v1/weights.safetensors", large),
        ("with space/and+plus/ümlaut=1.csv", Bytes::from_static(b"x")),
    ] {
        store.put(key, body.clone()).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), body, "{key}");
        let listed = store.list(key).await.unwrap();
        assert_eq!((listed[0].key.as_str(), listed[0].size_bytes), (key, body.len() as u64));
        assert!(listed[0].last_modified.timestamp() > 1_600_000_000, "{key}: {}", listed[0].last_modified);
    }
    clear(store).await;
}

async fn put_replaces(store: &dyn ObjectStore) {
    for body in ["first", "first", "second"] {
        store.put("a/b", Bytes::from_static(body.as_bytes())).await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), body);
    }
    clear(store).await;
}

async fn a_missing_object_is_not_found_and_deleting_it_is_no_error(store: &dyn ObjectStore) {
    store.put("there/deep", Bytes::from_static(b"x")).await.unwrap();
    for key in ["missing", "missing/deeper", "there", "there/deep/er"] {
        let error = store.get(key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{key}: {error}");
        assert!(error.to_string().contains(key), "{error}");
        store.delete(key).await.unwrap();
    }
    assert_eq!(keys(store, "").await, ["there/deep"]);
    clear(store).await;
}

async fn list_is_sorted_and_bounded_by_its_prefix(store: &dyn ObjectStore) {
    for key in ["b/2", "b/10", "b.txt", "a", "b/sub/1", "c", "bc/1"] {
        store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(keys(store, "").await, ["a", "b.txt", "b/10", "b/2", "b/sub/1", "bc/1", "c"]);
    assert_eq!(keys(store, "b/").await, ["b/10", "b/2", "b/sub/1"]);
    assert_eq!(keys(store, "b/s").await, ["b/sub/1"]);
    assert_eq!(keys(store, "b").await, ["b.txt", "b/10", "b/2", "b/sub/1", "bc/1"]);
    assert_eq!(keys(store, "b/sub/1").await, ["b/sub/1"]);
    assert!(keys(store, "missing/").await.is_empty());
    clear(store).await;
}

async fn what_is_no_key_is_refused(store: &dyn ObjectStore) {
    let long = "k".repeat(1025);
    for key in ["", "/etc/passwd", "../outside", "a/../../outside", "a//b", "a/", "./a", "a/.", "a\\b", "a\0b", &long] {
        let errors = [
            store.get(key).await.unwrap_err(),
            store.put(key, Bytes::from_static(b"x")).await.unwrap_err(),
            store.delete(key).await.unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Invalid), "{key:?}: {errors:?}");
    }
    for prefix in ["/", "../", "a//"] {
        assert_eq!(store.list(prefix).await.unwrap_err().kind(), ErrorKind::Invalid, "{prefix:?}");
    }
    assert!(keys(store, "").await.is_empty());
}

async fn of_many_concurrent_writers_one_is_read_whole(store: &dyn ObjectStore) {
    let bodies: Vec<Bytes> = (0..16).map(|writer| Bytes::from(vec![writer; 1000])).collect();
    let writes = bodies.iter().map(|body| store.put("contested", body.clone()));
    for outcome in futures::future::join_all(writes).await {
        outcome.unwrap();
    }
    assert!(bodies.contains(&store.get("contested").await.unwrap()), "a mixture of several writers");
    clear(store).await;
}

async fn a_reader_sees_the_old_or_the_new_object_and_nothing_between(store: &dyn ObjectStore) {
    let versions: [Bytes; 2] = [vec![1_u8; 200_000].into(), vec![2_u8; 100_000].into()];
    store.put("swapped", versions[0].clone()).await.unwrap();
    let writer = async {
        for round in 0..30 {
            store.put("swapped", versions[round % 2].clone()).await.unwrap();
        }
    };
    let reader = async {
        for _ in 0..60 {
            let seen = store.get("swapped").await.unwrap();
            assert!(versions.contains(&seen), "{} bytes of a mixture", seen.len());
            assert_eq!(keys(store, "").await, ["swapped"]);
        }
    };
    futures::join!(writer, reader);
    clear(store).await;
}
