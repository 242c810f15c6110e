//! Times a step of the optimiser on a GPU.
//!
//! `cargo bench -p packscan-verify --bench adamw -- [--parameters N]`

mod memory_bound;

use memory_bound::{floats, gpu, report, sizes};
use packscan_kernels::adamw::{Range, Step, default_variant, forward};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [n] = sizes([("--parameters", 1 << 28)]);
    let nothing = DevicePacked::empty(&device)?;
    let [p, m, v, g] = ["p", "m", "v", "g"].map(|name| floats(&device, name, n));
    let (p, m, v, g) = (p?, m?, v?, g?);
    let copy = Buffer::unwritten(&device, Dtype::Bf16, n)?;
    let scalars = Buffer::from_slice(&device, &Step::default().scalars()?)?;
    let clip = Buffer::from_slice(&device, &[0.5f32, 2.0, 0.0])?;
    let range = Range {
        p: p.view(),
        m: m.view(),
        v: v.view(),
        g: g.view(),
        scalars: scalars.view(),
        clip: Some(clip.view()),
        copy: Some(copy.view()),
    };
    let chosen = default_variant(Dtype::F32, Some(Dtype::Bf16), true);
    for block in [chosen.block, 128, 512] {
        let variant = packscan_kernels::adamw::Forward { block, ..chosen };
        report(cuda, &format!("({n}) {variant}"), 30 * n, || forward(&nothing, &variant, &range))?;
    }
    Ok(())
}
