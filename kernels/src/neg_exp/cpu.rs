//! The native CPU path: f32, pieces of the range side by side.

use packscan_runtime::host::Rows;
use rayon::prelude::*;

use super::{BackwardArgs, ForwardArgs};
use crate::cpu::exp;

/// Elements of a piece.
const PIECE: usize = 1 << 14;

/// The state matrix on host memory; the arguments have been checked.
pub(super) fn forward(args: &ForwardArgs<'_>) {
    if args.n == 0 {
        return;
    }
    // SAFETY: `check_call` has found that they do not overlap; nothing else writes either during the call.
    let (a_log, a) = unsafe { (Rows::<f32>::of(args.a_log, args.n), Rows::<f32>::of(args.a, args.n)) };
    // SAFETY: this one slice is all that touches `a` here.
    let a = unsafe { a.row_mut(0, 0..args.n) };
    a.par_chunks_mut(PIECE).zip(a_log.row(0).par_chunks(PIECE)).for_each(|(a, a_log)| {
        a.iter_mut().zip(a_log).for_each(|(a, x)| *a = -exp(*x));
    });
}

/// The gradient on host memory, in place; the arguments have been checked.
pub(super) fn backward(args: &BackwardArgs<'_>) {
    if args.n == 0 {
        return;
    }
    // SAFETY: as in `forward`.
    let (a, g) = unsafe { (Rows::<f32>::of(args.a, args.n), Rows::<f32>::of(args.g, args.n)) };
    // SAFETY: this one slice is all that touches `g` here.
    let g = unsafe { g.row_mut(0, 0..args.n) };
    g.par_chunks_mut(PIECE).zip(a.row(0).par_chunks(PIECE)).for_each(|(g, a)| {
        g.iter_mut().zip(a).for_each(|(g, a)| *g *= a);
    });
}
