//! `cvt`: between integers, f16, bf16, f32 and f64, with rounding and saturation.

use half::{bf16, f16};

use crate::float::{flush, round_towards, saturate};
use crate::half_float::Half;
use crate::ir::Compute;
use crate::scalar::{Lanes, Scalar, Ty};
use crate::select::{Opcode, one, two};

/// The lane function of a conversion. A result narrower than its register is extended by the decoder.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    let to = op.ty()?;
    if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
        return packed(op, to);
    }
    let from = op.ty()?;
    let (sat, ftz) = (op.take("sat"), op.take("ftz"));
    match (to.is_float(), from.is_float()) {
        (false, false) => integers(to, from, sat),
        (false, true) => to_integer(op, to, from, ftz),
        (true, false) => from_integer(op, to, from),
        (true, true) => floats(op, to, from, sat, ftz),
    }
}

/// `cvt.rn.bf16x2.f32 d, a, b`: a above, b below.
fn packed(op: &mut Opcode, to: Ty) -> Option<Compute> {
    if op.ty()? != Ty::F32 {
        return None;
    }
    let relu = op.take("relu");
    if !op.take("rn") {
        return None;
    }
    fn bits<H: Half>(x: f32) -> u64 {
        H::round(x as f64).bits()
    }
    fn positive(x: f32) -> f32 {
        if x.is_nan() { x } else { x.max(0.0) }
    }
    Some(match (to, relu) {
        (Ty::F16x2, false) => two!(|a: f32, b: f32| bits::<f16>(a) << 16 | bits::<f16>(b)),
        (Ty::F16x2, true) => two!(|a: f32, b: f32| bits::<f16>(positive(a)) << 16 | bits::<f16>(positive(b))),
        (_, false) => two!(|a: f32, b: f32| bits::<bf16>(a) << 16 | bits::<bf16>(b)),
        (_, true) => two!(|a: f32, b: f32| bits::<bf16>(positive(a)) << 16 | bits::<bf16>(positive(b))),
    })
}

/// Stamps `$build` with `T` standing for the integer type `$ty`, 8 bits included.
macro_rules! any_integer {
    ($ty:expr, $T:ident => $build:expr) => {
        match $ty {
            Ty::U8 | Ty::B8 => {
                type $T = u8;
                Some($build)
            }
            Ty::S8 => {
                type $T = i8;
                Some($build)
            }
            _ => crate::select::integer!($ty, $T => $build),
        }
    };
}

fn integers(to: Ty, from: Ty, sat: bool) -> Option<Compute> {
    fn plain<D: Scalar, S: Scalar>(convert: fn(S) -> D, x: u64) -> u64 {
        convert(S::of(x)).bits()
    }
    any_integer!(to, D => any_integer!(from, S => if sat {
        one!(|a: u64| plain::<D, S>(|a| (a as i128).clamp(D::MIN as i128, D::MAX as i128) as D, a))
    } else {
        one!(|a: u64| plain::<D, S>(|a| a as D, a))
    })?)
}

/// A float to an integral value: `rni`, `rzi`, `rmi`, `rpi`.
#[derive(Clone, Copy)]
enum Whole {
    Nearest,
    Zero,
    Minus,
    Plus,
}

fn whole(op: &mut Opcode) -> Option<Whole> {
    Some(match op.take_any(&["rni", "rzi", "rmi", "rpi"])? {
        "rni" => Whole::Nearest,
        "rzi" => Whole::Zero,
        "rmi" => Whole::Minus,
        _ => Whole::Plus,
    })
}

/// NaN becomes 0 for types up to 32 bits and the lowest bit pattern with only the top bit set for 64; out of range clamps.
fn to_integer(op: &mut Opcode, to: Ty, from: Ty, ftz: bool) -> Option<Compute> {
    let mode = whole(op)?;
    fn wide(x: u64, from: Ty) -> f64 {
        match from {
            Ty::F32 => f32::of(x) as f64,
            Ty::F64 => f64::of(x),
            Ty::F16 => f16::of(x).to_f64(),
            _ => bf16::of(x).to_f64(),
        }
    }
    macro_rules! rounded {
        ($from:expr, $round:expr) => {
            any_integer!(to, D => one!(|a: u64| {
                let x: f64 = wide(a, $from);
                let round: fn(f64) -> f64 = $round;
                if x.is_nan() { if D::BITS == 64 { (1u64 << 63) as D } else { 0 } } else { round(x) as D }
            }))
        };
    }
    macro_rules! mode {
        ($from:expr) => {
            match mode {
                Whole::Nearest => rounded!($from, f64::round_ties_even),
                Whole::Zero => rounded!($from, f64::trunc),
                Whole::Minus if !ftz => rounded!($from, f64::floor),
                Whole::Plus if !ftz => rounded!($from, f64::ceil),
                // A flushed subnormal is zero, not the next integer.
                Whole::Minus => rounded!($from, |x| if x.abs() < f32::MIN_POSITIVE as f64 { 0.0 } else { x.floor() }),
                Whole::Plus => rounded!($from, |x| if x.abs() < f32::MIN_POSITIVE as f64 { 0.0 } else { x.ceil() }),
            }
        };
    }
    match from {
        Ty::F32 => mode!(Ty::F32),
        Ty::F64 if !ftz => mode!(Ty::F64),
        Ty::F16 if !ftz => mode!(Ty::F16),
        Ty::Bf16 if !ftz => mode!(Ty::Bf16),
        _ => None,
    }
}

