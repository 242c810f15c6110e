//! A slice of a workload's inputs and outputs, small enough for the book.

use std::rc::Rc;

use packscan_kernels::cast;
use packscan_runtime::{Buffer, Dtype, Packed, View};
use packscan_verify::{Rows, Tensor, operators};

use super::Bench;
use super::data::Data;
use crate::{Error, Result};

/// Some of `of` columns or rows: the first two, one in the middle, the last; fewer where there are fewer.
pub(super) fn some(of: usize) -> Vec<usize> {
    let mut some = vec![0, 1, of / 2, of.saturating_sub(1)];
    some.retain(|&place| place < of);
    some.dedup();
    some
}

impl Bench {
    /// These columns of an input, all of its rows.
    pub(super) fn columns_of(&self, data: &Data, name: &'static str, rows: Rows, columns: &[usize]) -> Tensor {
        let pattern = self.pattern(data);
        let places = (0..data.rows).flat_map(|row| columns.iter().map(move |column| row * data.cols + column));
        Tensor {
            values: places.map(|place| pattern.at(place)).collect(),
            ..Tensor::shaped(name, data.dtype, rows, columns.len())
        }
    }

    /// These rows of an input.
    pub(super) fn rows_of(&self, data: &Data, name: &'static str, rows: Rows, picked: &[usize]) -> Tensor {
        let pattern = self.pattern(data);
        let places = picked.iter().flat_map(|row| row * data.cols..(row + 1) * data.cols);
        Tensor {
            values: places.map(|place| pattern.at(place)).collect(),
            ..Tensor::shaped(name, data.dtype, rows, data.cols)
        }
    }

    /// These columns of an output `(T, ..)`, cut out on the device.
    pub(super) fn columns_from(&self, view: View<'_>, name: &'static str, columns: &[usize]) -> Result<Tensor> {
        let (rows, from) = (view.shape().0, view.buffer().dtype());
        let kept = Rc::new(Buffer::unwritten(self.device(), Dtype::F32, rows * columns.len())?);
        let variant = cast::Forward { vec: 1, ..cast::default_variant(1, from, Dtype::F32) };
        for (i, &column) in columns.iter().enumerate() {
            let to = kept.rows(rows)?.columns(i, 1)?;
            cast::forward(self.packed(), &variant, view.columns(column, 1)?, to)?;
        }
        Ok(Tensor { values: kept.to_f32()?, ..Tensor::shaped(name, from, Rows::Tokens, columns.len()) })
    }

    /// These rows of an output.
    pub(super) fn rows_from(&self, view: View<'_>, name: &'static str, rows: Rows, picked: &[usize]) -> Result<Tensor> {
        let mut values = Vec::with_capacity(picked.len() * view.shape().1);
        for &row in picked {
            values.extend(view.rows_at(row, 1)?.to_f32()?);
        }
        Ok(Tensor { values, ..Tensor::shaped(name, view.buffer().dtype(), rows, view.shape().1) })
    }

    /// Compares with the book: `outputs` in the operator's order, those that a slice of the inputs does not decide left out.
    pub(super) fn agrees(
        &self,
        id: &str,
        packed: &Packed,
        inputs: &[Tensor],
        outputs: &[Option<Tensor>],
    ) -> Result<f64> {
        let compared = operators::job(id)?.agreement(packed, inputs, outputs);
        compared.map_err(|mismatch| Error::Wrong { id: id.to_owned(), mismatch })
    }

    /// The same for a scan of the bench's pack, whose sequences were cut into segments of so many tokens if there is a number.
    pub(super) fn scan_agrees(
        &self,
        id: &str,
        segment: Option<usize>,
        inputs: &[Tensor],
        outputs: &[Option<Tensor>],
    ) -> Result<f64> {
        let packed = self.packed().packed();
        let Some(segment) = segment else { return self.agrees(id, packed, inputs, outputs) };
        let compared = operators::agreement_in_segments(id, segment, packed, inputs, outputs)?;
        compared.map_err(|mismatch| Error::Wrong { id: id.to_owned(), mismatch })
    }
}
