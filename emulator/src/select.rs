//! Picks the lane function of an arithmetic opcode, and the macros that build such functions.

use crate::ir::Compute;
use crate::scalar::Ty;

/// The dotted parts of an opcode; every one must be understood by somebody.
pub(crate) struct Opcode<'a> {
    pub base: &'a str,
    parts: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        Opcode { base: parts.next().unwrap_or(""), parts: parts.collect() }
    }

    /// Takes the modifier `name`, if there.
    pub fn take(&mut self, name: &str) -> bool {
        let found = self.parts.iter().position(|part| *part == name);
        if let Some(index) = found {
            self.parts.remove(index);
        }
        found.is_some()
    }

    /// Takes the first of `names` that is there.
    pub fn take_any<'b>(&mut self, names: &[&'b str]) -> Option<&'b str> {
        names.iter().copied().find(|name| self.take(name))
    }

    /// Takes the leftmost type.
    pub fn ty(&mut self) -> Option<Ty> {
        let index = self.parts.iter().position(|part| Ty::parse(part).is_some())?;
        Ty::parse(self.parts.remove(index))
    }

    /// What nobody has taken.
    pub fn rest(&self) -> &[&'a str] {
        &self.parts
    }
}

macro_rules! one {
    (|$a:ident: $A:ty| $body:expr) => {{
        fn f(x: &crate::scalar::Lanes, out: &mut crate::scalar::Lanes) {
            for lane in 0..32 {
                let $a = <$A as crate::scalar::Scalar>::of(x[lane]);
                out[lane] = crate::scalar::Scalar::bits($body);
            }
        }
        crate::ir::Compute::One(f)
    }};
}

macro_rules! two {
    (|$a:ident: $A:ty, $b:ident: $B:ty| $body:expr) => {{
        fn f(x: &crate::scalar::Lanes, y: &crate::scalar::Lanes, out: &mut crate::scalar::Lanes) {
            for lane in 0..32 {
                let $a = <$A as crate::scalar::Scalar>::of(x[lane]);
                let $b = <$B as crate::scalar::Scalar>::of(y[lane]);
                out[lane] = crate::scalar::Scalar::bits($body);
            }
        }
        crate::ir::Compute::Two(f)
    }};
}

macro_rules! three {
    (|$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty| $body:expr) => {{
        fn f(
            x: &crate::scalar::Lanes,
            y: &crate::scalar::Lanes,
            z: &crate::scalar::Lanes,
            out: &mut crate::scalar::Lanes,
        ) {
            for lane in 0..32 {
                let $a = <$A as crate::scalar::Scalar>::of(x[lane]);
                let $b = <$B as crate::scalar::Scalar>::of(y[lane]);
                let $c = <$C as crate::scalar::Scalar>::of(z[lane]);
                out[lane] = crate::scalar::Scalar::bits($body);
            }
        }
        crate::ir::Compute::Three(f)
    }};
}

/// Stamps `$build` for the integer type `$ty` with `T` standing for it; `None` for any other type.
macro_rules! integer {
    ($ty:expr, $T:ident => $build:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => {
                type $T = u16;
                Some($build)
            }
            Ty::S16 => {
                type $T = i16;
                Some($build)
            }
            Ty::U32 | Ty::B32 => {
                type $T = u32;
                Some($build)
            }
            Ty::S32 => {
                type $T = i32;
                Some($build)
            }
            Ty::U64 | Ty::B64 => {
                type $T = u64;
                Some($build)
            }
            Ty::S64 => {
                type $T = i64;
                Some($build)
            }
            _ => None,
        }
    };
}
pub(crate) use {integer, one, three, two};

/// The lane function of an arithmetic opcode, or `None` if there is none. The caller checks that nothing of the opcode is left.
pub(crate) fn select(op: &mut Opcode) -> Option<Compute> {
    match op.base {
        "cvt" => crate::convert::select(op),
        "setp" | "set" => crate::compare::select(op),
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" | "div" => {
            crate::approx::select(op).or_else(|| crate::integer::select(op))
        }
        "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "abs" | "neg" | "copysign" | "testp" => {
            crate::float::select(op).or_else(|| crate::half_float::select(op)).or_else(|| crate::integer::select(op))
        }
        _ => crate::integer::select(op),
    }
}

/// The type an opcode works in, looked at without being taken.
pub(crate) fn peek_type(op: &Opcode) -> Option<Ty> {
    op.rest().iter().find_map(|part| Ty::parse(part))
}
