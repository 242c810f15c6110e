//! Functions that the hardware approximates, as the emulator computes them (without `.ftz`, which flushes before and after).
//!
//! An approximate result is the true value, computed in f64, moved by a hash of the operands' bits within the error that the PTX
//! ISA documents, less the final rounding to f32. So the result is deterministic, and code that leans on more accuracy than is
//! promised gets seen. Where the hardware is exact (`ex2` of an integer, `rcp` of a power of two, `lg2` of one, specials) so is this.
//!
//! | instruction | documented error (PTX ISA, "Floating Point Instructions") |
//! |---|---|
//! | `rcp.approx.f32`, `sqrt.approx.f32` | relative 2^-23 |
//! | `rsqrt.approx.f32` | relative 2^-22.9 |
//! | `div.approx.f32`, `div.full.f32` | 2 ulp, taken as relative 2^-23 |
//! | `ex2.approx.f32` | relative 2^-22.5 |
//! | `lg2.approx.f32` | absolute 2^-22 in (0.5, 2), relative 2^-22 outside |
//! | `sin.approx.f32`, `cos.approx.f32` | absolute 2^-20.5 |
//! | `tanh.approx.f32` | relative 2^-11 |

use crate::float::flush;
use crate::ir::Compute;
use crate::scalar::Ty;
use crate::select::{Opcode, one, peek_type, two};

/// Half an ulp, relative: what the final rounding to f32 may add.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// The lane function of a special function, a division or a root; integers excepted.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    if !peek_type(op)?.is_float() {
        return None;
    }
    let approximate = op.take("approx");
    let full = op.base == "div" && op.take("full");
    let ftz = op.take("ftz");
    let ty = op.ty()?;
    if approximate || full {
        return if ty == Ty::F32 { approximation(op.base, ftz) } else { approximation64(op.base, ty) };
    }
    if !op.take("rn") {
        return None;
    }
    Some(match (op.base, ty, ftz) {
        ("div", Ty::F32, false) => two!(|a: f32, b: f32| a / b),
        ("div", Ty::F32, true) => two!(|a: f32, b: f32| flush(flush(a) / flush(b))),
        ("rcp", Ty::F32, false) => one!(|a: f32| 1.0 / a),
        ("rcp", Ty::F32, true) => one!(|a: f32| flush(1.0 / flush(a))),
        ("sqrt", Ty::F32, false) => one!(|a: f32| a.sqrt()),
        ("sqrt", Ty::F32, true) => one!(|a: f32| flush(flush(a).sqrt())),
        ("div", Ty::F64, false) => two!(|a: f64, b: f64| a / b),
        ("rcp", Ty::F64, false) => one!(|a: f64| 1.0 / a),
        ("sqrt", Ty::F64, false) => one!(|a: f64| a.sqrt()),
        _ => return None,
    })
}

fn approximation(base: &str, ftz: bool) -> Option<Compute> {
    macro_rules! flushed {
        ($f:path) => {
            if ftz { one!(|a: f32| flush($f(flush(a)))) } else { one!(|a: f32| $f(a)) }
        };
    }
    Some(match base {
        "ex2" => flushed!(ex2),
        "lg2" => flushed!(lg2),
        "rcp" => flushed!(rcp),
        "rsqrt" => flushed!(rsqrt),
        "sqrt" => flushed!(sqrt),
        "sin" => flushed!(sin),
        "cos" => flushed!(cos),
        "tanh" => flushed!(tanh),
        "div" if ftz => two!(|a: f32, b: f32| flush(div(flush(a), flush(b)))),
        "div" => two!(|a: f32, b: f32| div(a, b)),
        _ => return None,
    })
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.f64`: 20 bits and more; the low half of the result is zero.
fn approximation64(base: &str, ty: Ty) -> Option<Compute> {
    Some(match (base, ty) {
        ("rcp", Ty::F64) => one!(|a: f64| (1.0 / a).to_bits() & !0xFFFF_FFFF),
        ("rsqrt", Ty::F64) => one!(|a: f64| (1.0 / a.sqrt()).to_bits() & !0xFFFF_FFFF),
        _ => return None,
    })
}

/// A number in (-1, 1), fixed by the operand's bits.
#[inline(always)]
fn wobble(bits: u32) -> f64 {
    let mut x = bits.wrapping_mul(0x9E37_79B1);
    x ^= x >> 15;
    x = x.wrapping_mul(0x85EB_CA77);
    x ^= x >> 13;
    (x as i32 as f64) * (1.0 / (1u32 << 31) as f64)
}

/// `value` with a relative error below `error`, its rounding to f32 included; exact powers of two stay what they are.
#[inline(always)]
fn relative(value: f64, error: f64, bits: u32) -> f32 {
    if value.to_bits() << 12 == 0 { value as f32 } else { (value * (1.0 + (error - ROUNDING) * wobble(bits))) as f32 }
}

/// `ex2.approx.f32`: 2^x.
pub fn ex2(x: f32) -> f32 {
    relative((x as f64).exp2(), 1.6e-7, x.to_bits())
}

/// `lg2.approx.f32`: the logarithm to base 2.
pub fn lg2(x: f32) -> f32 {
    let value = (x as f64).log2();
    if x > 0.5 && x < 2.0 && x != 1.0 {
        return (value + (1.0 / (1 << 22) as f64 - ROUNDING) * wobble(x.to_bits())) as f32;
    }
    if value == value.trunc() { value as f32 } else { relative(value, 1.0 / (1 << 22) as f64, x.to_bits()) }
}

/// `rcp.approx.f32`: 1/x.
pub fn rcp(x: f32) -> f32 {
    relative(1.0 / x as f64, 2.0 * ROUNDING, x.to_bits())
}

/// `rsqrt.approx.f32`: 1/sqrt(x).
pub fn rsqrt(x: f32) -> f32 {
    if x == 0.0 {
        return f32::INFINITY.copysign(x);
    }
    relative(1.0 / (x as f64).sqrt(), 1.27e-7, x.to_bits())
}

/// `sqrt.approx.f32`.
pub fn sqrt(x: f32) -> f32 {
    relative((x as f64).sqrt(), 2.0 * ROUNDING, x.to_bits())
}

/// `sin.approx.f32`, of radians.
pub fn sin(x: f32) -> f32 {
    if x == 0.0 { x } else { absolute((x as f64).sin(), x.to_bits()) }
}

/// `cos.approx.f32`, of radians.
pub fn cos(x: f32) -> f32 {
    if x == 0.0 { 1.0 } else { absolute((x as f64).cos(), x.to_bits()) }
}

/// `value` with an absolute error below 2^-20.5.
fn absolute(value: f64, bits: u32) -> f32 {
    (value + (6.7e-7 - ROUNDING) * wobble(bits)).clamp(-1.0, 1.0) as f32
}

/// `tanh.approx.f32`.
pub fn tanh(x: f32) -> f32 {
    if x == 0.0 { x } else { relative((x as f64).tanh(), 1.0 / (1 << 11) as f64, x.to_bits()).clamp(-1.0, 1.0) }
}

/// `div.approx.f32` and `div.full.f32`: a/b.
///
/// For a divisor above 2^126 the ISA lets the quotient be zero (or NaN for infinity over it); the true quotient is given instead.
pub fn div(a: f32, b: f32) -> f32 {
    let value = a as f64 / b as f64;
    if (value as f32) as f64 == value {
        value as f32
    } else {
        relative(value, 2.0 * ROUNDING, a.to_bits() ^ b.to_bits().rotate_left(16))
    }
}
