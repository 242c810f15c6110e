//! f32 and f64 arithmetic, rounded as IEEE 754 and the PTX ISA say.

use crate::ir::Compute;
use crate::scalar::Ty;
use crate::select::{Opcode, one, peek_type, three, two};

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.to_bits() & 0x7F80_0000 == 0 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// The lane function of an f32 or f64 opcode.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    match peek_type(op)? {
        Ty::F32 => {
            op.take("f32");
            single(op)
        }
        Ty::F64 => {
            op.take("f64");
            double(op)
        }
        _ => None,
    }
}

/// Stamps one form for exact and one for flushed subnormals.
macro_rules! flushed {
    ($ftz:expr, |$a:ident, $b:ident| $body:expr) => {
        if $ftz {
            two!(|$a: f32, $b: f32| {
                let ($a, $b) = (flush($a), flush($b));
                flush($body)
            })
        } else {
            two!(|$a: f32, $b: f32| $body)
        }
    };
    ($ftz:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        if $ftz {
            three!(|$a: f32, $b: f32, $c: f32| {
                let ($a, $b, $c) = (flush($a), flush($b), flush($c));
                flush($body)
            })
        } else {
            three!(|$a: f32, $b: f32, $c: f32| $body)
        }
    };
}

fn single(op: &mut Opcode) -> Option<Compute> {
    let ftz = op.take("ftz");
    let rounding = op.take_any(&["rn", "rz", "rm", "rp"]).unwrap_or("rn");
    Some(match (op.base, rounding) {
        ("add", "rn") => flushed!(ftz, |a, b| a + b),
        ("add", "rz") => flushed!(ftz, |a, b| directed::<'z'>(1.0, a, b)),
        ("add", "rm") => flushed!(ftz, |a, b| directed::<'m'>(1.0, a, b)),
        ("add", _) => flushed!(ftz, |a, b| directed::<'p'>(1.0, a, b)),
        ("sub", "rn") => flushed!(ftz, |a, b| a - b),
        ("sub", "rz") => flushed!(ftz, |a, b| directed::<'z'>(1.0, a, -b)),
        ("sub", "rm") => flushed!(ftz, |a, b| directed::<'m'>(1.0, a, -b)),
        ("sub", _) => flushed!(ftz, |a, b| directed::<'p'>(1.0, a, -b)),
        ("mul", "rn") => flushed!(ftz, |a, b| a * b),
        ("mul", "rz") => flushed!(ftz, |a, b| product::<'z'>(a, b)),
        ("mul", "rm") => flushed!(ftz, |a, b| product::<'m'>(a, b)),
        ("mul", _) => flushed!(ftz, |a, b| product::<'p'>(a, b)),
        ("fma" | "mad", "rn") => flushed!(ftz, |a, b, c| a.mul_add(b, c)),
        ("fma" | "mad", "rz") => flushed!(ftz, |a, b, c| directed::<'z'>(a, b, c)),
        ("fma" | "mad", "rm") => flushed!(ftz, |a, b, c| directed::<'m'>(a, b, c)),
        ("fma" | "mad", _) => flushed!(ftz, |a, b, c| directed::<'p'>(a, b, c)),
        ("min", _) if op.take("NaN") => {
            flushed!(ftz, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { least(a, b) })
        }
        ("max", _) if op.take("NaN") => {
            flushed!(ftz, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { -least(-a, -b) })
        }
        ("min", _) => flushed!(ftz, |a, b| least(a, b)),
        ("max", _) => flushed!(ftz, |a, b| -least(-a, -b)),
        ("abs", _) if ftz => one!(|a: f32| flush(a).abs().to_bits()),
        ("abs", _) => one!(|a: u32| a & 0x7FFF_FFFF),
        ("neg", _) if ftz => one!(|a: f32| (-flush(a)).to_bits()),
        ("neg", _) => one!(|a: u32| a ^ 0x8000_0000),
        ("copysign", _) => two!(|a: u32, b: u32| b & 0x7FFF_FFFF | a & 0x8000_0000),
        ("testp", _) => return test(op),
        _ => return None,
    })
}

fn test(op: &mut Opcode) -> Option<Compute> {
    Some(match op.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])? {
        "finite" => one!(|a: f32| a.is_finite()),
        "infinite" => one!(|a: f32| a.is_infinite()),
        "number" => one!(|a: f32| !a.is_nan()),
        "notanumber" => one!(|a: f32| a.is_nan()),
        "normal" => one!(|a: f32| a.is_normal()),
        _ => one!(|a: f32| a.is_subnormal()),
    })
}

fn double(op: &mut Opcode) -> Option<Compute> {
    op.take("rn");
    Some(match op.base {
        "add" => two!(|a: f64, b: f64| a + b),
        "sub" => two!(|a: f64, b: f64| a - b),
        "mul" => two!(|a: f64, b: f64| a * b),
        "fma" | "mad" => three!(|a: f64, b: f64, c: f64| a.mul_add(b, c)),
        "min" => two!(|a: f64, b: f64| least64(a, b)),
        "max" => two!(|a: f64, b: f64| -least64(-a, -b)),
        "abs" => one!(|a: u64| a & !(1 << 63)),
        "neg" => one!(|a: u64| a ^ 1 << 63),
        "copysign" => two!(|a: u64, b: u64| b & !(1 << 63) | a & 1 << 63),
        _ => return None,
    })
}

/// The smaller; a NaN loses against a number; -0 is below +0.
#[inline(always)]
pub(crate) fn least(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

#[inline(always)]
fn least64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

/// `.sat`: to [0, 1], and a NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// The saturation of an f32 register, a step of its own after the operation.
pub(crate) fn saturation() -> Compute {
    one!(|a: f32| saturate(a))
}

/// `a*b + c` rounded towards zero (`z`), -inf (`m`) or +inf (`p`).
///
/// The product of two f32 is exact in f64. Their sum with `c` is rounded to odd (an inexact sum gets its last bit set), which
/// keeps on which side of every f32 the true value lies; that is all that a directed rounding to f32 needs.
#[inline(always)]
fn directed<const D: char>(a: f32, b: f32, c: f32) -> f32 {
    let (p, c) = (a as f64 * b as f64, c as f64);
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    if sum == 0.0 && error == 0.0 {
        // An exact zero of two unlike signs is -0 only when rounding down.
        let negative = if p.is_sign_negative() == c.is_sign_negative() { p.is_sign_negative() } else { D == 'm' };
        return if negative { -0.0 } else { 0.0 };
    }
    let odd = if error.abs() > 0.0 && sum.to_bits() & 1 == 0 {
        f64::from_bits(if (error > 0.0) == (sum > 0.0) { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
    } else {
        sum
    };
    round_towards::<D>(odd)
}

#[inline(always)]
fn product<const D: char>(a: f32, b: f32) -> f32 {
    round_towards::<D>(a as f64 * b as f64)
}

/// An f64 to f32, rounded towards zero (`z`), -inf (`m`) or +inf (`p`).
#[inline(always)]
pub(crate) fn round_towards<const D: char>(x: f64) -> f32 {
    let nearest = x as f32;
    if x.is_infinite() || x.is_nan() || nearest as f64 == x {
        return nearest;
    }
    let (above, below) = (nearest as f64 > x, (nearest as f64) < x);
    let down = D == 'm' || (D == 'z' && x > 0.0);
    match (down, above, below) {
        (true, true, _) => nearest.next_down(),
        (false, _, true) => nearest.next_up(),
        _ => nearest,
    }
}
