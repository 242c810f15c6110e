//! [`Gemm`]: matrix products of row-major tensors, `c = alpha * a * b` or `c += alpha * a * b`.
//!
//! Products are summed in f32 whatever the operands are, and only the finished sum is rounded to the type of `c`; cuBLASLt also
//! rounds it once more on the way to a `c` in half precision that it is added to. The same call gives the same bits every time: on a GPU
//! because cuBLASLt's algorithm is chosen once for each shape and splits no sum in a type other than f32, on the CPU because the order of
//! a sum depends on the shape alone and not on the number of threads.

mod api;
mod choice;
mod cpu;
mod cublaslt;

use std::fmt;

use crate::device::Storage;
use crate::launch::same_device;
use crate::{Buffer, Device, Dtype, Error, Result, View};
use cublaslt::CublasLt;

/// One factor of a product: rows in memory, used as they are or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    view: View<'a>,
    transposed: bool,
}

impl<'a> Operand<'a> {
    /// The matrix whose rows these are.
    pub fn plain(view: View<'a>) -> Self {
        Operand { view, transposed: false }
    }

    /// The matrix whose columns these rows are; nothing is moved.
    pub fn transposed(view: View<'a>) -> Self {
        Operand { view, transposed: true }
    }
}

/// A product of two matrices. A layer `y (T, n) = x (T, k) * w (n, k)^T` and its gradients are:
///
/// ```
/// # use packscan_runtime::{Buffer, Device, Dtype, Gemm, GemmContext, Operand, Result};
/// # fn main() -> Result<()> {
/// # let device = Device::Cpu;
/// # let (t, n, k) = (2, 3, 4);
/// # let [x, dx] = [t * k; 2].map(|len| Buffer::from_slice(&device, &vec![1.0f32; len]).unwrap());
/// # let [w, dw] = [n * k; 2].map(|len| Buffer::from_slice(&device, &vec![1.0f32; len]).unwrap());
/// # let [y, dy] = [t * n; 2].map(|len| Buffer::from_slice(&device, &vec![1.0f32; len]).unwrap());
/// # let (x, dx, w, dw, y, dy) = (x.rows(t)?, dx.rows(t)?, w.rows(n)?, dw.rows(n)?, y.rows(t)?, dy.rows(t)?);
/// use Operand as Op;
/// let context = GemmContext::new(&device)?;
/// // y = x * w^T
/// Gemm { m: t, n, k, a: Op::plain(x), b: Op::transposed(w), c: y, alpha: 1.0, accumulate: false }.run(&context)?;
/// // dx = dy * w
/// Gemm { m: t, n: k, k: n, a: Op::plain(dy), b: Op::plain(w), c: dx, alpha: 1.0, accumulate: false }.run(&context)?;
/// // dw += dy^T * x
/// Gemm { m: n, n: k, k: t, a: Op::transposed(dy), b: Op::plain(x), c: dw, alpha: 1.0, accumulate: true }.run(&context)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// Rows of `a` and `c`.
    pub m: usize,
    /// Columns of `b` and `c`.
    pub n: usize,
    /// Columns of `a`, rows of `b`: products in a sum. Where it is 0, sums are 0.
    pub k: usize,
    /// `[m, k]`, or `[k, m]` transposed; f32, f16 or bf16
    pub a: Operand<'a>,
    /// `[k, n]`, or `[n, k]` transposed; of `a`'s type
    pub b: Operand<'a>,
    /// `[m, n]`, f32 or of `a`'s type; overlaps neither `a` nor `b`
    pub c: View<'a>,
    /// What every sum is multiplied by.
    pub alpha: f32,
    /// Whether to add to `c` or to overwrite it; what is overwritten is not read.
    pub accumulate: bool,
}

/// The id of a product in messages, `gemm-m3-n4-k5-bf16-f32`.
impl fmt::Display for Gemm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gemm { m, n, k, a, c, .. } = self;
        write!(f, "gemm-m{m}-n{n}-k{k}-{}-{}", a.view.buffer.dtype(), c.buffer.dtype())
    }
}

