//! Addresses to places: every access of a lane is checked here, and bytes, their states and their origins are read and written.

use crate::counts::{sectors, wavefronts};
use crate::fault::{Fault, Site};
use crate::ir::{LOCAL_BASE, MODULE_BASE, PARAM_BASE, SHARED_BASE, Space, WINDOW};
use crate::machine::{Caught, Machine};
use crate::memory::{FRESH, READABLE, WRITABLE, WRITTEN};
use crate::origin::Origin;
use crate::scalar::Lanes;
use crate::shadow::{Act, Who};
use crate::warp::{Warp, lanes};

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
pub(crate) struct Spot {
    place: Place,
    offset: usize,
    bytes: usize,
}

impl Spot {
    /// `bytes` bytes from byte `start` of it.
    pub fn part(self, start: usize, bytes: usize) -> Spot {
        Spot { place: self.place, offset: self.offset + start, bytes }
    }
}

/// An access of one lane, before it is checked.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub pc: u32,
    pub lane: usize,
    pub space: Space,
    pub address: u64,
    pub bytes: usize,
    /// What the address must be a multiple of.
    pub align: usize,
    pub act: Act,
    /// What a view must permit: [`READABLE`], [`WRITABLE`] or both. What is read must have been written.
    pub need: u8,
}

