//! Integer and bit instructions.

use crate::ir::Compute;
use crate::scalar::Ty;
use crate::select::{Opcode, integer, one, three, two};

/// The lane function of an integer opcode.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    match op.base {
        "mul" | "mad" => return multiply(op),
        "prmt" => return permute(op),
        "shf" => return funnel(op),
        "bfind" => return find(op),
        _ => {}
    }
    let ty = op.ty()?;
    match (op.base, ty) {
        ("mov", _) => Some(Compute::One(|x, out| *out = *x)),
        (
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "popc" | "clz" | "brev" | "bfe" | "bfi" | "shl" | "shr",
            _,
        ) => bits(op, ty),
        ("add", _) => saturating(op, ty, true).or_else(|| integer!(ty, T => two!(|a: T, b: T| a.wrapping_add(b)))),
        ("sub", _) => saturating(op, ty, false).or_else(|| integer!(ty, T => two!(|a: T, b: T| a.wrapping_sub(b)))),
        ("min", _) => integer!(ty, T => two!(|a: T, b: T| a.min(b))),
        ("max", _) => integer!(ty, T => two!(|a: T, b: T| a.max(b))),
        // The hardware gives all ones for a quotient by zero; so does a remainder give its dividend.
        ("div", _) => integer!(ty, T => two!(|a: T, b: T| if b == 0 { !0 } else { a.wrapping_div(b) })),
        ("rem", _) => integer!(ty, T => two!(|a: T, b: T| if b == 0 { a } else { a.wrapping_rem(b) })),
        ("abs", Ty::S16) => Some(one!(|a: i16| a.wrapping_abs())),
        ("abs", Ty::S32) => Some(one!(|a: i32| a.wrapping_abs())),
        ("abs", Ty::S64) => Some(one!(|a: i64| a.wrapping_abs())),
        ("neg", Ty::S16) => Some(one!(|a: i16| a.wrapping_neg())),
        ("neg", Ty::S32) => Some(one!(|a: i32| a.wrapping_neg())),
        ("neg", Ty::S64) => Some(one!(|a: i64| a.wrapping_neg())),
        ("sad", _) => integer!(ty, T => three!(|a: T, b: T, c: T| c.wrapping_add(a.max(b).wrapping_sub(a.min(b))))),
        _ => None,
    }
}

fn saturating(op: &mut Opcode, ty: Ty, add: bool) -> Option<Compute> {
    if ty != Ty::S32 || !op.take("sat") {
        return None;
    }
    Some(if add { two!(|a: i32, b: i32| a.saturating_add(b)) } else { two!(|a: i32, b: i32| a.saturating_sub(b)) })
}

fn bits(op: &Opcode, ty: Ty) -> Option<Compute> {
    // Bits above a register's width are zero, so these need no width.
    match (op.base, ty) {
        ("and", _) => return Some(two!(|a: u64, b: u64| a & b)),
        ("or", _) => return Some(two!(|a: u64, b: u64| a | b)),
        ("xor", _) => return Some(two!(|a: u64, b: u64| a ^ b)),
        ("popc", _) => return Some(one!(|a: u64| a.count_ones())),
        ("not", Ty::Pred) => return Some(one!(|a: bool| !a)),
        ("lop3", Ty::B32) => return Some(Compute::Four(lop3)),
        _ => {}
    }
    match op.base {
        "not" => integer!(ty, T => one!(|a: T| !a)),
        "cnot" => integer!(ty, T => one!(|a: T| (a == 0) as T)),
        "clz" => integer!(ty, T => one!(|a: T| a.leading_zeros())),
        "brev" => integer!(ty, T => one!(|a: T| a.reverse_bits())),
        "shl" => integer!(ty, T => two!(|a: T, b: u32| a.checked_shl(b).unwrap_or(0))),
        // A shift by the width or more leaves zero, or the sign.
        "shr" => integer!(ty, T => two!(|a: T, b: u32| a >> b.min(T::BITS - 1) >> (b >= T::BITS) as u32)),
        "bfe" => extract(ty),
        "bfi" if ty == Ty::B32 => Some(Compute::Four(insert32)),
        "bfi" if ty == Ty::B64 => Some(Compute::Four(insert64)),
        _ => None,
    }
}

type L = crate::scalar::Lanes;

fn lop3(a: &L, b: &L, c: &L, table: &L, out: &mut L) {
    for lane in 0..32 {
        let mut result = 0;
        for row in (0..8).filter(|row| table[lane] >> row & 1 == 1) {
            let pick = |value: u64, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
            result |= pick(a[lane], 2) & pick(b[lane], 1) & pick(c[lane], 0);
        }
        out[lane] = result as u32 as u64;
    }
}

/// `bfi d, field, into, position, length`
fn insert(field: u64, into: u64, position: u64, length: u64, width: u64) -> u64 {
    let (position, length) = (position & 0xFF, length & 0xFF);
    if position >= width || length == 0 {
        return into;
    }
    let mask = (if length >= 64 { u64::MAX } else { (1 << length) - 1 }) << position;
    let mask = if width == 32 { mask & 0xFFFF_FFFF } else { mask };
    into & !mask | field << position & mask
}

fn insert32(a: &L, b: &L, c: &L, d: &L, out: &mut L) {
    for lane in 0..32 {
        out[lane] = insert(a[lane], b[lane], c[lane], d[lane], 32);
    }
}

