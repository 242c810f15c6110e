//! Times the sums of rows on a GPU, where the backward passes use them.
//!
//! `cargo bench -p packscan-verify --bench sum_rows -- [--tokens T] [--rows R] [--columns C]`

mod memory_bound;

use memory_bound::{floats, gpu, report, sizes};
use packscan_kernels::sum_rows::{Sizes, default_token_variant, default_variant, forward, tokens};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, rows, columns] = sizes([("--tokens", 65_536), ("--rows", 528), ("--columns", 4096)]);
    let packed = Packed::from_lengths(&[t])?.on(&device)?;

    let sizes = Sizes { groups: 1, rows, columns };
    let parts = floats(&device, "parts", rows * columns)?;
    let out = floats(&device, "out", columns)?;
    let variant = default_variant(&sizes, Dtype::F32, true);
    let what = format!("({rows}, {columns}) {variant}");
    report(cuda, &what, 4 * (rows + 2) * columns, || forward(&packed, &variant, &sizes, parts.view(), out.view()))?;

    let (rows, columns) = (32, 16);
    let parts = floats(&device, "parts", t * rows * columns)?;
    let out = Buffer::unwritten(&device, Dtype::Bf16, t * columns)?;
    let variant = default_token_variant(&Sizes { groups: t, rows, columns }, Dtype::Bf16);
    let what = format!("({t}, {rows}, {columns}) {variant}");
    let out = out.rows(t)?;
    report(cuda, &what, (4 * rows + 2) * columns * t, || tokens(&packed, &variant, rows, columns, parts.rows(t)?, out))
}
