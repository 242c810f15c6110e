//! What a pass costs, predicted from runs on the emulator.

use packscan_runtime::launch::Record;
use packscan_runtime::predict::{Gpu, Prediction, Problem, Samples};
use packscan_runtime::{Device, Result};

use crate::{Case, Job};

/// Tokens that the smallest run has at least, so that loads that several tokens share are full.
const TOKENS: usize = 32;
/// Mean length of the sequences on which `packscan bench` measures: natural text.
const TOKENS_OF_A_SEQUENCE: usize = 736;

/// A pack of that many tokens of natural text.
pub fn natural(tokens: usize, channels: usize) -> Problem {
    Problem { tokens, channels, sequences: tokens.div_ceil(TOKENS_OF_A_SEQUENCE) }
}

/// The launches of one pass, as four small runs on the emulator show them.
#[derive(Debug)]
pub struct Cost {
    /// The variant's own first, then what follows it.
    pub launches: Vec<Samples>,
}

impl Cost {
    /// Runs the variant of a job: one sequence of two and of three chunks, one and two tiles of channels.
    ///
    /// # Errors
    /// Whatever running it on the emulator fails with.
    pub fn of(job: &dyn Job) -> Result<Cost> {
        let sizes = job.sizes();
        let chunk = sizes.chunk * TOKENS.div_ceil(2 * sizes.chunk);
        let tile = sizes.tile.next_multiple_of(sizes.multiple);
        let (tokens, channels) = ([2 * chunk, 3 * chunk], [tile, 2 * tile]);
        let run = |t: usize, d: usize| launches(job, tokens[t], channels[d]).map(Vec::into_iter);
        let mut runs = [run(0, 0)?, run(0, 1)?, run(1, 0)?, run(1, 1)?];
        let mut next = || {
            let [a, b, c, d] = &mut runs;
            Some(Samples { tokens, channels, runs: [a.next()?, b.next()?, c.next()?, d.next()?] })
        };
        Ok(Cost { launches: std::iter::from_fn(&mut next).collect() })
    }

    /// What each launch costs on `gpu`; the pass takes the sum of their times.
    ///
    /// # Errors
    /// Whatever compiling for that GPU fails with.
    pub fn predict(&self, gpu: &Gpu, problem: &Problem) -> Result<Vec<Prediction>> {
        self.launches.iter().map(|launch| launch.predict(gpu, problem)).collect()
    }
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
