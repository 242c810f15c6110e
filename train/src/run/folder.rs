//! The folder of a run: how it is begun and gone on with, and that one process at a time does so.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

use super::settings;
use crate::report::{Metrics, MetricsFile, read_metrics};
use crate::{Error, Result, files};

/// The file of metrics in a run's folder.
pub(super) const METRICS: &str = "metrics.jsonl";
/// The file that is locked in a run's folder. It stays with a run, and says which process was the last to train there.
const LOCK: &str = ".lock";

/// Keeps other processes from training in a folder as long as it lives; the system takes it back from a process that is killed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// What is to be said of a file system that knows no locks: a run there is not guarded.
    pub(super) unguarded: Option<String>,
}

impl Lock {
    /// Takes the folder of a run for this process. Of several ranks the first does.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process has it, and [`Error::File`].
    pub fn take(folder: &Path) -> Result<Lock> {
        let path = folder.join(LOCK);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|source| Error::file("lock", &path, source))?;
        let unguarded = match FileExt::try_lock(&file) {
            // Whoever had it could not begin a run and took it away meanwhile: another is made.
            Ok(()) if !is_at(&file, &path) => return Lock::take(folder),
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => {
                let mut by = String::new();
                // Who has it is of use where it can be read.
                let _ = file.read_to_string(&mut by);
                return Err(Error::InUse { folder: folder.to_owned(), by: by.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => {
                Some(format!("{} cannot be locked ({error}): let no other process train there", path.display()))
            }
        };
        // For whoever is refused; nothing depends on it.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        Ok(Lock { _file: file, unguarded })
    }
}

/// Whether a file is still the one of its name. Elsewhere than on Unix a file that is open stays.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let number = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata().map(number), fs::metadata(path).map(number)), (Ok(one), Ok(other)) if one == other)
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// A run's folder, open.
pub(super) struct Opened {
    pub path: PathBuf,
    pub lock: Lock,
    pub file: MetricsFile,
    /// The metrics up to where the run goes on.
    pub metrics: Vec<Metrics>,
}

/// Opens a run's folder with these settings, after `step`, on rank 0; under the lock that was taken before, if one was.
pub(super) fn open(folder: &Path, configuration: &str, step: u32, lock: Option<Lock>) -> Result<Opened> {
    if step == 0 {
        fs::create_dir_all(folder).map_err(|error| Error::file("make", folder, error))?;
    }
    let lock = lock.map_or_else(|| Lock::take(folder), Ok).inspect_err(|_| {
        // Only a folder in which nothing is goes.
        let _ = fs::remove_dir(folder);
    })?;
    let path = folder.join(METRICS);
    let (file, metrics) = match step {
        0 => (begin(folder, &path, configuration)?, Vec::new()),
        _ => {
            let metrics = (MetricsFile::resume(&path, step.into())?, read_metrics(&path)?);
            write_settings(folder, configuration)?;
            metrics
        }
    };
    Ok(Opened { path: folder.to_owned(), lock, file, metrics })
}

/// Begins a run in a folder. It becomes a run by its settings, which come last, and where it cannot be one nothing of it stays.
fn begin(folder: &Path, path: &Path, configuration: &str) -> Result<MetricsFile> {
    if folder.join(settings::FILE).exists() {
        let rule = "another process has begun a run there meanwhile; name another folder";
        return Err(Error::saved(folder, rule));
    }
    let file = MetricsFile::create(path).map_err(Error::from);
    let begun = file.and_then(|file| write_settings(folder, configuration).map(|()| file));
    if begun.is_err() {
        // The first error is the one to tell. The folder stays where something else is in it.
        for path in [path, &folder.join(LOCK)] {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir(folder);
    }
    begun
}

fn write_settings(folder: &Path, configuration: &str) -> Result<()> {
    let path = folder.join(settings::FILE);
    files::write_whole(&path, configuration.as_bytes()).map_err(|error| Error::file("write", &path, error))
}