impl Gemm<'_> {
    /// Multiplies on the device of the context. On a GPU it returns before the product is there, and whatever is launched
    /// later finds it.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor of another type, shape or device than the product needs, for a `c` that overlaps an
    /// operand and for an `alpha` that is not finite; [`Error::Cuda`] if cuBLASLt refuses.
    pub fn run(&self, context: &GemmContext) -> Result<()> {
        self.check(&context.device)?;
        if self.c.is_empty() {
            return Ok(());
        }
        match (&context.device, &context.cublaslt) {
            (Device::Cuda(_), Some(cublaslt)) => cublaslt.multiply(self),
            (Device::Emulator(_), _) => self.run_on_copies(),
            _ => {
                cpu::multiply(self);
                Ok(())
            }
        }
    }

    /// The emulator watches packscan's own kernels. No kernel of packscan multiplies matrices, so there is nothing to watch: the
    /// CPU does it on copies, and what it writes counts as written by the host.
    fn run_on_copies(&self) -> Result<()> {
        let (a, b, c) = (host_copy(&self.a.view)?, host_copy(&self.b.view)?, host_copy(&self.c)?);
        let a = Operand { view: a.rows(self.a.view.rows)?, ..self.a };
        let b = Operand { view: b.rows(self.b.view.rows)?, ..self.b };
        cpu::multiply(&Gemm { a, b, c: c.rows(self.m)?, ..*self });
        let row_bytes = self.n * c.dtype().bytes();
        let mut bytes = vec![0; self.m * row_bytes];
        c.storage().read(0, &mut bytes)?;
        let Storage::Emulator { device, .. } = self.c.buffer.storage() else { unreachable!("checked to be emulated") };
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            device.memory().write(self.c.row_address(row), bytes);
        }
        Ok(())
    }

    fn check(&self, device: &Device) -> Result<()> {
        let Gemm { m, n, k, a, b, c, .. } = *self;
        let wrong = |tensor, shape, (got, rule)| Error::Tensor { id: self.to_string(), tensor, shape, got, rule };
        if !self.alpha.is_finite() {
            let got = format!("it is {}", self.alpha);
            return Err(wrong("alpha", "[]", (got, "it must be a finite number".to_owned())));
        }
        let a = match a.transposed {
            false => Expected { name: "a", shape: "[m, k]", view: a.view, rows: m, cols: k },
            true => Expected { name: "a", shape: "[k, m]", view: a.view, rows: k, cols: m },
        };
        let b = match b.transposed {
            false => Expected { name: "b", shape: "[k, n]", view: b.view, rows: k, cols: n },
            true => Expected { name: "b", shape: "[n, k]", view: b.view, rows: n, cols: k },
        };
        let c = Expected { name: "c", shape: "[m, n]", view: c, rows: m, cols: n };
        let io = a.view.buffer.dtype();
        for (tensor, types) in [(&a, &[Dtype::F32, Dtype::F16, Dtype::Bf16][..]), (&b, &[io]), (&c, &[Dtype::F32, io])]
        {
            tensor.check(device, types).map_err(|why| wrong(tensor.name, tensor.shape, why))?;
        }
        for operand in [&a, &b] {
            if operand.view.overlaps(&c.view) {
                let rule = format!("it is written while {0} is read; give {0} or c memory of its own", operand.name);
                return Err(wrong(c.name, c.shape, (format!("it overlaps {}", operand.name), rule)));
            }
        }
        Ok(())
    }
}

/// What a product needs of one of its tensors.
struct Expected<'a> {
    name: &'static str,
    shape: &'static str,
    view: View<'a>,
    rows: usize,
    cols: usize,
}

impl Expected<'_> {
    /// An error is what the tensor has and what it must have.
    fn check(&self, device: &Device, types: &[Dtype]) -> Result<(), (String, String)> {
        let Expected { view, rows, cols, .. } = self;
        if !same_device(view.buffer.device(), device) {
            let got = format!("it is on {}", view.buffer.device());
            return Err((got, format!("the context is on {device}; put both on one device")));
        }
        if !types.contains(&view.buffer.dtype()) {
            let known: Vec<String> = types.iter().map(Dtype::to_string).collect();
            return Err((format!("it holds {}", view.buffer.dtype()), format!("it must hold {}", known.join(" or "))));
        }
        // Rows without an element have no length, and the other way round.
        if view.shape() != (*rows, *cols) && !(view.is_empty() && rows * cols == 0) {
            let got = format!("it has {} rows of {}", view.rows, view.cols);
            return Err((got, format!("it must have {rows} rows of {cols}; name its columns, or transpose it")));
        }
        Ok(())
    }
}

