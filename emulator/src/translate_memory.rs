//! Instructions that touch memory or meet other threads, to decoded ones.

use crate::counts::Pipe;
use crate::decode::Decoder;
use crate::fault::Error;
use crate::float::flush;
use crate::ir::{
    Access, Atomic, Barrier, CopyAsync, Meeting, NONE, Op, Reduction, Shuffle, ShuffleMode, Space, Vote, VoteMode,
};
use crate::scalar::{Scalar, Ty};
use crate::select::Opcode;
use crate::tree::{Instruction, Operand};

/// Modifiers that change where data are cached and nothing that the emulator models.
const CACHING: [&str; 18] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::no_allocate",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "volatile",
    "weak",
];

impl<'a> Decoder<'a> {
    /// `ld`, `st`, `atom`, `red`, `cp.async`.
    pub(crate) fn access(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        if op.base == "cp" {
            return self.copy(i, op);
        }
        while op.take_any(&CACHING).is_some() {}
        let strong = op.take_any(&["relaxed", "acquire", "release", "acq_rel"]).is_some();
        op.take_any(&["cta", "gpu", "sys", "cluster"]);
        let space = match op.take_any(&["global", "shared", "shared::cta", "local", "param", "param::entry", "const"]) {
            Some("global" | "const") => Space::Global,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("local") => Space::Local,
            Some(_) => Space::Param,
            None => Space::Generic,
        };
        if matches!(op.base, "atom" | "red") {
            return self.atomic(i, op, space);
        }
        let count = match op.take_any(&["v2", "v4"]) {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        };
        let ty = self.type_of(i, op)?;
        let [first, second] = &i.operands[..] else {
            return Err(self.unknown(i, "two operands should follow"));
        };
        let load = op.base != "st";
        let (values, address) = if load { (first, second) } else { (second, first) };
        let address = self.address(i, address)?;
        let values = match values {
            Operand::Vector(values) => &values[..],
            value => std::slice::from_ref(value),
        };
        if values.len() != count {
            return Err(self.unknown(i, format!("{count} registers should stand there, not {}", values.len())));
        }
        if count * ty.bytes() > 16 {
            return Err(self.unknown(i, "accesses of more than 16 bytes are not known"));
        }
        let (mut regs, mut extend) = ([NONE; 4], 0);
        for (slot, value) in regs.iter_mut().zip(values) {
            if load {
                let found = self.target(i, value)?;
                *slot = found.reg;
                extend = if ty.is_signed() { found.ty.bytes() as u8 } else { 0 };
            } else {
                *slot = self.source(i, value, ty)?;
            }
        }
        let access = Access { space, bytes: ty.bytes() as u8, count: count as u8, address, strong, regs, extend };
        let pipe = match (space, load) {
            (Space::Global | Space::Generic, true) => Pipe::LoadGlobal,
            (Space::Global | Space::Generic, false) => Pipe::StoreGlobal,
            (Space::Shared, _) => Pipe::Shared,
            (Space::Local, _) => Pipe::Local,
            (Space::Param, _) => Pipe::Param,
        };
        self.emit(if load { Op::Load(access) } else { Op::Store(access) }, pipe);
        Ok(())
    }

