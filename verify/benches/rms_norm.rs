//! Times the residual addition and norm on a GPU, both ways; that of the backward pass includes the sum of its parts.
//!
//! `cargo bench -p packscan-verify --bench rms_norm -- [--tokens T] [--width M] [--all]`
//!
//! `--all` times every variant that is worth it.

mod memory_bound;

use memory_bound::{floats, gpu, halves, report, sizes};
use packscan_kernels::rms_norm::{self as norm, Gradients, Incoming, Inputs, Outputs, Problem};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, m] = sizes([("--tokens", 65_536), ("--width", 2048)]);
    let packed = Packed::from_lengths(&[t])?.on(&device)?;
    println!("{t} x {m}, {device}");

    let problem = Problem { width: m, io: Dtype::Bf16, residual: true, sum: true, stats: true };
    let (x, residual, weight) =
        (halves(&device, "x", t * m)?, floats(&device, "residual", t * m)?, floats(&device, "weight", m)?);
    let epsilon = Buffer::from_slice(&device, &[1e-5f32])?;
    let y = Buffer::unwritten(&device, Dtype::Bf16, t * m)?;
    let (r, rstd) = (Buffer::unwritten(&device, Dtype::F32, t * m)?, Buffer::unwritten(&device, Dtype::F32, t)?);
    let inputs =
        Inputs { x: x.rows(t)?, residual: Some(residual.rows(t)?), weight: weight.view(), epsilon: epsilon.view() };
    let outputs = Outputs { y: y.rows(t)?, residual: Some(r.rows(t)?), rstd: Some(rstd.view()) };
    let all = std::env::args().any(|word| word == "--all");
    let variants = if all { norm::variants(&problem) } else { vec![norm::default_variant(&problem)] };
    for variant in &variants {
        report(cuda, &variant.to_string(), t * (12 * m + 4), || norm::forward(&packed, variant, &inputs, &outputs))?;
    }

    // What forward has left in r and rstd is what backward reads; residual and x are read no more and take the gradients.
    let (dy, incoming) = (halves(&device, "dy", t * m)?, floats(&device, "incoming", t * m)?);
    let dweight = floats(&device, "dweight", m)?;
    let given = Incoming {
        dy: dy.rows(t)?,
        r: r.rows(t)?,
        rstd: rstd.view(),
        weight: weight.view(),
        dr: Some(incoming.rows(t)?),
    };
    let variants = match all {
        true => norm::backward_variants(&problem, true, true, true),
        false => vec![norm::default_backward(&problem, true, true, true)],
    };
    for variant in &variants {
        let parts_rows = norm::parts_rows(&packed, variant)?;
        let parts = Buffer::unwritten(&device, Dtype::F32, parts_rows * m)?;
        let gradients = Gradients {
            residual: Some(residual.rows(t)?),
            x: Some(x.rows(t)?),
            weight: dweight.view(),
            parts: parts.rows(parts_rows)?,
        };
        let what = format!("{variant}, {parts_rows} parts");
        report(cuda, &what, t * (16 * m + 4), || norm::backward(&packed, variant, &given, &gradients))?;
    }
    Ok(())
}
