//! `packscan gen --emit stats`: what a variant costs, told without a GPU.

use std::fmt::Write as _;

use packscan::kernels::selective_scan::{self, Forward, Inputs, Outputs};
use packscan::runtime::kernel::Variant;
use packscan::runtime::nvrtc::{Arch, Compiled, Nvrtc};
use packscan::runtime::occupancy::{Block, Limits, occupancy};
use packscan::{Buffer, Device, Dtype, Packed};
use packscan_emulator::{Counts, Pipe};

use crate::error::Result;
use crate::output::thousands;

/// The pack that is run to count: three sequences around the edges of a chunk.
const LENGTHS: [usize; 3] = [100, 1, 60];
/// Blocks' worth of channels in that run.
const TILES: usize = 2;
/// Threads of a warp.
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

/// The table: what the compiler says, what fits a multiprocessor, what the emulator counts.
pub fn table(variant: &Forward, arch: Arch, cubin: &Compiled) -> Result<String> {
    let mut out = Table::default();
    let (major, minor) = Nvrtc::get()?.version();
    out.heading(&variant.to_string());
    out.heading(&format!("machine code for {arch}, {} bytes, by NVRTC {major}.{minor}", thousands(cubin.bytes.len())));
    compiled(&mut out, variant, arch, cubin);

    let d = TILES * variant.channels as usize;
    let lengths = LENGTHS.map(|length| length.to_string()).join(", ");
    out.heading("");
    out.heading(&format!("counted by the emulator ({}), sequences of {lengths} tokens, D = {d}", Arch::default()));
    if let Some(counts) = count(variant, d)? {
        counted(&mut out, variant, &counts, d);
    }
    Ok(out.0)
}

fn compiled(out: &mut Table, variant: &Forward, arch: Arch, cubin: &Compiled) {
    let resources = cubin.resources().unwrap_or_default();
    let shared_bytes = variant.shared_bytes() + resources.shared_bytes as usize;
    out.row("registers of a thread", resources.registers);
    let (stored, loaded) = (resources.spill_store_bytes, resources.spill_load_bytes);
    out.row("spills of a thread", format!("{stored} bytes stored, {loaded} loaded"));
    out.row("stack of a thread", format!("{} bytes", resources.stack_bytes));
    out.row("threads of a block", variant.threads());
    out.row("shared memory of a block", format!("{} bytes", thousands(shared_bytes)));
    let Some(limits) = Limits::of(arch) else {
        out.row("occupancy", format!("not known for {arch}"));
        return;
    };
    let block = Block { threads: variant.threads(), registers: resources.registers as usize, shared_bytes };
    let full = occupancy(&limits, &block);
    let limit = full.limited_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    out.row("blocks of a multiprocessor", format!("{}, limited by {limit}", full.blocks));
    let share = 100 * full.warps / limits.warps;
    out.row("warps of a multiprocessor", format!("{} of {} ({share} %)", full.warps, limits.warps));
}

fn counted(out: &mut Table, variant: &Forward, counts: &Counts, d: usize) {
    let rows = (LENGTHS.iter().sum::<usize>() * d) as f64;
    let elements = rows * f64::from(variant.state);
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let instructions = &counts.warp_instructions;
    out.row("instructions of a lane, each (t, d, n)", fixed(instructions.total() as f64 * WARP / elements));
    for (pipe, name) in PIPES.into_iter().filter(|(pipe, _)| instructions[*pipe] > 0) {
        out.row(&format!("  {name}"), fixed(instructions[pipe] as f64 * WARP / elements));
    }
    let special = counts.thread_instructions[Pipe::Special] as f64;
    out.row("special-function results, each (t, d, n)", fixed(special / elements));
    out.row("global bytes loaded, each (t, d)", fixed(counts.global_loaded_bytes as f64 / rows));
    out.row("global bytes stored, each (t, d)", fixed(counts.global_stored_bytes as f64 / rows));
    out.row("sectors of a global load", fixed(share(counts.global_load_sectors, counts.global_load_requests)));
    out.row("sectors of a global store", fixed(share(counts.global_store_sectors, counts.global_store_requests)));
    let wavefronts = counts.shared_wavefronts;
    out.row("shared wavefronts, each 32 (t, d, n)", fixed(wavefronts as f64 * WARP / elements));
    let conflicts = 100.0 * share(counts.bank_conflicts, wavefronts);
    out.row("  of them bank conflicts", format!("{} ({conflicts:.1} %)", thousands(counts.bank_conflicts as usize)));
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

/// Runs the variant once in the emulator.
fn count(variant: &Forward, d: usize) -> Result<Option<Counts>> {
    let device = Device::emulator(0);
    let continued = [variant.initial, false, false];
    let packed = Packed::from_lengths(&LENGTHS)?.with_continued(&continued)?;
    let (t, s, n) = (packed.tokens(), packed.sequences(), variant.state as usize);
    let packed = packed.on(&device)?;

    let filled = |dtype, len: usize, value: f32| Buffer::from_f32(&device, dtype, &vec![value; len]);
    let io = variant.io;
    let (u, delta, z) = (filled(io, t * d, 0.5)?, filled(io, t * d, 0.1)?, filled(io, t * d, 1.0)?);
    let (b, c) = (filled(io, t * n, 0.25)?, filled(io, t * n, 0.25)?);
    let (a, initial) = (filled(Dtype::F32, d * n, -1.0)?, filled(Dtype::F32, s * d * n, 0.5)?);
    let (skip, bias) = (filled(Dtype::F32, d, 1.0)?, filled(Dtype::F32, d, 0.1)?);
    let out = Buffer::unwritten(&device, io, t * d)?;
    let last = Buffer::unwritten(&device, Dtype::F32, s * d * n)?;
    let chunks = t.div_ceil(variant.chunk as usize);
    let checkpoints = Buffer::unwritten(&device, Dtype::F32, chunks * d * n)?;

    let inputs = Inputs {
        u: u.rows(t)?,
        delta: delta.rows(t)?,
        a: a.rows(d)?,
        b: b.rows(t)?,
        c: c.rows(t)?,
        d_skip: variant.skip.then(|| skip.view()),
        delta_bias: variant.bias.then(|| bias.view()),
        z: if variant.gate { Some(z.rows(t)?) } else { None },
        initial_state: if variant.initial { Some(initial.rows(s)?) } else { None },
    };
    let outputs = Outputs {
        out: out.rows(t)?,
        final_state: if variant.last { Some(last.rows(s)?) } else { None },
        checkpoints: if variant.checkpoints { Some(checkpoints.rows(chunks)?) } else { None },
    };
    Ok(selective_scan::forward(&packed, variant, None, &inputs, &outputs)?.counts)
}