    fn atomic(&mut self, i: &'a Instruction<'a>, op: &mut Opcode, space: Space) -> Result<(), Error> {
        let kind = op.take_any(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]);
        op.take("noftz");
        let ty = self.type_of(i, op)?;
        let apply =
            kind.and_then(|kind| atomic(kind, ty, space)).ok_or_else(|| self.unknown(i, "this atomic is not known"))?;
        let returns = op.base == "atom";
        let operands = &i.operands[..];
        let (dst, rest) = match operands {
            [dst, rest @ ..] if returns => (self.target(i, dst)?.reg, rest),
            _ => (NONE, operands),
        };
        let [address, values @ ..] = rest else {
            return Err(self.unknown(i, "an address should follow"));
        };
        if values.len() != 1 + (kind == Some("cas")) as usize {
            return Err(self.unknown(i, "the number of operands does not fit"));
        }
        let address = self.address(i, address)?;
        let mut regs = [NONE; 2];
        for (slot, value) in regs.iter_mut().zip(values) {
            *slot = self.source(i, value, ty)?;
        }
        self.emit(
            Op::Atomic(Atomic { space, bytes: ty.bytes() as u8, address, dst, operands: regs, apply }),
            Pipe::Atomic,
        );
        Ok(())
    }

    fn copy(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        if !op.take("async") {
            return Err(self.unknown(i, "only `cp.async` is known"));
        }
        if op.take("commit_group") {
            self.emit(Op::Commit, Pipe::Other);
            return Ok(());
        }
        if op.take("wait_all") {
            self.emit(Op::Commit, Pipe::Other);
            self.emit(Op::WaitCopies(0), Pipe::Other);
            return Ok(());
        }
        if op.take("wait_group") {
            let [Operand::Int(groups)] = i.operands[..] else {
                return Err(self.unknown(i, "a number of groups should follow"));
            };
            self.emit(Op::WaitCopies(groups as u32), Pipe::Other);
            return Ok(());
        }
        while op.take_any(&CACHING).is_some() {}
        if !(op.take("shared") || op.take("shared::cta")) || !op.take("global") {
            return Err(self.unknown(i, "only copies from global to shared memory are known"));
        }
        let (to, from, bytes, source) = match &i.operands[..] {
            [to, from, Operand::Int(bytes @ (4 | 8 | 16))] => (to, from, *bytes, None),
            [to, from, Operand::Int(bytes @ (4 | 8 | 16)), source] => (to, from, *bytes, Some(source)),
            _ => return Err(self.unknown(i, "two addresses and 4, 8 or 16 bytes should follow")),
        };
        let (to, from) = (self.address(i, to)?, self.address(i, from)?);
        let source_bytes = source.map_or(Ok(NONE), |source| self.source(i, source, Ty::U32))?;
        self.emit(Op::CopyAsync(CopyAsync { to, from, bytes: bytes as u8, source_bytes }), Pipe::LoadGlobal);
        Ok(())
    }

    /// `shfl`, `vote`, `match`, `activemask`, `bar`, `barrier`.
    pub(crate) fn meet(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let base = op.base;
        match base {
            "activemask" => {
                self.type_of(i, op)?;
                let [dst] = &i.operands[..] else {
                    return Err(self.unknown(i, "one register should follow"));
                };
                let dst = self.target(i, dst)?.reg;
                self.emit(Op::ActiveMask(dst), Pipe::Shuffle);
                Ok(())
            }
            "bar" if op.take("warp") => {
                op.take("sync");
                let [mask] = &i.operands[..] else {
                    return Err(self.unknown(i, "a mask should follow"));
                };
                let mask = self.source(i, mask, Ty::B32)?;
                self.emit(Op::Meet { mask, meeting: Meeting::Barrier }, Pipe::Barrier);
                Ok(())
            }
            "bar" | "barrier" => self.barrier(i, op),
            _ if !op.take("sync") => Err(self.unknown(i, "only the `.sync` form is known")),
            "shfl" => self.shuffle(i, op),
            _ => self.vote(i, op),
        }
    }

    fn shuffle(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let mode = match op.take_any(&["up", "down", "bfly", "idx"]) {
            Some("up") => ShuffleMode::Up,
            Some("down") => ShuffleMode::Down,
            Some("bfly") => ShuffleMode::Butterfly,
            Some(_) => ShuffleMode::Index,
            None => return Err(self.unknown(i, "this kind of shuffle is not known")),
        };
        let ty = self.type_of(i, op)?;
        let [to, value, lane, clamp, mask] = &i.operands[..] else {
            return Err(self.unknown(i, "five operands should follow"));
        };
        let (dst, inside) = self.pair(i, to)?;
        let (value, lane) = (self.source(i, value, ty)?, self.source(i, lane, Ty::U32)?);
        let (clamp, mask) = (self.source(i, clamp, Ty::U32)?, self.source(i, mask, Ty::B32)?);
        let shuffle = Shuffle { mode, dst, inside, value, lane, clamp };
        self.emit(Op::Meet { mask, meeting: Meeting::Shuffle(shuffle) }, Pipe::Shuffle);
        Ok(())
    }

    /// `d|p` or `d`.
    fn pair(&mut self, i: &'a Instruction<'a>, operand: &Operand<'a>) -> Result<(u32, u32), Error> {
        match operand {
            Operand::Pair(d, p) => Ok((self.target(i, &Operand::Word(d))?.reg, self.target(i, &Operand::Word(p))?.reg)),
            operand => Ok((self.target(i, operand)?.reg, NONE)),
        }
    }

    fn vote(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let mode = match (op.base, op.take_any(&["all", "any", "uni", "ballot"])) {
            ("vote", Some("all")) => VoteMode::All,
            ("vote", Some("any")) => VoteMode::Any,
            ("vote", Some("uni")) => VoteMode::Uniform,
            ("vote", Some("ballot")) => VoteMode::Ballot,
            ("match", Some("any")) => VoteMode::MatchAny,
            ("match", Some("all")) => VoteMode::MatchAll,
            _ => return Err(self.unknown(i, "this kind of vote is not known")),
        };
        let ty = self.type_of(i, op)?;
        let ty = if op.base == "vote" { Ty::Pred } else { ty };
        let [to, value, mask] = &i.operands[..] else {
            return Err(self.unknown(i, "three operands should follow"));
        };
        let (dst, agree) = self.pair(i, to)?;
        let (value, mask) = (self.source(i, value, ty)?, self.source(i, mask, Ty::B32)?);
        self.emit(Op::Meet { mask, meeting: Meeting::Vote(Vote { mode, dst, agree, value }) }, Pipe::Shuffle);
        Ok(())
    }

    fn barrier(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        op.take("cta");
        op.take("aligned");
        let kind = op.take_any(&["sync", "arrive", "red"]);
        let (mut operands, mut reduction) = (&i.operands[..], None);
        if kind == Some("red") {
            let how = match op.take_any(&["popc", "and", "or"]) {
                Some("popc") => Reduction::Popc,
                Some("and") => Reduction::And,
                Some(_) => Reduction::Or,
                None => return Err(self.unknown(i, "this reduction is not known")),
            };
            self.type_of(i, op)?;
            let [to, middle @ .., value] = operands else {
                return Err(self.unknown(i, "a register, a barrier and a predicate should follow"));
            };
            reduction = Some((how, self.target(i, to)?.reg, self.source(i, value, Ty::Pred)?));
            operands = middle;
        }
        let (id, threads) = match (operands, kind) {
            ([id], Some("sync" | "red")) => (id, None),
            ([id, threads], Some(_)) => (id, Some(threads)),
            _ => return Err(self.unknown(i, "this form of barrier is not known")),
        };
        let id = self.source(i, id, Ty::U32)?;
        let threads = threads.map_or(Ok(NONE), |threads| self.source(i, threads, Ty::U32))?;
        self.emit(Op::Barrier(Barrier { id, threads, wait: kind != Some("arrive"), reduction }), Pipe::Barrier);
        Ok(())
    }
}

