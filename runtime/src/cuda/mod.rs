//! NVIDIA GPUs through the driver API, loaded at run time.

mod memory;
mod trace;

pub(crate) use self::memory::{CudaDownload, CudaMemory};
pub use self::trace::Traced;

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use self::memory::{Pool, Uploads};
use self::trace::Trace;
use crate::device::{Edit, Usage, text_for};
use crate::kernel::{self, LaunchConfig, Variant};
use crate::nvrtc::{self, Arch, Compile, Emit};
use crate::{Error, Result};

/// An open GPU: its context, one stream, and the kernels loaded so far.
pub struct Cuda {
    context: Arc<CudaContext>,
    ordinal: usize,
    name: String,
    arch: Arch,
    edit: Option<Edit>,
    /// Variant id to a function of a module that stays loaded as long as the context.
    functions: Mutex<HashMap<String, Function>>,
    /// `None` where the GPU has no pools: memory is then had and given back while the GPU waits.
    pool: Option<Pool>,
    uploads: Mutex<Option<Uploads>>,
    usage: Usage,
    /// The end of what runs beside the one stream, if something was started there and not yet seen to be done.
    beside: Mutex<Option<Arc<CudaEvent>>>,
    /// Whether launches are noted, and those that were.
    tracing: AtomicBool,
    trace: Mutex<Option<Trace>>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a function handle is an opaque pointer that the driver lets any thread use.
unsafe impl Send for Function {}

impl Cuda {
    pub(crate) fn open(ordinal: usize, edit: Option<Edit>) -> Result<Cuda> {
        let no_gpu = |why: String| Error::NoGpu { ordinal, why };
        // SAFETY: loads a library by name and runs its initialisers; the NVIDIA driver has none that touch this process.
        if !unsafe { sys::is_culib_present() } {
            return Err(no_gpu("the NVIDIA driver (libcuda.so.1) is not installed".into()));
        }
        let context = CudaContext::new(ordinal).map_err(|e| no_gpu(describe(e)))?;
        let (major, minor) = context.compute_capability().map_err(|e| no_gpu(describe(e)))?;
        let name = context.name().map_err(|e| no_gpu(describe(e)))?;
        let arch = Arch::new(major as u32 * 10 + minor as u32);
        let pool = Pool::of(&context).map_err(|e| no_gpu(describe(e)))?;
        Ok(Cuda {
            context,
            ordinal,
            name,
            arch,
            edit,
            functions: Mutex::default(),
            pool,
            uploads: Mutex::default(),
            usage: Usage::default(),
            beside: Mutex::default(),
            tracing: AtomicBool::new(false),
            trace: Mutex::default(),
        })
    }

    /// How many GPUs the driver shows; 0 where there is none, or no driver.
    pub fn count() -> usize {
        // SAFETY: as in `open`.
        let driver = unsafe { sys::is_culib_present() };
        if driver { CudaContext::device_count().unwrap_or(0).max(0) as usize } else { 0 }
    }

    /// Its number among the GPUs that the driver shows.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The fault that is injected into what it compiles.
    pub(crate) fn edit(&self) -> Option<&Edit> {
        self.edit.as_ref()
    }

