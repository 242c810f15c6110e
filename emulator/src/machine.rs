//! The state of a launch under way, its start, its end, and how its faults describe themselves.

use crate::counts::Counts;
use crate::fault::{Fault, Site};
use crate::ir::{Kernel, MODULE_BASE};
use crate::launch::{Access, Launch, View};
use crate::memory::{FRESH, Memory, READABLE, WRITABLE, WRITTEN};
use crate::origin::{Origin, Sets};
use crate::schedule::Random;
use crate::shadow::{Act, Conflict, Shadow};
use crate::sync::BlockBarrier;
use crate::warp::{Position, Warp};

/// A result inside of a launch.
pub(crate) type Caught<T> = Result<T, Box<Fault>>;

/// What a launch knows of an allocation.
#[derive(Default)]
pub(crate) struct Track {
    /// Per byte; empty where nothing has an origin.
    pub origins: Vec<Origin>,
    pub shadow: Shadow,
}

pub(crate) struct Machine<'a> {
    pub launch: &'a Launch<'a>,
    pub kernel: &'a Kernel,
    pub memory: &'a mut Memory,
    pub tracks: Vec<Track>,
    /// Whether any view has owners.
    pub tracking: bool,
    pub sets: Sets,
    pub counts: Counts,
    pub random: Random,
    pub executed: u64,
    pub position: Position,
    /// First tick of the block that runs.
    pub base: u32,
    /// First tick and index of each block so far.
    pub bases: Vec<(u32, [u32; 3])>,
    pub shared: Vec<u8>,
    pub shared_written: Vec<u8>,
    pub shared_origins: Vec<Origin>,
    pub shared_shadow: Shadow,
    pub barriers: [BlockBarrier; 16],
    /// The allocation that the latest access found.
    pub recent: usize,
}

impl<'a> Machine<'a> {
    /// Opens the views.
    pub fn new(launch: &'a Launch<'a>, memory: &'a mut Memory) -> Result<Self, Fault> {
        let shared_bytes = launch.kernel.static_shared_bytes + launch.shared_bytes as usize;
        if shared_bytes > 1 << 24 {
            let reason = format!("{shared_bytes} bytes of shared memory");
            return Err(Fault::BadLaunch { kernel: launch.kernel.name.clone(), reason });
        }
        let tracking = launch.views.iter().any(|view| view.owner.is_some());
        let mut machine = Machine {
            launch,
            kernel: launch.kernel,
            tracks: memory.allocations.iter().map(|_| Track::default()).collect(),
            memory,
            tracking,
            sets: Sets::new(),
            counts: Counts::default(),
            random: Random::new(launch.seed),
            executed: 0,
            position: Position {
                grid: launch.grid,
                block_size: launch.block,
                block: [0; 3],
                dynamic_bytes: launch.shared_bytes,
                shared_bytes: shared_bytes as u32,
            },
            base: 1,
            bases: Vec::new(),
            shared: vec![0; shared_bytes],
            shared_written: vec![0; shared_bytes],
            shared_origins: if tracking { vec![0; shared_bytes] } else { Vec::new() },
            shared_shadow: Shadow::default(),
            barriers: Default::default(),
            recent: 0,
        };
        for view in launch.views {
            if let Err(fault) = machine.open(view) {
                machine.finish();
                return Err(fault);
            }
        }
        Ok(machine)
    }

    fn open(&mut self, view: &View) -> Result<(), Fault> {
        let flags = match view.access {
            Access::Read => READABLE,
            Access::Write => WRITABLE,
            Access::ReadWrite => READABLE | WRITABLE,
        };
        if view.rows == 0 || view.row_bytes == 0 {
            return Ok(());
        }
        let span = view.stride_bytes * (view.rows - 1) + view.row_bytes;
        let found = self.memory.find(view.address).filter(|&index| {
            let allocation = &self.memory.allocations[index];
            !allocation.freed && view.address + span as u64 <= allocation.base + allocation.size as u64
        });
        let Some(index) = found else {
            let reason =
                format!("view `{}` ({span} bytes at {:#x}) is not inside an allocation", view.name, view.address);
            return Err(Fault::BadLaunch { kernel: self.kernel.name.clone(), reason });
        };
        let allocation = &mut self.memory.allocations[index];
        let track = &mut self.tracks[index];
        if self.tracking && track.origins.is_empty() {
            track.origins = vec![0; allocation.size];
        }
        for row in 0..view.rows {
            let start = (view.address - allocation.base) as usize + row * view.stride_bytes;
            let range = start..start + view.row_bytes;
            allocation.state[range.clone()].iter_mut().for_each(|state| *state |= flags);
            if let Some(owner) = view.owner.filter(|_| view.access != Access::Write) {
                let single = self.sets.single(owner[row]);
                let sets = &mut self.sets;
                track.origins[range].iter_mut().for_each(|origin| *origin = sets.join(*origin, single));
            }
        }
        Ok(())
    }

