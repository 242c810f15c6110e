//! Tensors on the host that know whose data their rows hold.

use std::ops::Range;

use packscan_runtime::{Buffer, Device, Dtype, Packed, Result, View};

use crate::data::{Random, rounded};

/// Whose data each row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Row t belongs to the sequence of token t.
    Tokens,
    /// Row s belongs to sequence s.
    Sequences,
    /// Row k belongs to the sequence of token k * n.
    Chunks(usize),
    /// So many rows that belong to nobody.
    Shared(usize),
}

impl Rows {
    /// How many rows there are.
    pub fn count(self, packed: &Packed) -> usize {
        match self {
            Rows::Tokens => packed.tokens(),
            Rows::Sequences => packed.sequences(),
            Rows::Chunks(n) => packed.tokens().div_ceil(n),
            Rows::Shared(rows) => rows,
        }
    }

    /// The rows of sequence `s`.
    pub fn of_sequence(self, packed: &Packed, s: usize) -> Range<usize> {
        let tokens = packed.range(s);
        match self {
            Rows::Tokens => tokens,
            Rows::Sequences => s..s + 1,
            Rows::Chunks(n) => tokens.start.div_ceil(n)..tokens.end.div_ceil(n),
            Rows::Shared(_) => 0..0,
        }
    }
}

/// A tensor on the host; its values are representable in its type.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// As the operator calls it.
    pub name: &'static str,
    /// How the device stores it.
    pub dtype: Dtype,
    /// Whose data its rows hold.
    pub rows: Rows,
    /// Elements of a row.
    pub cols: usize,
    /// `(rows, cols)`
    pub values: Vec<f32>,
    /// Whether an operator adds to it; it starts as zeros.
    pub accumulated: bool,
}

impl Tensor {
    /// A tensor filled by `value`, which is given a stream of its own.
    pub fn random(shape: Tensor, packed: &Packed, seed: u64, mut value: impl FnMut(&mut Random) -> f32) -> Tensor {
        let mut random = Random::new(seed, shape.name);
        let len = shape.rows.count(packed) * shape.cols;
        let values = (0..len).map(|_| rounded(shape.dtype, value(&mut random))).collect();
        Tensor { values, ..shape }
    }

    /// A tensor without values yet.
    pub fn shaped(name: &'static str, dtype: Dtype, rows: Rows, cols: usize) -> Tensor {
        Tensor { name, dtype, rows, cols, values: Vec::new(), accumulated: false }
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// Its values on a device, rows padded by `padding` unused columns on each side.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn place(&self, device: &Device, padding: usize) -> Result<Placed> {
        let mut values = Vec::with_capacity(self.values.len());
        for row in self.values.chunks(self.cols) {
            values.extend(std::iter::repeat_n(f32::NAN, padding));
            values.extend(row);
            values.extend(std::iter::repeat_n(f32::NAN, padding));
        }
        let buffer = Buffer::from_f32(device, self.dtype, &values)?;
        Ok(Placed { buffer, rows: self.values.len() / self.cols, cols: self.cols, padding })
    }
}

/// A tensor on a device.
#[derive(Debug)]
pub struct Placed {
    buffer: Buffer,
    rows: usize,
    cols: usize,
    padding: usize,
}

impl Placed {
    /// Rows for an output: unwritten, or zeros if the operator adds to them.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn output(shape: &Tensor, packed: &Packed, device: &Device, padding: usize) -> Result<Placed> {
        let rows = shape.rows.count(packed);
        if shape.accumulated {
            return Tensor { values: vec![0.0; rows * shape.cols], ..shape.clone() }.place(device, padding);
        }
        let buffer = Buffer::unwritten(device, shape.dtype, rows * (shape.cols + 2 * padding))?;
        Ok(Placed { buffer, rows, cols: shape.cols, padding })
    }

    /// What the operator is given.
    pub fn view(&self) -> View<'_> {
        let rows = self.buffer.rows(self.rows).and_then(|all| match self.rows {
            0 => Ok(all),
            _ => all.columns(self.padding, self.cols),
        });
        rows.expect("the buffer was made for these rows")
    }

    /// The rows, back on the host, and whether the padding and the fences are still untouched.
    ///
    /// # Errors
    /// If the device failed.
    pub fn take(self, shape: Tensor) -> Result<(Tensor, bool)> {
        let all = self.buffer.to_f32()?;
        let stride = self.cols + 2 * self.padding;
        let mut values = Vec::with_capacity(self.rows * self.cols);
        let mut untouched = self.buffer.fence_holds()?;
        for row in all.chunks(stride.max(1)) {
            let (before, rest) = row.split_at(self.padding);
            let (row, after) = rest.split_at(self.cols);
            untouched &= before.iter().chain(after).all(|x| x.is_nan());
            values.extend(row);
        }
        Ok((Tensor { values, ..shape }, untouched))
    }
}
