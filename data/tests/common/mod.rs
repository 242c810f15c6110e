//! Corpora of documents whose tokens say where they are from.

#![allow(dead_code)] // Each test file uses some of it.

use std::fs;
use std::path::{Path, PathBuf};

use packscan_data::{Corpus, CorpusOptions, Tokenizer};
use tempfile::TempDir;

/// A folder with files in it, and one for the cache.
pub struct Files {
    pub folder: TempDir,
}

impl Files {
    pub fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("files").join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn options(&self, paths: &[PathBuf]) -> CorpusOptions {
        CorpusOptions::new(paths.to_vec(), self.folder.path().join("cache"))
    }

    pub fn open(&self, paths: &[PathBuf]) -> packscan_data::Result<Corpus> {
        Corpus::open(&self.options(paths), &Tokenizer::Bytes, |_| ())
    }
}

/// Documents of so many tokens each, the end among them (so at least 2), no two alike where they are long enough.
pub fn corpus(lengths: &[u32]) -> (Files, Corpus) {
    let files = Files::new();
    let mut lines = String::new();
    for (document, length) in lengths.iter().enumerate() {
        let letter = |i: u32| char::from(b'a' + ((document as u32 * 7 + i * i + i * 3) % 26) as u8);
        let text: String = (0..length - 1).map(letter).collect();
        lines += &format!("{{\"text\": \"{text}\"}}\n");
    }
    let path = files.write("documents.jsonl", lines);
    let corpus = files.open(&[path]).unwrap();
    (files, corpus)
}

/// A file that was committed.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
