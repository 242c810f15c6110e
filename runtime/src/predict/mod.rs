//! What a kernel costs on a GPU, predicted without one.
//!
//! Four small runs on the emulator tell how everything that a launch does grows with the problem ([`Samples`]). The compiler
//! tells the registers of a thread, so how many blocks share a multiprocessor, and how long the machine code is ([`Machine`]).
//! From these, for each launch:
//!
//! ```text
//! unit[i]    = work of unit i / (its rate * multiprocessors * clock)
//! busy       = max_i unit[i]
//! efficiency = w / (w + h)                           w warps for each scheduler: fewer hide less latency
//! idle       = time until the last block is done / time with all multiprocessors busy until then
//! compute    = busy * idle / efficiency
//! time       = sqrt(compute^2 + memory^2)            the two overlap, but not wholly
//! ```
//!
//! Units are [`Unit::ALL`]; memory moves every tensor once, and one that is updated in place twice. Instructions are counted in PTX and
//! scaled by how many of its instructions the machine code has. Two [`Constants`] were fitted on an H200 (`docs/performance.md` has the
//! table) and are the same for every kernel. The model knows no stalls, no caches and no order of instructions, so it is for
//! choosing among variants and for seeing what limits one, not for promises.

mod gpu;
mod growth;
mod machine;

use std::fmt;

use packscan_emulator::Pipe;

pub use gpu::{GPUS, Gpu, Rates};
pub use growth::{Growth, Problem, Samples};
pub use machine::Machine;

use crate::launch::Record;
use crate::nvrtc::{Compile, Emit, compile_cached};
use crate::occupancy::{Block, Limits, occupancy};
use crate::{Result, Slots};

/// Lanes of a warp.
const WARP: f64 = 32.0;
/// Schedulers of a multiprocessor.
const SCHEDULERS: f64 = 4.0;
/// Sectors of one warp's access to local memory.
const LOCAL_SECTORS: f64 = 4.0;
/// The tensor by which a kernel is known to work on groups of sequences, as many as fill the GPU.
const GROUPS_TENSOR: &str = "group_starts";
/// The tensor by which a kernel is known to share all tokens among as many blocks as fill the GPU, each with sums of its own.
const SUMS_TENSOR: &str = "dweight_parts";

/// What no data sheet tells, fitted to measured times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// With this many warps a scheduler issues half of the time.
    pub half_busy_warps: f64,
    /// Share of the counted passes through shared memory that take place: the compiler keeps some words in registers.
    pub wavefronts_kept: f64,
}

