//! What blocks compute again, and the memory that a plan may take.

use clap::ValueEnum;
use packscan::Device;
use packscan_train::activations::Recompute;
use packscan_train::run::Request;

use crate::error::{Error, Result};

/// As the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    Auto,
    None,
    Cheap,
    Scan,
    Full,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is computed again.
    pub choice: Choice,
    /// Bytes that the plan may have; none: what is free.
    pub bytes: Option<usize>,
}

impl Memory {
    /// What each block computes again. `describe` makes a text of a plan that does not fit.
    pub fn choose(
        &self,
        request: &Request<'_>,
        device: &Device,
        describe: impl FnOnce(&[Recompute]) -> String,
    ) -> Result<Vec<Recompute>> {
        let budget = self.budget(device)?;
        let all = |kind| vec![kind; request.config.layers];
        let chosen = match self.choice {
            Choice::None => all(Recompute::None),
            Choice::Cheap => all(Recompute::Cheap),
            Choice::Scan => all(Recompute::Scan),
            Choice::Full => all(Recompute::Full),
            Choice::Auto => request.choose(budget)?,
        };
        match budget {
            Some(budget) if request.plan(&chosen).bytes() > budget => {
                // The same error as where nothing fits, with this choice's cure: let packscan choose.
                request.choose(Some(budget))?;
                Err(Error::TooLittleMemory { plan: describe(&chosen), budget })
            }
            _ => Ok(chosen),
        }
    }

    /// Bytes that the plan may have; none where nothing is known.
    fn budget(&self, device: &Device) -> Result<Option<usize>> {
        match self.bytes {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(device.free_memory_bytes()?.map(|bytes| bytes as usize)),
        }
    }
}
