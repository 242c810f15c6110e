//! Types of PTX and the bits of a register's 32 lanes.

use half::{bf16, f16};

/// One register of a warp: 32 lanes of 64 bits. Bits above a register's width are zero; predicates are 0 or 1.
pub(crate) type Lanes = [u64; 32];

/// A type as it stands after a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Ty { Pred, B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, F32, F64 }

impl Ty {
    /// The type of that name, without its dot.
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Bytes in memory (a predicate has none, and counts as one).
    pub fn bytes(self) -> usize {
        match self {
            Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
        }
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
    }
}

/// The low `bytes` bytes set.
pub(crate) fn low_mask(bytes: usize) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}

/// A value that a lane holds.
pub(crate) trait Scalar: Copy {
    /// From a lane's bits; those above the type's width are ignored.
    fn of(bits: u64) -> Self;
    /// To a lane's bits; those above the type's width are zero.
    fn bits(self) -> u64;
}

macro_rules! integers {
    ($($signed:ty, $unsigned:ty);*) => {$(
        impl Scalar for $signed {
            #[inline(always)]
            fn of(bits: u64) -> Self { bits as $signed }
            #[inline(always)]
            fn bits(self) -> u64 { self as $unsigned as u64 }
        }
        impl Scalar for $unsigned {
            #[inline(always)]
            fn of(bits: u64) -> Self { bits as $unsigned }
            #[inline(always)]
            fn bits(self) -> u64 { self as u64 }
        }
    )*};
}
integers!(i8, u8; i16, u16; i32, u32; i64, u64);

impl Scalar for bool {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        bits != 0
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self as u64
    }
}

/// A NaN leaves as 0x7FFFFFFF, the one that the hardware makes.
impl Scalar for f32 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        (if self.is_nan() { 0x7FFF_FFFF } else { self.to_bits() }) as u64
    }
}

impl Scalar for f64 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// A NaN leaves as 0x7FFF.
impl Scalar for f16 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        f16::from_bits(bits as u16)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        (if self.is_nan() { 0x7FFF } else { self.to_bits() }) as u64
    }
}

/// A NaN leaves as 0x7FFF.
impl Scalar for bf16 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        bf16::from_bits(bits as u16)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        (if self.is_nan() { 0x7FFF } else { self.to_bits() }) as u64
    }
}
