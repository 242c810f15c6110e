//! [`Product`]: one matrix product of a training step at its real size.

use std::rc::Rc;

use packscan_runtime::{Buffer, Device, Dtype, Gemm, GemmContext, Operand};

use super::data::{Data, Pattern};
use super::slice::some;
use super::{Bench, Problem};
use crate::Result;

/// A layer `y (t, outputs) = x (t, inputs) * w (outputs, inputs)^T`.
#[derive(Clone, Copy)]
struct Layer {
    /// Of its products: forward, and the gradients of x and of w.
    names: [&'static str; 3],
    t: usize,
    inputs: usize,
    /// Elements from one row of x to the next.
    stride: usize,
    outputs: usize,
}

/// The layers of a block and the head, those that take longest first. dt is the first columns of `x_dbl (T, R + 2N)`.
fn layers(problem: &Problem) -> [Layer; 5] {
    let Problem { width: m, channels: d, rank: r, state, vocabulary, logits_rows, .. } = *problem;
    let (t, dbl) = (problem.tokens(), r + 2 * state);
    let layer = |names, t, inputs, outputs| Layer { names, t, inputs, stride: inputs, outputs };
    [
        layer(["in_proj", "in_proj_dx", "in_proj_dw"], t, m, 2 * d),
        layer(["out_proj", "out_proj_dx", "out_proj_dw"], t, d, m),
        layer(["head", "head_dx", "head_dw"], logits_rows.min(t), m, vocabulary),
        layer(["x_proj", "x_proj_dx", "x_proj_dw"], t, d, dbl),
        Layer { stride: dbl, ..layer(["dt_proj", "dt_proj_dx", "dt_proj_dw"], t, r, d) },
    ]
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Input,
    Weight,
}

/// A product of a training step, with its tensors on the device.
pub struct Product {
    /// `in_proj`, `in_proj_dx` or `in_proj_dw`, and so on.
    pub name: &'static str,
    layer: Layer,
    pass: Pass,
    /// x, w and y, of which two are factors.
    patterns: [Rc<Pattern>; 3],
    factors: [Rc<Buffer>; 3],
    result: Rc<Buffer>,
    device: Device,
}

impl Product {
    /// The names of a step's products and their [kinds](Gemm::kind), those that take longest first.
    pub fn kinds(problem: &Problem) -> Vec<(&'static str, String)> {
        let io = problem.io;
        let of_layer = |Layer { names: [forward, dx, dw], inputs, outputs, .. }| {
            [
                (forward, format!("n{outputs}-k{inputs}-nt-{io}-{io}")),
                (dx, format!("n{inputs}-k{outputs}-nn-{io}-{io}")),
                (dw, format!("m{outputs}-n{inputs}-tn-{io}-f32")),
            ]
        };
        layers(problem).into_iter().flat_map(of_layer).collect()
    }

    /// The product of this name.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] where the device has no room.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn new(bench: &Rc<Bench>, name: &str) -> Result<Product> {
        let (layer, pass) = layers(bench.problem())
            .into_iter()
            .find_map(|layer| Some((layer, layer.names.iter().position(|of| *of == name)?)))
            .expect("it is one of Product::kinds");
        let pass = [Pass::Forward, Pass::Input, Pass::Weight][pass];
        let io = bench.problem().io;
        let Layer { names, t, inputs, stride, outputs } = layer;
        // Each layer has factors of its own, by the names of its products.
        let data = [(names[0], t, stride), (names[2], outputs, inputs), (names[1], t, outputs)]
            .map(|(name, rows, cols)| Data::new(name, io, (rows, cols), |random| random.between(-1.0, 1.0)));
        let [x, w, y] = data.each_ref().map(|data| bench.input(data, 0));
        let result = match pass {
            Pass::Forward => bench.room("product_out", 0, io, data[2].len())?,
            Pass::Input => bench.room("product_out", 0, io, data[0].len())?,
            Pass::Weight => bench.room("product_dw", 0, Dtype::F32, data[1].len())?,
        };
        result.zero()?;
        let patterns = data.map(|data| bench.pattern(&data));
        let name = names[pass as usize];
        let device = bench.device().clone();
        Ok(Product { name, layer, pass, patterns, factors: [x?, w?, y?], result, device })
    }

    /// The numbers of tokens at which it is asked for: those of a full pack, and, as packs are never quite full, one in a hundred less. The
    /// head's are those of a chunk, whatever the pack.
    pub fn sizes(&self) -> [usize; 2] {
        let t = self.layer.t;
        [t, if self.layer.names[0] == "head" { t } else { (t - t / 100).max(1) }]
    }

