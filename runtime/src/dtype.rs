//! Element types: how a number is stored, on every device and in the CUDA text.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::Error;

/// How one element of a buffer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// Unsigned 32-bit integer: offsets and indices.
    U32,
}

impl Dtype {
    /// Every type, in the order in which messages list them.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::U32];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The name of the type in packscan's CUDA prelude.
    pub const fn cuda(self) -> &'static str {
        match self {
            Dtype::F32 => "float",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::U32 => "unsigned",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::U32 => "u32",
        })
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Dtype::ALL.into_iter().find(|dtype| dtype.to_string() == text).ok_or_else(|| Error::Unknown {
            what: "data type",
            got: text.to_owned(),
            known: "f32, f16, bf16".to_owned(),
        })
    }
}

/// A Rust type that a buffer can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Its storage type.
    const DTYPE: Dtype;
    /// The value, widened (`u32` above 2^24 is rounded).
    fn to_f32(self) -> f32;
    /// The nearest representable value, ties to even.
    fn from_f32(value: f32) -> Self;
}

macro_rules! element {
    ($type:ty, $dtype:ident, $to:expr, $from:expr) => {
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $from(value)
            }
        }
    };
}

element!(f32, F32, |x| x, |x| x);
element!(f16, F16, f16::to_f32, f16::from_f32);
element!(bf16, Bf16, bf16::to_f32, bf16::from_f32);
element!(u32, U32, |x| x as f32, |x| x as u32);
