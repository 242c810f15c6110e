//! `setp` and `set`: comparisons, whose result is a predicate lane of 0 or 1.

use half::{bf16, f16};

use crate::float::flush;
use crate::ir::Compute;
use crate::scalar::Ty;
use crate::select::{Opcode, integer, two};

/// Every comparison, ordered, unordered and unsigned.
const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// The lane function of a comparison: two operands to a predicate.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    let comparison = op.take_any(&COMPARISONS)?;
    let ftz = op.take("ftz");
    let ty = op.ty()?;
    match ty {
        Ty::F32 if ftz => float(comparison, FloatKind::Flushed),
        Ty::F32 => float(comparison, FloatKind::F32),
        Ty::F64 => float(comparison, FloatKind::F64),
        Ty::F16 if !ftz => float(comparison, FloatKind::F16),
        Ty::Bf16 => float(comparison, FloatKind::Bf16),
        _ if ftz => None,
        Ty::Pred => None,
        _ => ordered(comparison, ty),
    }
}

fn ordered(comparison: &str, ty: Ty) -> Option<Compute> {
    match comparison {
        "eq" => integer!(ty, T => two!(|a: T, b: T| a == b)),
        "ne" => integer!(ty, T => two!(|a: T, b: T| a != b)),
        "lt" | "lo" => integer!(ty, T => two!(|a: T, b: T| a < b)),
        "le" | "ls" => integer!(ty, T => two!(|a: T, b: T| a <= b)),
        "gt" | "hi" => integer!(ty, T => two!(|a: T, b: T| a > b)),
        "ge" | "hs" => integer!(ty, T => two!(|a: T, b: T| a >= b)),
        _ => None,
    }
}

enum FloatKind {
    F32,
    Flushed,
    F64,
    F16,
    Bf16,
}

fn float(comparison: &str, kind: FloatKind) -> Option<Compute> {
    macro_rules! compare {
        (|$a:ident, $b:ident| $body:expr) => {
            Some(match kind {
                FloatKind::F32 => two!(|$a: f32, $b: f32| $body),
                FloatKind::Flushed => two!(|$a: f32, $b: f32| {
                    let ($a, $b) = (flush($a), flush($b));
                    $body
                }),
                FloatKind::F64 => two!(|$a: f64, $b: f64| $body),
                FloatKind::F16 => two!(|$a: f16, $b: f16| $body),
                FloatKind::Bf16 => two!(|$a: bf16, $b: bf16| $body),
            })
        };
    }
    match comparison {
        "eq" => compare!(|a, b| a == b),
        "ne" => compare!(|a, b| !(a.is_nan() || b.is_nan() || a == b)),
        "lt" => compare!(|a, b| a < b),
        "le" => compare!(|a, b| a <= b),
        "gt" => compare!(|a, b| a > b),
        "ge" => compare!(|a, b| a >= b),
        "equ" => compare!(|a, b| a.is_nan() || b.is_nan() || a == b),
        "neu" => compare!(|a, b| a != b),
        "ltu" => compare!(|a, b| a.is_nan() || b.is_nan() || a < b),
        "leu" => compare!(|a, b| a.is_nan() || b.is_nan() || a <= b),
        "gtu" => compare!(|a, b| a.is_nan() || b.is_nan() || a > b),
        "geu" => compare!(|a, b| a.is_nan() || b.is_nan() || a >= b),
        "num" => compare!(|a, b| !(a.is_nan() || b.is_nan())),
        "nan" => compare!(|a, b| a.is_nan() || b.is_nan()),
        _ => None,
    }
}