    /// The product for the first `t` tokens; of all its layers' gradients of inputs, x_proj's is added to one that is there.
    ///
    /// # Errors
    /// If there are fewer tokens.
    pub fn gemm(&self, t: usize) -> packscan_runtime::Result<Gemm<'_>> {
        let Layer { names, t: all, inputs, outputs, .. } = self.layer;
        let [x, w, y] = &self.factors;
        let x = x.rows(all)?.rows_at(0, t)?.columns(0, inputs)?;
        let (w, y) = (w.rows(outputs)?, y.rows(all)?.rows_at(0, t)?);
        let (plain, transposed, alpha) = (Operand::plain, Operand::transposed, 1.0);
        Ok(match self.pass {
            Pass::Forward => {
                let c = self.result.rows(all)?.rows_at(0, t)?;
                Gemm { m: t, n: outputs, k: inputs, a: plain(x), b: transposed(w), c, alpha, accumulate: false }
            }
            Pass::Input => {
                let c = self.result.rows(all)?.rows_at(0, t)?.columns(0, inputs)?;
                let accumulate = names[0] == "x_proj";
                Gemm { m: t, n: inputs, k: outputs, a: plain(y), b: plain(w), c, alpha, accumulate }
            }
            Pass::Weight => {
                let c = self.result.rows(outputs)?;
                Gemm { m: outputs, n: inputs, k: t, a: transposed(y), b: plain(x), c, alpha, accumulate: false }
            }
        })
    }

    /// Multiplies, adds the same once more, and compares a slice with sums in f64: some rows and columns, the last of both among them. Where an
    /// element is wrong, says so.
    ///
    /// # Errors
    /// Whatever multiplying fails with.
    pub fn check(&self, context: &GemmContext, t: usize) -> Result<Option<String>> {
        let once = Gemm { accumulate: false, ..self.gemm(t)? };
        self.result.zero()?;
        once.run(context)?;
        Gemm { accumulate: true, ..once }.run(context)?;
        let (out, columns) = (self.result.dtype(), some(once.n));
        for row in some(once.m) {
            let got = once.c.rows_at(row, 1)?.to_f32()?;
            for &column in &columns {
                let got = f64::from(got[column]);
                let (sum, size) = self.sum(row, column, once.k);
                let (want, bound) = (2.0 * sum, bound(sum, size, once.k, out));
                // A NaN is below no bound.
                if !matches!((got - want).abs().partial_cmp(&bound), Some(std::cmp::Ordering::Less)) {
                    return Ok(Some(format!("[{row}, {column}] of {once} is {got}, not {want}, beyond {bound:e}")));
                }
            }
        }
        Ok(None)
    }

    /// An element of the product, and the sum of its terms' sizes.
    fn sum(&self, row: usize, column: usize, k: usize) -> (f64, f64) {
        let Layer { inputs, stride, outputs, .. } = self.layer;
        let [x, w, y] = &self.patterns;
        let term = |p: usize| match self.pass {
            Pass::Forward => (x.at(row * stride + p), w.at(column * inputs + p)),
            Pass::Input => (y.at(row * outputs + p), w.at(p * inputs + column)),
            Pass::Weight => (y.at(p * outputs + row), x.at(p * stride + column)),
        };
        let terms = (0..k).map(term).map(|(a, b)| f64::from(a) * f64::from(b));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }

    /// Milliseconds of so many calls on average over its sizes, which take turns.
    ///
    /// # Errors
    /// Whatever multiplying fails with.
    pub fn samples(&self, context: &GemmContext, launches: usize) -> Result<Vec<f64>> {
        let sizes = self.sizes();
        let gemms = [self.gemm(sizes[0])?, self.gemm(sizes[1])?];
        let mut call = 0;
        let ms = super::timing::samples(&self.device, 2 * launches, || {
            call += 1;
            gemms[call % 2].run(context)
        })?;
        Ok(ms.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect())
    }
}

/// How far twice a sum of `k` products may be off: an f32 operation in a block of a tensor core costs 2^-22 of its terms at most, and the
/// product, and what it is added to, are rounded to the type of the result.
fn bound(sum: f64, size: f64, k: usize, out: Dtype) -> f64 {
    let unit = match out {
        Dtype::F16 => 2f64.powi(-11),
        Dtype::Bf16 => 2f64.powi(-8),
        Dtype::F32 | Dtype::U32 => 2f64.powi(-24),
    };
    let operations = (k + 2) as f64 * 2f64.powi(-22);
    let once = operations / (1.0 - operations) * size;
    let rounded = once + unit * (sum.abs() + once);
    // The first product, the second and their sum.
    2.0 * rounded + unit * 2.0 * (sum.abs() + rounded) + f64::MIN_POSITIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_of_a_step_agrees_with_its_sums_and_a_wrong_one_does_not() {
        let lengths = vec![70, 41];
        let problem = Problem { vocabulary: 50, logits_rows: 30, ..Problem::of_channels(lengths, 32, 4, Dtype::Bf16) };
        let bench = Bench::new(&Device::Cpu, problem).unwrap();
        let context = GemmContext::new(&Device::Cpu).unwrap();
        let kinds = Product::kinds(bench.problem());
        assert_eq!(kinds.len(), 15);
        for (name, kind) in kinds {
            let product = Product::new(&bench, name).unwrap();
            assert_eq!(product.gemm(30).unwrap().kind(), kind, "{name}");
            let sizes = product.sizes();
            let is_head = name.starts_with("head");
            assert_eq!(sizes, if is_head { [30, 30] } else { [111, 110] }, "{name}");
            for t in sizes {
                assert_eq!(product.check(&context, t).unwrap(), None, "{name}");
            }
            assert_eq!(product.samples(&context, 2).unwrap().len(), 2);
            let wrong =
                Product { patterns: product.patterns.each_ref().map(|_| Rc::new(Pattern(vec![1.5]))), ..product };
            assert!(wrong.check(&context, sizes[0]).unwrap().is_some_and(|why| why.starts_with("[0, 0]")), "{name}");
        }
    }
}
