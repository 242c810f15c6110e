//! Times the norm of gradients on a GPU.
//!
//! `cargo bench -p packscan-verify --bench grad_norm -- [--parameters N]`

mod memory_bound;

use memory_bound::{floats, gpu, report, sizes};
use packscan_kernels::grad_norm::{CLIP, clip, default_variant, forward, limit, parts};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [n] = sizes([("--parameters", 1 << 30)]);
    let nothing = DevicePacked::empty(&device)?;
    let g = floats(&device, "g", n)?;
    let variant = default_variant(Dtype::F32);
    let count = parts(&variant, n);
    let sums = Buffer::unwritten(&device, Dtype::F32, count)?;
    report(cuda, &format!("({n}) {variant}"), 4 * n, || forward(&nothing, &variant, g.view(), sums.view()))?;

    let max_norm = Buffer::from_slice(&device, &limit(1.0)?)?;
    let result = Buffer::unwritten(&device, Dtype::F32, 3)?;
    let (max_norm, result) = (max_norm.view(), result.view());
    report(cuda, &format!("({count}) {CLIP}"), 4 * count, || clip(&nothing, &CLIP, sums.view(), max_norm, result))
}
