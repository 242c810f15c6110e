//! What a machine needs for a workload at least, and what limits it.

use std::fmt;

use packscan_kernels::cast;
use packscan_runtime::predict::{GPUS, Gpu};
use packscan_runtime::{Buffer, Cuda, Device, Dtype, Packed};
use serde::{Deserialize, Serialize};

use super::timing::times;
use crate::Result;

/// What the problem itself asks of a machine, whatever the variant: what one keeps for itself, saved states and partial sums, is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Bytes that must move between memory and the multiprocessors.
    pub bytes: f64,
    /// Operations in f32; a fused multiplication and addition is one.
    pub operations: f64,
    /// Results of special functions: exponentials, reciprocals, roots.
    pub special_results: f64,
}

/// What a machine can do at most, in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// As it calls itself.
    pub name: String,
    /// Bytes that a copy reads and writes.
    pub bytes_s: f64,
    /// Operations in f32, a fused multiplication and addition being one.
    pub operations_s: f64,
    /// Results of special functions.
    pub special_s: f64,
}

/// What a machine needs for a workload at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The time.
    pub ms: f64,
    /// What it is needed for.
    pub limit: Limit,
}

/// What limits a workload at its floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Bytes.
    Memory,
    /// Operations in f32.
    Float,
    /// Special functions.
    Special,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Limit::Memory => "memory",
            Limit::Float => "f32 operations",
            Limit::Special => "special functions",
        })
    }
}

impl Floor {
    /// On a machine.
    pub fn on(&self, machine: &Machine) -> Bound {
        let bounds = [
            Bound { ms: self.bytes / machine.bytes_s * 1e3, limit: Limit::Memory },
            Bound { ms: self.operations / machine.operations_s * 1e3, limit: Limit::Float },
            Bound { ms: self.special_results / machine.special_s * 1e3, limit: Limit::Special },
        ];
        bounds.into_iter().max_by(|a, b| a.ms.total_cmp(&b.ms)).expect("three bounds")
    }
}

/// Floats of the copy by which bandwidth is measured: 1 GiB each way, far beyond every L2.
const COPIED: usize = 1 << 28;

impl Machine {
    /// A GPU, its rates by architecture, multiprocessors and clock, its bandwidth measured by a copy.
    ///
    /// # Errors
    /// Whatever the copy fails with.
    pub fn of(cuda: &Cuda, device: &Device) -> Result<Machine> {
        let gpu = like(cuda);
        let clocks_s = cuda.multiprocessors()? as f64 * cuda.clock_ghz()? * 1e9;
        Ok(Machine {
            name: cuda.name().to_owned(),
            bytes_s: copy_bytes_s(device)?,
            operations_s: clocks_s * gpu.rates.float,
            special_s: clocks_s * gpu.rates.special,
        })
    }
}

/// The GPU of the table whose architecture comes next to this one's, from below.
pub(crate) fn like(cuda: &Cuda) -> &'static Gpu {
    let older = GPUS.iter().filter(|gpu| gpu.arch.number() <= cuda.arch().number());
    older.max_by_key(|gpu| gpu.arch.number()).unwrap_or(&GPUS[0])
}

/// Bytes that a copy reads and writes in a second.
fn copy_bytes_s(device: &Device) -> Result<f64> {
    let packed = Packed::from_lengths(&[1])?.on(device)?;
    let [from, to] = [(); 2].map(|()| Buffer::unwritten(device, Dtype::F32, COPIED));
    let (from, to) = (from?, to?);
    let variant = cast::default_variant(COPIED, Dtype::F32, Dtype::F32);
    let (x, out) = (from.rows(1)?, to.rows(1)?);
    let times = times(device, 10, || cast::forward(&packed, &variant, x, out).map(drop))?;
    Ok(8.0 * COPIED as f64 / times.median_ms * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_roof_is_the_floor() {
        let machine = Machine { name: "test".to_owned(), bytes_s: 4e12, operations_s: 32e12, special_s: 4e12 };
        let floor = Floor { bytes: 4e9, operations: 16e9, special_results: 2e9 };
        assert_eq!(floor.on(&machine), Bound { ms: 1.0, limit: Limit::Memory });
        let floor = Floor { special_results: 8e9, ..floor };
        assert_eq!(floor.on(&machine), Bound { ms: 2.0, limit: Limit::Special });
    }
}
