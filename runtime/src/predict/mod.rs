//! What a kernel costs on a GPU, predicted without one.
//!
//! Four small runs on the emulator tell how everything that a launch does grows with the problem ([`Samples`]). The compiler
//! tells the registers of a thread, so how many blocks share a multiprocessor. From both, for each launch:
//!
//! ```text
//! unit[i]    = work of unit i / (its rate * multiprocessors * clock)
//! busy       = (sum_i unit[i]^4)^(1/4)               almost the busiest unit: others get in its way a little
//! efficiency = w / (w + 1)                           w warps for each scheduler: fewer hide less latency
//! rounded    = blocks of the fullest multiprocessor / blocks of the average one
//! compute    = busy * rounded / efficiency
//! time       = sqrt(compute^2 + memory^2)            the two overlap, but not wholly
//! ```
//!
//! Units are [`Unit::ALL`]; memory moves every tensor once, and one that is updated in place twice. The constants below were fitted on an
//! H200 (`docs/performance.md` has the table) and are the same for every kernel. The model knows no stalls, no caches and not what the
//! compiler makes of PTX, so it is for choosing among variants and for seeing what limits one, not for promises.

mod gpu;
mod growth;

use std::fmt;

use packscan_emulator::Pipe;

pub use gpu::{GPUS, Gpu, Rates};
pub use growth::{Growth, Problem, Samples};

use crate::Result;
use crate::launch::Record;
use crate::nvrtc::{Compile, Emit, Resources, compile_cached};
use crate::occupancy::{Block, Limits, occupancy};

/// Lanes of a warp.
const WARP: f64 = 32.0;
/// Schedulers of a multiprocessor.
const SCHEDULERS: f64 = 4.0;
/// Exponent of the soft maximum over units.
const SHARPNESS: f64 = 4.0;
/// With this many warps a scheduler issues half of the time.
const HALF_BUSY_WARPS: f64 = 1.0;
/// Share of the integer instructions in PTX that machine code keeps: many are moves, and selects that fold into predicates.
const INTEGER_KEPT: f64 = 0.7;
/// Share of the counted passes through shared memory that take place: wide loads of which lanes share words take fewer.
const WAVEFRONTS_KEPT: f64 = 0.75;
/// Sectors of one warp's access to local memory.
const LOCAL_SECTORS: f64 = 4.0;
/// The tensor by which a kernel is known to work on groups of sequences, as many as fill the GPU.
const GROUPS_TENSOR: &str = "group_starts";
/// The tensor by which a kernel is known to share all tokens among as many blocks as fill the GPU, each with sums of its own.
const SUMS_TENSOR: &str = "dweight_parts";

/// What can be busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The schedulers: each instruction of a warp is issued once.
    Issue,
    /// f32 arithmetic.
    Float,
    /// Integer arithmetic, logic, selects.
    Integer,
    /// Special functions.
    Special,
    /// Conversions.
    Convert,
    /// The way to shared memory, shuffles, local and global memory.
    LoadStore,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Unit; 6] = [Unit::Issue, Unit::Float, Unit::Integer, Unit::Special, Unit::Convert, Unit::LoadStore];

    /// Clocks that one multiprocessor alone would be busy with a launch.
    fn clocks(self, record: &Record, rates: &Rates) -> f64 {
        let counts = &record.counts;
        let warps = |pipe| counts.warp_instructions[pipe] as f64;
        let lanes = |pipe| WARP * warps(pipe);
        match self {
            Unit::Issue => {
                let dropped = (1.0 - INTEGER_KEPT) * warps(Pipe::Integer);
                (counts.warp_instructions.total() as f64 - dropped) / rates.issue
            }
            Unit::Float => lanes(Pipe::Float) / rates.float,
            Unit::Integer => INTEGER_KEPT * lanes(Pipe::Integer) / rates.integer,
            Unit::Special => lanes(Pipe::Special) / rates.special,
            Unit::Convert => lanes(Pipe::Convert) / rates.convert,
            Unit::LoadStore => {
                let sectors = (counts.global_load_sectors + counts.global_store_sectors) as f64;
                let sectors = sectors + LOCAL_SECTORS * warps(Pipe::Local);
                WAVEFRONTS_KEPT * counts.shared_wavefronts as f64 / rates.wavefronts
                    + lanes(Pipe::Shuffle) / rates.shuffle
                    + sectors / rates.sectors
            }
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Unit::Issue => "instruction issue",
            Unit::Float => "float arithmetic",
            Unit::Integer => "integer arithmetic",
            Unit::Special => "special functions",
            Unit::Convert => "conversions",
            Unit::LoadStore => "load and store unit",
        })
    }
}

