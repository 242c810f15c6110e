//! GPU memory that is had and given back in the order of the stream, so that neither makes the host or the GPU wait.
//!
//! `cuMemFree` waits for all that runs, `cuMemAlloc` may, and a copy from ordinary host memory waits for the stream. A training step
//! makes and drops a few small buffers for each pack, so each of these would empty the GPU's queue. Instead memory comes from the
//! driver's pool (`cuMemAllocAsync`), which keeps what is given back, and small uploads pass through pinned memory.

use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, DriverError, result, sys};

use super::{Cuda, describe, failed};
use crate::device::{FENCE, FENCE_BYTES};
use crate::{Error, Result};

/// GPU memory between two fences, filled with NaN until written.
pub(crate) struct CudaMemory {
    cuda: Arc<Cuda>,
    base: sys::CUdeviceptr,
    bytes: usize,
}

impl CudaMemory {
    pub(crate) fn unwritten(cuda: &Arc<Cuda>, bytes: usize) -> Result<CudaMemory> {
        let failed = |e| Error::Cuda { doing: format!("allocating {bytes} bytes"), why: describe(e) };
        let stream = cuda.stream()?;
        let all = bytes + 2 * FENCE_BYTES;
        // SAFETY: the stream is of the current context.
        let base = unsafe {
            match cuda.pool {
                Some(_) => result::malloc_async(stream, all),
                None => result::malloc_sync(all),
            }
        };
        let memory = CudaMemory { cuda: cuda.clone(), base: base.map_err(failed)?, bytes };
        let (start, end) = (memory.address(), memory.address() + bytes as u64);
        for (at, value, len) in [(memory.base, FENCE, FENCE_BYTES), (start, 0xFF, bytes), (end, FENCE, FENCE_BYTES)] {
            if len > 0 {
                // SAFETY: the allocation is two fences longer than the contents, and each fill is one of the three parts.
                unsafe { result::memset_d8_async(at, value, len, stream) }.map_err(failed)?;
            }
        }
        Ok(memory)
    }

    pub(crate) fn address(&self) -> u64 {
        self.base + FENCE_BYTES as u64
    }

    /// Replaces the bytes from `offset` on, after what was launched before. The host's bytes may change once this has returned.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        assert!(offset + from.len() <= self.bytes);
        if from.is_empty() {
            return Ok(());
        }
        let stream = self.cuda.stream()?;
        let to = self.address() + offset as u64;
        let copied = if from.len() <= SLOT_BYTES {
            let mut uploads = self.cuda.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            Uploads::of(&mut uploads, &self.cuda.context).and_then(|uploads| uploads.copy(to, from, stream))
        } else {
            // SAFETY: the contents are `bytes` long.
            unsafe { result::memcpy_htod_sync(to, from) }
        };
        copied.map_err(failed("copying to the GPU"))
    }

    /// The bytes from `offset` on, once what was launched before has run.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        assert!(offset + to.len() <= self.bytes);
        self.read_at(FENCE_BYTES + offset, to)
    }

    /// Fills with zeros, in the order of the stream.
    pub(crate) fn zero(&self, offset: usize, bytes: usize) -> Result<()> {
        assert!(offset + bytes <= self.bytes);
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.cuda.stream()?;
        let fill = || {
            // SAFETY: the contents are `self.bytes` long.
            let filled = unsafe { result::memset_d8_async(self.address() + offset as u64, 0, bytes, stream) };
            filled.map_err(failed("filling with zeros"))
        };
        self.cuda.traced(|| "fill".to_owned(), fill)
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.cuda.stream()?;
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
        // A collective operation on the stream beside may still use the memory. An error here would be one of an earlier launch, which
        // the next call reports.
        let _ = self.cuda.join_beside();
        if let Ok(stream) = self.cuda.stream() {
            // SAFETY: allocated by `unwritten` in the same way, and freed once. The pool gives it to nobody before the work of the stream,
            // which by now includes that of the stream beside, is done; `free_sync` waits for everything.
            let _ = unsafe {
                match self.cuda.pool {
                    Some(_) => result::free_async(self.base, stream),
                    None => result::free_sync(self.base),
                }
            };
        }
    }
}

/// The driver's memory pool of a GPU.
#[derive(Clone, Copy)]
pub(super) struct Pool(sys::CUmemoryPool);

// SAFETY: an opaque handle that the driver lets any thread use.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// The default pool, told to keep what is given back; `None` where the GPU has no pools.
    pub(super) fn of(context: &CudaContext) -> Result<Option<Pool>, DriverError> {
        if !context.has_async_alloc() {
            return Ok(None);
        }
        let mut pool = std::ptr::null_mut();
        let mut keep = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: both places outlive the calls, and the attribute is 64 bits.
        unsafe {
            sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result()?;
            sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()).result()?;
        }
        Ok(Some(Pool(pool)))
    }

    /// Bytes that it holds and that nobody uses.
    pub(super) fn kept_bytes(self) -> Result<u64, DriverError> {
        let read = |attribute| {
            let mut bytes = 0u64;
            // SAFETY: the place outlives the call, and both attributes are 64 bits.
            unsafe { sys::cuMemPoolGetAttribute(self.0, attribute, (&raw mut bytes).cast()) }.result()?;
            Ok(bytes)
        };
        let reserved = read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(reserved.saturating_sub(read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
    }
}

/// Bytes of one upload that does not wait: the tokens of a pack of 65,536.
const SLOT_BYTES: usize = 256 << 10;
/// Uploads that can be under way before one waits for the oldest: those of a few packs.
const SLOTS: usize = 32;

/// Pinned host memory through which small uploads pass, in turn.
pub(super) struct Uploads {
    memory: *mut u8,
    /// The last upload from each slot.
    events: Vec<CudaEvent>,
    next: usize,
}

// SAFETY: host memory that only this value uses, behind a lock.
unsafe impl Send for Uploads {}

impl Uploads {
    /// Made by the first upload.
    fn of<'a>(place: &'a mut Option<Uploads>, context: &Arc<CudaContext>) -> Result<&'a mut Uploads, DriverError> {
        if place.is_none() {
            let events = (0..SLOTS).map(|_| context.new_event(None)).collect::<Result<_, _>>()?;
            // SAFETY: the memory is written before it is read.
            let memory = unsafe { result::malloc_host(SLOTS * SLOT_BYTES, 0) }?.cast();
            *place = Some(Uploads { memory, events, next: 0 });
        }
        Ok(place.as_mut().expect("it was just made"))
    }

    /// Copies at most `SLOT_BYTES` to a GPU address.
    fn copy(&mut self, to: sys::CUdeviceptr, from: &[u8], stream: sys::CUstream) -> Result<(), DriverError> {
        let slot = self.next % SLOTS;
        self.next += 1;
        let event = &self.events[slot];
        event.synchronize()?;
        // SAFETY: the slot lies in `memory`, and by the event its last upload is done; the memory at `to` is `from.len()` bytes of a
        // buffer, by `CudaMemory::write`; the slot is written again only after the event that follows the copy.
        unsafe {
            let place = std::slice::from_raw_parts_mut(self.memory.add(slot * SLOT_BYTES), from.len());
            place.copy_from_slice(from);
            result::memcpy_htod_async(to, place, stream)?;
            result::event::record(event.cu_event(), stream)
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let done = self.events.iter().all(|event| event.synchronize().is_ok());
        // Memory that a copy may still read is kept: the context is lost anyway.
        if done {
            // SAFETY: made by `of`, freed once, and no copy is under way.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}
