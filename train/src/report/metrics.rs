//! `metrics.jsonl`: one line of JSON for each step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::{Error, Result, write_whole};

/// What is known about one step. JSON has no NaN and no infinity: both are written as `null` and read as NaN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The step, counted from 1.
    pub step: u64,
    /// Passes over the corpus so far.
    #[serde(deserialize_with = "nan_if_null")]
    pub epoch: f64,
    /// Mean over the step's targets, in nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// The same on held-out text, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Euclidean norm over all parameters, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub gradient_norm: f64,
    /// The rate that this step was made with.
    #[serde(deserialize_with = "nan_if_null")]
    pub learning_rate: f64,
    /// Tokens of the step, padding left out, all ranks together.
    pub tokens: u64,
    /// `tokens` over the time that the step took.
    #[serde(deserialize_with = "nan_if_null")]
    pub tokens_per_second: f64,
    /// The model's operations as a share (0 to 1) of what the GPU could do at its peak; none where the peak is not known.
    #[serde(default)]
    pub flops_utilisation: Option<f64>,
    /// The most memory in use so far: on a GPU that of all buffers, on a CPU that of the whole process.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Share (0 to 1) of what the step's packs have room for that was no token of the text.
    #[serde(deserialize_with = "nan_if_null")]
    pub padding: f64,
    /// Whether the step changed nothing, because its loss or gradient was not finite.
    pub skipped: bool,
    /// Since the run began, pauses between kill and resume left out.
    #[serde(deserialize_with = "nan_if_null")]
    pub elapsed_s: f64,
}

fn nan_if_null<'de, D: Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}

/// A `metrics.jsonl` that grows.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    /// Length of the file up to the end of the last whole line.
    whole_bytes: u64,
    /// Whether a write failed, so that there may be part of a line after `whole_bytes`.
    torn: bool,
    /// Lines that could not be written yet.
    missing: Vec<u8>,
}

impl MetricsFile {
    /// The file of a new run. What an earlier run left under the name goes.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        write_whole(path, &[])?;
        MetricsFile::open(path, 0)
    }

    /// The file of a run that goes on after `step`: lines of later steps, which will be made again, are cut off. If there is no file,
    /// it begins here.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or written, [`Error::Line`] if a line is none; the file is then as it was.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let lines = if path.exists() { lines(path)? } else { Vec::new() };
        let mut kept = Vec::new();
        for (text, _) in lines.iter().filter(|(_, metrics)| metrics.step <= step) {
            kept.extend_from_slice(text);
            kept.push(b'\n');
        }
        write_whole(path, &kept)?;
        MetricsFile::open(path, kept.len() as u64)
    }

    fn open(path: &Path, whole_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).map_err(|source| Error::File {
            verb: "write",
            path: path.to_owned(),
            source,
        })?;
        Ok(MetricsFile { path: path.to_owned(), file, whole_bytes, torn: false, missing: Vec::new() })
    }

    /// Appends the line of a step; readers see it at once. Where that fails, on a full disk say, what was written of it is cut off, and
    /// the next call writes it first.
    ///
    /// # Errors
    /// [`Error::File`]; the run can go on without the line.
    pub fn append(&mut self, metrics: &Metrics) -> Result<()> {
        serde_json::to_writer(&mut self.missing, metrics).expect("numbers become JSON");
        self.missing.push(b'\n');
        self.write_missing()
    }

    /// Writes the lines that could not be written yet.
    ///
    /// # Errors
    /// As [`MetricsFile::append`].
    pub fn write_missing(&mut self) -> Result<()> {
        let written = self.try_write();
        if written.is_err() {
            // That nothing can be written keeps no system from cutting off.
            self.torn = self.file.set_len(self.whole_bytes).is_err();
        }
        written.map_err(|source| Error::File { verb: "write", path: self.path.clone(), source })
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.whole_bytes)?;
            self.torn = false;
        }
        // One write, straight to the system: there is no buffer of ours that a kill could lose.
        self.file.write_all(&self.missing)?;
        self.whole_bytes += self.missing.len() as u64;
        self.missing.clear();
        Ok(())
    }
}

/// The steps in a `metrics.jsonl`. A last line that is not whole, as a kill leaves it, is passed over.
///
/// # Errors
/// [`Error::File`] if the file cannot be read, [`Error::Line`] if a line before the last is none.
pub fn read_metrics(path: &Path) -> Result<Vec<Metrics>> {
    Ok(lines(path)?.into_iter().map(|(_, metrics)| metrics).collect())
}

/// Each line's text, without its end, and meaning.
fn lines(path: &Path) -> Result<Vec<(Vec<u8>, Metrics)>> {
    let text = fs::read(path).map_err(|source| Error::File { verb: "read", path: path.to_owned(), source })?;
    let mut texts: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    // What follows the last line's end is nothing, or the beginning of a line.
    texts.pop_if(|rest| rest.is_empty());
    let mut lines = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match serde_json::from_slice(text) {
            Ok(metrics) => lines.push((text.to_vec(), metrics)),
            Err(_) if i + 1 == texts.len() => {}
            Err(source) => return Err(Error::Line { path: path.to_owned(), line: i + 1, source }),
        }
    }
    Ok(lines)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let step = |step| Metrics { step, ..Metrics::default() };
        let mut file = MetricsFile::create(&path).unwrap();
        file.append(&step(1)).unwrap();
        let real = std::mem::replace(&mut file.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
        let error = file.append(&step(2)).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        // As much of the line as the disk still held, and then there is room again.
        file.file = real;
        file.file.write_all(b"{\"step\":2,\"ep").unwrap();
        file.append(&step(3)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [step(1), step(2), step(3)]);
    }
}
