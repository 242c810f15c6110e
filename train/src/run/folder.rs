//! The folder of a run: how it is begun and gone on with.

use std::fs;
use std::path::Path;

use super::settings;
use crate::report::{Metrics, MetricsFile, read_metrics};
use crate::{Error, Result, files};

/// The file of metrics in a run's folder.
pub(super) const METRICS: &str = "metrics.jsonl";

/// Opens a run's folder with these settings, after `step`; gives its metrics, and those up to there. A new folder becomes a run by its
/// settings, which come last, and where it cannot be one nothing of it stays.
pub(super) fn open(folder: &Path, configuration: &str, step: u32) -> Result<(MetricsFile, Vec<Metrics>)> {
    let path = folder.join(METRICS);
    let with_settings = |metrics| {
        let path = folder.join(settings::FILE);
        files::write_whole(&path, configuration.as_bytes()).map_err(|error| Error::file("write", &path, error))?;
        Ok(metrics)
    };
    if step > 0 {
        return with_settings((MetricsFile::resume(&path, step.into())?, read_metrics(&path)?));
    }
    fs::create_dir_all(folder).map_err(|error| Error::file("make", folder, error))?;
    let begun = MetricsFile::create(&path).map_err(Error::from).and_then(|file| with_settings((file, Vec::new())));
    if begun.is_err() {
        // The first error is the one to tell. The folder stays where something else is in it.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(folder);
    }
    begun
}
