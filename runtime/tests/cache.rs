//! The disk cache: what is kept, what is built again, and what is an error.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use packscan_runtime::Error;
use packscan_runtime::cache::{Cache, CacheKey};
use tempfile::TempDir;

fn cache() -> (TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    (folder, cache)
}

fn key(text: &str) -> CacheKey {
    CacheKey::new(&[text])
}

/// What the cache gives for a key, and whether it had to be built.
fn ask(cache: &Cache, key: &CacheKey, payload: &[u8]) -> (Vec<u8>, bool) {
    let mut built = false;
    let got = cache.get_or_build(key, || {
        built = true;
        Ok(payload.to_vec())
    });
    (got.unwrap(), built)
}

#[test]
fn an_entry_is_built_once() {
    let (folder, cache) = cache();
    assert_eq!(ask(&cache, &key("a"), b"first"), (b"first".to_vec(), true));
    assert_eq!(ask(&cache, &key("a"), b"second"), (b"first".to_vec(), false));
    assert_eq!(ask(&cache, &key("b"), b""), (Vec::new(), true));
    let reopened = Cache::open(folder.path()).unwrap();
    assert_eq!(ask(&reopened, &key("a"), b"second"), (b"first".to_vec(), false));
}

#[test]
fn where_one_part_of_a_key_ends_matters() {
    assert_ne!(CacheKey::new(&["ab", "c"]), CacheKey::new(&["a", "bc"]));
    assert_ne!(CacheKey::new(&["ab"]), CacheKey::new(&["ab", ""]));
}

#[test]
fn an_entry_cut_anywhere_is_built_again() {
    let (_folder, cache) = cache();
    ask(&cache, &key("a"), b"payload");
    let whole = fs::read(cache.file(&key("a"))).unwrap();
    for length in 0..whole.len() {
        fs::write(cache.file(&key("a")), &whole[..length]).unwrap();
        assert_eq!(ask(&cache, &key("a"), b"again"), (b"again".to_vec(), true), "cut to {length} bytes");
    }
    assert_eq!(ask(&cache, &key("a"), b"third"), (b"again".to_vec(), false), "and then stored");
}

#[test]
fn an_entry_changed_anywhere_is_built_again() {
    let (_folder, cache) = cache();
    ask(&cache, &key("a"), b"payload");
    let whole = fs::read(cache.file(&key("a"))).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(cache.file(&key("a")), changed).unwrap();
        assert_eq!(ask(&cache, &key("a"), b"again"), (b"again".to_vec(), true), "byte {at} changed");
    }
}

#[test]
fn the_entry_of_another_key_is_not_taken() {
    let (_folder, cache) = cache();
    ask(&cache, &key("a"), b"of a");
    fs::copy(cache.file(&key("a")), cache.file(&key("b"))).unwrap();
    assert_eq!(ask(&cache, &key("b"), b"of b"), (b"of b".to_vec(), true));
}

#[test]
fn a_failed_build_leaves_nothing() {
    let (_folder, cache) = cache();
    let failed = || Err(Error::Compile { id: "a".to_owned(), log: "no".to_owned() });
    assert!(matches!(cache.get_or_build(&key("a"), failed), Err(Error::Compile { .. })));
    assert_eq!(ask(&cache, &key("a"), b"payload"), (b"payload".to_vec(), true));
}

#[test]
fn many_threads_may_build_one_key() {
    let (_folder, cache) = cache();
    let payload = vec![7; 1 << 20];
    let together = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                assert!(ask(&cache, &key("a"), &payload).0 == payload);
            });
        }
    });
    assert!(ask(&cache, &key("a"), b"") == (payload, false));
    let folder = cache.file(&key("a")).parent().map(Path::to_owned).unwrap();
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Cache::open(&file.join("cache")).unwrap_err();
    assert!(matches!(error, Error::CacheFolder { .. }));
    let shown = error.to_string();
    assert!(shown.contains(&file.display().to_string()) && shown.contains("PACKSCAN_CACHE"), "{shown}");
}

#[test]
fn an_entry_that_cannot_be_stored_is_an_error() {
    let (folder, cache) = cache();
    fs::remove_dir_all(folder.path()).unwrap();
    let error = cache.get_or_build(&key("a"), || Ok(vec![1])).unwrap_err();
    assert!(matches!(error, Error::CacheFolder { .. }), "{error}");
}
