//! Instructions that touch memory.

use crate::counts::{sectors, wavefronts};
use crate::fault::Fault;
use crate::ir::{
    Access, Address, Atomic, CopyAsync, Instr, LOCAL_BASE, MODULE_BASE, NONE, Op, PARAM_BASE, SHARED_BASE, Space,
    WINDOW,
};
use crate::machine::{Caught, Machine};
use crate::memory::{FRESH, READABLE, WRITABLE, WRITTEN};
use crate::origin::Origin;
use crate::scalar::{Lanes, low_mask};
use crate::shadow::{Act, Who};
use crate::warp::{Pending, Warp, lanes};

/// Where a byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In an allocation, by its index.
    Global(usize),
    Shared,
    Local,
    Param,
    /// In the module's own variables.
    Module,
}

/// A checked range of bytes.
#[derive(Clone, Copy)]
struct Spot {
    place: Place,
    offset: usize,
    bytes: usize,
}

/// An access of one lane, before it is checked.
#[derive(Clone, Copy)]
struct Request {
    pc: u32,
    lane: usize,
    space: Space,
    address: u64,
    bytes: usize,
    act: Act,
    /// Whether what is read must have been written, and what is written counts as written.
    plain: bool,
}

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
            Op::WaitCopies(groups) => self.land(warp, pc, *groups, active),
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
            let request = Request { pc, lane, space: access.space, address: addresses[lane], bytes, act, plain: true };
            let spot = self.locate(warp, request)?;
            let value = self.get(warp, spot);
            for k in 0..count {
                let element = (value >> (8 * width * k)) as u64 & mask;
                out[k][lane] = match access.extend {
                    0 => element,
                    wide => (((element << shift) as i64) >> shift) as u64 & low_mask(wide.into()),
                };
            }
            if self.tracking {
                let extra = self.extra(warp, lane, access.address, guard);
                for k in 0..count {
                    let part = Spot { offset: spot.offset + k * width, bytes: width, ..spot };
                    let found = self.origin(warp, part);
                    origins[k][lane] = self.sets.join(found, extra);
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
            let request = Request { pc, lane, space: access.space, address: addresses[lane], bytes, act, plain: false };
            let spot = self.locate(warp, request)?;
            self.put(warp, spot, value);
            if self.tracking {
                let extra = self.extra(warp, lane, access.address, guard);
                for (k, &reg) in access.regs[..count].iter().enumerate() {
                    let origin = self.sets.join(warp.lane_origin(reg, lane), extra);
                    self.mark(warp, Spot { offset: spot.offset + k * width, bytes: width, ..spot }, &[origin; 16]);
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
            let request = Request { pc, lane, space: atomic.space, address: addresses[lane], bytes, act, plain: true };
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
                    act: Act::Read,
                    plain: true,
                };
                let spot = self.locate_unaligned(warp, request, bytes)?;
                value = self.get(warp, spot);
                if self.tracking {
                    for (k, origin) in origins[..wanted].iter_mut().enumerate() {
                        *origin = self.origin(warp, Spot { offset: spot.offset + k, bytes: 1, ..spot });
                    }
                    let extra = self.extra(warp, lane, copy.from, guard);
                    origins.iter_mut().for_each(|origin| *origin = self.sets.join(*origin, extra));
                }
            }
            let request =
                Request { pc, lane, space: Space::Shared, address: to[lane], bytes, act: Act::Write, plain: false };
            let spot = self.locate(warp, request)?;
            self.shared_written[spot.offset..spot.offset + bytes].fill(0);
            let group = warp.copy_groups[lane];
            warp.copies.push(Pending { lane, group, offset: spot.offset, bytes, value, origins });
        }
        self.tally(Space::Global, &from, active, bytes, false);
        Ok(())
    }

    /// Lets copies land for which the lanes of `active` wait.
    fn land(&mut self, warp: &mut Warp, pc: u32, groups: u32, active: u32) -> Caught<()> {
        let done = |warp: &Warp, copy: &Pending| {
            active >> copy.lane & 1 == 1 && copy.group + groups < warp.copy_groups[copy.lane]
        };
        let all = std::mem::take(&mut warp.copies);
        let (landing, rest) = all.into_iter().partition::<Vec<_>, _>(|copy| done(warp, copy));
        warp.copies = rest;
        for copy in landing {
            let Pending { lane, offset, bytes, value, origins, .. } = copy;
            let request = Request {
                pc,
                lane,
                space: Space::Shared,
                address: offset as u64,
                bytes,
                act: Act::Write,
                plain: false,
            };
            let spot = self.locate(warp, request)?;
            self.put(warp, spot, value);
            if self.tracking {
                self.mark(warp, spot, &origins);
            }
        }
        Ok(())
    }

    #[inline]
    fn locate(&mut self, warp: &Warp, request: Request) -> Caught<Spot> {
        self.locate_unaligned(warp, request, request.bytes)
    }

    /// Checks an access: bounds, alignment to `align` bytes, permission, written, race.
    #[inline]
    fn locate_unaligned(&mut self, warp: &Warp, request: Request, align: usize) -> Caught<Spot> {
        let Request { pc, lane, bytes, act, .. } = request;
        let (space, address) = resolve(request.space, request.address);
        if address & (align as u64 - 1) != 0 {
            return Err(self.wrong(warp, request, |site, access, bytes, address| Fault::Misaligned {
                site,
                access,
                bytes,
                address,
            }));
        }
        let (place, offset) = match space {
            Space::Global => self.locate_global(warp, request, address)?,
            Space::Shared if address as usize + bytes <= self.shared.len() => (Place::Shared, address as usize),
            Space::Local if address as usize + bytes <= self.kernel.local_bytes => {
                (Place::Local, lane * self.kernel.local_bytes + address as usize)
            }
            Space::Param if address as usize + bytes <= self.kernel.param_bytes && act == Act::Read => {
                (Place::Param, address as usize)
            }
            _ => {
                return Err(self.wrong(warp, request, |site, access, bytes, address| Fault::OutOfBounds {
                    site,
                    access,
                    bytes,
                    address,
                }));
            }
        };
        let spot = Spot { place, offset, bytes };
        if request.plain {
            let written = match place {
                Place::Global(index) => Some(&self.memory.allocations[index].state),
                Place::Shared => Some(&self.shared_written),
                Place::Local => Some(&warp.local_written),
                _ => None,
            };
            if let Some(written) = written
                && let Some(byte) = written[offset..offset + bytes].iter().position(|state| state & WRITTEN == 0)
            {
                let address = self.name_address(Request { address: request.address + byte as u64, ..request });
                return Err(Box::new(Fault::UnwrittenMemory { site: self.site(warp, pc, lane), address }));
            }
        }
        let global = matches!(place, Place::Global(_));
        let (base, tick, known, partial) = (self.base, warp.tick, &warp.known, &warp.partial[..]);
        let who = Who { warp: warp.index, lane: lane as u8, pc, tick, base, known, partial, global };
        let conflict = match place {
            Place::Global(index) if self.shadowed(index, offset, bytes) => {
                self.tracks[index].shadow.access(offset, bytes, act, &who)
            }
            Place::Shared => self.shared_shadow.access(offset, bytes, act, &who),
            _ => None,
        };
        if let Some((byte, other)) = conflict {
            let address = self.name_address(Request { address: request.address + (byte - offset) as u64, ..request });
            return Err(self.race(warp, pc, lane, act, address, other));
        }
        Ok(spot)
    }

    /// Whether anyone may write these bytes, so that races are possible.
    #[inline]
    fn shadowed(&self, index: usize, offset: usize, bytes: usize) -> bool {
        self.launch.views.is_empty()
            || self.memory.allocations[index].state[offset..offset + bytes].iter().any(|state| state & WRITABLE != 0)
    }

    #[inline]
    fn locate_global(&mut self, warp: &Warp, request: Request, address: u64) -> Caught<(Place, usize)> {
        let Request { bytes, act, .. } = request;
        let holds = |memory: &crate::memory::Memory, index: usize| {
            memory.allocations.get(index).is_some_and(|allocation| {
                address >= allocation.base && address + bytes as u64 <= allocation.base + allocation.size as u64
            })
        };
        if !holds(self.memory, self.recent) {
            match self.memory.find(address) {
                Some(index) if holds(self.memory, index) => self.recent = index,
                _ => {
                    let offset = address.wrapping_sub(MODULE_BASE);
                    if act == Act::Read && offset < WINDOW && offset as usize + bytes <= self.kernel.image.len() {
                        return Ok((Place::Module, offset as usize));
                    }
                    return Err(self.wrong(warp, request, |site, access, bytes, address| Fault::OutOfBounds {
                        site,
                        access,
                        bytes,
                        address,
                    }));
                }
            }
        }
        let index = self.recent;
        let allocation = &self.memory.allocations[index];
        if allocation.freed {
            return Err(self.wrong(warp, request, |site, access, bytes, address| Fault::Freed {
                site,
                access,
                bytes,
                address,
            }));
        }
        let offset = (address - allocation.base) as usize;
        if !self.launch.views.is_empty() {
            let need = match act {
                Act::Read => READABLE,
                Act::Write => WRITABLE,
                Act::Atomic if request.plain => READABLE,
                Act::Atomic => WRITABLE,
            };
            if allocation.state[offset..offset + bytes].iter().any(|state| state & need != need) {
                return Err(self.wrong(warp, request, |site, access, bytes, address| Fault::NotPermitted {
                    site,
                    access,
                    bytes,
                    address,
                }));
            }
        }
        Ok((Place::Global(index), offset))
    }

    #[cold]
    fn wrong(
        &self,
        warp: &Warp,
        request: Request,
        fault: fn(Box<crate::fault::Site>, &'static str, usize, String) -> Fault,
    ) -> Box<Fault> {
        let address = self.name_address(request);
        Box::new(fault(self.site(warp, request.pc, request.lane), request.act.name(), request.bytes, address))
    }

    #[cold]
    fn name_address(&self, request: Request) -> String {
        let (space, address) = resolve(request.space, request.address);
        match space {
            Space::Shared => format!("shared memory byte {address} of {}", self.shared.len()),
            Space::Local => format!("local memory byte {address} of {}", self.kernel.local_bytes),
            Space::Param => format!("parameter byte {address} of {}", self.kernel.param_bytes),
            _ => self.name_global(address),
        }
    }

    #[inline]
    fn get(&self, warp: &Warp, spot: Spot) -> u128 {
        let bytes: &[u8] = match spot.place {
            Place::Global(index) => &self.memory.allocations[index].bytes,
            Place::Shared => &self.shared,
            Place::Local => &warp.local,
            Place::Param => self.launch.params,
            Place::Module => &self.kernel.image,
        };
        let mut value = [0; 16];
        value[..spot.bytes].copy_from_slice(&bytes[spot.offset..spot.offset + spot.bytes]);
        u128::from_le_bytes(value)
    }

    #[inline]
    fn put(&mut self, warp: &mut Warp, spot: Spot, value: u128) {
        let range = spot.offset..spot.offset + spot.bytes;
        let (bytes, state, flags) = match spot.place {
            Place::Global(index) => {
                let allocation = &mut self.memory.allocations[index];
                let flags = if self.launch.views.is_empty() { WRITTEN } else { WRITTEN | FRESH };
                (&mut allocation.bytes, &mut allocation.state, flags)
            }
            Place::Local => (&mut warp.local, &mut warp.local_written, WRITTEN),
            // Parameters and module variables are never located for writing.
            _ => (&mut self.shared, &mut self.shared_written, WRITTEN),
        };
        bytes[range.clone()].copy_from_slice(&value.to_le_bytes()[..spot.bytes]);
        state[range].iter_mut().for_each(|state| *state |= flags);
    }

    /// What the bytes carry together.
    #[inline]
    fn origin(&mut self, warp: &Warp, spot: Spot) -> Origin {
        let origins: &[Origin] = match spot.place {
            Place::Global(index) => &self.tracks[index].origins,
            Place::Shared => &self.shared_origins,
            Place::Local => &warp.local_origins,
            _ => &[],
        };
        let Some(part) = origins.get(spot.offset..spot.offset + spot.bytes) else { return 0 };
        let mut union = part[0];
        for &origin in &part[1..] {
            if origin != union {
                union = self.sets.join(union, origin);
            }
        }
        union
    }

    #[inline]
    fn mark(&mut self, warp: &mut Warp, spot: Spot, origins: &[Origin; 16]) {
        let all = match spot.place {
            Place::Global(index) => &mut self.tracks[index].origins,
            Place::Local => &mut warp.local_origins,
            _ => &mut self.shared_origins,
        };
        all[spot.offset..spot.offset + spot.bytes].copy_from_slice(&origins[..spot.bytes]);
    }

    /// Counts a warp-wide access.
    fn tally(&mut self, space: Space, addresses: &Lanes, active: u32, bytes: usize, store: bool) {
        let (mut global, mut shared) = ([0; 32], [(0, 0); 32]);
        let (mut globals, mut shareds) = (0, 0);
        for lane in lanes(active) {
            match resolve(space, addresses[lane]) {
                (Space::Global, address) => {
                    global[globals] = address;
                    globals += 1;
                }
                (Space::Shared, address) => {
                    shared[shareds] = (lane, address);
                    shareds += 1;
                }
                _ => {}
            }
        }
        if globals > 0 {
            let touched = sectors(&global[..globals], bytes as u64);
            let total = (globals * bytes) as u64;
            let counts = &mut self.counts;
            let (requests, all, requested) = if store {
                (&mut counts.global_store_requests, &mut counts.global_store_sectors, &mut counts.global_stored_bytes)
            } else {
                (&mut counts.global_load_requests, &mut counts.global_load_sectors, &mut counts.global_loaded_bytes)
            };
            *requests += 1;
            *all += touched;
            *requested += total;
        }
        if shareds > 0 {
            let (passes, fewest) = wavefronts(&shared[..shareds], bytes as u64);
            self.counts.shared_wavefronts += passes;
            self.counts.bank_conflicts += passes - fewest;
        }
    }
}

/// The state space and the address in it of a generic address.
#[inline]
fn resolve(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    match address & !(WINDOW - 1) {
        SHARED_BASE => (Space::Shared, address - SHARED_BASE),
        LOCAL_BASE => (Space::Local, address - LOCAL_BASE),
        PARAM_BASE => (Space::Param, address - PARAM_BASE),
        _ => (Space::Global, address),
    }
}
