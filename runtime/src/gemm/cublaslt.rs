//! Products on a GPU, through cuBLASLt.
//!
//! cuBLASLt thinks in columns: memory that holds an `(r, c)` matrix by rows holds its transpose, `(c, r)`, by columns. So `c = a * b`
//! by rows is asked for as `c^T = b^T * a^T` by columns: the operands change places, and nothing is moved or transposed in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::api::{Algorithm, Api, Call, Descriptor, Matmul, Preference, REDUCE_IN_F32};
use super::choice::Choice;
use super::{Gemm, Operand};
use crate::{Buffer, Cuda, Device, Dtype, Error, Result, View};

/// What cuBLASLt may use beside the tensors: NVIDIA's advice for Hopper (cuBLAS library, `cublasSetWorkspace`).
const WORKSPACE_BYTES: usize = 32 << 20;

/// The algorithms of a product among which one can be chosen.
const OFFERED: usize = 64;

/// cuBLASLt on one GPU.
pub(super) struct CublasLt {
    cuda: Arc<Cuda>,
    api: &'static Api,
    handle: Descriptor,
    /// One for all products: they run on one stream, one after the other.
    workspace: Buffer,
    plans: RefCell<HashMap<Key, Plan>>,
    /// By kinds of products.
    choices: RefCell<HashMap<String, Choice>>,
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

    /// As [`Gemm::kind`] counts them.
    fn tokens(&self) -> usize {
        if self.a.transposed { self.k } else { self.m }
    }

    /// The same product of more or fewer tokens, which are rows in memory; where both factors are transposed they are columns of `b`.
    fn with_tokens(mut self, tokens: usize) -> Key {
        self.a.rows = tokens;
        match (self.a.transposed, self.b.transposed) {
            (false, _) => (self.m, self.c.rows) = (tokens, tokens),
            (true, false) => (self.k, self.b.rows) = (tokens, tokens),
            (true, true) => (self.k, self.b.cols, self.b.stride) = (tokens, tokens, self.b.stride.max(tokens)),
        }
        self
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

/// What cuBLASLt says of a product.
struct Asked {
    matmul: Descriptor,
    /// As of a [`Plan`].
    layouts: [Descriptor; 3],
    /// The best first.
    algorithms: Vec<Algorithm>,
}

impl CublasLt {
    pub(super) fn new(cuda: &Arc<Cuda>, device: &Device) -> Result<Self> {
        let api = Api::get()?;
        cuda.stream()?;
        let handle = api.handle().map_err(|why| Error::Cuda { doing: "opening cuBLASLt".to_owned(), why })?;
        let workspace = Buffer::unwritten(device, Dtype::U32, WORKSPACE_BYTES / Dtype::U32.bytes())?;
        Ok(CublasLt {
            cuda: cuda.clone(),
            api,
            handle,
            workspace,
            plans: RefCell::default(),
            choices: RefCell::default(),
        })
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
            Entry::Vacant(unknown) => unknown.insert(self.plan(&key, &gemm.kind()).map_err(failed)?.0),
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

    /// The ids of the `most` algorithms that cuBLASLt thinks best for a product that is checked, the best first.
    pub(super) fn algorithms(&self, gemm: &Gemm<'_>, most: usize) -> Result<Vec<String>> {
        let failed = |why| Error::Cuda { doing: format!("asking for algorithms of {gemm}"), why };
        self.cuda.stream()?;
        let key = Key::of(gemm);
        let asked = self.ask(&key, most.min(OFFERED)).map_err(failed)?;
        let mut ids = Vec::new();
        for algorithm in &asked.algorithms {
            let offered = Some((key.tokens(), self.api.name(algorithm).map_err(failed)?));
            let id = Choice { version: self.version(), offered }.to_string();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Chooses algorithms for kinds of products, from the next product on.
    pub(super) fn choose(&self, choices: HashMap<String, Choice>) {
        *self.choices.borrow_mut() = choices;
        self.plans.borrow_mut().clear();
    }

    /// The id of the algorithm that multiplies a product that is checked.
    pub(super) fn algorithm(&self, gemm: &Gemm<'_>) -> Result<String> {
        let failed = |why| Error::Cuda { doing: format!("asking for the algorithm of {gemm}"), why };
        self.cuda.stream()?;
        let key = Key::of(gemm);
        let (_, chosen) = self.plan(&key, &gemm.kind()).map_err(failed)?;
        Ok(chosen.unwrap_or(Choice { version: self.version(), offered: None }).to_string())
    }

    /// cuBLASLt's own number.
    pub(super) fn version(&self) -> usize {
        self.api.version()
    }

    /// By the algorithm that was chosen, where it can be had; else by the first.
    fn plan(&self, key: &Key, kind: &str) -> Result<(Plan, Option<Choice>), String> {
        let Asked { matmul, layouts, algorithms } = self.ask(key, 1)?;
        let choices = self.choices.borrow();
        if let Some(choice) = choices.get(kind)
            && let Some(algorithm) = self.chosen(key, choice)?
            && self.api.fits(&self.handle, &matmul, layouts.each_ref(), &algorithm, WORKSPACE_BYTES)
        {
            return Ok((Plan { matmul, layouts, algorithm }, Some(choice.clone())));
        }
        match algorithms.first() {
            Some(&algorithm) => Ok((Plan { matmul, layouts, algorithm }, None)),
            None => Err("cuBLASLt has no algorithm for it; try rows that start at multiples of 16 bytes".to_owned()),
        }
    }

    /// The algorithm of a choice, of this cuBLASLt and for about as many tokens, as it is offered for as many as it was chosen at. It may not
    /// be offered for other numbers.
    fn chosen(&self, key: &Key, choice: &Choice) -> Result<Option<Algorithm>, String> {
        let Some((tokens, name)) = &choice.offered else { return Ok(None) };
        if choice.version != self.version() || !choice.is_near(key.tokens()) {
            return Ok(None);
        }
        for algorithm in self.ask(&key.with_tokens(*tokens), OFFERED)?.algorithms {
            if self.api.name(&algorithm)? == *name {
                return Ok(Some(algorithm));
            }
        }
        Ok(None)
    }

    /// The descriptors of a product, and what cuBLASLt thinks best for it.
    fn ask(&self, key: &Key, most: usize) -> Result<Asked, String> {
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
        Ok(Asked { matmul, layouts, algorithms })
    }

    fn zero(&self, view: &View<'_>) -> Result<()> {
        let bytes = view.buffer.dtype().bytes();
        self.cuda.zero_rows(view.row_address(0), view.rows, view.cols * bytes, view.stride * bytes)
    }
}
