//! Tokenised documents on the disk, written once, mapped into memory ever after.
//!
//! A folder holds `corpus.json`, which says what the rest is; `documents`, three `u32` each: tokens, file, line or row; and
//! `tokens-0000` and so on, the ids of whole documents end to end, `u16` where the vocabulary allows it. Numbers are in the
//! machine's own order: a cache does not travel. `corpus.json` has a CRC-32 of each file, which opening checks: it costs about what reading costs,
//! and what a disk or another program has changed is tokenised again, not trained on.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crc32fast::Hasher;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::Skipped;

/// Bytes after which a new shard begins; a document is never in two.
const SHARD_BYTES: u64 = 1 << 30;

/// What the names of folders begin with that are not whole yet.
const UNFINISHED: &str = ".unfinished-";
/// What nobody has written to for so long is of a process that was killed: one that is alive writes every few seconds.
const ABANDONED: Duration = Duration::from_secs(6 * 3600);

/// Changes with the layout of the folder.
pub const VERSION: u32 = 2;

/// `corpus.json`
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    id_bytes: u64,
    documents: u64,
    /// Of the file `documents`.
    documents_crc32: u32,
    shards: Vec<Shard>,
    files: Vec<PathBuf>,
    skipped: Skipped,
}

/// What `corpus.json` says of one shard.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Shard {
    documents: u64,
    tokens: u64,
    crc32: u32,
}

/// What is known of a document besides its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Document {
    /// Its tokens.
    pub tokens: u32,
    /// Which file it is from.
    pub file: u32,
    /// Which line or row, from 1.
    pub record: u32,
}

/// The ids of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// Of a vocabulary of at most 65,536.
    U16(&'a [u16]),
    /// Of a larger one.
    U32(&'a [u32]),
}

impl<'a> Tokens<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Tokens::U16(ids) => ids.len(),
            Tokens::U32(ids) => ids.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id at an index.
    pub fn get(&self, index: usize) -> Option<u32> {
        match self {
            Tokens::U16(ids) => ids.get(index).map(|id| u32::from(*id)),
            Tokens::U32(ids) => ids.get(index).copied(),
        }
    }

    /// Tokens `start` up to `end`.
    ///
    /// # Panics
    /// If they are not all there.
    pub fn slice(&self, start: usize, end: usize) -> Tokens<'a> {
        match self {
            Tokens::U16(ids) => Tokens::U16(&ids[start..end]),
            Tokens::U32(ids) => Tokens::U32(&ids[start..end]),
        }
    }

    /// Appends them to a list.
    pub fn append_to(&self, list: &mut Vec<u32>) {
        match self {
            Tokens::U16(ids) => list.extend(ids.iter().map(|id| u32::from(*id))),
            Tokens::U32(ids) => list.extend_from_slice(ids),
        }
    }

    /// A copy of them.
    pub fn to_vec(&self) -> Vec<u32> {
        let mut list = Vec::with_capacity(self.len());
        self.append_to(&mut list);
        list
    }
}

/// Writes the shards of a corpus into a temporary folder, and renames it when all is there.
pub struct Writer {
    folder: TempDir,
    id_bytes: u64,
    documents: Vec<Document>,
    shards: Vec<Shard>,
    /// The last of them, and the checksum so far.
    shard: Option<(BufWriter<File>, Hasher)>,
}

impl Writer {
    /// Into a folder of corpora, for ids below `vocabulary`.
    pub fn new(corpora: &Path, vocabulary: usize) -> io::Result<Writer> {
        fs::create_dir_all(corpora)?;
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(corpora)?;
        let id_bytes = if vocabulary <= 1 << 16 { 2 } else { 4 };
        Ok(Writer { folder, id_bytes, documents: Vec::new(), shards: Vec::new(), shard: None })
    }

    /// Appends a document.
    pub fn push(&mut self, document: Document, ids: &[u32]) -> io::Result<()> {
        let full = self.shards.last().is_some_and(|shard| shard.tokens * self.id_bytes >= SHARD_BYTES);
        if full || self.shard.is_none() {
            self.finish_shard()?;
            let file = File::create(self.folder.path().join(shard_name(self.shards.len())))?;
            self.shard = Some((BufWriter::with_capacity(1 << 20, file), Hasher::new()));
            self.shards.push(Shard::default());
        }
        if let (Some((file, crc)), Some(shard)) = (&mut self.shard, self.shards.last_mut()) {
            let narrow: Vec<u16>;
            let bytes = if self.id_bytes == 2 {
                narrow = ids.iter().map(|id| *id as u16).collect();
                bytemuck::cast_slice(&narrow)
            } else {
                bytemuck::cast_slice(ids)
            };
            file.write_all(bytes)?;
            crc.update(bytes);
            shard.documents += 1;
            shard.tokens += ids.len() as u64;
        }
        self.documents.push(document);
        Ok(())
    }

    /// Documents so far.
    pub fn documents(&self) -> usize {
        self.documents.len()
    }

    fn finish_shard(&mut self) -> io::Result<()> {
        let (Some((file, crc)), Some(shard)) = (self.shard.take(), self.shards.last_mut()) else { return Ok(()) };
        shard.crc32 = crc.finalize();
        file.into_inner()?.sync_all()
    }

