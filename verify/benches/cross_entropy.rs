//! Times the loss and its gradient on a GPU.
//!
//! `cargo bench -p packscan-verify --bench cross_entropy -- [--tokens T] [--vocabulary V]`

mod memory_bound;

use memory_bound::{gpu, halves, report, sizes};
use packscan_kernels::cross_entropy::{Problem, Tensors, check_targets, default_variant, forward, variants};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};
use packscan_verify::Random;

fn main() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let [t, vocabulary] = sizes([("--tokens", 8192), ("--vocabulary", 50_280)]);
    let packed = Packed::from_lengths(&[t])?.on(&device)?;
    let logits = halves(&device, "logits", t * vocabulary)?;
    let mut random = Random::new(0, "targets");
    let targets: Vec<u32> = (0..t).map(|_| random.below(vocabulary) as u32).collect();
    let counted = check_targets(&targets, vocabulary)?;
    let targets = Buffer::from_slice(&device, &targets)?;
    let scale = Buffer::from_slice(&device, &[1.0 / counted as f32])?;
    let loss = Buffer::unwritten(&device, Dtype::F32, t)?;
    let tensors = Tensors { logits: logits.rows(t)?, targets: targets.view(), scale: scale.view(), loss: loss.view() };
    let problem = Problem { vocabulary, io: Dtype::Bf16 };
    for variant in [vec![default_variant(&problem)], variants(&problem)].concat() {
        let what = format!("({t}, {vocabulary}) {variant}");
        report(cuda, &what, (4 * vocabulary + 8) * t, || forward(&packed, &variant, &tensors))?;
    }
    Ok(())
}
