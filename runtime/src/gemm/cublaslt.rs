//! Products on a GPU, through cuBLASLt.
//!
//! cuBLASLt thinks in columns: memory that holds an `(r, c)` matrix by rows holds its transpose, `(c, r)`, by columns. So `c = a * b`
//! by rows is asked for as `c^T = b^T * a^T` by columns: the operands change places, and nothing is moved or transposed in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::api::{Algorithm, Api, Call, Descriptor, Matmul, Preference, REDUCE_IN_F32};
use super::{Gemm, Operand};
use crate::{Buffer, Cuda, Device, Dtype, Error, Result, View};

/// What cuBLASLt may use beside the tensors: NVIDIA's advice for Hopper (cuBLAS library, `cublasSetWorkspace`).
const WORKSPACE_BYTES: usize = 32 << 20;

/// The algorithms of a product among which one can be chosen.
const CHOICES: usize = 64;

/// cuBLASLt on one GPU.
pub(super) struct CublasLt {
    cuda: Arc<Cuda>,
    api: &'static Api,
    handle: Descriptor,
    /// One for all products: they run on one stream, one after the other.
    workspace: Buffer,
    plans: RefCell<HashMap<Key, Plan>>,
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // The handle is closed in its own context; without one there is nothing left to close.
        let _ = self.cuda.stream();
    }
}

/// All that may decide which algorithm is best.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix,
    b: Matrix,
    c: Matrix,
}