/// What one launch is predicted to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The variant.
    pub id: String,
    /// Its time, in milliseconds.
    pub ms: f64,
    /// How long each unit is busy, in milliseconds, in the order of [`Unit::ALL`].
    pub units_ms: [f64; 6],
    /// How long memory is busy, in milliseconds.
    pub memory_ms: f64,
    /// Blocks of the grid.
    pub blocks: f64,
    /// Warps of the fullest multiprocessor at a time.
    pub warps: f64,
    /// Share of the clocks in which the units get work, for want of warps.
    pub efficiency: f64,
    /// Work of the fullest multiprocessor, as a multiple of the average.
    pub rounded: f64,
}

impl Prediction {
    /// The busiest unit and how long it is busy, in milliseconds; `None` for memory.
    pub fn limit(&self) -> (Option<Unit>, f64) {
        let units = Unit::ALL.map(Some).into_iter().zip(self.units_ms);
        units.chain([(None, self.memory_ms)]).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((None, 0.0))
    }
}

impl Samples {
    /// What this launch costs on `gpu` for `problem`.
    ///
    /// # Errors
    /// Whatever compiling for that GPU fails with.
    pub fn predict(&self, gpu: &Gpu, problem: &Problem) -> Result<Prediction> {
        let Record { id, source, .. } = &self.runs[0];
        let request = Compile { name: id, source, arch: gpu.arch, emit: Emit::Cubin, options: &[] };
        let resources = compile_cached(&request)?.resources().unwrap_or_default();
        Ok(self.predict_with(gpu, problem, &resources))
    }

    /// The same for a kernel that is known to use these resources.
    pub fn predict_with(&self, gpu: &Gpu, problem: &Problem, resources: &Resources) -> Prediction {
        let Record { id, config, tensors, .. } = &self.runs[0];
        let multiprocessors = gpu.multiprocessors as f64;
        let block = Block {
            threads: config.threads,
            registers: resources.registers as usize,
            shared_bytes: config.shared_bytes + resources.shared_bytes as usize,
        };
        let room = Limits::of(gpu.arch).map_or(1, |limits| occupancy(&limits, &block).blocks).max(1) as f64;

        let alone = Problem { sequences: 1, ..*problem };
        let mut blocks = self.growth(|run| run.config.grid.iter().product::<usize>() as f64).at(&alone).ceil().max(1.0);
        let has = |tensor| tensors.iter().any(|(name, _)| *name == tensor);
        if has(SUMS_TENSOR) {
            blocks = blocks.max(room * multiprocessors);
        }
        if has(GROUPS_TENSOR) {
            let groups = (room * multiprocessors / blocks).floor();
            blocks *= groups.clamp(1.0, problem.sequences.max(1) as f64);
        }
        let fullest = (blocks / multiprocessors).ceil();
        let rounded = fullest * multiprocessors / blocks;
        let warps = room.min(fullest) * (config.threads as f64 / WARP);
        let efficiency = warps / (warps + SCHEDULERS * HALF_BUSY_WARPS);

        let clocks_a_ms = multiprocessors * gpu.clock_ghz * 1e6;
        let units_ms = Unit::ALL.map(|unit| self.growth(|run| unit.clocks(run, &gpu.rates)).at(problem) / clocks_a_ms);
        let busy = units_ms.iter().map(|ms| ms.powf(SHARPNESS)).sum::<f64>().powf(1.0 / SHARPNESS);
        let bytes = self.growth(|run| run.tensors.iter().map(|(_, bytes)| *bytes as f64).sum()).at(problem);
        let memory_ms = bytes / gpu.memory_tb_s / 1e9;
        let ms = (busy * rounded / efficiency).hypot(memory_ms);
        Prediction { id: id.clone(), ms, units_ms, memory_ms, blocks, warps, efficiency, rounded }
    }
}

