//! The folder in which compiled kernels outlive the process.
//!
//! An entry is one file, written under a temporary name and renamed, so that readers see all of it or nothing, and
//! several processes may share the folder. What cannot be read back whole is built again.

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"packscan";
const VERSION: u32 = 1;

/// What an entry is made from, as a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of a list of texts; where one ends and the next begins matters.
    pub fn new<T: AsRef<[u8]>>(parts: &[T]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        CacheKey(hash.finalize().into())
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A folder of entries.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens, and if necessary makes, the process's own: `PACKSCAN_CACHE` or `packscan` in the platform's cache folder.
    ///
    /// # Errors
    /// [`Error::CacheFolder`] if the folder cannot be made.
    pub fn open_default() -> Result<Self> {
        Cache::open(&default_folder()?)
    }

    /// Opens, and if necessary makes, the cache in a folder.
    ///
    /// # Errors
    /// [`Error::CacheFolder`] if the folder cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = root.join("kernels");
        fs::create_dir_all(&folder).map_err(|source| Error::CacheFolder { folder: root.to_owned(), source })?;
        Ok(Cache { folder })
    }

    /// The file of an entry, there or not.
    pub fn file(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(hex(&key.0))
    }

    /// The entry of a key; where there is none, or one that is damaged, it is built and stored.
    ///
    /// # Errors
    /// Those of `build`, and [`Error::CacheFolder`] if the entry cannot be stored.
    pub fn get_or_build(&self, key: &CacheKey, build: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let path = self.file(key);
        match fs::read(&path).map(|file| decode(key, &file).map(<[u8]>::to_vec)) {
            Ok(Some(payload)) => return Ok(payload),
            Ok(None) => say_damaged(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.broken(error)),
        }
        let payload = build()?;
        self.store(&path, &encode(key, &payload)).map_err(|error| self.broken(error))?;
        Ok(payload)
    }

    fn store(&self, path: &Path, file: &[u8]) -> io::Result<()> {
        let mut temporary = NamedTempFile::new_in(&self.folder)?;
        temporary.write_all(file)?;
        temporary.persist(path)?;
        Ok(())
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::CacheFolder { folder: self.folder.clone(), source }
    }
}

/// Magic, version, key, length and checksum of the payload, payload.
fn encode(key: &CacheKey, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    [MAGIC, &VERSION.to_le_bytes()[..], &key.0, &length, &Sha256::digest(payload), payload].concat()
}

/// The payload, if the file is whole and belongs to the key.
fn decode<'a>(key: &CacheKey, file: &'a [u8]) -> Option<&'a [u8]> {
    let rest = file.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?.strip_prefix(&key.0)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (checksum, payload) = rest.split_first_chunk::<32>()?;
    let whole = u64::from_le_bytes(*length) == payload.len() as u64 && Sha256::digest(payload)[..] == checksum[..];
    whole.then_some(payload)
}

fn say_damaged(path: &Path) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        eprintln!("packscan: {} is damaged or from another version; such entries are built again", path.display());
    });
}

/// `PACKSCAN_CACHE`, or `packscan` in the platform's cache folder.
///
/// # Errors
/// [`Error::CacheFolder`] if neither that nor a home folder is known.
pub fn default_folder() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("PACKSCAN_CACHE") {
        return Ok(folder);
    }
    let platform = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        env::home_dir().map(|home| home.join("Library/Caches"))
    } else {
        // The XDG base directory specification: a relative path is to be ignored.
        set("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
    };
    platform.map(|folder| folder.join("packscan")).ok_or_else(|| Error::CacheFolder {
        folder: PathBuf::from("~/.cache/packscan"),
        source: io::Error::new(io::ErrorKind::NotFound, "no home folder is known"),
    })
}

/// Bytes of all files in a folder and its sub-folders; what cannot be read counts nothing.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(bytes).sum()
}

/// A number of bytes for people: `90 MB`.
pub(crate) fn readable(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes < 10 * unit => format!("{:.1} {name}", bytes as f64 / unit as f64),
        Some((unit, name)) => format!("{} {name}", (bytes + unit / 2) / unit),
        None => format!("{bytes} bytes"),
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