    /// Its product name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The driver's version where the system tells it, `580.159.04`, else the CUDA that it is for, `CUDA 13.0`.
    pub fn driver() -> String {
        let told = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let is_version = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if let Some(version) = told.lines().next().and_then(|line| line.split_whitespace().find(is_version)) {
            return version.to_owned();
        }
        let mut cuda = 0;
        // SAFETY: the pointer is to an integer that outlives the call.
        let told = unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&mut cuda).result().is_ok() };
        if !told {
            return "none".to_owned();
        }
        format!("CUDA {}.{}", cuda / 1000, cuda % 1000 / 10)
    }

    /// Its multiprocessors.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver does not say.
    pub fn multiprocessors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.context.attribute(attribute).map_err(failed("asking for the multiprocessor count"))?;
        Ok(count as usize)
    }

    /// Bytes of its L2.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver does not say.
    pub fn l2_bytes(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        Ok(self.context.attribute(attribute).map_err(failed("asking for the size of the L2"))? as usize)
    }

    /// The highest clock of its multiprocessors, in GHz.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver does not say.
    pub fn clock_ghz(&self) -> Result<f64> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE;
        let khz = self.context.attribute(attribute).map_err(failed("asking for the clock"))?;
        Ok(f64::from(khz) / 1e6)
    }

    /// Its memory in bytes, `(free, total)`: what other processes, libraries and the driver leave, and what it has. Memory that is
    /// kept for the next buffers counts as free.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver does not say, or if something that was launched failed.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let asking = failed("asking for the free memory");
        self.synchronize()?;
        let (free, total) = self.context.mem_get_info().map_err(&asking)?;
        let kept = self.pool.map_or(Ok(0), Pool::kept_bytes).map_err(&asking)?;
        Ok((free as u64 + kept, total as u64))
    }

    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Waits until everything launched has run.
    ///
    /// # Errors
    /// [`Error::Cuda`] if something that was launched failed.
    pub fn synchronize(&self) -> Result<()> {
        self.context.synchronize().map_err(failed("waiting for the GPU"))
    }

    /// The times that `count` runs of `work` take on the GPU, in milliseconds, between events: one after the other, and after all that was
    /// launched before. The host waits at the end alone.
    ///
    /// # Errors
    /// That of `work`, or [`Error::Cuda`].
    pub fn times_ms(&self, count: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f32>> {
        let mut events = vec![self.timestamp()?];
        for _ in 0..count {
            work()?;
            events.push(self.timestamp()?);
        }
        events.windows(2).map(|pair| between_ms(&pair[0], &pair[1])).collect()
    }

    /// The end of what was launched so far, with its time.
    pub(crate) fn timestamp(&self) -> Result<CudaEvent> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.context.default_stream().record_event(flags).map_err(failed("recording an event"))
    }

    /// Makes the context current for the calling thread, and gives the stream on which everything runs in order.
    pub(crate) fn stream(&self) -> Result<sys::CUstream> {
        self.context.bind_to_thread().map_err(failed("choosing the GPU"))?;
        Ok(self.context.default_stream().cu_stream())
    }

    /// A stream beside the one on which everything runs, for work that may overlap with it.
    pub(crate) fn new_stream(&self) -> Result<Arc<CudaStream>> {
        self.context.new_stream().map_err(failed("making a stream"))
    }

    /// Starts `work` on a stream beside, after all that was launched so far, and remembers its end.
    pub(crate) fn start_beside(&self, stream: &CudaStream, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let failed = failed("ordering two streams");
        stream.join(&self.context.default_stream()).map_err(&failed)?;
        let worked = work();
        // Also after an error: part of the work may have been started.
        let end = stream.record_event(None).map_err(&failed)?;
        *self.beside.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(end));
        worked
    }

    /// The end of what was last started beside, unless it was already seen to be done.
    pub(crate) fn end_beside(&self) -> Option<Arc<CudaEvent>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether something that was started beside has not ended.
    pub(crate) fn is_busy_beside(&self) -> Result<bool> {
        let Some(end) = self.end_beside() else { return Ok(false) };
        self.stream()?;
        let done = end.try_is_complete().map_err(failed("asking a stream"))?;
        let mut beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        // Something may have been started meanwhile; its end is another one.
        if done && beside.as_ref().is_some_and(|now| Arc::ptr_eq(now, &end)) {
            *beside = None;
        }
        Ok(beside.is_some())
    }

    /// Lets what is launched from now on wait for what was started beside. The host does not wait.
    pub(crate) fn join_beside(&self) -> Result<()> {
        match self.end_beside() {
            Some(end) => self.context.default_stream().wait(&end).map_err(failed("ordering two streams")),
            None => Ok(()),
        }
    }

    /// Fills `rows` rows of `row_bytes` bytes, which start `stride_bytes` apart, with zeros.
    pub(crate) fn zero_rows(&self, address: u64, rows: usize, row_bytes: usize, stride_bytes: usize) -> Result<()> {
        let stream = self.stream()?;
        // SAFETY: callers give rows of a checked view of a live buffer of this context.
        let status = unsafe { sys::cuMemsetD2D8Async(address, stride_bytes, 0, row_bytes, rows, stream) };
        status.result().map_err(failed("filling with zeros"))
    }

    /// The compiled function of a variant, loaded on first use.
    fn function<V: Variant>(&self, variant: &V) -> Result<Function> {
        let id = variant.to_string();
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&id) {
            return Ok(*function);
        }
        let source = text_for(variant, self.edit.as_ref())?;
        let request = Compile { name: &id, source: &source, arch: self.arch, emit: Emit::Cubin, options: &[] };
        let cubin = nvrtc::compile_cached(&request)?.bytes;
        let function = self.load(&id, &cubin, variant.shared_bytes())?;
        functions.insert(id, function);
        Ok(function)
    }

    fn load(&self, id: &str, cubin: &[u8], shared_bytes: usize) -> Result<Function> {
        let failed = |e| Error::Cuda { doing: format!("loading {id}"), why: describe(e) };
        self.context.bind_to_thread().map_err(failed)?;
        let symbol = CString::new(kernel::symbol(id)).expect("an id has no NUL");
        // SAFETY: `cubin` is a whole ELF image made by NVRTC for this architecture; the module is never unloaded, so the function
        // outlives every use; the attribute only raises the shared memory that a block may ask for.
        unsafe {
            let module = result::module::load_data(cubin.as_ptr().cast()).map_err(failed)?;
            let function = result::module::get_function(module, symbol).map_err(failed)?;
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            result::function::set_function_attribute(function, attribute, shared_bytes as i32).map_err(failed)?;
            Ok(Function(function))
        }
    }

    /// Launches a variant on buffers that [`crate::launch`] has checked. `arguments` is its CUDA `Args`, by value.
    pub(crate) fn launch<V: Variant>(&self, variant: &V, config: LaunchConfig, arguments: &mut [u8]) -> Result<()> {
        let function = self.function(variant)?;
        let failed = |e| Error::Cuda { doing: format!("launching {variant}"), why: describe(e) };
        self.context.bind_to_thread().map_err(failed)?;
        let grid = config.grid.map(|n| n as u32);
        let mut parameters = [arguments.as_mut_ptr().cast()];
        let stream = self.context.default_stream().cu_stream();
        self.traced(
            || variant.to_string(),
            || {
                let (block, shared) = ((config.threads as u32, 1, 1), config.shared_bytes as u32);
                // SAFETY: the one parameter of the entry is `Args`, whose fields `launch::arguments` lays out as `kernel::arguments`
                // declares them; every pointer in it is to a live buffer of this context that has at least the declared extent.
                unsafe {
                    result::launch_kernel(
                        function.0,
                        (grid[0], grid[1], grid[2]),
                        block,
                        shared,
                        stream,
                        &mut parameters,
                    )
                }
                .map_err(failed)
            },
        )
    }

    /// The most blocks of a variant that one multiprocessor holds at once.
    ///
    /// # Errors
    /// Compiling, loading or [`Error::Cuda`].
    pub fn blocks_per_multiprocessor<V: Variant>(&self, variant: &V) -> Result<usize> {
        let function = self.function(variant)?;
        // SAFETY: the handle is of a module that stays loaded.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                function.0,
                variant.threads() as i32,
                variant.shared_bytes(),
            )
        };
        Ok(blocks.map_err(failed("asking for the occupancy"))? as usize)
    }
}

fn describe(error: DriverError) -> String {
    let text = |r: std::result::Result<&std::ffi::CStr, DriverError>| {
        r.map_or_else(|_| "unknown".to_owned(), |c| c.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// Milliseconds from one event to another, once both have happened.
pub(crate) fn between_ms(start: &CudaEvent, end: &CudaEvent) -> Result<f32> {
    start.elapsed_ms(end).map_err(failed("reading an event"))
}

fn failed(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Cuda { doing: doing.to_owned(), why: describe(e) }
}
