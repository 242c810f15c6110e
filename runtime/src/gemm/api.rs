//! The functions of cuBLASLt that packscan calls, bound by hand from a library that is already loaded.
//!
//! cudarc binds them too, but looks for the library by itself and panics where it finds none; the few that are needed are
//! bound here, as NVRTC's are, from the file that [`find`] found. Names, types and numbers are those of `cublasLt.h`, unchanged
//! from CUDA 11.4 to 13.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library as Loaded;

use crate::nvrtc::Once;
use crate::nvrtc::find::{Environment, Library, find};
use crate::{Dtype, Error, Result};

type Status = c_int;
/// A handle or descriptor: a pointer that only the library looks behind.
pub(super) type Opaque = *mut c_void;

/// `CUBLAS_COMPUTE_32F`: operands are multiplied as they are, f32 is not cut to TF32, and sums are in f32.
const COMPUTE_32F: c_uint = 68;

/// `CUDA_R_32F`, `CUDA_R_16F`, `CUDA_R_16BF`
const fn data_type(dtype: Dtype) -> c_uint {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 2,
        Dtype::Bf16 => 14,
        Dtype::U32 => unreachable!(),
    }
}

/// What a descriptor of a product says besides the types.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Matmul {
    /// `CUBLASLT_MATMUL_DESC_TRANSA`
    TransposeA = 3,
    /// `CUBLASLT_MATMUL_DESC_TRANSB`
    TransposeB = 4,
}

/// What an algorithm must keep.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Preference {
    /// `CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK`, 32 bits
    ReductionSchemes = 3,
    /// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES`, 32 bits
    AlignmentA = 5,
    /// Of B.
    AlignmentB = 6,
    /// Of C.
    AlignmentC = 7,
    /// Of D.
    AlignmentD = 8,
}

/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, 64 bits
const MAX_WORKSPACE_BYTES: c_uint = 1;
/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: where a sum is split, its parts are kept and added in f32, in a fixed order.
pub(super) const REDUCE_IN_F32: u32 = 2;

/// `cublasLtMatmulAlgo_t`: an algorithm, to be copied as it is.
pub(super) type Algorithm = [u64; 8];

/// What tells one algorithm from another: a letter for names, the number of `cublasLtMatmulAlgoConfigAttributes_t` and its bytes. The last two
/// are there from CUDA 11.8 on.
const CONFIGURATION: [(&str, c_uint, usize); 9] = [
    ("a", 0, 4),
    // `TILE_ID` and `STAGES_ID`
    ("t", 1, 4),
    ("s", 6, 4),
    // `SPLITK_NUM` and `REDUCTION_SCHEME`
    ("k", 2, 4),
    ("r", 3, 4),
    // `CTA_SWIZZLING`, `CUSTOM_OPTION`, `INNER_SHAPE_ID` and `CLUSTER_SHAPE_ID`
    ("z", 4, 4),
    ("o", 5, 4),
    ("i", 7, 2),
    ("c", 8, 2),
];

/// `cublasLtMatmulHeuristicResult_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct Heuristic {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

impl Heuristic {
    const NONE: Heuristic = Heuristic { algorithm: [0; 8], workspace_bytes: 0, state: 0, waves: 0.0, reserved: [0; 4] };
}

type Create = unsafe extern "C" fn(*mut Opaque) -> Status;
type Destroy = unsafe extern "C" fn(Opaque) -> Status;
type SetAttribute = unsafe extern "C" fn(Opaque, c_uint, *const c_void, usize) -> Status;

/// cuBLASLt's functions.
pub(super) struct Api {
    status_string: unsafe extern "C" fn(Status) -> *const c_char,
    version: unsafe extern "C" fn() -> usize,
    create: Create,
    destroy: Destroy,
    matmul_create: unsafe extern "C" fn(*mut Opaque, c_uint, c_uint) -> Status,
    matmul_set: SetAttribute,
    matmul_destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Opaque, c_uint, u64, u64, i64) -> Status,
    layout_destroy: Destroy,
    preference_create: Create,
    preference_set: SetAttribute,
    preference_destroy: Destroy,
    heuristic: unsafe extern "C" fn(
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status,
    check: unsafe extern "C" fn(
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        Opaque,
        *const Algorithm,
        *mut Heuristic,
    ) -> Status,
    configuration: unsafe extern "C" fn(*const Algorithm, c_uint, *mut c_void, usize, *mut usize) -> Status,
    matmul: unsafe extern "C" fn(
        Opaque,
        Opaque,
        *const f32,
        u64,
        Opaque,
        u64,
        Opaque,
        *const f32,
        u64,
        Opaque,
        u64,
        Opaque,
        *const Algorithm,
        u64,
        usize,
        Opaque,
    ) -> Status,
    /// Declared last: the functions above live in it.
    _library: Loaded,
}