#[cfg(test)]
mod tests {
    use packscan_emulator::Counts;

    use super::*;
    use crate::kernel::LaunchConfig;

    /// Blocks of 16 channels, 100 exponentials' worth of loads a token and channel.
    fn record(tokens: usize, channels: usize) -> Record {
        let mut counts = Counts::default();
        counts.shared_wavefronts = (10 * channels + 100 * tokens * channels) as u64;
        Record {
            id: "test".to_owned(),
            source: String::new(),
            config: LaunchConfig { grid: [channels / 16, 1, 1], threads: 128, shared_bytes: 0 },
            tensors: vec![("x", 4 * tokens * channels)],
            counts,
        }
    }

    fn samples() -> Samples {
        let runs = [record(64, 16), record(64, 32), record(96, 16), record(96, 32)];
        Samples { tokens: [64, 96], channels: [16, 32], runs }
    }

    #[test]
    fn growth_tells_sequences_from_tokens() {
        let growth = samples().growth(|run| run.counts.shared_wavefronts as f64);
        assert_eq!(growth, Growth { once: 0.0, token: 0.0, channel: 10.0, element: 100.0 });
        let problem = Problem { tokens: 1000, channels: 64, sequences: 5 };
        assert_eq!(growth.at(&problem), 10.0 * 64.0 * 5.0 + 100.0 * 1000.0 * 64.0);
    }

    #[test]
    fn blocks_warps_and_units_of_a_launch() {
        let gpu = Gpu::named("h200").unwrap();
        let resources = Resources { registers: 64, ..Resources::default() };
        let problem = Problem { tokens: 1000, channels: 16 * 200, sequences: 5 };
        let told = samples().predict_with(gpu, &problem, &resources);
        assert_eq!((told.blocks, told.warps), (200.0, 8.0), "200 blocks: two on the fullest multiprocessor");
        assert_eq!(told.rounded, 2.0 * 132.0 / 200.0);
        assert_eq!(told.efficiency, 8.0 / 12.0);
        assert_eq!(told.limit().0, Some(Unit::LoadStore));
        assert!(told.ms > told.limit().1 * told.rounded / told.efficiency);

        let mut grouped = samples();
        grouped.runs.iter_mut().for_each(|run| run.tensors.push((GROUPS_TENSOR, 0)));
        let told = grouped.predict_with(gpu, &problem, &resources);
        assert_eq!(told.blocks, 1000.0, "8 blocks fit a multiprocessor, so 5 groups, one a sequence, of 200 tiles");
        assert_eq!(told.warps, 32.0);

        let mut filling = samples();
        filling.runs.iter_mut().for_each(|run| run.tensors.push((SUMS_TENSOR, 0)));
        let told = filling.predict_with(gpu, &problem, &resources);
        assert_eq!((told.blocks, told.warps, told.rounded), (8.0 * 132.0, 32.0, 1.0));
    }

    #[test]
    fn memory_is_a_limit_too() {
        let mut samples = samples();
        samples.runs.iter_mut().for_each(|run| run.tensors[0].1 *= 100_000);
        let gpu = Gpu::named("rtx4090").unwrap();
        let problem = Problem { tokens: 1000, channels: 160, sequences: 1 };
        let told = samples.predict_with(gpu, &problem, &Resources::default());
        assert_eq!(told.limit(), (None, told.memory_ms));
        assert!((told.memory_ms - 4.0 * 160_000.0 * 1e5 / 0.90e9).abs() < 1e-6 * told.memory_ms);
    }

    #[test]
    fn unknown_gpus_are_refused_with_those_that_are_known() {
        let error = Gpu::named("voodoo").unwrap_err().to_string();
        assert_eq!(error, "unknown GPU \"voodoo\"; known: h200, a100, rtx4090");
    }
}
