//! Times the causal convolution on a GPU, forward and backward, bf16 with bias and silu, `x` and its gradient in place in `xz` and `dxz`.
//!
//! `cargo bench -p packscan-verify --bench causal_conv1d -- [--tokens T] [--channels D] [--width K] [--all] [ID ...]`
//!
//! Without ids the hand-picked variants run, with `--all` every one worth timing.

mod memory_bound;

use memory_bound::{floats, gpu, halves, report, sizes};
use packscan_kernels::causal_conv1d::{
    Backward, Forward, Gradients, Inputs, Outputs, Problem, Upstream, Workspace, backward, backward_variants,
    default_backward, default_variant, forward, variants,
};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};
use packscan_verify::cost::natural_lengths;

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, d, k] = sizes([("--tokens", 65_536), ("--channels", 4096), ("--width", 4)]);
    let packed = Packed::from_lengths(&natural_lengths(t))?.on(&device)?;
    let (bias, initial, last) = (true, false, false);
    let problem = Problem { channels: d, width: k, io: Dtype::Bf16, silu: true, bias, initial, last };
    println!("{t} x {d}, K = {k}, {} sequences, {device}", packed.packed().sequences());

    let (xz, dxz) = (halves(&device, "xz", t * 2 * d)?, Buffer::unwritten(&device, Dtype::Bf16, t * 2 * d)?);
    let (out, g) = (Buffer::unwritten(&device, Dtype::Bf16, t * d)?, halves(&device, "g", t * d)?);
    let (w, b) = (floats(&device, "w", d * k)?, floats(&device, "b", d)?);
    let (dw, db) = (floats(&device, "dw", d * k)?, floats(&device, "db", d)?);
    let x = xz.rows(t)?.columns(0, d)?;
    let inputs = Inputs { x, w: w.rows(d)?, b: Some(b.view()), history: None };
    let outputs = Outputs { out: out.rows(t)?, history: None };
    let upstream = Upstream { out: g.rows(t)?, history: None };
    let gradients = Gradients { x: dxz.rows(t)?.columns(0, d)?, w: dw.rows(d)?, b: Some(db.view()), history: None };

    let (fwd, bwd) = chosen(&problem);
    for variant in &fwd {
        report(cuda, &variant.to_string(), 4 * t * d, || forward(&packed, variant, &inputs, &outputs))?;
    }
    for variant in &bwd {
        let mut workspace = Workspace::new(&packed, variant, d)?;
        report(cuda, &variant.to_string(), 6 * t * d, || {
            backward(&packed, variant, &inputs, &upstream, &gradients, &mut workspace)
        })?;
    }
    Ok(())
}

/// The variants that the command line asks for.
fn chosen(problem: &Problem) -> (Vec<Forward>, Vec<Backward>) {
    let words: Vec<String> = std::env::args().collect();
    if words.iter().any(|word| word == "--all") {
        return (variants(problem), backward_variants(problem));
    }
    let fwd: Vec<Forward> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let bwd: Vec<Backward> = words.iter().filter_map(|word| word.parse().ok()).collect();
    if fwd.is_empty() && bwd.is_empty() {
        return (vec![default_variant(problem)], vec![default_backward(problem)]);
    }
    (fwd, bwd)
}
