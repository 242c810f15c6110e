//! The functions of NCCL that packscan calls, bound by hand from the library that [`find`] found, as cuBLASLt's are: cudarc's binding looks
//! for the library by itself and panics where it finds none. Names, types and numbers are those of `nccl.h`, unchanged since NCCL 2.4.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr;

use libloading::Library as Loaded;

use crate::nvrtc::Once;
use crate::nvrtc::find::{Environment, Library, find};
use crate::{Error, Result};

type Status = c_int;
type Stream = *mut c_void;

/// `ncclInProgress`: no error.
const IN_PROGRESS: Status = 7;
/// `ncclSum`
const SUM: c_uint = 0;

/// `ncclDataType_t`
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Type {
    /// `ncclUint8`
    Bytes = 1,
    /// `ncclFloat32`
    F32 = 7,
    /// `ncclFloat64`
    F64 = 8,
}

impl Type {
    const fn bytes(self) -> usize {
        match self {
            Type::Bytes => 1,
            Type::F32 => 4,
            Type::F64 => 8,
        }
    }
}

/// `ncclUniqueId`: what rank 0 makes and every rank needs to join. Passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// An operation on `count` elements at a GPU address, in place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// All `count` become their sum.
    AllReduce,
    /// `count` is that of a share, and the address that of the whole.
    ReduceScatter,
    /// Likewise.
    AllGather,
    /// All `count` become those of this rank.
    Broadcast(usize),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AllReduce => f.write_str("all_reduce"),
            Operation::ReduceScatter => f.write_str("reduce_scatter"),
            Operation::AllGather => f.write_str("all_gather"),
            Operation::Broadcast(root) => write!(f, "broadcast from rank {root}"),
        }
    }
}

type Reduce = unsafe extern "C" fn(u64, u64, usize, c_uint, c_uint, *mut c_void, Stream) -> Status;

/// NCCL's functions.
pub(super) struct Api {
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    init_rank: unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> Status,
    destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    abort: unsafe extern "C" fn(*mut c_void) -> Status,
    async_error: unsafe extern "C" fn(*mut c_void, *mut Status) -> Status,
    all_reduce: Reduce,
    reduce_scatter: Reduce,
    all_gather: unsafe extern "C" fn(u64, u64, usize, c_uint, *mut c_void, Stream) -> Status,
    broadcast: unsafe extern "C" fn(u64, u64, usize, c_uint, c_int, *mut c_void, Stream) -> Status,
    /// Declared last: the functions above live in it.
    _library: Loaded,
}

/// A communicator: this rank's end of what NCCL has between all ranks.
pub(super) struct Communicator {
    api: &'static Api,
    rank: usize,
    pointer: *mut c_void,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time; `Nccl` keeps it behind a lock.
unsafe impl Send for Communicator {}

impl Api {
    /// The NCCL of this process: the first call finds it. A failed search is repeated by the next call.
    pub(super) fn get() -> Result<&'static Api> {
        static API: Once<Api> = Once::new();
        API.get(Api::provide)
    }

    fn provide(environment: &Environment) -> Result<Api> {
        let search = find(Library::Nccl, environment)?;
        let Some(found) = search.found else { return Err(Error::NoNccl { looked: search.looked }) };
        Api::bind(found.loaded).map_err(|error| Library::Nccl.unusable(found.path, error))
    }

    fn bind(library: Loaded) -> Result<Api, libloading::Error> {
        // SAFETY: the names and types are those of nccl.h (see above); device pointers, which the header calls `void *`, are 64-bit
        // numbers; the pointers that are copied out of the library are kept together with it.
        unsafe {
            Ok(Api {
                error_string: *library.get(b"ncclGetErrorString")?,
                unique_id: *library.get(b"ncclGetUniqueId")?,
                init_rank: *library.get(b"ncclCommInitRank")?,
                destroy: *library.get(b"ncclCommDestroy")?,
                abort: *library.get(b"ncclCommAbort")?,
                async_error: *library.get(b"ncclCommGetAsyncError")?,
                all_reduce: *library.get(b"ncclAllReduce")?,
                reduce_scatter: *library.get(b"ncclReduceScatter")?,
                all_gather: *library.get(b"ncclAllGather")?,
                broadcast: *library.get(b"ncclBroadcast")?,
                _library: library,
            })
        }
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 || status == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: the function takes every number and returns a constant text.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        Err(format!("NCCL: {}; NCCL_DEBUG=INFO shows more", text.to_string_lossy()))
    }

