//! Layers without bias, `y (T, n) = x (T, k) * w (n, k)^T`, and their gradients.

use packscan_runtime::{Gemm, GemmContext, Operand, View};

use crate::Result;

/// `y = x * w^T`
pub(crate) fn forward(context: &GemmContext, x: View<'_>, w: View<'_>, y: View<'_>) -> Result<()> {
    let ((m, k), n) = (x.shape(), w.shape().0);
    let (a, b) = (Operand::plain(x), Operand::transposed(w));
    Ok(Gemm { m, n, k, a, b, c: y, alpha: 1.0, accumulate: false }.run(context)?)
}

/// `dx = dy * w`, or `dx += dy * w`
pub(crate) fn backward_input(
    context: &GemmContext,
    dy: View<'_>,
    w: View<'_>,
    dx: View<'_>,
    accumulate: bool,
) -> Result<()> {
    let ((m, k), n) = (dy.shape(), w.shape().1);
    let (a, b) = (Operand::plain(dy), Operand::plain(w));
    Ok(Gemm { m, n, k, a, b, c: dx, alpha: 1.0, accumulate }.run(context)?)
}

/// `dw = dy^T * x`, or `dw += dy^T * x`
pub(crate) fn backward_weight(
    context: &GemmContext,
    dy: View<'_>,
    x: View<'_>,
    dw: View<'_>,
    accumulate: bool,
) -> Result<()> {
    let ((k, m), n) = (dy.shape(), x.shape().1);
    let (a, b) = (Operand::transposed(dy), Operand::plain(x));
    Ok(Gemm { m, n, k, a, b, c: dw, alpha: 1.0, accumulate }.run(context)?)
}