fn from_integer(op: &mut Opcode, to: Ty, from: Ty) -> Option<Compute> {
    let rounding = op.take_any(&["rn", "rz", "rm", "rp"])?;
    // Rounding an integer through f64 to 16 bits would round twice above 2^53, where both 16-bit types hold few values: i128 to
    // f32 to odd is not worth its lines, so those sources are left to 32 bits.
    match (to, rounding) {
        (Ty::F32, "rn") => any_integer!(from, S => one!(|a: S| a as f32)),
        (Ty::F32, "rz") => any_integer!(from, S => one!(|a: S| near::<'z'>(a as i128))),
        (Ty::F32, "rm") => any_integer!(from, S => one!(|a: S| near::<'m'>(a as i128))),
        (Ty::F32, _) => any_integer!(from, S => one!(|a: S| near::<'p'>(a as i128))),
        (Ty::F64, "rn") => any_integer!(from, S => one!(|a: S| a as f64)),
        (Ty::F16, "rn") if from.bytes() <= 4 => any_integer!(from, S => one!(|a: S| f16::round(a as f64))),
        (Ty::Bf16, "rn") if from.bytes() <= 4 => any_integer!(from, S => one!(|a: S| bf16::round(a as f64))),
        _ => None,
    }
}

/// An integer to f32, rounded in one direction.
fn near<const D: char>(x: i128) -> f32 {
    let nearest = x as f32;
    let (above, below) = (nearest as i128 > x, (nearest as i128) < x);
    let down = D == 'm' || (D == 'z' && x > 0);
    match (down, above, below) {
        (true, true, _) => nearest.next_down(),
        (false, _, true) => nearest.next_up(),
        _ => nearest,
    }
}

fn floats(op: &mut Opcode, to: Ty, from: Ty, sat: bool, ftz: bool) -> Option<Compute> {
    let rounding = op.take_any(&["rn", "rz", "rm", "rp"]).unwrap_or("rn");
    let integral = if to == from { whole(op) } else { None };
    let plain = rounding == "rn" && !sat && integral.is_none();
    Some(match (to, from) {
        (Ty::F32, Ty::F32) => return same(integral, sat, ftz),
        (Ty::F64, Ty::F64) => return same64(integral).filter(|_| !sat && !ftz),
        (Ty::F32, Ty::F64) if sat => one!(|a: f64| saturate(a as f32)),
        (Ty::F32, Ty::F64) => match (rounding, ftz) {
            ("rn", false) => one!(|a: f64| a as f32),
            ("rn", true) => one!(|a: f64| flush(a as f32)),
            ("rz", false) => one!(|a: f64| round_towards::<'z'>(a)),
            ("rm", false) => one!(|a: f64| round_towards::<'m'>(a)),
            ("rp", false) => one!(|a: f64| round_towards::<'p'>(a)),
            _ => return None,
        },
        _ if !plain => return None,
        (Ty::F64, Ty::F32) if ftz => one!(|a: f32| flush(a) as f64),
        (Ty::F64, Ty::F32) => one!(|a: f32| a as f64),
        (Ty::F32, Ty::F16) => one!(|a: f16| a.to_f32()),
        (Ty::F32, Ty::Bf16) => one!(|a: bf16| a.to_f32()),
        (Ty::F16, Ty::F32) if ftz => one!(|a: f32| f16::from_f32(flush(a))),
        (Ty::F16, Ty::F32) => one!(|a: f32| f16::from_f32(a)),
        (Ty::Bf16, Ty::F32) => one!(|a: f32| bf16::from_f32(a)),
        (Ty::F16, Ty::F64) => one!(|a: f64| f16::round(a)),
        (Ty::Bf16, Ty::F64) => one!(|a: f64| bf16::round(a)),
        (Ty::F64, Ty::F16) => one!(|a: f16| a.to_f64()),
        (Ty::F64, Ty::Bf16) => one!(|a: bf16| a.to_f64()),
        _ => return None,
    })
}

fn same(integral: Option<Whole>, sat: bool, ftz: bool) -> Option<Compute> {
    macro_rules! step {
        ($round:expr) => {
            match (sat, ftz) {
                (false, false) => one!(|a: f32| $round(a)),
                (false, true) => one!(|a: f32| $round(flush(a))),
                (true, false) => one!(|a: f32| saturate($round(a))),
                (true, true) => one!(|a: f32| saturate($round(flush(a)))),
            }
        };
    }
    Some(match integral {
        None => step!(|x: f32| x),
        Some(Whole::Nearest) => step!(f32::round_ties_even),
        Some(Whole::Zero) => step!(f32::trunc),
        Some(Whole::Minus) => step!(f32::floor),
        Some(Whole::Plus) => step!(f32::ceil),
    })
}

fn same64(integral: Option<Whole>) -> Option<Compute> {
    Some(match integral? {
        Whole::Nearest => one!(|a: f64| a.round_ties_even()),
        Whole::Zero => one!(|a: f64| a.trunc()),
        Whole::Minus => one!(|a: f64| a.floor()),
        Whole::Plus => one!(|a: f64| a.ceil()),
    })
}

/// Sign extension of a result of type `ty` to a wider register, and the cut to that register's width.
pub(crate) fn extension(ty: Ty, register_bytes: usize) -> Option<Compute> {
    fn extend<S: Scalar + Into<i64>, const WIDTH: usize>(x: &Lanes, out: &mut Lanes) {
        for lane in 0..32 {
            let wide: i64 = S::of(x[lane]).into();
            out[lane] = wide as u64 & crate::scalar::low_mask(WIDTH);
        }
    }
    Some(Compute::One(match (ty, register_bytes) {
        (Ty::S8, 2) => extend::<i8, 2>,
        (Ty::S8, 4) => extend::<i8, 4>,
        (Ty::S8, 8) => extend::<i8, 8>,
        (Ty::S16, 4) => extend::<i16, 4>,
        (Ty::S16, 8) => extend::<i16, 8>,
        (Ty::S32, 8) => extend::<i32, 8>,
        _ => return None,
    }))
}