impl Constants {
    /// Those of `cli/tests/data/h200.csv`; `cargo test -p packscan --test predicted_cost -- --ignored fit --nocapture` prints them.
    pub const FITTED: Constants = Constants { half_busy_warps: 1.0, wavefronts_kept: 0.95 };
}

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
    fn clocks(self, record: &Record, machine: &Machine, rates: &Rates, constants: &Constants) -> f64 {
        let counts = &record.counts;
        let warps = |pipe| counts.warp_instructions[pipe] as f64;
        let lanes = |pipe| WARP * warps(pipe);
        let in_ptx = counts.warp_instructions.total() as f64;
        let issued = in_ptx * machine.share_of(record.instructions);
        match self {
            Unit::Issue => issued / rates.issue,
            Unit::Float => lanes(Pipe::Float) / rates.float,
            // What the machine code lacks are integer instructions: moves, addresses and selects.
            Unit::Integer => WARP * (warps(Pipe::Integer) - (in_ptx - issued)).max(0.0) / rates.integer,
            Unit::Special => lanes(Pipe::Special) / rates.special,
            Unit::Convert => lanes(Pipe::Convert) / rates.convert,
            Unit::LoadStore => {
                let local = warps(Pipe::Local) + machine.spills() * issued;
                let sectors = (counts.global_load_sectors + counts.global_store_sectors) as f64;
                constants.wavefronts_kept * counts.shared_wavefronts as f64 / rates.wavefronts
                    + lanes(Pipe::Shuffle) / rates.shuffle
                    + (sectors + LOCAL_SECTORS * local) / rates.sectors
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
    /// Time until the last block is done, as a multiple of that with all multiprocessors busy until then.
    pub idle: f64,
}

/// How the blocks of a launch lie on a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Blocks of the grid.
    pub blocks: f64,
    /// Warps of a multiprocessor.
    pub warps: f64,
    /// Time until the last block is done, as a multiple of that with all multiprocessors busy until then.
    pub idle: f64,
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
        let machine = self.machine(gpu)?;
        let placed = self.place(gpu, problem, &machine);
        Ok(self.predict_with(gpu, problem, &machine, &placed, &Constants::FITTED))
    }

    /// What the compiler makes of this kernel for `gpu`.
    ///
    /// # Errors
    /// Whatever compiling for that GPU fails with.
    pub fn machine(&self, gpu: &Gpu) -> Result<Machine> {
        let Record { id, source, .. } = &self.runs[0];
        let request = Compile { name: id, source, arch: gpu.arch, emit: Emit::Cubin, options: &[] };
        Ok(Machine::of(&compile_cached(&request)?))
    }

    /// How the blocks of this launch, of which the compiler is known to make `machine`, lie on `gpu`.
    pub fn place(&self, gpu: &Gpu, problem: &Problem, machine: &Machine) -> Placed {
        let Record { config, .. } = &self.runs[0];
        let multiprocessors = gpu.multiprocessors as f64;
        let block = Block {
            threads: config.threads,
            registers: machine.resources.registers as usize,
            shared_bytes: config.shared_bytes + machine.resources.shared_bytes as usize,
        };
        let room = Limits::of(gpu.arch).map_or(1, |limits| occupancy(&limits, &block).blocks).max(1) as f64;
        let slots = |blocks: f64| Slots { multiprocessors: gpu.multiprocessors, blocks: blocks as usize };
        let (blocks, groups) = self.blocks(problem, slots(room));
        let fullest = (blocks / multiprocessors).ceil();
        let resident = room.min(fullest);
        let idle = match groups {
            // Blocks start one after the other, where those before them have ended.
            Some(groups) => {
                let (tiles, slots) = (blocks as usize / groups, slots(resident));
                let work = (tiles * problem.packed.tokens()).max(1) as f64;
                problem.packed.makespan(groups, tiles, slots) * slots.count() as f64 / work
            }
            None => fullest * multiprocessors / blocks,
        };
        Placed { blocks, warps: resident * (config.threads as f64 / WARP), idle }
    }

    /// The same as [`predict`](Self::predict), of blocks that lie as is known, and with other constants.
    pub fn predict_with(
        &self,
        gpu: &Gpu,
        problem: &Problem,
        machine: &Machine,
        placed: &Placed,
        constants: &Constants,
    ) -> Prediction {
        let Placed { blocks, warps, idle } = *placed;
        let efficiency = warps / (warps + SCHEDULERS * constants.half_busy_warps);

        let clocks_a_ms = gpu.multiprocessors as f64 * gpu.clock_ghz * 1e6;
        let clocks = |unit: Unit| self.growth(|run| unit.clocks(run, machine, &gpu.rates, constants)).at(problem);
        let units_ms = Unit::ALL.map(|unit| clocks(unit) / clocks_a_ms);
        let busy = units_ms.into_iter().fold(0.0, f64::max);
        let bytes = self.growth(|run| run.tensors.iter().map(|(_, bytes)| *bytes as f64).sum()).at(problem);
        let memory_ms = bytes / gpu.memory_tb_s / 1e9;
        let ms = (busy * idle / efficiency).hypot(memory_ms);
        Prediction { id: self.runs[0].id.clone(), ms, units_ms, memory_ms, blocks, warps, efficiency, idle }
    }

    /// Blocks of the grid, and how many groups of sequences they work on, if on such.
    fn blocks(&self, problem: &Problem, slots: Slots) -> (f64, Option<usize>) {
        let has = |tensor| self.runs[0].tensors.iter().any(|(name, _)| *name == tensor);
        let blocks = |run: &Record| run.config.grid.iter().product::<usize>() as f64;
        let packed = &problem.packed;
        let grid = self.growth(blocks).of_one_sequence(packed.tokens(), problem.channels).ceil().max(1.0);
        if has(GROUPS_TENSOR) {
            let groups = packed.balanced_groups(grid as usize, slots);
            return (grid * groups as f64, Some(groups));
        }
        // Where the work of the runs grew but not their grids, they were too small to tell how those do.
        let grew = |number: &dyn Fn(&Record) -> f64| self.runs.iter().any(|run| number(run) != number(&self.runs[0]));
        let hidden = grew(&|run| run.counts.warp_instructions.total() as f64) && !grew(&blocks);
        (if has(SUMS_TENSOR) || hidden { grid.max(slots.count() as f64) } else { grid }, None)
    }
}