/// A product for [`Api::matmul`]: `d = alpha * op(a) * op(b) + beta * d`, addresses on the GPU, matrices column-major.
pub(super) struct Call<'a> {
    pub(super) matmul: &'a Descriptor,
    /// a, b, d
    pub(super) layouts: [&'a Descriptor; 3],
    /// a, b, d
    pub(super) addresses: [u64; 3],
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) algorithm: &'a Algorithm,
    pub(super) workspace: u64,
    pub(super) workspace_bytes: usize,
    pub(super) stream: Opaque,
}

/// A thing that cuBLASLt made, destroyed with this value.
pub(super) struct Descriptor {
    pointer: Opaque,
    destroy: Destroy,
}

// SAFETY: cuBLASLt keeps nothing that belongs to a thread.
unsafe impl Send for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by the function that belongs to `destroy`, and destroyed once. The library is never unloaded. An error would mean
        // that nothing is left to destroy.
        unsafe { (self.destroy)(self.pointer) };
    }
}

impl Api {
    /// The cuBLASLt of this process: the first call finds it. A failed search is repeated by the next call.
    pub(super) fn get() -> Result<&'static Api> {
        static API: Once<Api> = Once::new();
        API.get(Api::provide)
    }

    fn provide(environment: &Environment) -> Result<Api> {
        let search = find(Library::CublasLt, environment)?;
        let Some(found) = search.found else { return Err(Error::NoCublasLt { looked: search.looked }) };
        Api::bind(found.loaded).map_err(|error| Library::CublasLt.unusable(found.path, error))
    }

    fn bind(library: Loaded) -> Result<Api, libloading::Error> {
        // SAFETY: the names and types are those of cublasLt.h (see above); device pointers, which the header calls `void *`, are
        // 64-bit numbers; the pointers that are copied out of the library are kept together with it.
        unsafe {
            Ok(Api {
                status_string: *library.get(b"cublasLtGetStatusString")?,
                version: *library.get(b"cublasLtGetVersion")?,
                create: *library.get(b"cublasLtCreate")?,
                destroy: *library.get(b"cublasLtDestroy")?,
                matmul_create: *library.get(b"cublasLtMatmulDescCreate")?,
                matmul_set: *library.get(b"cublasLtMatmulDescSetAttribute")?,
                matmul_destroy: *library.get(b"cublasLtMatmulDescDestroy")?,
                layout_create: *library.get(b"cublasLtMatrixLayoutCreate")?,
                layout_destroy: *library.get(b"cublasLtMatrixLayoutDestroy")?,
                preference_create: *library.get(b"cublasLtMatmulPreferenceCreate")?,
                preference_set: *library.get(b"cublasLtMatmulPreferenceSetAttribute")?,
                preference_destroy: *library.get(b"cublasLtMatmulPreferenceDestroy")?,
                heuristic: *library.get(b"cublasLtMatmulAlgoGetHeuristic")?,
                check: *library.get(b"cublasLtMatmulAlgoCheck")?,
                configuration: *library.get(b"cublasLtMatmulAlgoConfigGetAttribute")?,
                matmul: *library.get(b"cublasLtMatmul")?,
                _library: library,
            })
        }
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function takes every number and returns a constant text.
        let text = unsafe { CStr::from_ptr((self.status_string)(status)) };
        Err(text.to_string_lossy().into_owned())
    }

    fn made(&self, destroy: Destroy, make: impl FnOnce(*mut Opaque) -> Status) -> Result<Descriptor, String> {
        let mut pointer = ptr::null_mut();
        self.check(make(&mut pointer))?;
        Ok(Descriptor { pointer, destroy })
    }

    /// A handle for the GPU whose context is current.
    pub(super) fn handle(&self) -> Result<Descriptor, String> {
        // SAFETY: the pointer is to a place that outlives the call; so below.
        self.made(self.destroy, |out| unsafe { (self.create)(out) })
    }

    /// A product in f32, with a yes or no for each operand to transpose.
    pub(super) fn matmul_descriptor(&self, transposed: [(Matmul, bool); 2]) -> Result<Descriptor, String> {
        let scale = data_type(Dtype::F32);
        // SAFETY: as for `handle`; the numbers are of the header's enumerations.
        let matmul = self.made(self.matmul_destroy, |out| unsafe { (self.matmul_create)(out, COMPUTE_32F, scale) })?;
        for (which, transposed) in transposed {
            // `CUBLAS_OP_N` and `CUBLAS_OP_T`
            let operation = transposed as i32;
            // SAFETY: both attributes are 32 bits, copied during the call.
            self.check(unsafe {
                (self.matmul_set)(matmul.pointer, which as c_uint, (&raw const operation).cast(), 4)
            })?;
        }
        Ok(matmul)
    }

    /// A column-major matrix whose columns start `stride` elements apart.
    pub(super) fn layout(&self, dtype: Dtype, rows: usize, cols: usize, stride: usize) -> Result<Descriptor, String> {
        // SAFETY: as for `handle`.
        self.made(self.layout_destroy, |out| unsafe {
            (self.layout_create)(out, data_type(dtype), rows as u64, cols as u64, stride as i64)
        })
    }

    /// The `most` algorithms that cuBLASLt thinks best for matrices `a`, `b` and `d`, the best first; none if it has none.
    pub(super) fn algorithms(
        &self,
        handle: &Descriptor,
        matmul: &Descriptor,
        [a, b, d]: [&Descriptor; 3],
        workspace_bytes: usize,
        preferences: &[(Preference, u32)],
        most: usize,
    ) -> Result<Vec<Algorithm>, String> {
        // SAFETY: as for `handle`.
        let wanted = self.made(self.preference_destroy, |out| unsafe { (self.preference_create)(out) })?;
        let bytes = workspace_bytes as u64;
        // SAFETY: the attribute is 64 bits, copied during the call.
        self.check(unsafe {
            (self.preference_set)(wanted.pointer, MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), 8)
        })?;
        for (which, value) in preferences {
            // SAFETY: these attributes are 32 bits, copied during the call.
            self.check(unsafe {
                (self.preference_set)(wanted.pointer, *which as c_uint, ptr::from_ref(value).cast(), 4)
            })?;
        }
        let mut best = vec![Heuristic::NONE; most];
        let mut found = 0;
        // SAFETY: all descriptors are alive, and there is room for the results that are asked for.
        let status = unsafe {
            (self.heuristic)(
                handle.pointer,
                matmul.pointer,
                a.pointer,
                b.pointer,
                d.pointer,
                d.pointer,
                wanted.pointer,
                most as c_int,
                best.as_mut_ptr(),
                &mut found,
            )
        };
        // `CUBLAS_STATUS_NOT_SUPPORTED` is how it says that it has none.
        if status == 15 {
            return Ok(Vec::new());
        }
        self.check(status)?;
        best.truncate(found as usize);
        Ok(best.iter().filter(|one| one.state == 0).map(|one| one.algorithm).collect())
    }

    /// Whether an algorithm that was found for other extents multiplies matrices `a`, `b` and `d` too, within a workspace.
    pub(super) fn fits(
        &self,
        handle: &Descriptor,
        matmul: &Descriptor,
        [a, b, d]: [&Descriptor; 3],
        algorithm: &Algorithm,
        workspace_bytes: usize,
    ) -> bool {
        let mut result = Heuristic::NONE;
        // SAFETY: all descriptors are alive, the algorithm is cuBLASLt's own, and there is room for the result.
        let status = unsafe {
            (self.check)(
                handle.pointer,
                matmul.pointer,
                a.pointer,
                b.pointer,
                d.pointer,
                d.pointer,
                algorithm,
                &mut result,
            )
        };
        status == 0 && result.state == 0 && result.workspace_bytes <= workspace_bytes
    }

    /// What an algorithm is called: `a66-t20-s36-k1-r0-z0-o0-i0-c2`. It means something to one version of cuBLASLt.
    pub(super) fn name(&self, algorithm: &Algorithm) -> Result<String, String> {
        let mut words = Vec::new();
        for (letter, which, bytes) in CONFIGURATION {
            let (mut value, mut written) = (0u32, 0);
            // SAFETY: the attribute is of so many bytes, no more than `value` has, whose first are its lowest on all that has a GPU.
            self.check(unsafe {
                (self.configuration)(algorithm, which, (&raw mut value).cast(), bytes, &mut written)
            })?;
            words.push(format!("{letter}{value}"));
        }
        Ok(words.join("-"))
    }

    /// `cublasLtGetVersion`: 130101 for 13.1.1
    pub(super) fn version(&self) -> usize {
        // SAFETY: it takes nothing and returns a number.
        unsafe { (self.version)() }
    }

    /// Multiplies on the call's stream.
    ///
    /// # Safety
    /// The handle's context is current, the matrices lie at their addresses with the extents of their layouts, nobody else uses
    /// the workspace on another stream, and the algorithm was found for these descriptors or [fits](Api::fits) them.
    pub(super) unsafe fn matmul(&self, handle: &Descriptor, call: &Call<'_>) -> Result<(), String> {
        let ([a, b, d], [at_a, at_b, at_d]) = (call.layouts, call.addresses);
        // SAFETY: by the caller's promise; the two numbers are read during the call.
        self.check(unsafe {
            (self.matmul)(
                handle.pointer,
                call.matmul.pointer,
                &call.alpha,
                at_a,
                a.pointer,
                at_b,
                b.pointer,
                &call.beta,
                at_d,
                d.pointer,
                at_d,
                d.pointer,
                call.algorithm,
                call.workspace,
                call.workspace_bytes,
                call.stream,
            )
        })
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
        assert!(error.contains("pip install nvidia-cublas") && error.contains("PACKSCAN_CUBLASLT"), "{error}");

        let wrong = Environment { cublaslt: Some(folder.path().join("libcublasLt.so.13")), ..environment.clone() };
        assert!(matches!(Api::provide(&wrong), Err(Error::Setting { .. })));
        std::fs::write(folder.path().join("libcublasLt.so.13"), "no library").expect("the folder can be written");
        assert!(matches!(Api::provide(&wrong), Err(Error::Library { .. })));
    }
}
