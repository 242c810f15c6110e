//! Times the state matrix's negative exponential and its gradient on a GPU.
//!
//! `cargo bench -p packscan-verify --bench neg_exp -- [--elements N]`

mod memory_bound;

use memory_bound::{floats, gpu, report, sizes};
use packscan_kernels::neg_exp::{backward, default_backward, default_variant, forward};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    // 2.8 billion parameters: 64 blocks of 5120 channels with 16 states.
    let [n] = sizes([("--elements", 64 * 5120 * 16)]);
    let nothing = DevicePacked::empty(&device)?;
    let (a_log, g) = (floats(&device, "a_log", n)?, floats(&device, "g", n)?);
    let a = Buffer::unwritten(&device, Dtype::F32, n)?;
    let (fwd, bwd) = (default_variant(), default_backward());
    report(cuda, &format!("({n}) {fwd}"), 8 * n, || forward(&nothing, &fwd, a_log.view(), a.view()))?;
    report(cuda, &format!("({n}) {bwd}"), 12 * n, || backward(&nothing, &bwd, a.view(), g.view()))
}
