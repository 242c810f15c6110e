//! What several ranks of one run do together: [`Collective`].
//!
//! On GPUs it is NCCL ([`Nccl`]), one process for each GPU. Ranks on the CPU are threads of one process ([`Threads`]), for tests and small
//! runs. A run of one rank without a launcher is [`Alone`]. Every rank calls the same operations in the same order on tensors of the same
//! size; each holds its own buffers on its own device.
//!
//! No rank waits for another in silence: one that ends, or that does not advance while others wait for it, is named in an error of
//! all the others ([`Verdict`]).

mod nccl;
mod threads;
mod verdict;
mod watch;
mod wire;
mod world;

pub use nccl::Nccl;
pub use threads::Threads;
pub use verdict::{Fate, Verdict};
pub use watch::{Limits, Watch};
pub use world::{Rendezvous, World};

use crate::{Device, Dtype, Error, Result, View};

/// What one rank does with the others. Views must be contiguous; `n` is their number of elements.
///
/// On a GPU the operations on views run beside what is launched later, and the views must neither be read nor written before
/// [`wait`](Self::wait): gradients of one layer are summed while the backward pass computes those of the next.
pub trait Collective {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Ranks in the run.
    fn size(&self) -> usize;

    /// Starts: `view [n]`, f32, becomes the sum of all ranks' on every rank, with the same bits.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a view that is not contiguous or not f32; [`Error::Rank`] if a rank is lost; [`Error::Collective`] if ranks
    /// call different operations, or NCCL fails.
    fn all_reduce(&self, view: View<'_>) -> Result<()>;

    /// Starts: of `view [n]`, f32, this rank's [`share`](Self::share) becomes the sum of all ranks'. The rest is undefined.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce), and [`Error::Buffer`] if the view has no equal shares.
    fn reduce_scatter(&self, view: View<'_>) -> Result<()>;

    /// Starts: every rank gives its [`share`](Self::share) of `view [n]`, of any type, and gets the shares of the others.
    ///
    /// # Errors
    /// As for [`reduce_scatter`](Self::reduce_scatter), but for the type.
    fn all_gather(&self, view: View<'_>) -> Result<()>;

    /// Starts: `view [n]`, of any type, becomes that of rank `root` on every rank.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce), but for the type; [`Error::Argument`] if there is no such rank.
    fn broadcast(&self, view: View<'_>, root: usize) -> Result<()>;

    /// Sums a few numbers of the host over the ranks, in place: losses, counts, flags. The host waits; all ranks get the same bits.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Lets whatever is launched from now on find what was started so far done. On a GPU the host does not wait.
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is lost; [`Error::Cuda`].
    fn wait(&self) -> Result<()>;

    /// Says that this rank is alive and at `step`. A rank that neither says so nor starts an operation for [`Limits::silence`] while
    /// others wait for it counts as hung: call it at every step, and during long work of one rank, such as saving.
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is lost.
    fn progress(&self, step: u64) -> Result<()>;

    /// Ends the run in agreement: waits until every rank has come here. A rank that is dropped without it counts as lost, so an error or
    /// a panic on one rank ends the others.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    fn leave(&self) -> Result<()>;

    /// The part of `view [n]` that is this rank's: `n / size` elements from `rank * n / size` on.
    ///
    /// # Errors
    /// [`Error::Buffer`] if the view is not contiguous, or `n` no multiple of the ranks.
    fn share<'a>(&self, view: View<'a>) -> Result<View<'a>> {
        share(view, self.rank(), self.size())
    }
}

/// What a device needs to work with the other ranks of `world`: NCCL on a GPU, also for a world of one rank; nothing without a
/// launcher.
///
/// # Errors
/// [`Error::Argument`] for several ranks on another device than a GPU; those of [`Nccl::join`].
pub fn join(device: &Device, world: Option<&World>) -> Result<Box<dyn Collective>> {
    match (device, world) {
        (Device::Cuda(_), Some(world)) => Ok(Box::new(Nccl::join(device, world, Limits::default())?)),
        (_, Some(world)) if world.size > 1 => Err(Error::Argument {
            argument: "device",
            got: format!("{device} of one of {} ranks", world.size),
            rule: "processes work together through NCCL, on GPUs; use --device cuda, or start a single process"
                .to_owned(),
        }),
        _ => Ok(Box::new(Alone)),
    }
}

/// The only rank of a run, on any device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, view: View<'_>) -> Result<()> {
        check_sum(view)
    }

    fn reduce_scatter(&self, view: View<'_>) -> Result<()> {
        check_sum(view)
    }

    fn all_gather(&self, view: View<'_>) -> Result<()> {
        view.contiguous().map(drop)
    }

    fn broadcast(&self, view: View<'_>, root: usize) -> Result<()> {
        check_root(root, 1)?;
        view.contiguous().map(drop)
    }

    fn all_reduce_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn progress(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn leave(&self) -> Result<()> {
        Ok(())
    }
}

/// Sums are of f32 numbers.
fn check_sum(view: View<'_>) -> Result<()> {
    match view.buffer().dtype() {
        Dtype::F32 => view.contiguous().map(drop),
        other => {
            Err(Error::Buffer { rule: format!("it holds {other}, and sums over ranks are of f32; widen it first") })
        }
    }
}

fn check_root(root: usize, size: usize) -> Result<()> {
    if root < size {
        return Ok(());
    }
    let rule = format!("it must be one of the {size} ranks, from 0 on");
    Err(Error::Argument { argument: "root", got: root.to_string(), rule })
}

fn share(view: View<'_>, rank: usize, size: usize) -> Result<View<'_>> {
    view.contiguous()?;
    let elements = view.len();
    if !elements.is_multiple_of(size) {
        let rule =
            format!("its {elements} elements have no {size} equal shares; make it a multiple of the ranks longer");
        return Err(Error::Buffer { rule });
    }
    let rows = elements / size;
    Ok(View { offset: view.offset + rank * rows, rows, cols: 1, stride: 1, ..view })
}
