//! f16 and bf16 arithmetic, alone and packed in pairs.
//!
//! Products of two such numbers are exact in f64, and sums are rounded to odd (an inexact result gets its last bit set) first to
//! f64, then to f32. Rounding to odd keeps on which side of every rounding point the true value lies, so that the last step, to
//! nearest even in 16 bits, is the one correct rounding.

use half::{bf16, f16};

use crate::ir::Compute;
use crate::scalar::{Scalar, Ty};
use crate::select::{Opcode, one, peek_type, three, two};

/// A 16-bit float.
pub(crate) trait Half: Scalar {
    fn wide(self) -> f64;
    /// To nearest even.
    fn round(x: f64) -> Self;
}

impl Half for f16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.to_f64()
    }
    #[inline(always)]
    fn round(x: f64) -> Self {
        f16::from_f32(to_odd(x))
    }
}

impl Half for bf16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.to_f64()
    }
    #[inline(always)]
    fn round(x: f64) -> Self {
        bf16::from_f32(to_odd(x))
    }
}

/// An f64 to f32, rounded to odd.
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    if near as f64 == x || x.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    if near as f64 > x { near.next_down() } else { near.next_up() }
}

/// `a*b + c` in f64, rounded to odd.
#[inline(always)]
fn fused(a: f64, b: f64, c: f64) -> f64 {
    let p = a * b;
    let sum = p + c;
    let back = sum - p;
    let error = (p - (sum - back)) + (c - back);
    if error.abs() > 0.0 && sum.to_bits() & 1 == 0 {
        f64::from_bits(if (error > 0.0) == (sum > 0.0) { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
    } else {
        sum
    }
}

#[inline(always)]
fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a < b || (a == b && a.is_sign_negative()) { a } else { b }
}

#[inline(always)]
fn least_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { least(a, b) }
}

/// Stamps a function of f64 operands, given as a plain function, for the four types.
macro_rules! halves {
    ($ty:expr, $f:path, 2) => {
        match $ty {
            Ty::F16 => two!(|a: u64, b: u64| apply2::<f16>($f, a, b)),
            Ty::Bf16 => two!(|a: u64, b: u64| apply2::<bf16>($f, a, b)),
            Ty::F16x2 => two!(|a: u64, b: u64| apply2::<f16>($f, a, b) | apply2::<f16>($f, a >> 16, b >> 16) << 16),
            _ => two!(|a: u64, b: u64| apply2::<bf16>($f, a, b) | apply2::<bf16>($f, a >> 16, b >> 16) << 16),
        }
    };
    ($ty:expr, $f:path, 3) => {
        match $ty {
            Ty::F16 => three!(|a: u64, b: u64, c: u64| apply3::<f16>($f, a, b, c)),
            Ty::Bf16 => three!(|a: u64, b: u64, c: u64| apply3::<bf16>($f, a, b, c)),
            Ty::F16x2 => {
                three!(|a: u64, b: u64, c: u64| apply3::<f16>($f, a, b, c)
                    | apply3::<f16>($f, a >> 16, b >> 16, c >> 16) << 16)
            }
            _ => {
                three!(|a: u64, b: u64, c: u64| apply3::<bf16>($f, a, b, c)
                    | apply3::<bf16>($f, a >> 16, b >> 16, c >> 16) << 16)
            }
        }
    };
}

#[inline(always)]
fn apply2<H: Half>(f: fn(f64, f64) -> f64, a: u64, b: u64) -> u64 {
    H::round(f(H::of(a).wide(), H::of(b).wide())).bits()
}

#[inline(always)]
fn apply3<H: Half>(f: fn(f64, f64, f64) -> f64, a: u64, b: u64, c: u64) -> u64 {
    H::round(f(H::of(a).wide(), H::of(b).wide(), H::of(c).wide())).bits()
}

fn add(a: f64, b: f64) -> f64 {
    fused(a, 1.0, b)
}

fn sub(a: f64, b: f64) -> f64 {
    fused(a, 1.0, -b)
}

fn mul(a: f64, b: f64) -> f64 {
    a * b
}

fn most(a: f64, b: f64) -> f64 {
    -least(-a, -b)
}

fn most_or_nan(a: f64, b: f64) -> f64 {
    -least_or_nan(-a, -b)
}

fn fused_relu(a: f64, b: f64, c: f64) -> f64 {
    let x = fused(a, b, c);
    if x.is_nan() { x } else { x.max(0.0) }
}

/// The lane function of an f16, bf16, f16x2 or bf16x2 opcode.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    let ty = peek_type(op)?;
    if !matches!(ty, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2) {
        return None;
    }
    op.ty()?;
    op.take("rn");
    let alone = matches!(ty, Ty::F16 | Ty::Bf16);
    let base = op.base;
    Some(match base {
        "abs" if alone => one!(|a: u16| a & 0x7FFF),
        "abs" => one!(|a: u32| a & 0x7FFF_7FFF),
        "neg" if alone => one!(|a: u16| a ^ 0x8000),
        "neg" => one!(|a: u32| a ^ 0x8000_8000),
        "add" => halves!(ty, add, 2),
        "sub" => halves!(ty, sub, 2),
        "mul" => halves!(ty, mul, 2),
        "min" if op.take("NaN") => halves!(ty, least_or_nan, 2),
        "max" if op.take("NaN") => halves!(ty, most_or_nan, 2),
        "min" => halves!(ty, least, 2),
        "max" => halves!(ty, most, 2),
        "fma" if op.take("relu") => halves!(ty, fused_relu, 3),
        "fma" => halves!(ty, fused, 3),
        _ => return None,
    })
}
