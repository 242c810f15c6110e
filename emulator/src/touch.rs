//! Instructions that touch memory.

use crate::ir::{Access, Address, Atomic, CopyAsync, Instr, NONE, Op, Space};
use crate::machine::{Caught, Machine};
use crate::memory::{READABLE, WRITABLE};
use crate::origin::Origin;
use crate::place::Request;
use crate::scalar::{Lanes, low_mask};
use crate::shadow::Act;
use crate::warp::{Pending, Warp, lanes};

impl Machine<'_> {
    /// Runs a memory instruction for the lanes of `active`.
    pub fn touch(&mut self, warp: &mut Warp, pc: u32, instr: &Instr, active: u32) -> Caught<()> {
        let guard = instr.guard.map_or(NONE, |guard| guard.pred);
        match &instr.op {
            Op::Load(access) => self.load(warp, pc, access, active, guard),
            Op::Store(access) => self.store(warp, pc, access, active, guard),
            Op::Atomic(atomic) => self.atomic(warp, pc, atomic, active, guard),
            Op::CopyAsync(copy) => self.copy(warp, pc, copy, active, guard),
            Op::Commit => {
                lanes(active).for_each(|lane| warp.copy_groups[lane] += 1);
                Ok(())
            }
            Op::WaitCopies(groups) => self.land(warp, *groups, active),
            Op::ActiveMask(dst) => {
                warp.set_origin(*dst, 0, active);
                warp.write(*dst, &[active.into(); 32], active);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn addresses(&mut self, warp: &Warp, pc: u32, address: Address, space: Space, active: u32) -> Caught<Lanes> {
        self.defined(warp, pc, address.base, active)?;
        self.independent(warp, pc, address.base, active, "address")?;
        let mut out = warp.regs[address.base as usize];
        let mask = if matches!(space, Space::Global | Space::Generic) { u64::MAX } else { 0xFFFF_FFFF };
        out.iter_mut().for_each(|lane| *lane = lane.wrapping_add_signed(address.offset) & mask);
        Ok(out)
    }

    /// What the address and the guard add to the origin of an access.
    fn extra(&mut self, warp: &Warp, lane: usize, address: Address, guard: u32) -> Origin {
        let origin = warp.lane_origin(address.base, lane);
        if guard == NONE { origin } else { self.sets.join(origin, warp.lane_origin(guard, lane)) }
    }

    fn load(&mut self, warp: &mut Warp, pc: u32, access: &Access, active: u32, guard: u32) -> Caught<()> {
        let addresses = self.addresses(warp, pc, access.address, access.space, active)?;
        let (width, count) = (access.bytes as usize, access.count as usize);
        let bytes = width * count;
        let mut out = [[0u64; 32]; 4];
        let mut origins: [[Origin; 32]; 4] = [[0; 32]; 4];
        let act = if access.strong { Act::Atomic } else { Act::Read };
        let (mask, shift) = (low_mask(width), 64 - 8 * width as u32);
        for lane in lanes(active) {
            let (space, address) = (access.space, addresses[lane]);
            let request = Request { pc, lane, space, address, bytes, align: bytes, act, need: READABLE };
            let spot = self.locate(warp, request)?;
            let value = self.get(warp, spot);
            for (k, out) in out[..count].iter_mut().enumerate() {
                let element = (value >> (8 * width * k)) as u64 & mask;
                out[lane] = match access.extend {
                    0 => element,
                    wide => (((element << shift) as i64) >> shift) as u64 & low_mask(wide.into()),
                };
            }
            if self.tracking {
                let extra = self.extra(warp, lane, access.address, guard);
                for (k, origins) in origins[..count].iter_mut().enumerate() {
                    let found = self.origin(warp, spot.part(k * width, width));
                    origins[lane] = self.sets.join(found, extra);
                }
            }
        }
        self.tally(access.space, &addresses, active, bytes, false);
        for k in 0..count {
            if self.tracking {
                warp.set_origins(access.regs[k], &origins[k], active);
            }
            warp.write(access.regs[k], &out[k], active);
        }
        Ok(())
    }

    fn store(&mut self, warp: &mut Warp, pc: u32, access: &Access, active: u32, guard: u32) -> Caught<()> {
        let addresses = self.addresses(warp, pc, access.address, access.space, active)?;
        let (width, count) = (access.bytes as usize, access.count as usize);
        for &reg in &access.regs[..count] {
            self.defined(warp, pc, reg, active)?;
        }
        let bytes = width * count;
        let act = if access.strong { Act::Atomic } else { Act::Write };
        for lane in lanes(active) {
            let mut value = 0u128;
            for (k, &reg) in access.regs[..count].iter().enumerate() {
                value |= ((warp.regs[reg as usize][lane] & low_mask(width)) as u128) << (8 * width * k);
            }
            let (space, address) = (access.space, addresses[lane]);
            let request = Request { pc, lane, space, address, bytes, align: bytes, act, need: WRITABLE };
            let spot = self.locate(warp, request)?;
            self.put(warp, spot, value);
            if self.tracking {
                let extra = self.extra(warp, lane, access.address, guard);
                for (k, &reg) in access.regs[..count].iter().enumerate() {
                    let origin = self.sets.join(warp.lane_origin(reg, lane), extra);
                    self.mark(warp, spot.part(k * width, width), &[origin; 16]);
                }
            }
        }
        self.tally(access.space, &addresses, active, bytes, true);
        Ok(())
    }

    fn atomic(&mut self, warp: &mut Warp, pc: u32, atomic: &Atomic, active: u32, guard: u32) -> Caught<()> {
        let addresses = self.addresses(warp, pc, atomic.address, atomic.space, active)?;
        let bytes = atomic.bytes as usize;
        let [b, c] = atomic.operands;
        for reg in [b, c] {
            if reg != NONE {
                self.defined(warp, pc, reg, active)?;
            }
        }
        let (mut old, mut origins) = ([0; 32], [0; 32]);
        for lane in lanes(active) {
            let act = Act::Atomic;
            let (space, address, need) = (atomic.space, addresses[lane], READABLE | WRITABLE);
            let request = Request { pc, lane, space, address, bytes, align: bytes, act, need };
            let spot = self.locate(warp, request)?;
            old[lane] = self.get(warp, spot) as u64;
            let operand = |reg: u32| if reg == NONE { 0 } else { warp.regs[reg as usize][lane] & low_mask(bytes) };
            let value = (atomic.apply)(old[lane], operand(b), operand(c));
            self.put(warp, spot, value.into());
            if self.tracking {
                let extra = self.extra(warp, lane, atomic.address, guard);
                origins[lane] = self.origin(warp, spot);
                origins[lane] = self.sets.join(origins[lane], extra);
                let mut stored = origins[lane];
                for reg in [b, c] {
                    if reg != NONE {
                        stored = self.sets.join(stored, warp.lane_origin(reg, lane));
                    }
                }
                self.mark(warp, spot, &[stored; 16]);
            }
        }
        self.tally(atomic.space, &addresses, active, bytes, false);
        self.tally(atomic.space, &addresses, active, bytes, true);
        if atomic.dst != NONE {
            if self.tracking {
                warp.set_origins(atomic.dst, &origins, active);
            }
            warp.write(atomic.dst, &old, active);
        }
        Ok(())
    }

    /// `cp.async`: reads now; until the thread waits, the destination is unwritten and belongs to this thread.
    fn copy(&mut self, warp: &mut Warp, pc: u32, copy: &CopyAsync, active: u32, guard: u32) -> Caught<()> {
        let to = self.addresses(warp, pc, copy.to, Space::Shared, active)?;
        let from = self.addresses(warp, pc, copy.from, Space::Global, active)?;
        let bytes = copy.bytes as usize;
        if copy.source_bytes != NONE {
            self.defined(warp, pc, copy.source_bytes, active)?;
            self.independent(warp, pc, copy.source_bytes, active, "size of a copy")?;
        }
        for lane in lanes(active) {
            let wanted =
                if copy.source_bytes == NONE { bytes } else { warp.regs[copy.source_bytes as usize][lane] as usize };
            let (mut value, mut origins) = (0, [0; 16]);
            if wanted > 0 {
                let wanted = wanted.min(bytes);
                let request = Request {
                    pc,
                    lane,
                    space: Space::Global,
                    address: from[lane],
                    bytes: wanted,
                    align: bytes,
                    act: Act::Read,
                    need: READABLE,
                };
                let spot = self.locate(warp, request)?;
                value = self.get(warp, spot);
                if self.tracking {
                    for (k, origin) in origins[..wanted].iter_mut().enumerate() {
                        *origin = self.origin(warp, spot.part(k, 1));
                    }
                    let extra = self.extra(warp, lane, copy.from, guard);
                    origins.iter_mut().for_each(|origin| *origin = self.sets.join(*origin, extra));
                }
            }
            let (space, address) = (Space::Shared, to[lane]);
            let request = Request { pc, lane, space, address, bytes, align: bytes, act: Act::Write, need: WRITABLE };
            let spot = self.locate(warp, request)?;
            self.unwrite_shared(spot);
            let group = warp.copy_groups[lane];
            warp.copies.push(Pending { group, request, value, origins });
        }
        self.tally(Space::Global, &from, active, bytes, false);
        Ok(())
    }

    /// Lets copies land for which the lanes of `active` wait.
    fn land(&mut self, warp: &mut Warp, groups: u32, active: u32) -> Caught<()> {
        let done = |warp: &Warp, copy: &Pending| {
            let lane = copy.request.lane;
            active >> lane & 1 == 1 && copy.group + groups < warp.copy_groups[lane]
        };
        let all = std::mem::take(&mut warp.copies);
        let (landing, rest) = all.into_iter().partition::<Vec<_>, _>(|copy| done(warp, copy));
        warp.copies = rest;
        for Pending { request, value, origins, .. } in landing {
            let spot = self.locate(warp, request)?;
            self.put(warp, spot, value);
            if self.tracking {
                self.mark(warp, spot, &origins);
            }
        }
        Ok(())
    }
}
