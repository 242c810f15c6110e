//! The backward pass: its declaration and its function.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Error, Result, View};

use super::Forward;
use super::cpu;
use super::problem::{Problem, variants};
use crate::sum_rows::{self, Sum};

packscan_macros::kernel! {
    /// Residual addition and norm, backward.
    pub kernel Backward = "rms_norm_bwd" in "kernels/src/rms_norm" from ["rows.cuh", "backward.cuh"] {
        variant {
            /// Model width, M.
            width: "m" in 1..=65536,
            /// Threads that share a row.
            lanes: "s" in [32, 64, 128, 256, 512, 1024],
            /// Rows that a block works on at once.
            rows: "r" in 1..=32,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations; the residual stream, the weight and the sums are f32.
            io: dtype in [F32, F16, Bf16],
            /// r has a gradient from elsewhere, along the residual stream.
            incoming: flag "incoming",
            /// Write the gradient of the residual.
            dresidual: flag "dresidual",
            /// Write the gradient of x.
            dx: flag "dx",
        }
        derived {
            threads = lanes * rows,
            kept = width.div_ceil(vec * lanes) * vec,
            shared_bytes = if lanes > 32 { 8 * rows * (lanes / 32) } else { 0 },
        }
        rules {
            width.is_multiple_of(vec), vec: "a row of {width} is a whole number of loads", "take {}", 1 << width.trailing_zeros().min(3);
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            kept <= 64, lanes: "a thread keeps its {kept} numbers of a row in registers, 64 at most", "take at least {}", width.div_ceil(64).next_power_of_two();
            threads <= 1024, rows: "a block has at most 1024 threads, lanes * rows", "take {}", 1024 / lanes;
            dresidual || dx, dx: "there is a gradient to write, of the residual, of x or of both", "take dx";
        }
        dims {
            /// Partial sums of dweight: rows t, t + P, t + 2P, .. make one.
            parts_rows: "P",
        }
        tensors {
            /// Gradient of y.
            dy: in io [T, width] strided by vec,
            /// What forward normed.
            r: in f32 [T, width],
            /// Of forward.
            rstd: in f32 [T],
            /// Weight of the norm.
            weight: in f32 [width],
            /// Gradient of r from elsewhere.
            incoming: in f32 [T, width] if incoming,
            /// Gradient of the residual.
            dresidual: out f32 [T, width] if dresidual,
            /// Gradient of x: the same, rounded.
            dx: out io [T, width] strided by vec if dx,
            /// Partial sums of dweight.
            dweight_parts: out f32 [P, width],
        }
        launch { grid: [P.div_ceil(rows)], threads: threads, shared: shared_bytes }
    }
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// `(T, M)` io: gradient of y.
    pub dy: View<'a>,
    /// `(T, M)` f32: what forward normed, its `residual` output.
    pub r: View<'a>,
    /// `(T)` f32: forward's `rstd`.
    pub rstd: View<'a>,
    /// `(M)` f32: weight of the norm.
    pub weight: View<'a>,
    /// `(T, M)` f32: gradient of r from elsewhere, along the residual stream.
    pub dr: Option<View<'a>>,
}

/// What the backward pass writes: gradients of activations whole, that of the weight whole or by addition.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// `(T, M)` f32: gradient of the residual.
    pub residual: Option<View<'a>>,
    /// `(T, M)` io: gradient of x.
    pub x: Option<View<'a>>,
    /// `(M)` f32: gradient of the weight.
    pub weight: View<'a>,
    /// Whether it is added to what `weight` holds, or written over it.
    pub add: bool,
    /// `(P, M)` f32: workspace for partial sums of the weight's gradient; [`parts_rows`] says how many rows fill the device.
    pub parts: View<'a>,
}

/// The hand-picked variant of the backward pass: that of the forward pass, with the options given here.
pub fn default_backward(problem: &Problem, incoming: bool, dresidual: bool, dx: bool) -> Backward {
    let Problem { width, io, .. } = *problem;
    let (lanes, rows, vec) = problem.mapping();
    Backward { width: u32::try_from(width).unwrap_or(u32::MAX), lanes, rows, vec, io, incoming, dresidual, dx }
}

/// Every variant of the backward pass worth timing: the mappings of the forward pass.
pub fn backward_variants(problem: &Problem, incoming: bool, dresidual: bool, dx: bool) -> Vec<Backward> {
    let picked = default_backward(problem, incoming, dresidual, dx);
    variants(problem)
        .into_iter()
        .map(|Forward { lanes, rows, vec, .. }| Backward { lanes, rows, vec, ..picked })
        .collect()
}

/// Rows of the workspace that keep every multiprocessor busy. The weight's gradient depends on their number, in its last bits;
/// nothing else does.
///
/// # Errors
/// Whatever compiling the variant fails with.
pub fn parts_rows(packed: &DevicePacked, variant: &Backward) -> Result<usize> {
    let tokens = packed.packed().tokens().max(1);
    let Device::Cuda(cuda) = packed.device() else { return Ok(tokens.min(64)) };
    packed.device().check(variant)?;
    let blocks = cuda.multiprocessors()? * cuda.blocks_per_multiprocessor(variant)?;
    Ok((blocks * variant.rows as usize).clamp(1, tokens))
}

/// Runs the backward pass on the device of `packed`, as `variant`, whose options must be those of `incoming` and `gradients`, and
/// adds up the partial sums of the weight's gradient.
///
/// # Errors
/// [`packscan_runtime::Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn backward(
    packed: &DevicePacked,
    variant: &Backward,
    incoming: &Incoming<'_>,
    gradients: &Gradients<'_>,
) -> Result<Launched> {
    let (launched, sum) = backward_unsummed(packed, variant, incoming, gradients)?;
    sum_rows::all(packed, &[sum], gradients.add)?;
    Ok(launched)
}

/// As [`backward`], but leaves the sum of the weight's gradient to be made.
///
/// # Errors
/// As [`backward`].
pub fn backward_unsummed<'a>(
    packed: &DevicePacked,
    variant: &Backward,
    incoming: &Incoming<'_>,
    gradients: &Gradients<'a>,
) -> Result<(Launched, Sum<'a>)> {
    let (rows, columns) = gradients.parts.shape();
    if rows == 0 {
        return Err(Error::Tensor {
            id: variant.to_string(),
            tensor: "dweight_parts",
            shape: "[P, width]",
            got: "it has no rows".to_owned(),
            rule: "each row of sums has a group of threads, so there is at least one; take parts_rows".to_owned(),
        });
    }
    let args = BackwardArgs {
        parts_rows: rows,
        dy: incoming.dy,
        r: incoming.r,
        rstd: incoming.rstd,
        weight: incoming.weight,
        incoming: incoming.dr,
        dresidual: gradients.residual,
        dx: gradients.x,
        dweight_parts: gradients.parts,
    };
    let launched = match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::backward(packed.packed(), variant, &args);
            Launched::default()
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args)?,
    };
    Ok((launched, Sum { name: "dweight", parts: gradients.parts, rows, columns, out: gradients.weight }))
}