impl Key {
    fn of(&Gemm { m, n, k, a, b, c, .. }: &Gemm<'_>) -> Key {
        Key { m, n, k, a: Matrix::of(a), b: Matrix::of(b), c: Matrix::of(Operand::plain(c)) }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Matrix {
    dtype: Dtype,
    transposed: bool,
    /// By rows.
    rows: usize,
    cols: usize,
    stride: usize,
    /// The largest power of two, up to 256, that divides its address.
    alignment_bytes: u32,
}

impl Matrix {
    fn of(Operand { view, transposed }: Operand<'_>) -> Matrix {
        Matrix {
            dtype: view.buffer.dtype(),
            transposed,
            rows: view.rows,
            cols: view.cols,
            stride: view.stride,
            alignment_bytes: 1 << view.row_address(0).trailing_zeros().min(8),
        }
    }
}

/// A shape with the algorithm that was chosen for it, once.
struct Plan {
    matmul: Descriptor,
    /// b, a and c: cuBLASLt's A, B and D
    layouts: [Descriptor; 3],
    algorithm: Algorithm,
}

impl CublasLt {
    pub(super) fn new(cuda: &Arc<Cuda>, device: &Device) -> Result<Self> {
        let api = Api::get()?;
        cuda.stream()?;
        let handle = api.handle().map_err(|why| Error::Cuda { doing: "opening cuBLASLt".to_owned(), why })?;
        let workspace = Buffer::unwritten(device, Dtype::U32, WORKSPACE_BYTES / Dtype::U32.bytes())?;
        Ok(CublasLt { cuda: cuda.clone(), api, handle, workspace, plans: RefCell::default() })
    }

    /// Multiplies tensors that are checked, on this GPU, with an element in `c`.
    pub(super) fn multiply(&self, gemm: &Gemm<'_>) -> Result<()> {
        // cuBLASLt knows no empty sums.
        if gemm.k == 0 {
            return if gemm.accumulate { Ok(()) } else { self.zero(&gemm.c) };
        }
        let failed = |why| Error::Cuda { doing: format!("multiplying {gemm}"), why };
        let stream = self.cuda.stream()?;
        let Gemm { a, b, c, .. } = *gemm;
        let key = Key::of(gemm);
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(self.plan(&key).map_err(failed)?),
        };
        let call = Call {
            matmul: &plan.matmul,
            layouts: plan.layouts.each_ref(),
            addresses: [b.view, a.view, c].map(|view| view.row_address(0)),
            alpha: gemm.alpha,
            beta: if gemm.accumulate { 1.0 } else { 0.0 },
            algorithm: &plan.algorithm,
            workspace: self.workspace.storage().address(),
            workspace_bytes: WORKSPACE_BYTES,
            stream: stream.cast(),
        };
        // SAFETY: `stream` made the context current; every view has the extent of its layout and lies in a live buffer of this GPU, by
        // `Gemm::check`; the workspace is this context's, which has one stream; the plan is of this key.
        let multiply = || unsafe { self.api.matmul(&self.handle, &call) }.map_err(failed);
        self.cuda.traced(|| gemm.to_string(), multiply)
    }

    /// The names of the `most` algorithms that cuBLASLt thinks best for a product that is checked, the best first.
    pub(super) fn algorithms(&self, gemm: &Gemm<'_>, most: usize) -> Result<Vec<String>> {
        let failed = |why| Error::Cuda { doing: format!("asking for algorithms of {gemm}"), why };
        self.cuda.stream()?;
        let (_, _, algorithms) = self.ask(&Key::of(gemm), most).map_err(failed)?;
        algorithms.iter().map(|algorithm| self.api.name(algorithm)).collect::<Result<_, _>>().map_err(failed)
    }

    /// Multiplies products like this one by the algorithm of that name from now on, if it is among the [`CHOICES`] best.
    pub(super) fn choose(&self, gemm: &Gemm<'_>, name: &str) -> Result<bool> {
        let failed = |why| Error::Cuda { doing: format!("choosing an algorithm for {gemm}"), why };
        self.cuda.stream()?;
        let key = Key::of(gemm);
        let (matmul, layouts, algorithms) = self.ask(&key, CHOICES).map_err(failed)?;
        for algorithm in algorithms {
            if self.api.name(&algorithm).map_err(failed)? == name {
                self.plans.borrow_mut().insert(key, Plan { matmul, layouts, algorithm });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// cuBLASLt's own number.
    pub(super) fn version(&self) -> usize {
        self.api.version()
    }

    fn plan(&self, key: &Key) -> Result<Plan, String> {
        let (matmul, layouts, algorithms) = self.ask(key, 1)?;
        match algorithms.first() {
            Some(&algorithm) => Ok(Plan { matmul, layouts, algorithm }),
            None => Err("cuBLASLt has no algorithm for it; try rows that start at multiples of 16 bytes".to_owned()),
        }
    }

    /// The descriptors of a product, and what cuBLASLt thinks best for it.
    fn ask(&self, key: &Key, most: usize) -> Result<(Descriptor, [Descriptor; 3], Vec<Algorithm>), String> {
        let api = self.api;
        let transposed = [(Matmul::TransposeA, key.b.transposed), (Matmul::TransposeB, key.a.transposed)];
        let matmul = api.matmul_descriptor(transposed)?;
        // By columns, the rows of a tensor are columns.
        let layout = |matrix: &Matrix| api.layout(matrix.dtype, matrix.cols, matrix.rows, matrix.stride);
        let layouts = [layout(&key.b)?, layout(&key.a)?, layout(&key.c)?];
        let preferences = [
            (Preference::ReductionSchemes, REDUCE_IN_F32),
            (Preference::AlignmentA, key.b.alignment_bytes),
            (Preference::AlignmentB, key.a.alignment_bytes),
            (Preference::AlignmentC, key.c.alignment_bytes),
            (Preference::AlignmentD, key.c.alignment_bytes),
        ];
        let algorithms =
            api.algorithms(&self.handle, &matmul, layouts.each_ref(), WORKSPACE_BYTES, &preferences, most)?;
        Ok((matmul, layouts, algorithms))
    }

    fn zero(&self, view: &View<'_>) -> Result<()> {
        let bytes = view.buffer.dtype().bytes();
        self.cuda.zero_rows(view.row_address(0), view.rows, view.cols * bytes, view.stride * bytes)
    }
}