    /// Makes it all durable under its name, unless another process was faster.
    pub fn finish(mut self, name: &Path, files: Vec<PathBuf>, skipped: Skipped) -> io::Result<Store> {
        self.finish_shard()?;
        let documents: &[u8] = bytemuck::cast_slice(&self.documents);
        let manifest = Manifest {
            version: VERSION,
            id_bytes: self.id_bytes,
            documents: self.documents.len() as u64,
            documents_crc32: crc32fast::hash(documents),
            shards: self.shards,
            files,
            skipped,
        };
        write_whole(&self.folder.path().join("documents"), documents)?;
        write_whole(&self.folder.path().join("corpus.json"), &serde_json::to_vec_pretty(&manifest)?)?;
        if let Ok(Some(store)) = Store::open(name) {
            return Ok(store);
        }
        if name.exists() {
            fs::remove_dir_all(name)?;
        }
        let renamed = fs::rename(self.folder.path(), name);
        if renamed.is_ok() {
            // It has another name now: there is nothing left to remove.
            let _ = self.folder.keep();
        }
        match (Store::open(name), renamed) {
            (Ok(Some(store)), _) => Ok(store),
            // Another process may have come between; what it wrote would have been the same.
            (_, Err(error)) => Err(error),
            _ => Err(io::Error::other("what was just written reads differently")),
        }
    }
}

/// Removes what killed processes have left among the corpora.
pub fn sweep(corpora: &Path) {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    // What cannot be looked at or removed is left alone: it is in nobody's way.
    let written = |path: &Path| path.metadata().and_then(|about| about.modified()).ok();
    for entry in entries(corpora).filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        let folder = entry.path();
        let last = entries(&folder).filter_map(|entry| written(&entry.path())).chain(written(&folder)).max();
        let idle = last.and_then(|last| SystemTime::now().duration_since(last).ok());
        if idle.is_some_and(|idle| idle > ABANDONED) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn shard_name(index: usize) -> String {
    format!("tokens-{index:04}")
}

/// Maps a shard.
fn map(folder: &Path, index: usize) -> Result<Mmap, String> {
    let name = shard_name(index);
    let failed = |error| format!("{name} cannot be read: {error}");
    let file = File::open(folder.join(&name)).map_err(failed)?;
    // SAFETY: the file must not change while it is mapped. It lies in a folder that got its name when all of it was
    // written, and nothing writes to such a folder; whoever removes it leaves the mapped pages alone.
    unsafe { Mmap::map(&file) }.map_err(failed)
}

/// Whether a file has the bytes that were written.
fn check(name: &str, bytes: &[u8], length: u64, crc32: u32) -> Result<(), String> {
    if bytes.len() as u64 != length {
        return Err(format!("{name} has {} of {length} bytes", bytes.len()));
    }
    match crc32fast::hash(bytes) == crc32 {
        true => Ok(()),
        false => Err(format!("{name} has not the bytes that were written")),
    }
}

/// The mapped shards of a corpus.
#[derive(Debug)]
pub struct Store {
    shards: Vec<Mmap>,
    id_bytes: u64,
    documents: Vec<Document>,
    /// Shard and first token in it, of each document.
    starts: Vec<(u32, u64)>,
    files: Vec<PathBuf>,
    skipped: Skipped,
    /// Of each shard.
    pub crc32: Vec<u32>,
    /// What was wrong with the one that was there before it.
    pub damaged: Option<String>,
}

impl Store {
    /// Opens a folder, if it is there.
    ///
    /// # Errors
    /// What is wrong with it, where not all of it is what was written.
    pub fn open(folder: &Path) -> Result<Option<Store>, String> {
        if !folder.exists() {
            return Ok(None);
        }
        let bytes = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name} cannot be read: {error}"));
        let manifest: Manifest =
            serde_json::from_slice(&bytes("corpus.json")?).map_err(|error| format!("corpus.json: {error}"))?;
        if manifest.version != VERSION || ![2, 4].contains(&manifest.id_bytes) {
            return Err("corpus.json is of another version".to_owned());
        }
        let documents = bytes("documents")?;
        let length = manifest.documents.saturating_mul(size_of::<Document>() as u64);
        check("documents", &documents, length, manifest.documents_crc32)?;
        let documents: Vec<Document> = bytemuck::pod_collect_to_vec(&documents);
        let shards: Vec<Mmap> = (0..manifest.shards.len()).map(|index| map(folder, index)).collect::<Result<_, _>>()?;
        shards.par_iter().zip(&manifest.shards).enumerate().try_for_each(|(index, (map, shard))| {
            check(&shard_name(index), map, shard.tokens.saturating_mul(manifest.id_bytes), shard.crc32)
        })?;
        let mut starts = Vec::with_capacity(documents.len());
        let mut rest = documents.iter();
        for (index, shard) in manifest.shards.iter().enumerate() {
            let mut start = 0;
            for document in rest.by_ref().take(shard.documents as usize) {
                starts.push((index as u32, start));
                start += u64::from(document.tokens);
            }
            if start != shard.tokens {
                return Err(format!("corpus.json counts other tokens in {}", shard_name(index)));
            }
        }
        if starts.len() != documents.len() {
            return Err("corpus.json counts other documents".to_owned());
        }
        let crc32 = manifest.shards.iter().map(|shard| shard.crc32).collect();
        let Manifest { id_bytes, files, skipped, .. } = manifest;
        Ok(Some(Store { shards, id_bytes, documents, starts, files, skipped, crc32, damaged: None }))
    }

    /// Every document.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The ids of a document.
    pub fn tokens(&self, document: u32) -> Tokens<'_> {
        let (shard, start) = self.starts[document as usize];
        let (start, tokens) = (start as usize, self.documents[document as usize].tokens as usize);
        let bytes = &self.shards[shard as usize];
        // The map begins at a page, so ids are aligned.
        match self.id_bytes {
            2 => Tokens::U16(&bytemuck::cast_slice(bytes)[start..start + tokens]),
            _ => Tokens::U32(&bytemuck::cast_slice(bytes)[start..start + tokens]),
        }
    }

    /// The file of a document.
    pub fn file(&self, document: u32) -> &Path {
        &self.files[self.documents[document as usize].file as usize]
    }

    /// What was left out.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}
