//! One PTX instruction to decoded ones.

use crate::convert::extension;
use crate::counts::Pipe;
use crate::decode::Decoder;
use crate::fault::Error;
use crate::float::saturation;
use crate::ir::{Compute, LOCAL_BASE, NONE, Op, PARAM_BASE, Reg, SHARED_BASE};
use crate::scalar::{Ty, low_mask};
use crate::select::{Opcode, one, peek_type, select, three, two};
use crate::tree::{Instruction, Operand};

impl<'a> Decoder<'a> {
    /// Decodes an instruction; whatever of it is not understood is an error.
    pub fn translate(&mut self, i: &'a Instruction<'a>) -> Result<(), Error> {
        let mut op = Opcode::new(i.opcode);
        match op.base {
            "mov" => self.mov(i, &mut op)?,
            "cvta" => self.cvta(i, &mut op)?,
            "selp" | "slct" => self.choose(i, &mut op)?,
            "setp" | "set" => self.set(i, &mut op)?,
            "bra" => {
                op.take("uni");
                let [Operand::Word(label)] = i.operands[..] else {
                    return Err(self.unknown(i, "a label should follow"));
                };
                self.branch(None, vec![label], i);
            }
            "brx" => {
                op.take("idx");
                op.take("uni");
                let [index, Operand::Word(table)] = &i.operands[..] else {
                    return Err(self.unknown(i, "an index and a table should follow"));
                };
                let index = self.source(i, index, Ty::U32)?;
                let labels = self.table(i, table)?;
                self.branch(Some(index), labels, i);
            }
            "ret" | "exit" => {
                op.take("uni");
                self.emit(Op::Exit, Pipe::Control);
            }
            "trap" => self.emit(Op::Trap, Pipe::Control),
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" => self.access(i, &mut op)?,
            "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "discard" => {
                self.emit(Op::Fence, Pipe::Other);
                return Ok(());
            }
            "shfl" | "vote" | "match" | "activemask" | "bar" | "barrier" => self.meet(i, &mut op)?,
            _ => self.arithmetic(i, &mut op)?,
        }
        match op.rest() {
            [] => Ok(()),
            rest => Err(self.unknown(i, format!("modifier `.{}` is not known here", rest.join(".")))),
        }
    }

    fn operands<const N: usize>(&self, i: &'a Instruction<'a>) -> Result<&'a [Operand<'a>; N], Error> {
        <&[Operand; N]>::try_from(&i.operands[..])
            .map_err(|_| self.unknown(i, format!("{N} operands should follow, not {}", i.operands.len())))
    }

    pub(crate) fn type_of(&self, i: &Instruction, op: &mut Opcode) -> Result<Ty, Error> {
        op.ty().ok_or_else(|| self.unknown(i, "it has no type that is known"))
    }

    fn compute(&mut self, f: Compute, dst: Reg, src: &[Reg], pipe: Pipe) {
        let mut all = [NONE; 4];
        all[..src.len()].copy_from_slice(src);
        self.emit(Op::Compute { f, dst, src: all }, pipe);
    }

    fn arithmetic(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let ty = peek_type(op).ok_or_else(|| self.unknown(i, "the instruction is not known"))?;
        let pipe = pipe(op, ty);
        let saturate = op.base != "cvt" && ty == Ty::F32 && op.take("sat");
        let text = op.base;
        let f = select(op)
            .ok_or_else(|| self.unknown(i, format!("`{text}` with these types and modifiers is not known")))?;
        if i.operands.len() != f.arity() + 1 {
            return Err(self.unknown(i, format!("{} operands should follow, not {}", f.arity() + 1, i.operands.len())));
        }
        let dst = self.target(i, &i.operands[0])?;
        let mut src = Vec::with_capacity(4);
        for (at, operand) in i.operands[1..].iter().enumerate() {
            let ty = operand_type(text, i.opcode, ty, at);
            src.push(self.source(i, operand, ty)?);
        }
        self.compute(f, dst.reg, &src, pipe);
        if saturate {
            self.compute(saturation(), dst.reg, &[dst.reg], pipe);
        }
        if let ("cvt", Some(extend)) = (text, extension(ty, dst.ty.bytes())) {
            self.compute(extend, dst.reg, &[dst.reg], pipe);
        }
        if (saturate || text == "cvt") && self.guard() == Some(dst.reg) {
            return Err(self.unknown(i, "it overwrites its own guard"));
        }
        Ok(())
    }

    fn mov(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let ty = self.type_of(i, op)?;
        let copy = Compute::One(|x, out| *out = *x);
        match self.operands::<2>(i)? {
            [Operand::Vector(parts), from] => {
                let bits = (8 * ty.bytes() / parts.len().max(1)) as u64;
                let from = self.source(i, from, ty)?;
                let mask = self.constant(low_mask(bits as usize / 8));
                for (k, part) in parts.iter().enumerate() {
                    let (dst, shift) = (self.target(i, part)?.reg, self.constant(k as u64 * bits));
                    if dst == from {
                        return Err(self.unknown(i, "it overwrites what it takes apart"));
                    }
                    self.compute(
                        three!(|a: u64, s: u64, mask: u64| a >> s & mask),
                        dst,
                        &[from, shift, mask],
                        Pipe::Integer,
                    );
                }
            }
            [to, Operand::Vector(parts)] => {
                let bits = (8 * ty.bytes() / parts.len().max(1)) as u64;
                let part_type = if bits == 32 { Ty::B32 } else { Ty::B16 };
                let dst = self.target(i, to)?.reg;
                let mut whole = self.constant(0);
                for (k, part) in parts.iter().enumerate() {
                    let (part, shift) = (self.source(i, part, part_type)?, self.constant(k as u64 * bits));
                    let to = if k + 1 == parts.len() { dst } else { self.temporary() };
                    self.compute(three!(|a: u64, b: u64, s: u64| a | b << s), to, &[whole, part, shift], Pipe::Integer);
                    whole = to;
                }
            }
            [to, from] => {
                let dst = self.target(i, to)?.reg;
                let src = self.source(i, from, ty)?;
                self.compute(copy, dst, &[src], Pipe::Integer);
            }
        }
        Ok(())
    }

    fn cvta(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let to = op.take("to");
        let space = op.take_any(&["global", "shared", "local", "const", "param", "shared::cta", "param::entry"]);
        if self.type_of(i, op)? != Ty::U64 {
            return Err(self.unknown(i, "only 64-bit addresses are known"));
        }
        let base = match space {
            Some("shared" | "shared::cta") => SHARED_BASE,
            Some("local") => LOCAL_BASE,
            Some("param" | "param::entry") => PARAM_BASE,
            Some(_) => 0,
            None => return Err(self.unknown(i, "it names no state space")),
        };
        let [dst, src] = self.operands::<2>(i)?;
        let (dst, src) = (self.target(i, dst)?.reg, self.source(i, src, Ty::U64)?);
        let base = self.constant(if to { base.wrapping_neg() } else { base });
        self.compute(two!(|a: u64, b: u64| a.wrapping_add(b)), dst, &[src, base], Pipe::Integer);
        Ok(())
    }

    fn choose(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let ty = self.type_of(i, op)?;
        let [dst, a, b, c] = self.operands::<4>(i)?;
        let dst = self.target(i, dst)?.reg;
        let (a, b) = (self.source(i, a, ty)?, self.source(i, b, ty)?);
        let pred = if op.base == "selp" {
            self.source(i, c, Ty::Pred)?
        } else {
            let ftz = op.take("ftz");
            let (sign, pred) = (self.type_of(i, op)?, self.temporary());
            let test = match sign {
                Ty::S32 => one!(|c: i32| c >= 0),
                Ty::F32 if ftz => one!(|c: f32| crate::float::flush(c) >= 0.0),
                Ty::F32 => one!(|c: f32| c >= 0.0),
                _ => return Err(self.unknown(i, "the third operand can only be s32 or f32")),
            };
            let c = self.source(i, c, sign)?;
            self.compute(test, pred, &[c], Pipe::Integer);
            pred
        };
        self.emit(Op::Select { dst, a, b, pred }, Pipe::Integer);
        Ok(())
    }

    /// `setp` and `set`: a comparison, perhaps combined with a third predicate.
    fn set(&mut self, i: &'a Instruction<'a>, op: &mut Opcode) -> Result<(), Error> {
        let result = if op.base == "set" { Some(self.type_of(i, op)?) } else { None };
        let combine = op.take_any(&["and", "or", "xor"]);
        let ty = peek_type(op).ok_or_else(|| self.unknown(i, "it has no type that is known"))?;
        let pipe = if ty.is_float() { Pipe::Float } else { Pipe::Integer };
        let f = select(op).ok_or_else(|| self.unknown(i, "this comparison is not known for this type"))?;
        let (to, a, b, third) = match &i.operands[..] {
            [to, a, b] if combine.is_none() => (to, a, b, None),
            [to, a, b, third] if combine.is_some() => (to, a, b, Some(third)),
            _ => return Err(self.unknown(i, "the number of operands does not fit")),
        };
        let (a, b) = (self.source(i, a, ty)?, self.source(i, b, ty)?);
        let third = third.map(|third| self.source(i, third, Ty::Pred)).transpose()?;
        let combined = match combine {
            Some("and") => two!(|a: bool, b: bool| a & b),
            Some("or") => two!(|a: bool, b: bool| a | b),
            _ => two!(|a: bool, b: bool| a ^ b),
        };
        let give = |this: &mut Self, value: Reg, dst: Reg| match third {
            Some(third) => this.compute(combined, dst, &[value, third], pipe),
            None => this.compute(Compute::One(|x, out| *out = *x), dst, &[value], pipe),
        };
        match (to, result, third) {
            (Operand::Pair(p, q), None, _) => {
                let (value, other) = (self.temporary(), self.temporary());
                self.compute(f, value, &[a, b], pipe);
                self.compute(one!(|a: bool| !a), other, &[value], pipe);
                let (p, q) = (self.target(i, &Operand::Word(p))?.reg, self.target(i, &Operand::Word(q))?.reg);
                if [Some(p), third].contains(&self.guard()) && self.guard().is_some() || third == Some(p) {
                    return Err(self.unknown(i, "it overwrites a predicate that it still needs"));
                }
                give(self, value, p);
                give(self, other, q);
            }
            (_, None, None) => {
                let dst = self.target(i, to)?.reg;
                self.compute(f, dst, &[a, b], pipe);
            }
            (_, None, Some(_)) => {
                let (value, dst) = (self.temporary(), self.target(i, to)?.reg);
                self.compute(f, value, &[a, b], pipe);
                give(self, value, dst);
            }
            (_, Some(result), _) => {
                let (value, dst) = (self.temporary(), self.target(i, to)?.reg);
                self.compute(f, value, &[a, b], pipe);
                if third.is_some() {
                    give(self, value, value);
                }
                let truth = match result {
                    Ty::F32 => one!(|a: bool| if a { 1.0f32 } else { 0.0 }),
                    Ty::U32 | Ty::S32 => one!(|a: bool| if a { u32::MAX } else { 0 }),
                    _ => return Err(self.unknown(i, "this type of result is not known")),
                };
                self.compute(truth, dst, &[value], pipe);
            }
        }
        Ok(())
    }
}

/// The type of source operand `at`, which decides how an immediate is read.
fn operand_type(base: &str, opcode: &str, ty: Ty, at: usize) -> Ty {
    match base {
        "shl" | "shr" if at == 1 => Ty::U32,
        "bfe" if at >= 1 => Ty::U32,
        "bfi" if at >= 2 => Ty::U32,
        "shf" | "prmt" | "lop3" => Ty::B32,
        "mad" if at == 2 && opcode.contains(".wide") => Ty::B64,
        "cvt" => opcode.rsplit('.').find_map(Ty::parse).unwrap_or(ty),
        _ => ty,
    }
}

fn pipe(op: &Opcode, ty: Ty) -> Pipe {
    match op.base {
        "cvt" => Pipe::Convert,
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" => Pipe::Special,
        "div" if ty == Ty::F32 => Pipe::Special,
        _ if ty == Ty::F64 => Pipe::Double,
        _ if ty.is_float() => Pipe::Float,
        _ => Pipe::Integer,
    }
}
