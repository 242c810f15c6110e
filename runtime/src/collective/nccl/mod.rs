//! [`Nccl`]: ranks that are processes with a GPU each, through NVIDIA's NCCL.
//!
//! Operations run on a stream of their own. Each begins after all that was launched before it; what is launched after it runs beside it,
//! until [`wait`](Collective::wait). NCCL makes the stream wait for the other ranks and not the host, so a lost rank would be a GPU that
//! never ends. The [`Watch`] knows better: where the host waits, it asks for the verdict too, and aborts the operations; where it sits in
//! a call of CUDA's, the watch ends the process.

mod api;

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut};
use cudarc::driver::CudaStream;

use self::api::{Api, Communicator, Operation, Type, UniqueId};
use super::{Collective, Limits, Watch, World, check_root, check_sum, share};
use crate::{Buffer, Cuda, Device, Dtype, Error, Result, View};

/// Numbers of the host that are summed at a time.
const SCRATCH_NUMBERS: usize = 512;
/// How long the host asks without a pause whether an operation has ended; most have by then.
const BUSY: Duration = Duration::from_micros(200);
/// And how it pauses from then on.
const PAUSE: Duration = Duration::from_micros(50);
/// Between two looks of the thread that watches the GPU.
const LOOK: Duration = Duration::from_millis(500);

/// One of several ranks with a GPU each.
pub struct Nccl {
    rank: usize,
    size: usize,
    cuda: Arc<Cuda>,
    stream: Arc<CudaStream>,
    /// `[2 * SCRATCH_NUMBERS]` halves of f64 numbers
    scratch: Buffer,
    shared: Arc<Shared>,
    left: Cell<bool>,
}

/// What the thread that watches the GPU sees too.
struct Shared {
    watch: Watch,
    /// `None` once it is aborted.
    communicator: Mutex<Option<Communicator>>,
}

impl Nccl {
    /// Joins the other ranks of `world` with this rank's GPU; every rank comes here.
    ///
    /// # Errors
    /// [`Error::Argument`] for a device that is no GPU; [`Error::NoNccl`], [`Error::Setting`] and [`Error::Library`] where NCCL cannot be
    /// used; [`Error::Meeting`] and [`Error::Rank`] where ranks do not come; [`Error::Collective`] where NCCL refuses.
    pub fn join(device: &Device, world: &World, limits: Limits) -> Result<Nccl> {
        let &World { rank, size, .. } = world;
        let Device::Cuda(cuda) = device else {
            let rule = "NCCL sums on GPUs; ranks on the CPU are threads of one process".to_owned();
            return Err(Error::Argument { argument: "device", got: device.to_string(), rule });
        };
        let api = Api::get()?;
        cuda.stream()?;
        let failed = |doing: &str, why| Error::Collective { rank, doing: doing.to_owned(), why };
        let make_id = || Ok(api.unique_id().map_err(|why| failed("preparing NCCL", why))?.0.to_vec());
        let (watch, id) = Watch::meet(world, limits, make_id)?;
        let id =
            id.try_into().map_err(|_| failed("meeting the other ranks", "rank 0 sent no id of NCCL's".to_owned()))?;
        watch.enter()?;
        let communicator = api.join(UniqueId(id), rank, size).map_err(|why| failed("joining the other ranks", why))?;
        watch.set_pending(false);
        let shared = Arc::new(Shared { watch, communicator: Mutex::new(Some(communicator)) });
        let nccl = Nccl {
            rank,
            size,
            cuda: cuda.clone(),
            stream: cuda.new_stream()?,
            scratch: Buffer::unwritten(device, Dtype::U32, 2 * SCRATCH_NUMBERS)?,
            shared,
            left: Cell::new(false),
        };
        let (shared, gpu) = (Arc::downgrade(&nccl.shared), Arc::downgrade(cuda));
        thread::spawn(move || look(&shared, &gpu));
        Ok(nccl)
    }

    /// Starts an operation on `count` elements of a type from the view's first on.
    fn start(&self, operation: Operation, view: View<'_>, count: usize, of: Type) -> Result<()> {
        self.alive(self.shared.watch.enter())?;
        if count == 0 {
            return Ok(());
        }
        self.cuda.stream()?;
        self.cuda.start_beside(&self.stream, || {
            let communicator = self.shared.communicator();
            let Some(communicator) = communicator.as_ref() else {
                return Err(self.failed(operation, "it was aborted"));
            };
            let (address, stream) = (view.row_address(0), self.stream.cu_stream().cast());
            // SAFETY: `stream` made the context current; the view is contiguous and `count` elements are not more than it has; its
            // buffer gives its memory back after the stream beside.
            let started = unsafe { communicator.start(operation, address, count, of, stream) };
            started.map_err(|why| self.failed(operation, why))
        })
    }

