//! `packscan gen --emit stats`: what a variant costs, told without a GPU.

use std::fmt::Write as _;

use packscan::runtime::launch::Record;
use packscan::runtime::nvrtc::{Arch, Compiled, Nvrtc};
use packscan::runtime::occupancy::{Block, Limits, occupancy};
use packscan::runtime::predict::{Gpu, Prediction, Problem, Samples, Unit};
use packscan_emulator::Pipe;
use packscan_verify::Job;
use packscan_verify::cost::Cost;

use crate::error::Result;
use crate::output::thousands;

/// Lanes of a warp.
const WARP: f64 = 32.0;

/// Every pipe, as the table names it.
const PIPES: [(Pipe, &str); 15] = [
    (Pipe::Float, "float"),
    (Pipe::Integer, "integer"),
    (Pipe::Special, "special functions"),
    (Pipe::Convert, "conversions"),
    (Pipe::Shuffle, "shuffles"),
    (Pipe::Shared, "shared memory"),
    (Pipe::LoadGlobal, "global loads"),
    (Pipe::StoreGlobal, "global stores"),
    (Pipe::Atomic, "atomics"),
    (Pipe::Local, "local memory"),
    (Pipe::Param, "parameters"),
    (Pipe::Control, "control"),
    (Pipe::Barrier, "barriers"),
    (Pipe::Double, "double"),
    (Pipe::Other, "other"),
];

/// The table: what the compiler says, what fits a multiprocessor, what the emulator counts, what that costs.
pub fn table(job: &dyn Job, arch: Arch, cubin: &Compiled, gpu: &Gpu, problem: &Problem) -> Result<String> {
    let cost = Cost::of(job)?;
    let mut out = Table::default();
    let (major, minor) = Nvrtc::get()?.version();
    let bytes = thousands(cubin.bytes.len());
    out.heading(&job.id());
    out.heading(&format!("machine code for {arch}, {bytes} bytes, by NVRTC {major}.{minor}"));
    if let Some(own) = cost.launches.first() {
        compiled(&mut out, &own.runs[0], arch, cubin);
        out.heading("");
        let sizes = own.tokens.map(|t| own.channels.map(|d| format!("{t} x {d}"))).concat().join(", ");
        out.heading("counted by the emulator, a chunk inside a sequence");
        out.heading(&format!("from sequences of T x D = {sizes}"));
        counted(&mut out, own, job.sizes().state, problem.channels);
    }
    out.heading("");
    let [t, d, s] = [problem.packed.tokens(), problem.channels, problem.packed.sequences()].map(thousands);
    out.heading(&format!("predicted for one {}: {t} tokens x {d} channels, {s} sequences", gpu.title));
    predicted(&mut out, &cost.predict(gpu, problem)?);
    Ok(out.0)
}

fn compiled(out: &mut Table, run: &Record, arch: Arch, cubin: &Compiled) {
    let resources = cubin.resources().unwrap_or_default();
    let shared_bytes = run.config.shared_bytes + resources.shared_bytes as usize;
    out.row("registers of a thread", resources.registers);
    let (stored, loaded) = (resources.spill_store_bytes, resources.spill_load_bytes);
    out.row("spills of a thread", format!("{stored} bytes stored, {loaded} loaded"));
    out.row("stack of a thread", format!("{} bytes", resources.stack_bytes));
    out.row("threads of a block", run.config.threads);
    out.row("shared memory of a block", format!("{} bytes", thousands(shared_bytes)));
    let Some(limits) = Limits::of(arch) else {
        out.row("occupancy", format!("not known for {arch}"));
        return;
    };
    let block = Block { threads: run.config.threads, registers: resources.registers as usize, shared_bytes };
    let full = occupancy(&limits, &block);
    let limit = full.limited_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    out.row("blocks of a multiprocessor", format!("{}, limited by {limit}", full.blocks));
    let share = 100 * full.warps / limits.warps;
    out.row("warps of a multiprocessor", format!("{} of {} ({share} %)", full.warps, limits.warps));
}

fn counted(out: &mut Table, launch: &Samples, state: usize, columns: usize) {
    let fixed_rows = launch.growth(|run| run.counts.warp_instructions.total() as f64).element == 0.0;
    // Where the length of rows is a number of the variant, a token's cost is that of all its columns.
    let each = |number: &dyn Fn(&Record) -> u64| {
        let growth = launch.growth(|run| number(run) as f64);
        if fixed_rows { growth.token / columns as f64 } else { growth.element }
    };
    let n = if fixed_rows { 1.0 } else { state as f64 };
    let share = |part: f64, of: f64| if of == 0.0 { 0.0 } else { part / of };
    let lane = |pipe| each(&|run| run.counts.warp_instructions[pipe]) * WARP / n;
    out.row(
        "instructions of a lane, each (t, d, n)",
        fixed(each(&|run| run.counts.warp_instructions.total()) * WARP / n),
    );
    for (pipe, name) in PIPES.into_iter().filter(|(pipe, _)| lane(*pipe) > 0.0) {
        out.row(&format!("  {name}"), fixed(lane(pipe)));
    }
    let special = each(&|run| run.counts.thread_instructions[Pipe::Special]);
    out.row("special-function results, each (t, d, n)", fixed(special / n));
    out.row("global bytes loaded, each (t, d)", fixed(each(&|run| run.counts.global_loaded_bytes)));
    out.row("global bytes stored, each (t, d)", fixed(each(&|run| run.counts.global_stored_bytes)));
    let loads = (each(&|run| run.counts.global_load_sectors), each(&|run| run.counts.global_load_requests));
    let stores = (each(&|run| run.counts.global_store_sectors), each(&|run| run.counts.global_store_requests));
    out.row("sectors of a global load", fixed(share(loads.0, loads.1)));
    out.row("sectors of a global store", fixed(share(stores.0, stores.1)));
    let wavefronts = each(&|run| run.counts.shared_wavefronts);
    out.row("shared wavefronts, each 32 (t, d, n)", fixed(wavefronts * WARP / n));
    let conflicts = 100.0 * share(each(&|run| run.counts.bank_conflicts), wavefronts);
    out.row("  of them bank conflicts", format!("{conflicts:.1} %"));
}

fn predicted(out: &mut Table, launches: &[Prediction]) {
    out.row("time", ms(launches.iter().map(|launch| launch.ms).sum()));
    let Some(own) = launches.first() else { return };
    out.row("limited by", limit(own));
    out.row("blocks of the grid", format!("{:.0}", own.blocks));
    out.row("until the last block is done", format!("{:.2} of the least", own.idle));
    out.row("issue efficiency", format!("{:.0} % with {:.0} warps", 100.0 * own.efficiency, own.warps));
    for (unit, busy) in Unit::ALL.into_iter().zip(own.units_ms) {
        out.row(&format!("  {unit} busy"), ms(busy));
    }
    out.row("  memory busy", ms(own.memory_ms));
    if launches.len() > 1 {
        out.heading("launches");
        for launch in launches {
            let kernel = launch.id.split('-').next().unwrap_or_default();
            out.row(kernel, format!("{}, limited by {}", ms(launch.ms), limit(launch)));
        }
    }
}

fn limit(launch: &Prediction) -> String {
    match launch.limit().0 {
        Some(unit) => unit.to_string(),
        None => "memory".to_owned(),
    }
}

fn ms(time: f64) -> String {
    format!("{time:.3} ms")
}

fn fixed(number: f64) -> String {
    format!("{number:.3}")
}

/// Lines of a name and a value.
#[derive(Default)]
struct Table(String);

impl Table {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "{text}");
    }

    fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "  {name:<42} {value}");
    }
}
