//! Threads that meet: shuffles, votes, barriers of the warp and of the block.

use crate::fault::Fault;
use crate::ir::{Barrier, Instr, Meeting, NONE, Op, Reduction, Reg, Shuffle, ShuffleMode, Vote, VoteMode};
use crate::machine::{Caught, Machine};
use crate::origin::Origin;
use crate::warp::{Group, Wait, Warp, lanes};

/// A barrier of the block, while threads wait at it.
#[derive(Clone, Default)]
pub(crate) struct BlockBarrier {
    /// Threads that have arrived; 0 when nobody waits.
    pub arrived: u32,
    /// Threads that it takes.
    pub expected: u32,
    /// Whether it takes the whole block.
    whole: bool,
    pc: u32,
    /// What all who arrived know together.
    known: [u32; 32],
    count: u32,
    all: bool,
    any: bool,
    origin: Origin,
}

impl Machine<'_> {
    /// A group arrives at a meeting; those whom a guard excludes go on.
    pub fn arrive(&mut self, warp: &mut Warp, at: usize, instr: &Instr, active: u32) -> Caught<()> {
        let Group { mask, pc, .. } = warp.groups[at];
        if let Some(guard) = instr.guard {
            self.independent(warp, pc, guard.pred, mask, "predicate of a barrier")?;
            if active == 0 {
                warp.groups[at].pc = pc + 1;
                return Ok(());
            }
            if active != mask {
                warp.groups.push(Group { mask: mask & !active, pc: pc + 1, wait: Wait::No });
                warp.groups[at].mask = active;
            }
        }
        match &instr.op {
            Op::Meet { mask, meeting } => self.meet(warp, at, instr, *mask, meeting),
            Op::Barrier(barrier) => self.barrier(warp, at, instr, barrier),
            _ => Ok(()),
        }
    }

    fn meet(&mut self, warp: &mut Warp, at: usize, instr: &Instr, mask: Reg, meeting: &Meeting) -> Caught<()> {
        let Group { mask: here, pc, .. } = warp.groups[at];
        self.defined(warp, pc, mask, here)?;
        let wanted = &warp.regs[mask as usize];
        let named = wanted[here.trailing_zeros() as usize] as u32;
        let same = lanes(here).filter(|&lane| wanted[lane] as u32 == named).fold(0, |all, lane| all | 1 << lane);
        if same & !named != 0 {
            let lane = (same & !named).trailing_zeros() as usize;
            let reason = format!("lane {lane} runs this with mask {named:#010x}, which does not name it");
            return Err(Box::new(Fault::Divergent { site: self.site(warp, pc, lane), reason }));
        }
        if same != here {
            warp.groups.push(Group { mask: here & !same, pc, wait: Wait::No });
        }
        warp.groups[at] = Group { mask: same, pc, wait: Wait::Lanes(named) };
        let barrier = matches!(meeting, Meeting::Barrier);
        let fits = |group: &Group| {
            group.wait == Wait::Lanes(named)
                && (group.pc == pc
                    || (barrier
                        && matches!(
                            self.kernel.code[group.pc as usize].op,
                            Op::Meet { meeting: Meeting::Barrier, .. }
                        )))
        };
        let present = warp.groups.iter().filter(|group| fits(group)).fold(0, |all, group| all | group.mask);
        if present != named & warp.live {
            return Ok(());
        }
        self.count(instr, present);
        for group in warp.groups.iter_mut().filter(|group| fits(group)) {
            *group = Group { mask: group.mask, pc: group.pc + 1, wait: Wait::No };
        }
        if !barrier && warp.groups.len() > 1 {
            warp.join_groups();
        }
        match meeting {
            Meeting::Shuffle(shuffle) => self.shuffle(warp, pc, shuffle, present),
            Meeting::Vote(vote) => self.vote(warp, pc, vote, present),
            Meeting::Barrier => {
                warp.tick += 1;
                if present == warp.live {
                    warp.known[warp.index as usize] = warp.tick;
                    warp.partial.clear();
                } else {
                    warp.partial.push((warp.tick, present));
                }
                Ok(())
            }
        }
    }

    /// `shfl.sync`. A source lane that does not take part gives all ones, a NaN, as the ISA leaves that value open.
    fn shuffle(&mut self, warp: &mut Warp, pc: u32, shuffle: &Shuffle, present: u32) -> Caught<()> {
        let Shuffle { mode, dst, inside, value, lane: operand, clamp } = *shuffle;
        for reg in [value, operand, clamp] {
            self.defined(warp, pc, reg, present)?;
        }
        let (mut out, mut hit, mut origins) = ([0; 32], [0; 32], [0; 32]);
        for lane in lanes(present) {
            let bits = warp.regs[clamp as usize][lane] as i32;
            let (clamp, segment) = (bits & 31, bits >> 8 & 31);
            let (me, by) = (lane as i32, warp.regs[operand as usize][lane] as i32 & 31);
            let bound = me & segment | clamp & !segment;
            let (from, fits) = match mode {
                ShuffleMode::Up => (me - by, me - by >= bound),
                ShuffleMode::Down => (me + by, me + by <= bound),
                ShuffleMode::Butterfly => (me ^ by, me ^ by <= bound),
                ShuffleMode::Index => (me & segment | by & !segment, me & segment | by & !segment <= bound),
            };
            let from = if fits { from as usize } else { lane };
            hit[lane] = fits as u64;
            let there = present >> from & 1 == 1;
            out[lane] = if there { warp.regs[value as usize][from] } else { 0xFFFF_FFFF };
            if self.tracking {
                let carried = if there { warp.lane_origin(value, from) } else { 0 };
                origins[lane] = self.sets.join(carried, warp.lane_origin(operand, lane));
            }
        }
        if self.tracking {
            warp.set_origins(dst, &origins, present);
            if inside != NONE {
                self.flow(warp, inside, &[operand], present);
            }
        }
        warp.write(dst, &out, present);
        if inside != NONE {
            warp.write(inside, &hit, present);
        }
        Ok(())
    }

    fn vote(&mut self, warp: &mut Warp, pc: u32, vote: &Vote, present: u32) -> Caught<()> {
        let Vote { mode, dst, agree, value } = *vote;
        self.defined(warp, pc, value, present)?;
        let values = warp.regs[value as usize];
        let truth = warp.truth(value) & present;
        let alike =
            |value: u64| lanes(present).filter(|&lane| values[lane] == value).fold(0u32, |all, lane| all | 1 << lane);
        let first = alike(values[present.trailing_zeros() as usize]);
        let mut out = [0; 32];
        for lane in lanes(present) {
            out[lane] = match mode {
                VoteMode::All => (truth == present) as u64,
                VoteMode::Any => (truth != 0) as u64,
                VoteMode::Uniform => (truth == 0 || truth == present) as u64,
                VoteMode::Ballot => truth.into(),
                VoteMode::MatchAny => alike(values[lane]).into(),
                VoteMode::MatchAll => {
                    if first == present {
                        present.into()
                    } else {
                        0
                    }
                }
            };
        }
        let origin = warp.union(value, present, &mut self.sets);
        for (reg, values) in [(dst, &out), (agree, &[(first == present) as u64; 32])] {
            if reg != NONE {
                warp.set_origin(reg, origin, present);
                warp.write(reg, values, present);
            }
        }
        Ok(())
    }

    /// A barrier of the block: the warp arrives when all its live lanes wait at this instruction.
    fn barrier(&mut self, warp: &mut Warp, at: usize, instr: &Instr, barrier: &Barrier) -> Caught<()> {
        let Group { mask, pc, .. } = warp.groups[at];
        let first = mask.trailing_zeros() as usize;
        self.defined(warp, pc, barrier.id, mask)?;
        let id = warp.regs[barrier.id as usize][first];
        if id > 15 {
            let reason = format!("there is no barrier {id}; they go from 0 to 15");
            return Err(Box::new(Fault::Divergent { site: self.site(warp, pc, first), reason }));
        }
        warp.groups[at].wait = Wait::Block(id as u8);
        let here = |group: &&mut Group| group.pc == pc && group.wait == Wait::Block(id as u8);
        if warp.groups.iter_mut().filter(here).fold(0, |all, group| all | group.mask) != warp.live {
            return Ok(());
        }
        warp.groups.truncate(1);
        warp.groups[0] = Group { mask: warp.live, pc, wait: Wait::Block(id as u8) };
        let whole = barrier.threads == NONE;
        let expected = if whole {
            self.position.threads()
        } else {
            self.defined(warp, pc, barrier.threads, warp.live)?;
            warp.regs[barrier.threads as usize][first] as u32
        };
        self.count(instr, warp.live);
        self.counts.barriers += 1;
        let (vote, origin) = match barrier.reduction {
            Some((_, _, value)) => {
                self.defined(warp, pc, value, warp.live)?;
                (warp.truth(value) & warp.live, warp.union(value, warp.live, &mut self.sets))
            }
            None => (0, 0),
        };
        let state = &mut self.barriers[id as usize];
        if state.arrived == 0 {
            *state = BlockBarrier { expected, whole, pc, all: true, ..BlockBarrier::default() };
        } else if state.expected != expected || (state.whole && state.pc != pc) {
            let other = state.pc;
            let reason = format!(
                "other threads of the block wait for barrier {id} at another instruction, {}",
                self.place_name(other)
            );
            return Err(Box::new(Fault::Divergent { site: self.site(warp, pc, first), reason }));
        }
        state.arrived += if whole { warp.live.count_ones() } else { 32 };
        state.count += vote.count_ones();
        state.all &= vote == warp.live;
        state.any |= vote != 0;
        state.origin = self.sets.join(state.origin, origin);
        for (all, own) in state.known.iter_mut().zip(&warp.known) {
            *all = (*all).max(*own);
        }
        warp.tick += 1;
        state.known[warp.index as usize] = warp.tick;
        if !barrier.wait {
            warp.groups[0] = Group { mask: warp.live, pc: pc + 1, wait: Wait::No };
        }
        Ok(())
    }

    /// Opens barriers for which everybody has arrived.
    pub fn release(&mut self, warps: &mut [Warp]) {
        for id in 0..self.barriers.len() {
            let state = &self.barriers[id];
            if state.arrived == 0 || state.arrived < state.expected {
                continue;
            }
            let state = std::mem::take(&mut self.barriers[id]);
            for warp in warps.iter_mut() {
                for at in 0..warp.groups.len() {
                    if warp.groups[at].wait != Wait::Block(id as u8) {
                        continue;
                    }
                    let Group { mask, pc, .. } = warp.groups[at];
                    warp.groups[at] = Group { mask, pc: pc + 1, wait: Wait::No };
                    for (own, all) in warp.known.iter_mut().zip(&state.known) {
                        *own = (*own).max(*all);
                    }
                    warp.partial.clear();
                    if let Op::Barrier(Barrier { reduction: Some((kind, dst, _)), .. }) =
                        self.kernel.code[pc as usize].op
                    {
                        let value = match kind {
                            Reduction::Popc => state.count.into(),
                            Reduction::And => state.all as u64,
                            Reduction::Or => state.any as u64,
                        };
                        warp.set_origin(dst, state.origin, mask);
                        warp.write(dst, &[value; 32], mask);
                    }
                }
            }
        }
    }
}
