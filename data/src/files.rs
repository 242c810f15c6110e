//! Which files a corpus has, and what each of them is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Named by the user, not found in a folder: it must then be readable.
    pub named: bool,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Nanoseconds since 1970 when it was last changed.
    modified_ns: u128,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One document.
    Text,
    /// A document a line.
    Jsonl,
    /// A document a row.
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Source {
    /// What it holds.
    pub fn format(&self) -> Format {
        format(&self.path)
    }

    /// The ending of a compression or an archive that packscan does not read, itself compressed or not.
    pub fn unread(&self) -> Option<String> {
        ending(&plain(&self.path)).filter(|ending| UNREAD.contains(&ending.as_str()))
    }

    /// Its bytes, decompressed.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        let failed = |source| self.failed(source);
        let file = BufReader::with_capacity(1 << 18, File::open(&self.path).map_err(failed)?);
        Ok(match compression(&self.path) {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file).map_err(failed)?),
        })
    }

    /// Why reading stopped.
    pub fn failed(&self, source: io::Error) -> Error {
        let path = self.path.clone();
        // The system's own errors have a code; those of a decoder have none.
        if source.raw_os_error().is_none() && compression(&self.path) != Compression::None {
            Error::Compressed { path, source }
        } else {
            Error::Read { path, source }
        }
    }

    /// What changes when the file does.
    pub fn mark(&self, hash: &mut Sha256) {
        let path = self.path.as_os_str().as_encoded_bytes();
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update([u8::from(self.named)]);
        hash.update(self.bytes.to_le_bytes());
        hash.update(self.modified_ns.to_le_bytes());
    }
}

/// Endings of compressions and archives that are no text.
const UNREAD: [&str; 12] = ["7z", "bz2", "lz4", "lzma", "rar", "tar", "tbz2", "tgz", "txz", "tzst", "xz", "zip"];

/// What a file holds, by its name's ending, that of a compression aside.
pub fn format(path: &Path) -> Format {
    match ending(&plain(path)).as_deref() {
        Some("jsonl" | "ndjson") => Format::Jsonl,
        Some("parquet") => Format::Parquet,
        _ => Format::Text,
    }
}

/// The name without the ending of a compression that packscan reads.
fn plain(path: &Path) -> PathBuf {
    match compression(path) {
        Compression::None => path.to_owned(),
        _ => path.with_extension(""),
    }
}

fn compression(path: &Path) -> Compression {
    match ending(path).as_deref() {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        _ => Compression::None,
    }
}

fn ending(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

/// Files that mark a folder whose content nobody wrote as text.
const LEFT_OUT: [&str; 2] = ["CACHEDIR.TAG", "run.toml"];

/// The files of these paths that were changed after a time, or came to where they are.
///
/// # Errors
/// [`Error::Read`] for a path that is not there.
pub fn newer_than(paths: &[PathBuf], time: SystemTime) -> Result<Vec<PathBuf>> {
    let is_newer = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| changed(&about) > time);
    Ok(find(paths)?.into_iter().map(|source| source.path).filter(is_newer).collect())
}

/// When a file was changed, renamed or moved, where the system says all of it; else when it was written to.
fn changed(about: &fs::Metadata) -> SystemTime {
    #[cfg(unix)]
    let moved = {
        use std::os::unix::fs::MetadataExt;
        let (seconds, nanoseconds) = (about.ctime().max(0) as u64, about.ctime_nsec() as u32);
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    };
    #[cfg(not(unix))]
    let moved = UNIX_EPOCH;
    about.modified().map_or(moved, |written| written.max(moved))
}

/// The files that these paths name, and those in the folders that they name, in the order of their names.
///
/// In folders, what is hidden is left out, and so are build folders, those called `target` or with a `CACHEDIR.TAG`, and what
/// training wrote, folders with a `run.toml`: a run in the folder that it reads would otherwise be its own text.
/// Symbolic links to folders are not followed, since they may lead in circles.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in paths {
        let path = fs::canonicalize(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        if path.is_dir() {
            walk(&path, &mut found)?;
        } else {
            found.push(source(path, true)?);
        }
    }
    // A file that is named twice, or named and in a named folder, is one file.
    let mut seen = std::collections::HashMap::new();
    let mut files: Vec<Source> = Vec::with_capacity(found.len());
    for source in found {
        let at = *seen.entry(source.path.clone()).or_insert(files.len());
        match files.get_mut(at) {
            Some(first) => first.named |= source.named,
            None => files.push(source),
        }
    }
    Ok(files)
}

fn walk(folder: &Path, found: &mut Vec<Source>) -> Result<()> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let mut entries = fs::read_dir(folder).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type().map_err(failed)?;
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() {
            if name != "target" && !LEFT_OUT.iter().any(|mark| path.join(mark).exists()) {
                walk(&path, found)?;
            }
        } else if path.is_file() {
            found.push(source(path, false)?);
        }
    }
    Ok(())
}

fn source(path: PathBuf, named: bool) -> Result<Source> {
    let about = fs::metadata(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let modified_ns = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_ns = modified_ns.map_or(0, |time| time.as_nanos());
    Ok(Source { path, named, bytes: about.len(), modified_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let left_out = [".git/x", ".hidden", "target/y", "built/y", "b/tiny/run.toml", "b/tiny/metrics.jsonl"];
        for name in ["b/z.txt", "a.txt", "c.JSONL.gz", "b/p.parquet"].into_iter().chain(left_out) {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        fs::write(root.join("built/CACHEDIR.TAG"), "").unwrap();
        let files = find(&[root.clone(), root.join("a.txt")]).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.path.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.txt", "b/p.parquet", "b/z.txt", "c.JSONL.gz"]);
        let formats: Vec<_> = files.iter().map(Source::format).collect();
        assert_eq!(formats, [Format::Text, Format::Parquet, Format::Text, Format::Jsonl]);
        let named: Vec<_> = files.iter().map(|file| file.named).collect();
        assert_eq!(named, [true, false, false, false]);
    }
}