    fn failed(&self, doing: Operation, why: impl fmt::Display) -> Error {
        Error::Collective { rank: self.rank, doing: doing.to_string(), why: why.to_string() }
    }

    /// After a verdict, what runs on the GPU is aborted, or it would never end.
    fn alive<T>(&self, result: Result<T>) -> Result<T> {
        if matches!(result, Err(Error::Rank { .. })) {
            self.shared.abort();
        }
        result
    }

    /// The host waits for what was started, and for nothing if a rank is lost.
    fn wait_on_host(&self, doing: Operation) -> Result<()> {
        let start = Instant::now();
        while self.cuda.is_busy_beside()? {
            if start.elapsed() < BUSY {
                std::hint::spin_loop();
                continue;
            }
            self.alive(self.shared.watch.check())?;
            if let Err(why) = self.shared.trouble() {
                self.shared.abort();
                return Err(self.failed(doing, why));
            }
            thread::sleep(PAUSE);
        }
        self.shared.watch.set_pending(false);
        Ok(())
    }
}

impl Shared {
    fn communicator(&self) -> MutexGuard<'_, Option<Communicator>> {
        self.communicator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&self) {
        if let Some(communicator) = self.communicator().take() {
            communicator.abort();
        }
    }

    fn trouble(&self) -> Result<(), String> {
        self.communicator().as_ref().map_or(Ok(()), Communicator::trouble)
    }
}

/// Tells the watch whether the GPU is in an operation, as long as the rank is there. A thread of its own, since a question to the driver
/// may wait for another thread's call.
fn look(shared: &Weak<Shared>, gpu: &Weak<Cuda>) {
    loop {
        thread::sleep(LOOK);
        let (Some(shared), Some(gpu)) = (shared.upgrade(), gpu.upgrade()) else { return };
        // An error is the GPU's, and the next call of the rank reports it.
        let Ok(busy) = gpu.is_busy_beside() else { return };
        shared.watch.set_pending(busy);
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, view: View<'_>) -> Result<()> {
        check_sum(view)?;
        self.start(Operation::AllReduce, view, view.len(), Type::F32)
    }

    fn reduce_scatter(&self, view: View<'_>) -> Result<()> {
        check_sum(view)?;
        let mine = share(view, self.rank, self.size)?;
        self.start(Operation::ReduceScatter, view, mine.len(), Type::F32)
    }

    fn all_gather(&self, view: View<'_>) -> Result<()> {
        let mine = share(view, self.rank, self.size)?;
        self.start(Operation::AllGather, view, mine.contiguous()?.len(), Type::Bytes)
    }

    fn broadcast(&self, view: View<'_>, root: usize) -> Result<()> {
        check_root(root, self.size)?;
        self.start(Operation::Broadcast(root), view, view.contiguous()?.len(), Type::Bytes)
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        for values in values.chunks_mut(SCRATCH_NUMBERS) {
            let halves = self.scratch.part(0, 2 * values.len(), 1)?;
            halves.write::<u32>(cast_slice(values))?;
            self.start(Operation::AllReduce, halves, values.len(), Type::F64)?;
            self.wait_on_host(Operation::AllReduce)?;
            cast_slice_mut::<f64, u32>(values).copy_from_slice(&halves.to_vec::<u32>()?);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.alive(self.shared.watch.check())?;
        self.cuda.join_beside()
    }

    fn progress(&self, step: u64) -> Result<()> {
        self.alive(self.shared.watch.progress(step))
    }

    fn leave(&self) -> Result<()> {
        self.wait_on_host(Operation::AllReduce)?;
        self.alive(self.shared.watch.leave())?;
        self.left.set(true);
        Ok(())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Without its context there is nothing to give back.
        if self.cuda.stream().is_err() {
            return;
        }
        match self.left.get() {
            true => self.shared.communicator().take().map_or((), Communicator::destroy),
            // The others may never come to the end of what is under way.
            false => self.shared.abort(),
        }
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nccl(rank {} of {} on {})", self.rank, self.size, self.cuda.name())
    }
}
