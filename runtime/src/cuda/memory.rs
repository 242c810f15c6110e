//! GPU memory that is had and given back in the order of the stream, so that neither makes the host or the GPU wait.
//!
//! `cuMemFree` waits for all that runs, `cuMemAlloc` may, and a copy from or to ordinary host memory waits for the stream. A training step
//! uploads the indices of each pack and looks at a few numbers, so each of these would empty the GPU's queue. Instead memory comes from the
//! driver's pool (`cuMemAllocAsync`), which keeps what is given back, and what the host writes and looks at passes through pinned memory.

use std::collections::VecDeque;
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
        let mut uploads = self.cuda.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = Uploads::of(&mut uploads).and_then(|uploads| uploads.copy(to, from, &self.cuda.context, stream));
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

/// Bytes of uploads that can be under way before one waits for the oldest: the indices of two dozen packs of 65,536 tokens.
const RING_BYTES: u64 = 32 << 20;
/// The most bytes of one copy: a larger upload is several, of which the host fills one while others are under way.
const PIECE_BYTES: usize = 2 << 20;
/// Uploads begin at multiples of so many bytes.
const UPLOAD_ALIGNMENT: u64 = 64;
/// The most uploads under way, however small.
const MOST_UPLOADS: usize = 1024;

/// A ring of pinned host memory through which uploads pass, one after the other.
pub(super) struct Uploads {
    memory: *mut u8,
    /// Those that may be under way, the oldest first: where each begins, and its end. Places count on and on; the ring has them modulo its
    /// length.
    under_way: VecDeque<(u64, CudaEvent)>,
    /// The first place after them.
    next: u64,
}

// SAFETY: host memory that only this value uses, behind a lock.
unsafe impl Send for Uploads {}

impl Uploads {
    /// Made by the first upload.
    fn of(place: &mut Option<Uploads>) -> Result<&mut Uploads, DriverError> {
        if place.is_none() {
            // SAFETY: the memory is written before it is read.
            let memory = unsafe { result::malloc_host(RING_BYTES as usize, 0) }?.cast();
            *place = Some(Uploads { memory, under_way: VecDeque::new(), next: 0 });
        }
        Ok(place.as_mut().expect("it was just made"))
    }

    /// Copies to a GPU address. Waits where the ring is full, until the GPU comes to the oldest upload.
    fn copy(
        &mut self,
        to: sys::CUdeviceptr,
        from: &[u8],
        context: &Arc<CudaContext>,
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        for (i, piece) in from.chunks(PIECE_BYTES).enumerate() {
            let (start, free) = place_in_ring(self.next, piece.len() as u64);
            let mut event = None;
            while self.under_way.front().is_some_and(|(start, _)| *start < free) || self.under_way.len() >= MOST_UPLOADS
            {
                let Some((_, oldest)) = self.under_way.pop_front() else { break };
                oldest.synchronize()?;
                event = Some(oldest);
            }
            let event = event.map_or_else(|| context.new_event(None), Ok)?;
            let at = (start % RING_BYTES) as usize;
            // SAFETY: the piece lies in `memory`, whose last copy from there is done, since all that began before `free` are; the memory at
            // `to` is `from.len()` bytes of a buffer, by `CudaMemory::write`; the place is written again only after the event that
            // follows the copy.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(self.memory.add(at), piece.len());
                pinned.copy_from_slice(piece);
                result::memcpy_htod_async(to + (i * PIECE_BYTES) as u64, pinned, stream)?;
                result::event::record(event.cu_event(), stream)?;
            }
            self.under_way.push_back((start, event));
            self.next = start + piece.len() as u64;
        }
        Ok(())
    }
}

/// Where an upload of `bytes` begins, in one piece, if the last ended at `next`; and the place before which all others must be done.
fn place_in_ring(next: u64, bytes: u64) -> (u64, u64) {
    let mut start = next.next_multiple_of(UPLOAD_ALIGNMENT);
    if start % RING_BYTES + bytes > RING_BYTES {
        start = start.next_multiple_of(RING_BYTES);
    }
    (start, (start + bytes).saturating_sub(RING_BYTES))
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let done = self.under_way.iter().all(|(_, event)| event.synchronize().is_ok());
        // Memory that a copy may still read is kept: the context is lost anyway.
        if done {
            // SAFETY: made by `of`, freed once, and no copy is under way.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}

/// Pinned memory into which the GPU copies, for the host to look at when it is there.
pub(crate) struct CudaDownload {
    cuda: Arc<Cuda>,
    memory: *mut u8,
    bytes: usize,
    /// The end of the last copy.
    event: CudaEvent,
}

impl CudaDownload {
    pub(crate) fn new(cuda: &Arc<Cuda>, bytes: usize) -> Result<CudaDownload> {
        cuda.stream()?;
        let failed = failed("allocating pinned memory");
        let event = cuda.context.new_event(None).map_err(&failed)?;
        // SAFETY: the context is current; the memory is written before it is read.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(&failed)?.cast::<u8>();
        // SAFETY: the memory is that long, and nobody else has it.
        unsafe { memory.write_bytes(0, bytes.max(1)) };
        Ok(CudaDownload { cuda: cuda.clone(), memory, bytes, event })
    }

    /// Copies `bytes` bytes from `offset` on, after what was launched before. The host does not wait, but for a copy that was started before.
    pub(crate) fn start(&mut self, from: &CudaMemory, offset: usize, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && offset + bytes <= from.bytes);
        let failed = failed("copying from the GPU");
        self.event.synchronize().map_err(&failed)?;
        let stream = self.cuda.stream()?;
        // SAFETY: both are that long; the last copy is done, and nobody reads this memory before the event that follows.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.memory, bytes);
            result::memcpy_dtoh_async(to, from.address() + offset as u64, stream).map_err(&failed)?;
            result::event::record(self.event.cu_event(), stream).map_err(&failed)
        }
    }

    /// Waits for the copy, and for nothing that was launched after it.
    pub(crate) fn read(&self, to: &mut [u8]) -> Result<()> {
        assert!(to.len() <= self.bytes);
        self.event.synchronize().map_err(failed("waiting for the GPU"))?;
        // SAFETY: the memory is that long, and the copy into it is done.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(self.memory, to.len()) };
        Ok(())
    }
}

impl Drop for CudaDownload {
    fn drop(&mut self) {
        // Memory into which a copy may still write is kept.
        if self.event.synchronize().is_ok() && self.cuda.stream().is_ok() {
            // SAFETY: made by `new`, freed once, and no copy is under way.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uploads of many sizes: none wraps, and what is waited for is all that lay where the next one goes.
    #[test]
    fn uploads_never_share_a_place() {
        let (mut next, mut under_way) = (0, VecDeque::new());
        for i in 0..10_000_u64 {
            let bytes = 1 + i * i * 7919 % PIECE_BYTES as u64;
            let (start, free) = place_in_ring(next, bytes);
            assert!(start >= next && start.is_multiple_of(UPLOAD_ALIGNMENT));
            assert!(start % RING_BYTES + bytes <= RING_BYTES, "upload {i} wraps");
            under_way.retain(|(begin, _): &(u64, u64)| *begin >= free);
            let place = |at: u64, len: u64| at % RING_BYTES..at % RING_BYTES + len;
            let mine = place(start, bytes);
            let apart =
                |(at, len): &(u64, u64)| place(*at, *len).end <= mine.start || mine.end <= place(*at, *len).start;
            assert!(under_way.iter().all(apart), "upload {i} overlaps one that may be under way");
            under_way.push_back((start, bytes));
            next = start + bytes;
        }
        assert!(under_way.len() > 1, "several are under way at a time");
    }
}
