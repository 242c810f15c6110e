//! What a run leaves for people: metrics, a page, progress on the terminal, the settings.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use packscan_runtime::{Device, Dtype};

use super::folder::{self, Lock, Opened};
use super::{Settings, Source};
use crate::report::number::counted;
use crate::report::{self, Metrics, MetricsFile, Page, Progress, Status};
use crate::{Learner, Result, checkpoint, files};

/// How often the page is written anew.
const PAGE_EVERY: Duration = Duration::from_secs(30);

/// What runs have written into a folder, by name: checkpoints and records; nothing where there is no folder.
///
/// # Errors
/// [`Error::File`](crate::Error::File) for a folder that cannot be read.
pub fn left_in(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut left = files::entries(folder)?;
    left.retain(|path| checkpoint::is_named(path) || FILES.iter().any(|name| path.ends_with(name)));
    Ok(left.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

/// What is written of the steps.
const FILES: [&str; 2] = [folder::METRICS, "run.html"];
const METRICS: usize = 0;
const PAGE: usize = 1;

/// The records of a run; on ranks other than 0 they are none.
pub struct Records {
    /// Where and how, on rank 0.
    open: Option<Open>,
    /// Floating-point operations a token, and how many the device could do a second.
    flops: (f64, Option<f64>),
}

struct Open {
    folder: PathBuf,
    _lock: Lock,
    file: MetricsFile,
    /// Whether the last write of the metrics and of the page failed.
    unwritten: [bool; 2],
    all: Vec<Metrics>,
    progress: Option<Progress>,
    page_written: Instant,
    name: String,
    model: String,
    device: String,
    configuration: String,
    parameters: u64,
    steps: u64,
    lengths: Vec<(u64, u64)>,
}

impl Records {
    /// Starts the records of a run, or goes on with those up to `step`, and says on the terminal what runs. `folder` is there on rank 0.
    ///
    /// # Errors
    /// For a type that no model computes in.
    pub(super) fn open(
        settings: &Settings,
        folder: Option<Opened>,
        device: &Device,
        learner: &Learner,
        source: &Source,
        step: u32,
    ) -> Result<Records> {
        let flops = (settings.model.flops_per_token(), peak_flops(device, settings.io()?));
        let Some(Opened { path, lock, file, metrics: all }) = folder else {
            return Ok(Records { open: None, flops });
        };
        let steps = u64::from(settings.rates.steps);
        let mut progress = Progress::new(step.into(), steps);
        let parameters = learner.model.layout.parameters() as u64;
        progress.note(&format!(
            "{}: {} in {}, {} on {device}",
            settings.name,
            counted(parameters, "parameter"),
            counted(settings.model.layers as u64, "block"),
            settings.dtype
        ));
        source.describe().iter().for_each(|line| progress.note(line));
        progress.note(&format!("run: {}", path.display()));
        let unguarded = lock.unguarded.clone();
        let blocks = counted(settings.model.layers as u64, "block");
        let model = format!("{} ({} wide, {blocks})", settings.name, settings.model.width);
        let open = Open {
            name: path.file_name().map_or_else(|| settings.name.clone(), |name| name.to_string_lossy().into_owned()),
            folder: path,
            _lock: lock,
            file,
            unwritten: [false; 2],
            all,
            progress: Some(progress),
            page_written: Instant::now(),
            model,
            device: format!("{device}, {}", settings.dtype),
            configuration: settings.text(),
            parameters,
            steps,
            lengths: histogram(source.corpus.lengths()),
        };
        let mut records = Records { open: Some(open), flops };
        unguarded.iter().for_each(|line| records.loud(line));
        Ok(records)
    }

    /// The share of what the device could do that training uses at so many tokens a second.
    pub fn utilisation(&self, tokens_per_second: f64) -> Option<f64> {
        self.flops.1.map(|peak| tokens_per_second * self.flops.0 / peak)
    }

    /// Notes a step. A file that cannot be written does not end a run.
    pub fn step(&mut self, metrics: &Metrics) {
        let Some(open) = &mut self.open else { return };
        let written = open.file.append(metrics);
        open.all.push(metrics.clone());
        if let Some(progress) = &mut open.progress {
            progress.step(metrics);
        }
        let waited = open.page_written.elapsed();
        self.tell_written(METRICS, written, false);
        if waited > PAGE_EVERY {
            self.page(Status::Running, false);
        }
    }

    /// Says of one of [`FILES`] that it cannot be written, and that it can be again: once, and once more at the end.
    fn tell_written(&mut self, which: usize, written: report::Result<()>, ends: bool) {
        let Some(open) = &mut self.open else { return };
        let before = std::mem::replace(&mut open.unwritten[which], written.is_err());
        match written {
            Err(error) if ends => self.loud(&format!("{error}; what {} should have is NOT there", FILES[which])),
            Err(error) if !before => self
                .loud(&format!("{error}; the run goes on, and {} is made up for once it can be written", FILES[which])),
            Ok(()) if before => self.note(&format!("{} is written again, and whole", FILES[which])),
            _ => (),
        }
    }

    /// A line for whoever looks.
    pub fn note(&mut self, line: &str) {
        if let Some(progress) = self.open.as_mut().and_then(|open| open.progress.as_mut()) {
            progress.note(line);
        }
    }

    /// A line that must not be overlooked.
    pub fn loud(&mut self, line: &str) {
        self.note(&console::style(format!("WARNING: {line}")).for_stderr().red().bold().to_string());
    }

    /// Writes the page.
    fn page(&mut self, status: Status, ends: bool) {
        let Some(open) = &mut self.open else { return };
        open.page_written = Instant::now();
        let page = Page {
            name: &open.name,
            model: &open.model,
            device: &open.device,
            status,
            parameters: open.parameters,
            steps: open.steps,
            metrics: &open.all,
            lengths: &open.lengths,
            configuration: &open.configuration,
        };
        let written = page.write(&open.folder.join(FILES[PAGE]));
        self.tell_written(PAGE, written, ends);
    }

    /// Writes what is not written yet, and the last page; says whether that shows the run.
    pub fn close(&mut self, status: Status) -> bool {
        let Some(open) = &mut self.open else { return false };
        let written = open.file.write_missing();
        self.tell_written(METRICS, written, true);
        self.page(status, true);
        // What comes after the last page does not mix with a bar.
        self.open.as_mut().is_some_and(|open| {
            open.progress = None;
            !open.unwritten[PAGE]
        })
    }
}

/// How many documents have each length.
fn histogram(lengths: &[u32]) -> Vec<(u64, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    lengths.iter().for_each(|&length| *counts.entry(u64::from(length)).or_insert(0) += 1);
    counts.into_iter().collect()
}

/// Operations a second in dense matrix products that a GPU's data sheet promises; `None` for one that is not listed, and for other devices.
pub fn peak_flops(device: &Device, io: Dtype) -> Option<f64> {
    let Device::Cuda(cuda) = device else { return None };
    // Tensor cores, in half precision; f32 as packscan asks for it runs on the plain ones.
    const PEAKS: [(&str, f64, f64); 9] = [
        ("B200", 2250e12, 75e12),
        ("H200", 989e12, 67e12),
        ("H100 PCIe", 756e12, 51e12),
        ("H100", 989e12, 67e12),
        ("A100", 312e12, 19.5e12),
        ("L40S", 362e12, 91.6e12),
        ("RTX 4090", 165e12, 82.6e12),
        ("RTX 3090", 71e12, 35.6e12),
        ("A10", 125e12, 31.2e12),
    ];
    let (_, half, single) = PEAKS.iter().find(|(name, ..)| cuda.name().contains(name))?;
    Some(if io == Dtype::F32 { *single } else { *half })
}
