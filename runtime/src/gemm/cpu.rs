//! Products on the CPU: tiles of `c`, one thread each, through the `gemm` crate's f32 kernel.
//!
//! The operands of a tile are widened to f32 a panel at a time, so every type takes the same path and no matrix is ever
//! held in f32 as a whole. Tiles and panels depend on the shape alone, and a tile is one thread's from beginning to end: however
//! many threads there are, every sum is formed in the same order.

use std::iter::zip;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Gemm, Operand};
use crate::host::Rows;
use crate::{Dtype, Element};

/// Rows and columns of a tile of `c`.
const TILE: usize = 256;
/// Products that are added up before the next panels are widened: two panels are 2 MiB, about what a core's cache holds.
const DEPTH: usize = 1024;

/// Multiplies tensors that are checked and in host memory.
pub(super) fn multiply(gemm: &Gemm<'_>) {
    match gemm.c.buffer().dtype() {
        Dtype::F32 => tiles::<f32>(gemm),
        Dtype::F16 => tiles::<f16>(gemm),
        Dtype::Bf16 => tiles::<bf16>(gemm),
        Dtype::U32 => unreachable!("checked to hold floats"),
    }
}

fn tiles<C: Element>(gemm: &Gemm<'_>) {
    let Gemm { m, n, k, alpha, accumulate, .. } = *gemm;
    // SAFETY: `c` overlaps no operand, by `Gemm::check`; each of its tiles is written by one thread, below.
    let c = unsafe { Rows::<C>::of(gemm.c, n) };
    let (a, b) = (Factor::of(gemm.a), Factor::of(gemm.b));
    let across = n.div_ceil(TILE);
    (0..m.div_ceil(TILE) * across).into_par_iter().for_each_init(Panels::default, |panels, tile| {
        let rows = span(tile / across * TILE, TILE, m);
        let cols = span(tile % across * TILE, TILE, n);
        panels.c.clear();
        panels.c.resize(rows.len() * cols.len(), 0.0);
        for depth in (0..k).step_by(DEPTH).map(|start| span(start, DEPTH, k)) {
            let a = a.widen(&rows, &depth, &mut panels.a);
            let b = b.widen(&depth, &cols, &mut panels.b);
            add_product(&a, &b, &mut panels.c);
        }
        for (row, sums) in zip(rows, panels.c.chunks_exact(cols.len())) {
            // SAFETY: tiles are disjoint, and so are the rows of one.
            let c = unsafe { c.row_mut(row, cols.clone()) };
            for (c, &sum) in zip(c, sums) {
                let product = alpha * sum;
                *c = C::from_f32(if accumulate { c.to_f32() + product } else { product });
            }
        }
    });
}

/// `start..start + length`, cut at `end`.
fn span(start: usize, length: usize, end: usize) -> Range<usize> {
    start..end.min(start + length)
}

/// Memory that one thread uses again for each of its tiles.
#[derive(Default)]
struct Panels {
    a: Vec<f32>,
    b: Vec<f32>,
    /// The tile, its rows one after the other.
    c: Vec<f32>,
}

/// A part of an operand, in f32.
struct Panel<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Elements from one to the next below it.
    to_next_row: usize,
    /// Elements from one to the next on its right.
    to_next_col: usize,
}

/// `c += a * b`; the rows of `c` lie one after the other.
fn add_product(a: &Panel<'_>, b: &Panel<'_>, c: &mut [f32]) {
    assert!(a.cols == b.rows && c.len() == a.rows * b.cols);
    // SAFETY: the rows, columns and strides of a panel address its values and no others; those of c its rows * cols elements, which are
    // borrowed alone.
    unsafe {
        ::gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c.as_mut_ptr(),
            1,
            b.cols as isize,
            true,
            a.values.as_ptr(),
            a.to_next_col as isize,
            a.to_next_row as isize,
            b.values.as_ptr(),
            b.to_next_col as isize,
            b.to_next_row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            ::gemm::Parallelism::None,
        );
    }
}

/// An operand, readable by every thread.
struct Factor<'a> {
    rows: Floats<'a>,
    transposed: bool,
}

/// Rows of any type that a product takes.
enum Floats<'a> {
    F32(Rows<'a, f32>),
    F16(Rows<'a, f16>),
    Bf16(Rows<'a, bf16>),
}

impl<'a> Factor<'a> {
    fn of(Operand { view, transposed }: Operand<'a>) -> Self {
        let cols = view.shape().1;
        // SAFETY: operands are only read here, and overlap nothing that is written, by `Gemm::check`.
        let rows = unsafe {
            match view.buffer().dtype() {
                Dtype::F32 => Floats::F32(Rows::of(view, cols)),
                Dtype::F16 => Floats::F16(Rows::of(view, cols)),
                Dtype::Bf16 => Floats::Bf16(Rows::of(view, cols)),
                Dtype::U32 => unreachable!("checked to hold floats"),
            }
        };
        Factor { rows, transposed }
    }

    /// Copies a part of the matrix in the order in which it lies in memory.
    fn widen<'p>(&self, rows: &Range<usize>, cols: &Range<usize>, into: &'p mut Vec<f32>) -> Panel<'p> {
        into.resize(rows.len() * cols.len(), 0.0);
        let (down, right) = if self.transposed { (cols, rows) } else { (rows, cols) };
        match &self.rows {
            Floats::F32(from) => copy(from, down, right, into, |from, to| to.copy_from_slice(from)),
            Floats::F16(from) => copy(from, down, right, into, |from, to| from.convert_to_f32_slice(to)),
            Floats::Bf16(from) => copy(from, down, right, into, |from, to| from.convert_to_f32_slice(to)),
        }
        let (to_next_row, to_next_col) = if self.transposed { (1, rows.len()) } else { (cols.len(), 1) };
        Panel { values: into, rows: rows.len(), cols: cols.len(), to_next_row, to_next_col }
    }
}

/// Copies columns of some rows, a row at a time.
fn copy<T: Element>(
    from: &Rows<'_, T>,
    rows: &Range<usize>,
    cols: &Range<usize>,
    into: &mut [f32],
    row: fn(&[T], &mut [f32]),
) {
    for (i, into) in zip(rows.clone(), into.chunks_exact_mut(cols.len())) {
        row(&from.row(i)[cols.clone()], into);
    }
}
