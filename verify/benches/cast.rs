//! Times a cast on a GPU.
//!
//! `cargo bench -p packscan-verify --bench cast -- [--tokens T] [--columns C]`

mod memory_bound;

use memory_bound::{floats, gpu, report, sizes};
use packscan_kernels::cast::{default_variant, forward};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, columns] = sizes([("--tokens", 65_536), ("--columns", 4096)]);
    let packed = Packed::from_lengths(&[t])?.on(&device)?;
    let x = floats(&device, "x", t * columns)?;
    let out = Buffer::unwritten(&device, Dtype::Bf16, t * columns)?;
    let variant = default_variant(columns, Dtype::F32, Dtype::Bf16);
    let (x, out) = (x.rows(t)?, out.rows(t)?);
    report(cuda, &format!("({t}, {columns}) {variant}"), 6 * t * columns, || forward(&packed, &variant, x, out))
}
