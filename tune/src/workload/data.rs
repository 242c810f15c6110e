//! The numbers of inputs: a short random pattern, repeated.

use packscan_runtime::Dtype;
use packscan_verify::Random;

/// Numbers after which a pattern begins again. A multiple of 8, so that copies of it start at multiples of every load, and of no
/// length that rows have, so that neighbouring rows differ.
pub(super) const PERIOD: usize = 8 * 131_101;

/// One input: its name among the buffers of a bench, its shape, and what its numbers are.
#[derive(Clone, Copy)]
pub(super) struct Data {
    pub name: &'static str,
    pub dtype: Dtype,
    pub rows: usize,
    pub cols: usize,
    pub value: fn(&mut Random) -> f32,
}

impl Data {
    pub fn new(name: &'static str, dtype: Dtype, (rows, cols): (usize, usize), value: fn(&mut Random) -> f32) -> Data {
        Data { name, dtype, rows, cols, value }
    }

    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// The pattern, of representable numbers.
    pub fn pattern(&self) -> Pattern {
        let mut random = Random::new(0, self.name);
        let number = |_| rounded(self.dtype, (self.value)(&mut random));
        Pattern((0..self.len().min(PERIOD)).map(number).collect())
    }
}

/// What is repeated.
pub(super) struct Pattern(pub Vec<f32>);

impl Pattern {
    /// The number at a place of the whole.
    pub fn at(&self, place: usize) -> f32 {
        self.0[place % self.0.len()]
    }
}

fn rounded(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F32 | Dtype::U32 => value,
        Dtype::F16 => half::f16::from_f32(value).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}
