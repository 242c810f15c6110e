//! A warp: its registers with what is known of them, and the groups of lanes that run together.

use crate::ir::{Kernel, Reg, Special};
use crate::origin::{MIXED, Origin, Sets};
use crate::place::Request;
use crate::scalar::Lanes;

/// What a group of lanes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing: it can run.
    No,
    /// The other lanes of this mask, at a shuffle, vote or barrier of the warp.
    Lanes(u32),
    /// A barrier of the block.
    Block(u8),
}

/// Lanes that stand at one instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub mask: u32,
    pub pc: u32,
    pub wait: Wait,
}

/// Bytes on their way to shared memory.
pub(crate) struct Pending {
    /// Number of the lane's group of copies.
    pub group: u32,
    /// The write to shared memory.
    pub request: Request,
    pub value: u128,
    pub origins: [Origin; 16],
}

pub(crate) struct Warp {
    pub index: u8,
    pub regs: Vec<Lanes>,
    /// Lanes that have written each register.
    pub defined: Vec<u32>,
    /// What all lanes of a register carry, or [`MIXED`].
    pub origin: Vec<Origin>,
    /// What each lane carries, where the summary says [`MIXED`].
    pub lane_origins: Vec<[Origin; 32]>,
    pub groups: Vec<Group>,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Steps for which groups are kept from joining.
    pub apart: u32,
    pub tick: u32,
    pub known: [u32; 32],
    pub partial: Vec<(u32, u32)>,
    pub local: Vec<u8>,
    pub local_written: Vec<u8>,
    pub local_origins: Vec<Origin>,
    pub copies: Vec<Pending>,
    pub copy_groups: [u32; 32],
}

/// The position of a block and its launch, for special registers.
pub(crate) struct Position {
    pub grid: [u32; 3],
    pub block_size: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_bytes: u32,
    pub shared_bytes: u32,
}

impl Position {
    /// Threads of the block.
    pub fn threads(&self) -> u32 {
        self.block_size.iter().product()
    }

    /// The index of thread `number` in the block.
    pub fn thread(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.block_size;
        [number % x, number / x % y, number / x / y]
    }
}

impl Warp {
    pub fn new(kernel: &Kernel, index: u8, tracking: bool) -> Self {
        let count = kernel.registers.len();
        let local = 32 * kernel.local_bytes;
        let mut warp = Warp {
            index,
            regs: vec![[0; 32]; count],
            defined: vec![0; count],
            origin: vec![0; count],
            lane_origins: if tracking { vec![[0; 32]; count] } else { Vec::new() },
            groups: Vec::new(),
            live: 0,
            apart: 0,
            tick: 0,
            known: [0; 32],
            partial: Vec::new(),
            local: vec![0; local],
            local_written: vec![0; local],
            local_origins: if tracking { vec![0; local] } else { Vec::new() },
            copies: Vec::new(),
            copy_groups: [0; 32],
        };
        for &(reg, bits) in &kernel.constants {
            warp.regs[reg as usize] = [bits; 32];
        }
        warp
    }

    /// Makes the warp stand at the start of a block.
    pub fn start(&mut self, kernel: &Kernel, position: &Position, tick: u32) {
        let first = self.index as u32 * 32;
        let lanes = (position.threads() - first).min(32);
        self.live = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        self.groups.clear();
        self.groups.push(Group { mask: self.live, pc: 0, wait: Wait::No });
        self.defined.fill(0);
        self.origin.fill(0);
        self.local_written.fill(0);
        self.copies.clear();
        self.copy_groups = [0; 32];
        (self.apart, self.tick, self.known) = (0, tick, [tick; 32]);
        self.partial.clear();
        for &(reg, _) in &kernel.constants {
            self.defined[reg as usize] = u32::MAX;
        }
        for &(reg, special) in &kernel.specials {
            self.defined[reg as usize] = u32::MAX;
            for lane in 0..32 {
                self.regs[reg as usize][lane as usize] = special_value(special, first + lane, position).into();
            }
        }
    }