fn insert64(a: &L, b: &L, c: &L, d: &L, out: &mut L) {
    for lane in 0..32 {
        out[lane] = insert(a[lane], b[lane], c[lane], d[lane], 64);
    }
}

fn extract(ty: Ty) -> Option<Compute> {
    // The field lies in bits of a value extended without end: by its sign, or by zeros; a signed field repeats its top bit,
    // which past the value's end is the value's sign.
    macro_rules! field {
        ($T:ty, $width:expr, $signed:expr) => {
            Some(three!(|a: $T, b: u32, c: u32| {
                let (position, length) = ((b & 0xFF) as i32, (c & 0xFF) as i32);
                let value = a as i128;
                let top = (position + length - 1).min($width - 1);
                let sign = $signed && length > 0 && (value >> top) & 1 == 1;
                let field = if length == 0 {
                    0
                } else {
                    (value & !(-1i128 << $width)) >> position.min(100) & !(-1i128 << length.min(100))
                };
                let kept = length.min(($width - position).max(0));
                let fill = if sign && kept < 100 { -1i128 << kept } else { 0 };
                (field | fill) as $T
            }))
        };
    }
    match ty {
        Ty::U32 => field!(u32, 32, false),
        Ty::S32 => field!(i32, 32, true),
        Ty::U64 => field!(u64, 64, false),
        Ty::S64 => field!(i64, 64, true),
        _ => None,
    }
}

fn multiply(op: &mut Opcode) -> Option<Compute> {
    let part = op.take_any(&["lo", "hi", "wide"])?;
    let ty = op.ty()?;
    macro_rules! high {
        ($T:ty, $W:ty) => {{
            match op.base {
                "mul" => Some(two!(|a: $T, b: $T| ((a as $W * b as $W) >> <$T>::BITS) as $T)),
                _ => Some(three!(|a: $T, b: $T, c: $T| (((a as $W * b as $W) >> <$T>::BITS) as $T).wrapping_add(c))),
            }
        }};
    }
    macro_rules! wide {
        ($T:ty, $W:ty) => {{
            match op.base {
                "mul" => Some(two!(|a: $T, b: $T| a as $W * b as $W)),
                _ => Some(three!(|a: $T, b: $T, c: $W| (a as $W * b as $W).wrapping_add(c))),
            }
        }};
    }
    match (part, ty) {
        ("lo", _) if op.base == "mul" => integer!(ty, T => two!(|a: T, b: T| a.wrapping_mul(b))),
        ("lo", _) => integer!(ty, T => three!(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c))),
        ("hi", Ty::U16) => high!(u16, u32),
        ("hi", Ty::S16) => high!(i16, i32),
        ("hi", Ty::U32) => high!(u32, u64),
        ("hi", Ty::S32) => high!(i32, i64),
        ("hi", Ty::U64) => high!(u64, u128),
        ("hi", Ty::S64) => high!(i64, i128),
        ("wide", Ty::U16) => wide!(u16, u32),
        ("wide", Ty::S16) => wide!(i16, i32),
        ("wide", Ty::U32) => wide!(u32, u64),
        ("wide", Ty::S32) => wide!(i32, i64),
        _ => None,
    }
}

fn permute(op: &mut Opcode) -> Option<Compute> {
    if op.ty()? != Ty::B32 {
        return None;
    }
    Some(three!(|a: u32, b: u32, selector: u32| {
        let bytes = (b as u64) << 32 | a as u64;
        let mut out = 0u32;
        for i in 0..4 {
            let pick = selector >> (4 * i);
            let byte = (bytes >> (8 * (pick & 7))) as u8;
            let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
            out |= (byte as u32) << (8 * i);
        }
        out
    }))
}

fn funnel(op: &mut Opcode) -> Option<Compute> {
    let direction = op.take_any(&["l", "r"])?;
    let mode = op.take_any(&["clamp", "wrap"])?;
    if op.ty()? != Ty::B32 {
        return None;
    }
    Some(match (direction, mode) {
        ("l", "wrap") => three!(|a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) << (c & 31) >> 32) as u32),
        ("l", _) => three!(|a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) << c.min(32) >> 32) as u32),
        ("r", "wrap") => three!(|a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) >> (c & 31)) as u32),
        _ => three!(|a: u32, b: u32, c: u32| (((b as u64) << 32 | a as u64) >> c.min(32)) as u32),
    })
}

fn find(op: &mut Opcode) -> Option<Compute> {
    let shift = op.take("shiftamt");
    macro_rules! find {
        ($T:ty, $U:ty) => {
            // Signed values look for the first bit that differs from the sign.
            if shift {
                one!(|a: $T| {
                    let bits = (a ^ (a >> (<$T>::BITS - 1)).wrapping_mul((<$T>::MIN != 0) as $T)) as $U;
                    if bits == 0 { u32::MAX } else { bits.leading_zeros() }
                })
            } else {
                one!(|a: $T| {
                    let bits = (a ^ (a >> (<$T>::BITS - 1)).wrapping_mul((<$T>::MIN != 0) as $T)) as $U;
                    if bits == 0 { u32::MAX } else { <$T>::BITS - 1 - bits.leading_zeros() }
                })
            }
        };
    }
    Some(match op.ty()? {
        Ty::U32 => find!(u32, u32),
        Ty::S32 => find!(i32, u32),
        Ty::U64 => find!(u64, u64),
        Ty::S64 => find!(i64, u64),
        _ => return None,
    })
}