/// The new value of an atomic from the old one and its operands.
fn atomic(kind: &str, ty: Ty, space: Space) -> Option<fn(u64, u64, u64) -> u64> {
    macro_rules! on {
        ($T:ty, |$a:ident, $b:ident| $body:expr) => {
            Some(|a, b, _| {
                let ($a, $b) = (<$T>::of(a), <$T>::of(b));
                $body.bits()
            })
        };
    }
    match (kind, ty) {
        ("exch", Ty::B32 | Ty::B64) => Some(|_, b, _| b),
        ("cas", Ty::B16 | Ty::B32 | Ty::B64) => Some(|a, b, c| if a == b { c } else { a }),
        ("and", Ty::B32 | Ty::B64) => Some(|a, b, _| a & b),
        ("or", Ty::B32 | Ty::B64) => Some(|a, b, _| a | b),
        ("xor", Ty::B32 | Ty::B64) => Some(|a, b, _| a ^ b),
        ("add", Ty::U32 | Ty::S32) => on!(u32, |a, b| a.wrapping_add(b)),
        ("add", Ty::U64 | Ty::S64) => on!(u64, |a, b| a.wrapping_add(b)),
        // Of the atomics on f32, those on shared memory alone keep subnormals.
        ("add", Ty::F32) if space != Space::Shared => on!(f32, |a, b| flush(flush(a) + flush(b))),
        ("add", Ty::F32) => on!(f32, |a, b| a + b),
        ("add", Ty::F64) => on!(f64, |a, b| a + b),
        ("min", Ty::U32) => on!(u32, |a, b| a.min(b)),
        ("max", Ty::U32) => on!(u32, |a, b| a.max(b)),
        ("min", Ty::S32) => on!(i32, |a, b| a.min(b)),
        ("max", Ty::S32) => on!(i32, |a, b| a.max(b)),
        ("min", Ty::U64) => on!(u64, |a, b| a.min(b)),
        ("max", Ty::U64) => on!(u64, |a, b| a.max(b)),
        ("min", Ty::S64) => on!(i64, |a, b| a.min(b)),
        ("max", Ty::S64) => on!(i64, |a, b| a.max(b)),
        ("inc", Ty::U32) => on!(u32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", Ty::U32) => on!(u32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        _ => None,
    }
}
