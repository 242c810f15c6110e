//! Times of launches: median and spread.

use std::time::Instant;

use packscan_runtime::{Buffer, Device, Dtype, Result};
use serde::{Deserialize, Serialize};

/// What some launches took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The middle one.
    pub median_ms: f64,
    /// The shortest.
    pub least_ms: f64,
    /// The longest.
    pub most_ms: f64,
    /// How many there were.
    pub launches: usize,
}

impl Times {
    /// Of these times; none give zeros.
    pub fn of(mut ms: Vec<f64>) -> Times {
        ms.sort_by(f64::total_cmp);
        let at = |place: usize| ms.get(place).copied().unwrap_or_default();
        let launches = ms.len();
        Times { median_ms: at(launches / 2), least_ms: at(0), most_ms: at(launches.saturating_sub(1)), launches }
    }

    /// From the shortest to the longest, as a share of the median.
    pub fn spread(&self) -> f64 {
        (self.most_ms - self.least_ms) / self.median_ms
    }
}

/// Bytes of one fill with zeros that keeps a GPU busy for some 50 us while the host launches ahead.
const AHEAD_BYTES: usize = 256 << 20;
/// Time that such a fill takes at least, on a GPU with 8 TB/s.
const AHEAD_S: f64 = 3e-5;
/// Fills before one series, at most.
const MOST_FILLS: usize = 64;

/// Times `launches` runs of `run` after two that are not timed: on a GPU between events, and so that the GPU never waits for the
/// host, elsewhere by the clock.
///
/// # Errors
/// That of a run, or of the device.
pub fn times(device: &Device, launches: usize, run: impl FnMut() -> Result<()>) -> Result<Times> {
    Ok(Times::of(samples(device, launches, run)?))
}

/// The same, each time by itself, in milliseconds.
///
/// # Errors
/// As [`times`].
pub fn samples(device: &Device, launches: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    device.synchronize()?;
    let start = Instant::now();
    run()?;
    let host_s = start.elapsed().as_secs_f64();
    device.synchronize()?;
    let Device::Cuda(cuda) = device else {
        let mut timed = || {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        return (0..launches).map(|_| timed()).collect();
    };
    // What the host needs to launch everything, the GPU is given to do first.
    let fills = ((launches as f64 * host_s / AHEAD_S).ceil() as usize).clamp(1, MOST_FILLS);
    let ahead = Buffer::unwritten(device, Dtype::U32, AHEAD_BYTES / Dtype::U32.bytes())?;
    for _ in 0..fills {
        ahead.zero()?;
    }
    let ms = cuda.times_ms(launches, run)?;
    Ok(ms.into_iter().map(f64::from).collect())
}
