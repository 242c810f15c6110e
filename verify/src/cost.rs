//! What a pass costs on a GPU, predicted from runs on the emulator.

use packscan_runtime::launch::Record;
use packscan_runtime::predict::Samples;
use packscan_runtime::{Device, Result};

use crate::{Case, Job};

/// Tokens that the smallest run has at least, so that loads that several tokens share are full.
const TOKENS: usize = 32;

/// Runs the variant of a job at four small sizes on the emulator. The launches of the pass, the variant's own first.
///
/// # Errors
/// Whatever running it on the emulator fails with.
pub fn samples(job: &dyn Job) -> Result<Vec<Samples>> {
    let sizes = job.sizes();
    let chunk = sizes.chunk * TOKENS.div_ceil(2 * sizes.chunk);
    let tile = sizes.tile.next_multiple_of(sizes.multiple);
    let (tokens, channels) = ([2 * chunk, 3 * chunk], [tile, 2 * tile]);
    let mut runs = Vec::new();
    for t in tokens {
        for d in channels {
            runs.push(launches(job, t, d)?.into_iter());
        }
    }
    let mut out = Vec::new();
    let mut next = || Some([runs[0].next()?, runs[1].next()?, runs[2].next()?, runs[3].next()?]);
    while let Some(runs) = next() {
        out.push(Samples { tokens, channels, runs });
    }
    Ok(out)
}

/// The launches of one run; what an operator runs before the variant only prepares its inputs.
fn launches(job: &dyn Job, tokens: usize, channels: usize) -> Result<Vec<Record>> {
    let device = Device::emulator(0);
    let Device::Emulator(emulated) = &device else { unreachable!("opened as an emulator") };
    emulated.record();
    job.launch(&device, &Case { groups: 1, ..Case::of_lengths(&[tokens], channels) })?;
    let id = job.id();
    Ok(emulated.take_records().into_iter().skip_while(|record| record.id != id).collect())
}