/// A fault about an address.
type AddressFault = fn(Box<Site>, &'static str, usize, String) -> Fault;

const OUT_OF_BOUNDS: AddressFault = |site, access, bytes, address| Fault::OutOfBounds { site, access, bytes, address };
const NOT_PERMITTED: AddressFault = |site, access, bytes, address| Fault::NotPermitted { site, access, bytes, address };
const MISALIGNED: AddressFault = |site, access, bytes, address| Fault::Misaligned { site, access, bytes, address };
const FREED: AddressFault = |site, access, bytes, address| Fault::Freed { site, access, bytes, address };

impl Machine<'_> {
    /// Checks an access: bounds, alignment, permission, written, race.
    #[inline]
    pub fn locate(&mut self, warp: &Warp, request: Request) -> Caught<Spot> {
        let Request { lane, bytes, align, need, .. } = request;
        let (space, address) = resolve(request.space, request.address);
        if address & (align as u64 - 1) != 0 {
            return Err(self.wrong(warp, request, MISALIGNED));
        }
        let fits = |size: usize| address as usize + bytes <= size;
        let (place, offset) = match space {
            Space::Global => self.locate_global(warp, request, address)?,
            Space::Shared if fits(self.shared.len()) => (Place::Shared, address as usize),
            Space::Local if fits(self.kernel.local_bytes) => {
                (Place::Local, lane * self.kernel.local_bytes + address as usize)
            }
            Space::Param if fits(self.kernel.param_bytes) && need == READABLE => (Place::Param, address as usize),
            _ => return Err(self.wrong(warp, request, OUT_OF_BOUNDS)),
        };
        let range = offset..offset + bytes;
        let (all, any) = match place {
            Place::Global(index) => digest(&self.memory.allocations[index].state[range]),
            Place::Shared => digest(&self.shared_written[range]),
            Place::Local => digest(&warp.local_written[range]),
            _ => return Ok(Spot { place, offset, bytes }),
        };
        let views = !self.launch.views.is_empty();
        let global = matches!(place, Place::Global(_));
        if global && views && all & need != need {
            return Err(self.wrong(warp, request, NOT_PERMITTED));
        }
        if need & READABLE != 0 && all & WRITTEN == 0 {
            return Err(self.unwritten(warp, request, Spot { place, offset, bytes }));
        }
        if place == Place::Local || (global && views && any & WRITABLE == 0) {
            return Ok(Spot { place, offset, bytes });
        }
        self.note(warp, request, Spot { place, offset, bytes })
    }

    /// Records the access and checks it for races.
    #[inline]
    fn note(&mut self, warp: &Warp, request: Request, spot: Spot) -> Caught<Spot> {
        let Request { pc, lane, act, .. } = request;
        let who = Who {
            warp: warp.index,
            lane: lane as u8,
            pc,
            tick: warp.tick,
            base: self.base,
            known: &warp.known,
            partial: &warp.partial,
            global: spot.place != Place::Shared,
        };
        let shadow = match spot.place {
            Place::Global(index) => &mut self.tracks[index].shadow,
            _ => &mut self.shared_shadow,
        };
        let Some((byte, other)) = shadow.access(spot.offset, spot.bytes, act, &who) else { return Ok(spot) };
        let address = self.name_address(Request { address: request.address + (byte - spot.offset) as u64, ..request });
        Err(self.race(warp, pc, lane, act, address, other))
    }

    #[inline]
    fn locate_global(&mut self, warp: &Warp, request: Request, address: u64) -> Caught<(Place, usize)> {
        let bytes = request.bytes as u64;
        let holds = |index: usize| {
            let allocation = self.memory.allocations.get(index);
            allocation.is_some_and(|found| address >= found.base && address + bytes <= found.base + found.size as u64)
        };
        if !holds(self.recent) {
            match self.memory.find(address) {
                Some(index) if holds(index) => self.recent = index,
                _ => {
                    let offset = address.wrapping_sub(MODULE_BASE);
                    if request.need == READABLE && offset < WINDOW && offset + bytes <= self.kernel.image.len() as u64 {
                        return Ok((Place::Module, offset as usize));
                    }
                    return Err(self.wrong(warp, request, OUT_OF_BOUNDS));
                }
            }
        }
        let allocation = &self.memory.allocations[self.recent];
        if allocation.freed {
            return Err(self.wrong(warp, request, FREED));
        }
        Ok((Place::Global(self.recent), (address - allocation.base) as usize))
    }

    #[cold]
    fn wrong(&self, warp: &Warp, request: Request, fault: AddressFault) -> Box<Fault> {
        let access = match (request.need & READABLE != 0, request.need & WRITABLE != 0) {
            (true, true) => "atomic",
            (true, false) => "read",
            _ => "write",
        };
        let address = self.name_address(request);
        Box::new(fault(self.site(warp, request.pc, request.lane), access, request.bytes, address))
    }

    #[cold]
    fn unwritten(&self, warp: &Warp, request: Request, spot: Spot) -> Box<Fault> {
        let states = match spot.place {
            Place::Global(index) => &self.memory.allocations[index].state,
            Place::Local => &warp.local_written,
            _ => &self.shared_written,
        };
        let states = &states[spot.offset..spot.offset + spot.bytes];
        let byte = states.iter().position(|state| state & WRITTEN == 0).unwrap_or(0) as u64;
        let address = self.name_address(Request { address: request.address + byte, ..request });
        Box::new(Fault::UnwrittenMemory { site: self.site(warp, request.pc, request.lane), address })
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

    /// The bytes of a spot, low first.
    #[inline]
    pub fn get(&self, warp: &Warp, spot: Spot) -> u128 {
        let bytes: &[u8] = match spot.place {
            Place::Global(index) => &self.memory.allocations[index].bytes,
            Place::Shared => &self.shared,
            Place::Local => &warp.local,
            Place::Param => self.launch.params,
            Place::Module => &self.kernel.image,
        };
        let bytes = &bytes[spot.offset..spot.offset + spot.bytes];
        if let Ok(word) = <[u8; 4]>::try_from(bytes) {
            return u32::from_le_bytes(word).into();
        }
        let mut value = [0; 16];
        value[..spot.bytes].copy_from_slice(bytes);
        u128::from_le_bytes(value)
    }

    /// Writes the bytes of a spot, which count as written from now on.
    #[inline]
    pub fn put(&mut self, warp: &mut Warp, spot: Spot, value: u128) {
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

    /// Makes a spot of shared memory unwritten, as it is while a copy to it is under way.
    pub fn unwrite_shared(&mut self, spot: Spot) {
        self.shared_written[spot.offset..spot.offset + spot.bytes].fill(0);
    }

    /// What the bytes of a spot carry together.
    #[inline]
    pub fn origin(&mut self, warp: &Warp, spot: Spot) -> Origin {
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

    /// Gives each byte of a spot its origin.
    #[inline]
    pub fn mark(&mut self, warp: &mut Warp, spot: Spot, origins: &[Origin; 16]) {
        let all = match spot.place {
            Place::Global(index) => &mut self.tracks[index].origins,
            Place::Local => &mut warp.local_origins,
            _ => &mut self.shared_origins,
        };
        all[spot.offset..spot.offset + spot.bytes].copy_from_slice(&origins[..spot.bytes]);
    }

    /// Counts a warp-wide access.
    pub fn tally(&mut self, space: Space, addresses: &Lanes, active: u32, bytes: usize, store: bool) {
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
        let counts = &mut self.counts;
        if globals > 0 {
            let touched = sectors(&global[..globals], bytes as u64);
            let total = (globals * bytes) as u64;
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
            let (passes, fewest) = wavefronts(&shared[..shareds], bytes as u64, store);
            counts.shared_wavefronts += passes;
            counts.bank_conflicts += passes - fewest;
        }
    }
}

/// What all of the states have in common, and what any of them has.
#[inline]
fn digest(states: &[u8]) -> (u8, u8) {
    if let Ok(word) = <[u8; 4]>::try_from(states) {
        let [a, b, c, d] = word;
        return (a & b & c & d, a | b | c | d);
    }
    states.iter().fold((0xFF, 0), |(all, any), state| (all & state, any | state))
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