    /// Every byte of a `Write` view written, every owned byte free of other owners.
    pub fn check_outputs(&mut self) -> Caught<()> {
        let kernel = || self.kernel.name.clone();
        if self.sets.overflow {
            return Err(Box::new(Fault::TooManyOrigins { kernel: kernel() }));
        }
        for view in self.launch.views.iter().filter(|view| view.access != Access::Read && view.row_bytes > 0) {
            let Some(index) = self.memory.find(view.address) else { continue };
            let allocation = &self.memory.allocations[index];
            for row in 0..view.rows {
                let start = (view.address - allocation.base) as usize + row * view.stride_bytes;
                for byte in 0..view.row_bytes {
                    if view.access == Access::Write && allocation.state[start + byte] & FRESH == 0 {
                        let view = view.name.to_owned();
                        return Err(Box::new(Fault::UnwrittenOutput { kernel: kernel(), view, row, byte }));
                    }
                    let Some(owner) = view.owner.map(|owner| owner[row]) else { continue };
                    let origin = self.tracks[index].origins[start + byte];
                    if !self.sets.within(origin, owner) {
                        let (view, origin) = (view.name.to_owned(), self.sets.name(origin));
                        return Err(Box::new(Fault::Leak { kernel: kernel(), view, row, byte, owner, origin }));
                    }
                }
            }
        }
        Ok(())
    }

    /// Closes the views.
    pub fn finish(&mut self) -> Counts {
        for view in self.launch.views {
            if let Some(index) = self.memory.find(view.address) {
                self.memory.allocations[index].state.iter_mut().for_each(|state| *state &= WRITTEN);
            }
        }
        std::mem::take(&mut self.counts)
    }

    /// Where lane `lane` of a warp stands.
    pub fn site(&self, warp: &Warp, pc: u32, lane: usize) -> Box<Site> {
        let (source, ptx_line, instruction) = self.place(pc);
        let thread = self.position.thread(warp.index as u32 * 32 + lane as u32);
        Box::new(Site {
            kernel: self.kernel.name.clone(),
            source,
            ptx_line,
            instruction,
            block: self.position.block,
            thread,
        })
    }

    /// Source place, PTX line and text of an instruction.
    fn place(&self, pc: u32) -> (String, u32, String) {
        let line = &self.kernel.lines[self.kernel.code[pc as usize].line as usize];
        let source = match self.kernel.files.get(line.file as usize) {
            Some(name) if !name.is_empty() => format!("{name}:{}", line.line),
            _ => String::new(),
        };
        (source, line.ptx_line, self.kernel.text[line.text.0 as usize..line.text.1 as usize].trim().to_owned())
    }

    /// An instruction's place in a few words.
    pub fn place_name(&self, pc: u32) -> String {
        let (source, ptx_line, instruction) = self.place(pc);
        format!("{source} PTX line {ptx_line} `{instruction}`")
    }

    /// The fault for a race at byte `address`.
    pub fn race(&self, warp: &Warp, pc: u32, lane: usize, act: Act, address: String, other: Conflict) -> Box<Fault> {
        let block = self.bases.iter().rev().find(|(base, _)| *base <= other.tick).map_or([0; 3], |(_, block)| *block);
        Box::new(Fault::Race {
            site: self.site(warp, pc, lane),
            access: act.name(),
            address,
            other: self.place_name(other.pc),
            other_access: other.act.name(),
            other_block: block,
            other_thread: self.position.thread(other.warp as u32 * 32 + other.lane as u32),
        })
    }

    /// A global address in words: the nearest view with row and byte, and the allocation with offset.
    pub fn name_global(&self, address: u64) -> String {
        let mut name = match self.memory.find(address) {
            Some(index) => {
                let allocation = &self.memory.allocations[index];
                let offset = address - allocation.base;
                let freed = if allocation.freed { ", freed" } else { "" };
                format!("{address:#x} (`{}` + {offset} of {} bytes{freed})", allocation.name, allocation.size)
            }
            None if address >= MODULE_BASE => format!("{address:#x} (a module variable, or nothing)"),
            None => format!("{address:#x} (before every allocation)"),
        };
        let nearest = self.launch.views.iter().filter(|view| view.rows > 0).min_by_key(|view| {
            let end = view.address + (view.stride_bytes * (view.rows - 1) + view.row_bytes) as u64;
            if address < view.address { view.address - address } else { address.saturating_sub(end - 1) }
        });
        if let Some(view) = nearest {
            let offset = address as i128 - view.address as i128;
            let stride = (view.stride_bytes as i128).max(1);
            let (row, byte) = (offset.div_euclid(stride), offset.rem_euclid(stride));
            name += &format!(
                ", nearest view `{}` ({:?}) row {row} of {} byte {byte} of {}",
                view.name, view.access, view.rows, view.row_bytes
            );
        }
        name
    }
}