    /// An id for a new communicator; this process then waits for the other ranks to connect.
    pub(super) fn unique_id(&self) -> Result<UniqueId, String> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the place outlives the call.
        self.check(unsafe { (self.unique_id)(&mut id) })?;
        Ok(id)
    }

    /// Waits until every rank has called this, on its GPU, whose context is current.
    pub(super) fn join(&'static self, id: UniqueId, rank: usize, size: usize) -> Result<Communicator, String> {
        let mut pointer = ptr::null_mut();
        // SAFETY: the place outlives the call; the id is one of rank 0's.
        self.check(unsafe { (self.init_rank)(&mut pointer, size as c_int, id, rank as c_int) })?;
        Ok(Communicator { api: self, rank, pointer })
    }
}

impl Communicator {
    /// Starts an operation on a stream.
    ///
    /// # Safety
    /// The GPU's context is current, the stream is of it, and the elements lie at the address until the stream has come to the end of it.
    pub(super) unsafe fn start(
        &self,
        operation: Operation,
        address: u64,
        count: usize,
        of: Type,
        stream: Stream,
    ) -> Result<(), String> {
        let (api, comm, dtype) = (self.api, self.pointer, of as c_uint);
        let share = address + (self.rank * count * of.bytes()) as u64;
        // SAFETY: by the caller's promise. In place means, for shares, that the one of this rank lies in its place in the whole.
        let status = unsafe {
            match operation {
                Operation::AllReduce => (api.all_reduce)(address, address, count, dtype, SUM, comm, stream),
                Operation::ReduceScatter => (api.reduce_scatter)(address, share, count, dtype, SUM, comm, stream),
                Operation::AllGather => (api.all_gather)(share, address, count, dtype, comm, stream),
                Operation::Broadcast(root) => {
                    (api.broadcast)(address, address, count, dtype, root as c_int, comm, stream)
                }
            }
        };
        api.check(status)
    }

    /// What went wrong since, beside the calls.
    pub(super) fn trouble(&self) -> Result<(), String> {
        let mut state = 0;
        // SAFETY: the communicator is alive and the place outlives the call.
        self.api.check(unsafe { (self.api.async_error)(self.pointer, &mut state) })?;
        self.api.check(state)
    }

    /// Ends the operations under way without the other ranks, so that the GPU's streams go on.
    pub(super) fn abort(self) {
        // SAFETY: used up here, and not destroyed too. There is nothing to do about an error.
        unsafe { (self.api.abort)(self.pointer) };
    }

    /// Gives it back after the last operation. All ranks do.
    pub(super) fn destroy(self) {
        // SAFETY: as in `abort`.
        unsafe { (self.api.destroy)(self.pointer) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_with_its_cure() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let environment = Environment {
            nvrtc: None,
            cublaslt: None,
            nccl: None,
            loader: false,
            toolkits: Vec::new(),
            pythons: Vec::new(),
            cache: folder.path().to_owned(),
            offline: true,
        };
        let error = Api::provide(&environment).err().expect("there is no library").to_string();
        assert!(error.contains("pip install nvidia-nccl") && error.contains("PACKSCAN_NCCL"), "{error}");

        let file = folder.path().join("libnccl.so.2");
        let wrong = Environment { nccl: Some(file.clone()), ..environment };
        assert!(matches!(Api::provide(&wrong), Err(Error::Setting { .. })));
        std::fs::write(file, "no library").expect("the folder can be written");
        assert!(matches!(Api::provide(&wrong), Err(Error::Library { .. })));
    }
}
