//! One variant of one operator's pass at a real size, ready to be timed.
//!
//! A [`Bench`] has a [`Problem`], its pack on a device and the buffers that all variants of an operator share. [`Bench::workload`]
//! makes of a variant's id a [`Workload`], which costs little: what is large is the bench's and stays with it.
//!
//! Check results before timing them: [`Workload::check`] compares a slice of what a variant computes at this size with the book.
//!
//! ```
//! use packscan_runtime::{Device, Dtype};
//! use packscan_tune::workload::{Bench, Machine, Problem, natural_lengths, timing};
//!
//! # fn main() -> packscan_tune::Result<()> {
//! let device = Device::Cpu; // or Device::cuda(0)?
//! let problem = Problem::of_channels(natural_lengths(100, 0), 8, 16, Dtype::F32);
//! let bench = Bench::new(&device, problem)?;
//! let mut workload = bench.workload(&bench.problem().hand_picked("selective_scan_fwd")?)?;
//! workload.check()?;
//! let times = timing::times(&device, 5, || workload.run())?;
//! println!("{} {:.3} ms", workload.id(), times.median_ms);
//! # Ok(())
//! # }
//! ```

mod adamw;
mod bench;
mod cast;
mod causal_conv1d;
mod cross_entropy;
mod data;
mod embedding;
mod floor;
mod grad_norm;
mod lengths;
mod neg_exp;
mod problem;
mod product;
mod rms_norm;
mod selective_scan;
mod slice;
mod sum_rows;
pub mod timing;

use packscan_verify::operators::{PASSES, Pass};

pub use bench::Bench;
pub use embedding::natural_ids;
pub(crate) use floor::like;
pub use floor::{Bound, Floor, Limit, Machine};
pub use lengths::read_lengths;
pub use packscan_verify::cost::natural_lengths;
pub use problem::Problem;
pub use product::Product;
pub use selective_scan::Cut;

/// The passes that have a workload: all but what only a scan runs that is cut along time, and the sums of a whole block, which a step times.
pub fn passes() -> impl Iterator<Item = &'static Pass> {
    let without = ["selective_scan_state", "selective_scan_join", "sum_rows_several"];
    PASSES.iter().filter(move |pass| !without.contains(&pass.kernel))
}

use crate::Result;

/// One variant of one operator's pass at a real size, with its inputs on the device.
pub trait Workload {
    /// The variant.
    fn id(&self) -> String;

    /// Launches everything that the operator's public function launches, sums of parts included. Successive calls take turns over
    /// inputs and outputs that together exceed the L2. Does not wait.
    ///
    /// # Errors
    /// Whatever launching fails with.
    fn run(&mut self) -> packscan_runtime::Result<()>;

    /// Runs once and compares a slice of the results with the book: the largest error as a share of its bound.
    ///
    /// # Errors
    /// [`crate::Error::Wrong`] with the first element that is wrong.
    fn check(&mut self) -> Result<f64>;

    /// What a machine needs for it at least.
    fn floor(&self) -> Floor;
}
