//! Times the embedding on a GPU, both ways, with ids that are as unequally frequent as words.
//!
//! `cargo bench -p packscan-verify --bench embedding -- [--tokens T] [--width M] [--vocabulary V]`
//!
//! The id of rank k has a frequency of about 1/k (Zipf), so the most frequent one holds a tenth of the tokens. The memory floor counts
//! each row of a token and of an id that occurs once.

mod memory_bound;

use memory_bound::{gpu, halves, report, sizes};
use packscan_kernels::embedding::{self as embed, Ids};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};
use packscan_verify::Random;

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, m, v] = sizes([("--tokens", 65_536), ("--width", 2048), ("--vocabulary", 50_280)]);
    let packed = Packed::from_lengths(&[t])?.on(&device)?;
    let mut random = Random::new(0, "ids");
    // Uniform in the logarithm of the rank is a frequency of 1/rank.
    let mut rank = || (random.between(0.0, (v as f32).ln()).exp() as u32).min(v as u32) - 1;
    let ids: Vec<u32> = (0..t).map(|_| rank()).collect();
    let ids = Ids::new(&device, &ids, v)?;
    let by_id = ids.by_id()?;
    println!("{t} x {m}, {} of {v} ids occur, {device}", by_id.distinct());

    let table = halves(&device, "table", v * m)?;
    let rows = Buffer::unwritten(&device, Dtype::Bf16, t * m)?;
    let variant = embed::default_variant(m, Dtype::Bf16);
    report(cuda, &variant.to_string(), 2 * m * (t + by_id.distinct()), || {
        embed::forward(&packed, &variant, table.rows(v)?, &ids, rows.rows(t)?)
    })?;

    let dtable = Buffer::from_slice(&device, &vec![0.0f32; v * m])?;
    let variant = embed::default_backward(m, Dtype::Bf16);
    report(cuda, &variant.to_string(), m * (2 * t + 8 * by_id.distinct()), || {
        embed::backward(&packed, &variant, rows.rows(t)?, &by_id, dtable.rows(v)?)
    })
}