#[cfg(test)]
mod tests {
    use packscan_emulator::Counts;

    use super::*;
    use crate::Packed;
    use crate::kernel::LaunchConfig;
    use crate::nvrtc::Resources;

    /// Blocks of 16 channels, 100 exponentials' worth of loads a token and channel.
    fn record(tokens: usize, channels: usize) -> Record {
        let mut counts = Counts::default();
        counts.shared_wavefronts = (10 * channels + 100 * tokens * channels) as u64;
        Record {
            id: "test".to_owned(),
            source: String::new(),
            config: LaunchConfig { grid: [channels / 16, 1, 1], threads: 128, shared_bytes: 0 },
            tensors: vec![("x", 4 * tokens * channels)],
            instructions: 100,
            counts,
        }
    }

    fn samples() -> Samples {
        let runs = [record(64, 16), record(64, 32), record(96, 16), record(96, 32)];
        Samples { tokens: [64, 96], channels: [16, 32], runs }
    }

    fn problem(lengths: &[usize], channels: usize) -> Problem {
        Problem { packed: Packed::from_lengths(lengths).unwrap(), channels }
    }

    fn machine(resources: Resources, instructions: usize) -> Machine {
        Machine { resources, instructions }
    }

    #[test]
    fn growth_tells_sequences_from_tokens() {
        let growth = samples().growth(|run| run.counts.shared_wavefronts as f64);
        assert_eq!(growth, Growth { once: 0.0, token: 0.0, channel: 10.0, element: 100.0 });
        let problem = problem(&[200; 5], 64);
        assert_eq!(growth.at(&problem), 10.0 * 64.0 * 5.0 + 100.0 * 1000.0 * 64.0);
    }

    #[test]
    fn blocks_warps_and_units_of_a_launch() {
        let gpu = Gpu::named("h200").unwrap();
        let machine = machine(Resources { registers: 64, ..Resources::default() }, 0);
        let problem = problem(&[200, 210, 190, 220, 180], 16 * 200);
        let constants = Constants { half_busy_warps: 1.0, wavefronts_kept: 1.0 };
        let predict = |samples: &Samples| {
            let placed = samples.place(gpu, &problem, &machine);
            samples.predict_with(gpu, &problem, &machine, &placed, &constants)
        };
        let told = predict(&samples());
        assert_eq!((told.blocks, told.warps), (200.0, 8.0), "200 blocks: two on the fullest multiprocessor");
        assert_eq!(told.idle, 2.0 * 132.0 / 200.0);
        assert_eq!(told.efficiency, 8.0 / 12.0);
        assert_eq!(told.limit().0, Some(Unit::LoadStore));
        let compute = told.limit().1 * told.idle / told.efficiency;
        assert!((told.ms - compute.hypot(told.memory_ms)).abs() < 1e-9 * told.ms);

        let mut grouped = samples();
        grouped.runs.iter_mut().for_each(|run| run.tensors.push((GROUPS_TENSOR, 0)));
        let told = predict(&grouped);
        assert_eq!(told.blocks, 1000.0, "8 blocks fit a multiprocessor, so 5 groups, one a sequence, of 200 tiles");
        assert_eq!(told.warps, 32.0);
        // There are 1056 places for blocks, of which those of the longest sequence take 220 tokens and what every block takes besides.
        let slots = Slots { multiprocessors: 132, blocks: 8 };
        let makespan = problem.packed.makespan(5, 200, slots);
        assert!((210.0..240.0).contains(&makespan), "{makespan}");
        assert_eq!(told.idle, makespan * 1056.0 / (1000.0 * 200.0));

        let mut filling = samples();
        filling.runs.iter_mut().for_each(|run| run.tensors.push((SUMS_TENSOR, 0)));
        let told = predict(&filling);
        assert_eq!((told.blocks, told.warps, told.idle), (8.0 * 132.0, 32.0, 1.0));

        let mut hidden = samples();
        hidden.runs.iter_mut().for_each(|run| run.config.grid = [1, 1, 1]);
        assert_eq!(predict(&hidden).blocks, 1.0, "nothing that is counted grew");
        hidden.runs[3] = counting(hidden.runs[3].clone());
        assert_eq!(predict(&hidden).blocks, 8.0 * 132.0, "one block did more: others will come");
    }