/// The rows of an emulated view, one right after the other, in host memory.
fn host_copy(view: &View<'_>) -> Result<Buffer> {
    let Storage::Emulator { device, .. } = view.buffer.storage() else { unreachable!("checked to be emulated") };
    let row_bytes = view.cols * view.buffer.dtype().bytes();
    let mut bytes = vec![0; view.rows * row_bytes];
    if row_bytes > 0 {
        for (row, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
            device.memory().read(view.row_address(row), bytes);
        }
    }
    let copy = Buffer::unwritten(&Device::Cpu, view.buffer.dtype(), view.rows * view.cols)?;
    copy.storage().write(0, &bytes)?;
    Ok(copy)
}

/// What products on one device share: on a GPU cuBLASLt, its workspace of 32 MiB and the algorithm of every shape so far. Make one
/// for each device and keep it; like a buffer it is used by one thread at a time.
pub struct GemmContext {
    device: Device,
    /// Only on a GPU.
    cublaslt: Option<CublasLt>,
}

impl GemmContext {
    /// Prepares a device. On a GPU this looks for cuBLASLt, where [`find`](crate::nvrtc::find) says.
    ///
    /// # Errors
    /// [`Error::NoCublasLt`] if a GPU is asked for and the library is nowhere, [`Error::Setting`] and [`Error::Library`] if what was
    /// found cannot be used, [`Error::Cuda`] if the GPU has no room.
    pub fn new(device: &Device) -> Result<Self> {
        let cublaslt = match device {
            Device::Cuda(cuda) => Some(CublasLt::new(cuda, device)?),
            Device::Emulator(_) | Device::Cpu => None,
        };
        Ok(GemmContext { device: device.clone(), cublaslt })
    }

    /// cuBLASLt's version as it says it, 130101 for 13.1.1; `None` where it is not used.
    pub fn cublaslt_version(&self) -> Option<usize> {
        self.cublaslt.as_ref().map(CublasLt::version)
    }

    /// The ids of the `most` algorithms that cuBLASLt thinks best for a product, the best first. The same cuBLASLt on the same GPU gives the
    /// same. None for a product without elements, and where there is no GPU.
    ///
    /// # Errors
    /// As [`Gemm::run`].
    pub fn algorithms(&self, gemm: &Gemm<'_>, most: usize) -> Result<Vec<String>> {
        gemm.check(&self.device)?;
        match &self.cublaslt {
            Some(cublaslt) if gemm.m * gemm.n * gemm.k > 0 => cublaslt.algorithms(gemm, most),
            _ => Ok(Vec::new()),
        }
    }

    /// Says by which algorithms products are multiplied from now on: ids by [`Gemm::kind`]. An id holds for its version of cuBLASLt and for about
    /// as many tokens as it was found at. Where it does not hold or cannot be had, and for kinds that are not named, cuBLASLt's own choice
    /// does. None of this looks at a clock: the same choices on the same GPU give the same bits.
    pub fn choose<'a>(&self, choices: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let Some(cublaslt) = &self.cublaslt else { return };
        let known = choices.into_iter().filter_map(|(kind, id)| Some((kind.to_owned(), id.parse().ok()?)));
        cublaslt.choose(known.collect());
    }

    /// The id of the algorithm that multiplies a product: that which was chosen, or one that says that cuBLASLt chooses. None for a product
    /// without elements, and where there is no GPU.
    ///
    /// # Errors
    /// As [`Gemm::run`].
    pub fn algorithm(&self, gemm: &Gemm<'_>) -> Result<Option<String>> {
        gemm.check(&self.device)?;
        match &self.cublaslt {
            Some(cublaslt) if gemm.m * gemm.n * gemm.k > 0 => cublaslt.algorithm(gemm).map(Some),
            _ => Ok(None),
        }
    }
}

impl fmt::Debug for GemmContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GemmContext(on {})", self.device)
    }
}