    /// The lanes of `mask` where a predicate register holds.
    #[inline]
    pub fn truth(&self, pred: Reg) -> u32 {
        let lanes = &self.regs[pred as usize];
        (0..32).fold(0, |mask, lane| mask | ((lanes[lane] & 1) as u32) << lane)
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn write(&mut self, dst: Reg, values: &Lanes, mask: u32) {
        let dst = dst as usize;
        self.defined[dst] |= mask;
        if mask == u32::MAX {
            self.regs[dst] = *values;
            return;
        }
        for (lane, (slot, value)) in self.regs[dst].iter_mut().zip(values).enumerate() {
            if mask >> lane & 1 == 1 {
                *slot = *value;
            }
        }
    }

    /// What one lane of a register carries.
    #[inline]
    pub fn lane_origin(&self, reg: Reg, lane: usize) -> Origin {
        match self.origin[reg as usize] {
            MIXED => self.lane_origins[reg as usize][lane],
            origin => origin,
        }
    }

    /// What the lanes of `mask` carry together.
    #[inline]
    pub fn union(&self, reg: Reg, mask: u32, sets: &mut Sets) -> Origin {
        match self.origin[reg as usize] {
            MIXED => lanes(mask).fold(0, |all, lane| sets.join(all, self.lane_origins[reg as usize][lane])),
            origin => origin,
        }
    }

    /// Gives the lanes of `mask` one origin. To be called before the lanes are written.
    #[inline]
    pub fn set_origin(&mut self, dst: Reg, origin: Origin, mask: u32) {
        let index = dst as usize;
        if self.origin[index] == origin {
            return;
        }
        if self.defined[index] & self.live & !mask == 0 {
            self.origin[index] = origin;
            return;
        }
        self.spread(index);
        for lane in lanes(mask) {
            self.lane_origins[index][lane] = origin;
        }
    }

    /// Gives each lane of `mask` its own origin. To be called before the lanes are written.
    pub fn set_origins(&mut self, dst: Reg, origins: &[Origin; 32], mask: u32) {
        let first = origins[mask.trailing_zeros() as usize % 32];
        if lanes(mask).all(|lane| origins[lane] == first) {
            return self.set_origin(dst, first, mask);
        }
        let index = dst as usize;
        self.spread(index);
        for lane in lanes(mask) {
            self.lane_origins[index][lane] = origins[lane];
        }
    }

    fn spread(&mut self, index: usize) {
        if self.origin[index] != MIXED {
            self.lane_origins[index] = [self.origin[index]; 32];
            self.origin[index] = MIXED;
        }
    }

    /// Lets groups that can run and stand at one place run as one.
    pub fn join_groups(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            let group = self.groups[at];
            let twin = self.groups[..at].iter_mut().find(|other| (other.pc, other.wait) == (group.pc, group.wait));
            match twin {
                Some(twin) if group.wait == Wait::No => {
                    twin.mask |= group.mask;
                    self.groups.remove(at);
                }
                _ => at += 1,
            }
        }
    }
}

/// The lanes that a mask names.
#[inline]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        if rest == 0 {
            return None;
        }
        rest &= rest - 1;
        Some(lane)
    })
}

fn special_value(special: Special, thread: u32, position: &Position) -> u32 {
    let lane = thread % 32;
    match special {
        Special::Tid(axis) => position.thread(thread)[axis],
        Special::Ntid(axis) => position.block_size[axis],
        Special::Ctaid(axis) => position.block[axis],
        Special::Nctaid(axis) => position.grid[axis],
        Special::Lane => lane,
        Special::Warp => thread / 32,
        Special::Warps => position.threads().div_ceil(32),
        Special::MaskEq => 1 << lane,
        Special::MaskLt => (1 << lane) - 1,
        Special::MaskLe => u32::MAX >> (31 - lane),
        Special::MaskGt => !(u32::MAX >> (31 - lane)),
        Special::MaskGe => !((1 << lane) - 1),
        Special::DynamicShared => position.dynamic_bytes,
        Special::TotalShared => position.shared_bytes,
    }
}