    /// A launch whose instructions were counted by the emulator.
    fn counting(mut record: Record) -> Record {
        use packscan_emulator::{Launch, Memory, Module};
        let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %r<3>;\nmov.u32 %r1, 1;\nadd.s32 %r2, %r1, 1;\nret;\n}\n";
        let module = Module::parse(ptx).unwrap();
        let kernel = module.kernel("k").unwrap();
        record.instructions = kernel.instructions();
        record.counts = Memory::new().launch(&Launch::new(kernel, [1, 1, 1], [32, 1, 1], &[])).unwrap();
        record
    }

    #[test]
    fn machine_code_has_fewer_instructions_and_its_spills() {
        let record = counting(record(64, 16));
        assert_eq!((record.instructions, record.counts.warp_instructions.total()), (3, 3));
        let rates = Gpu::named("h200").unwrap().rates;
        let clocks = |unit: Unit, machine: &Machine| unit.clocks(&record, machine, &rates, &Constants::FITTED);
        let all = machine(Resources::default(), 3);
        assert_eq!(clocks(Unit::Issue, &all), 3.0 / rates.issue);
        assert_eq!(clocks(Unit::Integer, &all), 2.0 * 32.0 / rates.integer);
        assert_eq!(clocks(Unit::LoadStore, &all), 0.0);
        let spilling = machine(Resources { spill_store_bytes: 4, spill_load_bytes: 4, ..Resources::default() }, 2);
        assert!((clocks(Unit::Issue, &spilling) - 2.0 / rates.issue).abs() < 1e-12);
        assert!((clocks(Unit::Integer, &spilling) - 32.0 / rates.integer).abs() < 1e-12);
        let of_spills = 2.0 * LOCAL_SECTORS / rates.sectors;
        assert!((clocks(Unit::LoadStore, &spilling) - of_spills).abs() < 1e-12, "each of two spills ran once");
    }

    #[test]
    fn memory_is_a_limit_too() {
        let mut samples = samples();
        samples.runs.iter_mut().for_each(|run| run.tensors[0].1 *= 100_000);
        let gpu = Gpu::named("rtx4090").unwrap();
        let (problem, machine) = (problem(&[1000], 160), Machine::default());
        let placed = samples.place(gpu, &problem, &machine);
        let told = samples.predict_with(gpu, &problem, &machine, &placed, &Constants::FITTED);
        assert_eq!(told.limit(), (None, told.memory_ms));
        assert!((told.memory_ms - 4.0 * 160_000.0 * 1e5 / 0.90e9).abs() < 1e-6 * told.memory_ms);
    }

    #[test]
    fn unknown_gpus_are_refused_with_those_that_are_known() {
        let error = Gpu::named("voodoo").unwrap_err().to_string();
        assert_eq!(error, "unknown GPU \"voodoo\"; known: h200, a100, rtx4090");
    }
}
