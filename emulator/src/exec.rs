//! One instruction of one group of lanes.

use crate::fault::Fault;
use crate::ir::{Compute, Instr, NONE, Op, Reg};
use crate::machine::{Caught, Machine};
use crate::origin::{MIXED, Origin};
use crate::scalar::Lanes;
use crate::warp::{Group, Wait, Warp, lanes};

impl Machine<'_> {
    /// Runs the instruction at which group `at` stands.
    #[inline]
    pub fn step(&mut self, warp: &mut Warp, at: usize) -> Caught<()> {
        let Group { mask, pc, .. } = warp.groups[at];
        let kernel = self.kernel;
        let instr = &kernel.code[pc as usize];
        let mut active = mask;
        if let Some(guard) = instr.guard {
            self.defined(warp, pc, guard.pred, mask)?;
            let truth = warp.truth(guard.pred);
            active &= if guard.negate { !truth } else { truth };
        }
        match &instr.op {
            Op::Compute { f, dst, src } => {
                self.count(instr, active);
                if active != 0 {
                    self.compute(warp, pc, instr, (*f, *dst, src), active)?;
                }
            }
            Op::Select { dst, a, b, pred } => {
                self.count(instr, active);
                if active != 0 {
                    self.select(warp, pc, instr, [*dst, *a, *b, *pred], active)?;
                }
            }
            Op::Branch(_) | Op::BranchTable { .. } | Op::Exit | Op::Trap => {
                return self.control(warp, at, instr, active);
            }
            Op::Meet { .. } | Op::Barrier(_) => return self.arrive(warp, at, instr, active),
            _ => {
                self.count(instr, active);
                if let Some(guard) = instr.guard {
                    self.independent(warp, pc, guard.pred, mask, "predicate of a memory access")?;
                }
                if active != 0 {
                    self.touch(warp, pc, instr, active)?;
                }
            }
        }
        if let Some(guard) = instr.guard
            && self.tracking
            && warp.origin[guard.pred as usize] != 0
        {
            self.leave_trace(warp, &instr.op, guard.pred, mask & !active);
        }
        warp.groups[at].pc = pc + 1;
        Ok(())
    }

    /// That a lane was passed over tells of its guard too: the guard's origin joins that of the registers left as they were.
    fn leave_trace(&mut self, warp: &mut Warp, op: &Op, guard: Reg, passed: u32) {
        let targets: &[Reg] = match op {
            Op::Compute { dst, .. } | Op::Select { dst, .. } => std::slice::from_ref(dst),
            Op::Load(access) => &access.regs[..access.count as usize],
            Op::Atomic(atomic) if atomic.dst != NONE => std::slice::from_ref(&atomic.dst),
            _ => &[],
        };
        for &dst in targets {
            let passed = passed & warp.defined[dst as usize];
            if passed != 0 {
                self.flow(warp, dst, &[dst, guard], passed);
            }
        }
    }

    #[inline]
    pub(crate) fn count(&mut self, instr: &Instr, active: u32) {
        if !instr.part {
            self.counts.warp_instructions.add(instr.pipe, 1);
            self.counts.thread_instructions.add(instr.pipe, active.count_ones().into());
        }
    }

    /// Faults unless all lanes of `mask` have written `reg`.
    #[inline]
    pub(crate) fn defined(&self, warp: &Warp, pc: u32, reg: Reg, mask: u32) -> Caught<()> {
        let missing = mask & !warp.defined[reg as usize];
        if missing == 0 { Ok(()) } else { Err(self.undefined(warp, pc, reg, missing)) }
    }

    #[cold]
    fn undefined(&self, warp: &Warp, pc: u32, reg: Reg, missing: u32) -> Box<Fault> {
        let site = self.site(warp, pc, missing.trailing_zeros() as usize);
        Box::new(Fault::UnwrittenRegister { site, register: self.kernel.registers[reg as usize].clone() })
    }

    /// Faults if `reg` carries owners' data, unless the launch allows it.
    #[inline]
    pub(crate) fn independent(&mut self, warp: &Warp, pc: u32, reg: Reg, mask: u32, what: &'static str) -> Caught<()> {
        if warp.origin[reg as usize] == 0 || self.launch.data_dependent_control {
            return Ok(());
        }
        for lane in lanes(mask) {
            let origin = warp.lane_origin(reg, lane);
            if origin != 0 {
                let (site, owners) = (self.site(warp, pc, lane), self.sets.name(origin));
                return Err(Box::new(Fault::DataDependent { site, what, owners }));
            }
        }
        Ok(())
    }

    #[inline]
    fn compute(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        instr: &Instr,
        (f, dst, src): (Compute, Reg, &[Reg; 4]),
        active: u32,
    ) -> Caught<()> {
        let mut out: Lanes = [0; 32];
        for &reg in &src[..f.arity()] {
            self.defined(warp, pc, reg, active)?;
        }
        let reg = |k: usize| &warp.regs[src[k] as usize];
        match f {
            Compute::One(f) => f(reg(0), &mut out),
            Compute::Two(f) => f(reg(0), reg(1), &mut out),
            Compute::Three(f) => f(reg(0), reg(1), reg(2), &mut out),
            Compute::Four(f) => f(reg(0), reg(1), reg(2), reg(3), &mut out),
        }
        if self.tracking {
            let guard = instr.guard.map_or(NONE, |guard| guard.pred);
            let mut all = [guard; 5];
            all[..4].copy_from_slice(src);
            self.flow(warp, dst, &all, active);
        }
        warp.write(dst, &out, active);
        Ok(())
    }

    /// Gives `dst` the union of what `sources` carry; [`NONE`] among them carries nothing.
    pub(crate) fn flow(&mut self, warp: &mut Warp, dst: Reg, sources: &[Reg], active: u32) {
        let mut union = 0;
        for &reg in sources.iter().filter(|reg| **reg != NONE) {
            let origin = warp.origin[reg as usize];
            if origin == MIXED {
                let mut origins: [Origin; 32] = [0; 32];
                for lane in lanes(active) {
                    for &reg in sources.iter().filter(|reg| **reg != NONE) {
                        origins[lane] = self.sets.join(origins[lane], warp.lane_origin(reg, lane));
                    }
                }
                return warp.set_origins(dst, &origins, active);
            }
            union = self.sets.join(union, origin);
        }
        warp.set_origin(dst, union, active);
    }

    /// `selp`: the operand that is not chosen leaves no trace.
    fn select(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        instr: &Instr,
        [dst, a, b, pred]: [Reg; 4],
        active: u32,
    ) -> Caught<()> {
        self.defined(warp, pc, pred, active)?;
        let truth = warp.truth(pred);
        self.defined(warp, pc, a, active & truth)?;
        self.defined(warp, pc, b, active & !truth)?;
        let mut out: Lanes = [0; 32];
        let (x, y, p) = (&warp.regs[a as usize], &warp.regs[b as usize], &warp.regs[pred as usize]);
        for lane in 0..32 {
            out[lane] = if p[lane] & 1 == 1 { x[lane] } else { y[lane] };
        }
        if self.tracking {
            let guard = instr.guard.map_or(NONE, |guard| guard.pred);
            if active & !truth == 0 {
                self.flow(warp, dst, &[a, pred, guard], active);
            } else if active & truth == 0 {
                self.flow(warp, dst, &[b, pred, guard], active);
            } else {
                let mut origins: [Origin; 32] = [0; 32];
                for lane in lanes(active) {
                    let chosen = if truth >> lane & 1 == 1 { a } else { b };
                    let both = self.sets.join(warp.lane_origin(chosen, lane), warp.lane_origin(pred, lane));
                    let guard = if guard == NONE { 0 } else { warp.lane_origin(guard, lane) };
                    origins[lane] = self.sets.join(both, guard);
                }
                warp.set_origins(dst, &origins, active);
            }
        }
        warp.write(dst, &out, active);
        Ok(())
    }

    fn control(&mut self, warp: &mut Warp, at: usize, instr: &Instr, active: u32) -> Caught<()> {
        let Group { mask, pc, .. } = warp.groups[at];
        self.count(instr, active);
        if let Some(guard) = instr.guard {
            self.independent(warp, pc, guard.pred, mask, "branch")?;
        }
        let stay = mask & !active;
        if active == 0 {
            warp.groups[at].pc = pc + 1;
            return Ok(());
        }
        match &instr.op {
            Op::Branch(target) => {
                warp.groups[at] = Group { mask: active, pc: *target, wait: Wait::No };
            }
            Op::BranchTable { index, targets } => {
                self.defined(warp, pc, *index, active)?;
                self.independent(warp, pc, *index, active, "branch")?;
                warp.groups[at].mask = 0;
                for lane in lanes(active) {
                    let index = warp.regs[*index as usize][lane] as usize;
                    let Some(&target) = targets.get(index) else {
                        let address = format!("entry {index} of a branch table of {}", targets.len());
                        return Err(Box::new(Fault::OutOfBounds {
                            site: self.site(warp, pc, lane),
                            access: "read",
                            bytes: 4,
                            address,
                        }));
                    };
                    warp.groups.push(Group { mask: 1 << lane, pc: target, wait: Wait::No });
                }
                warp.groups.retain(|group| group.mask != 0);
                warp.join_groups();
            }
            Op::Exit => {
                warp.groups.remove(at);
                warp.live &= !active;
                // Those who wait for these lanes wait no longer for them.
                for group in warp.groups.iter_mut().filter(|group| matches!(group.wait, Wait::Lanes(_))) {
                    group.wait = Wait::No;
                }
            }
            _ => return Err(Box::new(Fault::Trap { site: self.site(warp, pc, active.trailing_zeros() as usize) })),
        }
        if stay != 0 {
            warp.groups.push(Group { mask: stay, pc: pc + 1, wait: Wait::No });
        }
        Ok(())
    }
}
