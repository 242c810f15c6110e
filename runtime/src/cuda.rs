//! NVIDIA GPUs through the driver API, loaded at run time.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::device::{Edit, FENCE, FENCE_BYTES, text_for};
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
        Ok(Cuda { context, ordinal, name, arch, edit, functions: Mutex::default() })
    }

    /// Its number among the GPUs that the driver shows.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its product name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
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

    /// Waits until everything launched has run.
    ///
    /// # Errors
    /// [`Error::Cuda`] if something that was launched failed.
    pub fn synchronize(&self) -> Result<()> {
        self.context.synchronize().map_err(failed("waiting for the GPU"))
    }

    /// The time that `work` takes on the GPU, in milliseconds, between two events.
    ///
    /// # Errors
    /// That of `work`, or [`Error::Cuda`].
    pub fn time_ms(&self, work: impl FnOnce() -> Result<()>) -> Result<f32> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let stream = self.context.default_stream();
        let record = || stream.record_event(flags).map_err(failed("recording an event"));
        let start = record()?;
        work()?;
        let end = record()?;
        start.elapsed_ms(&end).map_err(failed("reading an event"))
    }

    /// Makes the context current for the calling thread, and gives the stream on which everything runs in order.
    pub(crate) fn stream(&self) -> Result<sys::CUstream> {
        self.context.bind_to_thread().map_err(failed("choosing the GPU"))?;
        Ok(self.context.default_stream().cu_stream())
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
        let mut functions = self.functions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
        // SAFETY: the one parameter of the entry is `Args`, whose fields `launch::arguments` lays out as `kernel::arguments` declares
        // them; every pointer in it is to a live buffer of this context that has at least the declared extent.
        unsafe {
            result::launch_kernel(
                function.0,
                (grid[0], grid[1], grid[2]),
                (config.threads as u32, 1, 1),
                config.shared_bytes as u32,
                self.context.default_stream().cu_stream(),
                &mut parameters,
            )
        }
        .map_err(failed)
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

fn failed(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Cuda { doing: doing.to_owned(), why: describe(e) }
}

/// GPU memory between two fences, filled with NaN until written.
pub(crate) struct CudaMemory {
    context: Arc<CudaContext>,
    base: sys::CUdeviceptr,
    bytes: usize,
}

impl CudaMemory {
    pub(crate) fn unwritten(cuda: &Arc<Cuda>, bytes: usize) -> Result<CudaMemory> {
        let failed = |e| Error::Cuda { doing: format!("allocating {bytes} bytes"), why: describe(e) };
        cuda.context.bind_to_thread().map_err(failed)?;
        // SAFETY: the allocation is two fences longer than the contents, and both fills stay inside it.
        let base = unsafe {
            let base = result::malloc_sync(bytes + 2 * FENCE_BYTES).map_err(failed)?;
            result::memset_d8_sync(base, FENCE, bytes + 2 * FENCE_BYTES).map_err(failed)?;
            result::memset_d8_sync(base + FENCE_BYTES as u64, 0xFF, bytes).map_err(failed)?;
            base
        };
        Ok(CudaMemory { context: cuda.context.clone(), base, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.base + FENCE_BYTES as u64
    }

    pub(crate) fn write(&self, from: &[u8]) -> Result<()> {
        assert_eq!(from.len(), self.bytes);
        self.context.bind_to_thread().map_err(failed("copying to the GPU"))?;
        // SAFETY: the contents are `bytes` long.
        unsafe { result::memcpy_htod_sync(self.address(), from) }.map_err(failed("copying to the GPU"))
    }

    pub(crate) fn read(&self, to: &mut [u8]) -> Result<()> {
        assert_eq!(to.len(), self.bytes);
        self.read_at(FENCE_BYTES, to)
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("copying from the GPU"))?;
        // SAFETY: `offset + to.len()` is at most the allocation, two fences and the contents.
        unsafe { result::memcpy_dtoh_sync(to, self.base + offset as u64) }.map_err(failed("copying from the GPU"))
    }

    pub(crate) fn fence_holds(&self) -> Result<bool> {
        let mut fences = [0; 2 * FENCE_BYTES];
        let (before, after) = fences.split_at_mut(FENCE_BYTES);
        self.read_at(0, before)?;
        self.read_at(FENCE_BYTES + self.bytes, after)?;
        Ok(fences.iter().all(|&byte| byte == FENCE))
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `unwritten` and freed once; freeing waits for launches that use it. An error here would be one of an
            // earlier launch, which the next call reports.
            let _ = unsafe { result::free_sync(self.base) };
        }
    }
}
