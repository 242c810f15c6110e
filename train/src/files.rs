//! Folders and files that are either whole or not there, and small files of JSON.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, tensors};

/// Ends the name of a folder or file that is being written.
pub(crate) const PARTIAL: &str = ".partial";
/// Ends the name of a folder that is being replaced, until the new one has its place.
pub(crate) const REPLACED: &str = ".replaced";

/// Makes or replaces a folder: `fill` fills another beside it, which gets its name once all of it is on the disk. If anything fails,
/// what was there before stays.
pub(crate) fn write_folder(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (partial, replaced) = (beside(target, PARTIAL), beside(target, REPLACED));
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|source| Error::file("make", &partial, source))?;
    if let Err(error) = fill(&partial).and_then(|()| sync_contents(&partial)) {
        // The first error is the one to tell; the next save tries again to remove this.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    if target.exists() {
        remove(&replaced)?;
        rename(target, &replaced)?;
    }
    rename(&partial, target)?;
    sync(parent(target))?;
    remove(&replaced)
}

/// Makes or replaces a file: readers see all of it or what was there before. What a killed process has left of one, the next overwrites.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = beside(path, PARTIAL);
    let write = || -> io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    if let Err(error) = write() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    // A rename is kept across a power failure only once its folder is written too; only Unix opens folders.
    if cfg!(unix) { File::open(parent(path))?.sync_all() } else { Ok(()) }
}

/// Removes a folder. What is left if that is interrupted looks like one that was never whole.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    let partial = beside(folder, PARTIAL);
    remove(&partial)?;
    rename(folder, &partial)?;
    remove(&partial)
}

/// Removes a folder if it is there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).map_err(|source| Error::file("remove", folder, source))
}

/// The entries of a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::file("read", folder, source);
    let paths = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    serde_json::from_str(&text).map_err(|error| {
        let what = "it was cut short, or is no such file";
        Error::saved(path, format!("{what}: {error}; {}", tensors::CURE))
    })
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::file("write", path, error.into()))?;
    text.push('\n');
    fs::write(path, text).map_err(|source| Error::file("write", path, source))
}

/// The path with an ending more, whether or not a slash follows its name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// The folder that a path lies in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| Error::file("rename", from, source))
}

/// Waits until a folder and the files in it are on the disk.
fn sync_contents(folder: &Path) -> Result<()> {
    entries(folder)?.iter().try_for_each(|path| sync(path))?;
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| Error::file("sync", path, source))
}
