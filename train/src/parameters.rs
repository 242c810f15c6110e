//! The table of parameters, and the flat buffers that it cuts up.
//!
//! Gradients and moments of all parameters lie in one buffer each, so that a step of the optimiser, the norm of the gradients and a reduction
//! over GPUs are a few launches each. The table says what lies where, what it is called (as Hugging Face's `MambaForCausalLM` calls it), how
//! it starts and whether it decays. First come the matrices that products and the embedding read in the type of the activations; then the
//! convolutions' weights, which decay too; then what does not decay, and the `A_log` of all blocks last, side by side.

use std::ops::Range;

use packscan_kernels::adamw::{Kept, halves};
use packscan_runtime::collective::Collective;
use packscan_runtime::{Buffer, Device, Dtype, View};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::{ModelConfig, Result};

/// Elements that every parameter starts at a multiple of: 128 bytes of the smallest type.
const ALIGNMENT: usize = 64;
/// The matrices fill a multiple of so many aligned pieces: 1 to 10 ranks, and 12, 14, 15 and more, can share them out equally.
const SHARES: usize = 2520;

/// Where a parameter lies, and its shape as rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Elements before it.
    pub offset: usize,
    /// The first extent.
    pub rows: usize,
    /// The product of the others, 1 for a vector.
    pub cols: usize,
}

impl Slot {
    /// Elements.
    pub fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Its place in the flat buffer.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.elements()
    }

    /// It in pieces of a few megabytes: what passes through the host takes no copy of a whole tensor there. All but the last have an even
    /// number of elements, as halves of words need it.
    pub fn pieces(self) -> impl Iterator<Item = Slot> {
        const PIECE: usize = 1 << 20;
        let Range { start, end } = self.range();
        (start..end).step_by(PIECE).map(move |offset| Slot { offset, rows: PIECE.min(end - offset), cols: 1 })
    }
}

/// How a parameter starts, as in the Mamba paper's code (`mamba_ssm`, `_init_weights` and `Mamba.__init__`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// All 1.
    Ones,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform between minus and plus this.
    Uniform(f32),
    /// `log(n)` for n = 1..=N in each row.
    LogCount,
    /// The inverse softplus of steps that lie between 0.001 and 0.1, evenly on a logarithmic scale.
    InverseSoftplusOfSteps,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape in a checkpoint; that of the convolution has an axis of 1 in the middle.
    pub shape: Vec<usize>,
    /// Where it lies.
    pub slot: Slot,
    /// How it starts.
    pub start: Start,
    /// Whether weight decay applies: to matrices other than `A_log`.
    pub decays: bool,
}

/// The slots of one block.
#[derive(Clone, Copy, Debug)]
pub struct BlockSlots {
    /// `(M)`
    pub norm: Slot,
    /// `(2D, M)`
    pub in_proj: Slot,
    /// `(D, K)`
    pub conv: Slot,
    /// `(D)`
    pub conv_bias: Slot,
    /// `(R + 2N, D)`
    pub x_proj: Slot,
    /// `(D, R)`
    pub dt_proj: Slot,
    /// `(D)`
    pub dt_bias: Slot,
    /// `(D, N)`
    pub a_log: Slot,
    /// `(D)`
    pub d_skip: Slot,
    /// `(M, D)`
    pub out_proj: Slot,
}

/// The table of a model's parameters.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Its rows, in the order in which they lie in memory.
    pub table: Vec<Parameter>,
    /// `(V, M)`
    pub embedding: Slot,
    /// `(V, M)`, the embedding itself where it is tied.
    pub head: Slot,
    /// Of each block.
    pub blocks: Vec<BlockSlots>,
    /// `(M)`
    pub norm_f: Slot,
    /// Elements from the start that are read in the type of the activations: the embedding, the head and the blocks' matrices.
    pub products: usize,
    /// Elements from the start that decay.
    pub decaying: usize,
    /// Where the `A_log` of all blocks lie.
    pub a_logs: Range<usize>,
    /// Elements of a flat buffer.
    pub elements: usize,
}

/// Builds the table row by row.
#[derive(Default)]
struct Table {
    rows: Vec<Parameter>,
    elements: usize,
}

impl Table {
    fn add(&mut self, name: impl Into<String>, shape: &[usize], start: Start, decays: bool) -> Slot {
        let slot = Slot { offset: self.elements, rows: shape[0], cols: shape[1..].iter().product() };
        self.elements = slot.range().end.next_multiple_of(ALIGNMENT);
        self.rows.push(Parameter { name: name.into(), shape: shape.to_vec(), slot, start, decays });
        slot
    }
}

impl Layout {
    /// The table of a model.
    pub fn of(config: &ModelConfig) -> Layout {
        let ModelConfig { width: m, layers, state: n, taps: k, rank: r, vocabulary: v, tied, .. } = *config;
        let (d, dbl) = (config.channels(), config.dbl());
        let mut table = Table::default();
        let fan = |inputs: usize| (inputs as f32).sqrt().recip();
        let name = |l: usize, what: &str| format!("backbone.layers.{l}.{what}");

        let embedding = table.add("backbone.embeddings.weight", &[v, m], Start::Normal(0.02), true);
        let head = if tied { embedding } else { table.add("lm_head.weight", &[v, m], Start::Uniform(fan(m)), true) };
        let matrices: Vec<[Slot; 4]> = (0..layers)
            .map(|l| {
                // Every block adds to the residual stream: the more there are, the less each starts with.
                let out = Start::Uniform(fan(d) * fan(layers));
                [
                    table.add(name(l, "mixer.in_proj.weight"), &[2 * d, m], Start::Uniform(fan(m)), true),
                    table.add(name(l, "mixer.x_proj.weight"), &[dbl, d], Start::Uniform(fan(d)), true),
                    table.add(name(l, "mixer.dt_proj.weight"), &[d, r], Start::Uniform(fan(r)), true),
                    table.add(name(l, "mixer.out_proj.weight"), &[m, d], out, true),
                ]
            })
            .collect();
        table.elements = table.elements.next_multiple_of(ALIGNMENT * SHARES);
        let products = table.elements;
        let weight = |l| table.add(name(l, "mixer.conv1d.weight"), &[d, 1, k], Start::Uniform(fan(k)), true);
        let convs: Vec<Slot> = (0..layers).map(weight).collect();
        let decaying = table.elements;
        let vectors: Vec<[Slot; 4]> = (0..layers)
            .map(|l| {
                [
                    table.add(name(l, "norm.weight"), &[m], Start::Ones, false),
                    table.add(name(l, "mixer.conv1d.bias"), &[d], Start::Uniform(fan(k)), false),
                    table.add(name(l, "mixer.dt_proj.bias"), &[d], Start::InverseSoftplusOfSteps, false),
                    table.add(name(l, "mixer.D"), &[d], Start::Ones, false),
                ]
            })
            .collect();
        let norm_f = table.add("backbone.norm_f.weight", &[m], Start::Ones, false);
        let first_a_log = table.elements;
        let blocks = (0..layers)
            .map(|l| {
                let [in_proj, x_proj, dt_proj, out_proj] = matrices[l];
                let conv = convs[l];
                let [norm, conv_bias, dt_bias, d_skip] = vectors[l];
                let a_log = table.add(name(l, "mixer.A_log"), &[d, n], Start::LogCount, false);
                BlockSlots { norm, in_proj, conv, conv_bias, x_proj, dt_proj, dt_bias, a_log, d_skip, out_proj }
            })
            .collect();
        let elements = table.elements;
        let a_logs = first_a_log..elements;
        Layout { table: table.rows, embedding, head, blocks, norm_f, products, decaying, a_logs, elements }
    }

    /// Where the matrices of a block lie, side by side.
    pub fn matrices(&self, block: usize) -> Range<usize> {
        let next = self.blocks.get(block + 1).map_or(self.products, |next| next.in_proj.offset);
        self.blocks[block].in_proj.offset..next
    }

    /// What lies after each matrix of a block and only aligns the next: nothing where all have a multiple of 64 elements.
    pub fn gaps(&self, block: usize) -> impl Iterator<Item = Range<usize>> {
        let BlockSlots { in_proj, x_proj, dt_proj, out_proj, .. } = self.blocks[block];
        let ends = [in_proj, x_proj, dt_proj, out_proj].map(|slot| slot.range().end);
        ends.into_iter().map(|end| end..end.next_multiple_of(ALIGNMENT)).filter(|gap| !gap.is_empty())
    }

    /// Parameters, without what only aligns them.
    pub fn parameters(&self) -> usize {
        self.table.iter().map(|p| p.slot.elements()).sum()
    }

    /// Those of them that are matrices which products and the embedding read.
    pub fn product_parameters(&self) -> usize {
        self.table.iter().filter(|p| p.slot.offset < self.products).map(|p| p.slot.elements()).sum()
    }

    /// The row of that name.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.table.iter().find(|p| p.name == name)
    }

    /// Which random numbers row `i` starts from: its number if a convolution's weight lay between the matrices of its block, as it once did. A
    /// seed goes on to mean the model that it meant.
    fn stream(&self, i: usize) -> usize {
        let layers = self.blocks.len();
        let first = if self.head == self.embedding { 1 } else { 2 };
        match i.checked_sub(first) {
            Some(i) if i < 4 * layers => first + i / 4 * 5 + [0, 2, 3, 4][i % 4],
            Some(i) if i < 5 * layers => first + (i - 4 * layers) * 5 + 1,
            _ => i,
        }
    }

    /// A flat buffer's worth of fresh parameters, the same for the same seed on every machine with the same float functions.
    pub fn fresh(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.elements];
        let mut rest = flat.as_mut_slice();
        let mut at = 0;
        let mut pieces = Vec::new();
        for parameter in &self.table {
            let Range { start, end } = parameter.slot.range();
            let (piece, after) = rest.split_at_mut(end - at);
            pieces.push((parameter, &mut piece[start - at..]));
            (rest, at) = (after, end);
        }
        pieces.into_par_iter().enumerate().for_each(|(i, (parameter, values))| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(self.stream(i) as u64);
            parameter.fill(values, &mut random);
        });
        flat
    }
}

impl Parameter {
    fn fill(&self, values: &mut [f32], random: &mut ChaCha8Rng) {
        // Above 0 and below 1.
        let mut unit = || ((random.next_u32() >> 8) as f32 + 0.5) / (1 << 24) as f32;
        match self.start {
            Start::Ones => values.fill(1.0),
            Start::Uniform(bound) => values.iter_mut().for_each(|x| *x = bound * (2.0 * unit() - 1.0)),
            // Box and Muller: a normal number from two uniform ones.
            Start::Normal(deviation) => values.iter_mut().for_each(|x| {
                let (radius, angle) = ((-2.0 * unit().ln()).sqrt(), std::f32::consts::TAU * unit());
                *x = deviation * radius * angle.cos();
            }),
            Start::LogCount => {
                for row in values.chunks_exact_mut(self.slot.cols) {
                    row.iter_mut().enumerate().for_each(|(i, x)| *x = ((i + 1) as f32).ln());
                }
            }
            Start::InverseSoftplusOfSteps => values.iter_mut().for_each(|x| {
                let (least, most) = (0.001_f32, 0.1_f32);
                let step = (least.ln() + unit() * (most / least).ln()).exp().max(1e-4);
                // softplus(x) = step
                *x = step + (-(-step).exp_m1()).ln();
            }),
        }
    }
}

/// A model's parameters on a device: each an f32, though where products read bf16 the matrices are kept in halves: the nearest bf16, and the
/// 16 bits that f32 has more.
#[derive(Debug)]
pub struct Weights {
    /// f32, `[layout.elements]`; in halves `[layout.elements - layout.products]`, what is no matrix.
    whole: Buffer,
    /// Elements of the layout before those of `whole`.
    before: usize,
    /// `[layout.products]` io: the matrices, rounded; none where that is f32.
    rounded: Option<Buffer>,
    /// `[layout.products / 2]` u32, in halves: what they have more.
    rests: Option<Buffer>,
}

impl Weights {
    /// Places parameters on a device, for activations of type `io`, one at a time, as `values_of` gives them.
    ///
    /// # Errors
    /// Those of `values_of`, and where the device has no room.
    pub fn read(
        device: &Device,
        io: Dtype,
        layout: &Layout,
        mut values_of: impl FnMut(&Parameter) -> Result<Vec<f32>>,
    ) -> Result<Weights> {
        let kept = Kept::of(io);
        let before = if kept == Kept::Split { layout.products } else { 0 };
        let room = |there: bool, dtype, len| there.then(|| Buffer::unwritten(device, dtype, len)).transpose();
        let weights = Weights {
            whole: Buffer::unwritten(device, Dtype::F32, layout.elements - before)?,
            before,
            rounded: room(kept != Kept::Whole, io, layout.products)?,
            rests: room(kept == Kept::Split, Dtype::U32, layout.products / 2)?,
        };
        // What lies between parameters is read by the optimiser, and must stay 0.
        weights.buffers().try_for_each(Buffer::zero)?;
        for parameter in &layout.table {
            weights.write(parameter.slot, &values_of(parameter)?)?;
        }
        Ok(weights)
    }

    fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        [Some(&self.whole), self.rounded.as_ref(), self.rests.as_ref()].into_iter().flatten()
    }

    fn write(&self, slot: Slot, values: &[f32]) -> Result<()> {
        let rounded = self.rounded.as_ref().filter(|rounded| slot.offset < rounded.len());
        if let (Some(rounded), Some(rests)) = (rounded, &self.rests) {
            let (upper, lower) = halves::split_all(values);
            part(rounded, slot)?.write(&upper)?;
            return Ok(rests.part(slot.offset / 2, lower.len(), 1)?.write(&lower)?);
        }
        if let Some(rounded) = rounded {
            part(rounded, slot)?.write_f32(values)?;
        }
        Ok(self.f32(slot)?.write(values)?)
    }

    /// The values of a parameter, on the host. Where ranks share the optimiser out, those of another rank's share of the matrices are exact
    /// only after [`Learner::gather_weights`](crate::Learner::gather_weights).
    ///
    /// # Errors
    /// If an earlier launch failed.
    pub fn values(&self, slot: Slot) -> Result<Vec<f32>> {
        match (&self.rounded, &self.rests) {
            (Some(rounded), Some(rests)) if slot.offset < self.before => {
                let lower = rests.part(slot.offset / 2, slot.elements().div_ceil(2), 1)?.to_vec()?;
                Ok(halves::join_all(&part(rounded, slot)?.to_vec()?, &lower))
            }
            _ => Ok(self.f32(slot)?.to_vec()?),
        }
    }

    /// A matrix in the type that products read.
    ///
    /// # Errors
    /// Never, for a matrix of the layout that the buffers were made for.
    pub fn io(&self, slot: Slot) -> Result<View<'_>> {
        part(self.rounded.as_ref().unwrap_or(&self.whole), slot)
    }

    /// A parameter in f32.
    ///
    /// # Errors
    /// Never, for a parameter of that layout which is no matrix.
    pub fn f32(&self, slot: Slot) -> Result<View<'_>> {
        part(&self.whole, Slot { offset: slot.offset - self.before, ..slot })
    }

    /// What a step of the optimiser updates of elements `range`, all of which are of matrices or none: parameters, copies and rests.
    ///
    /// # Errors
    /// As [`Weights::io`].
    pub(crate) fn updated(&self, range: &Range<usize>) -> Result<Updated<'_>> {
        let Range { start, end } = *range;
        let rounded = self.rounded.as_ref().filter(|rounded| start < rounded.len());
        let rounded = rounded.map(|rounded| rounded.part(start, end - start, 1)).transpose()?;
        match (rounded, &self.rests) {
            (Some(p), Some(rests)) => {
                let rests = rests.part(start / 2, (end - start).div_ceil(2), 1)?;
                Ok(Updated { kept: Kept::Split, p, copy: None, rests: Some(rests) })
            }
            (copy, _) => {
                let kept = copy.map_or(Kept::Whole, |copy| Kept::Copied(copy.buffer().dtype()));
                Ok(Updated { kept, p: self.whole.part(start - self.before, end - start, 1)?, copy, rests: None })
            }
        }
    }

    /// Takes those of rank 0.
    pub(crate) fn broadcast(&self, ranks: &dyn Collective) -> Result<()> {
        Ok(self.buffers().try_for_each(|buffer| ranks.broadcast(buffer.view(), 0))?)
    }

    /// Brings together what products read of the matrices, of which each rank has updated its share.
    pub(crate) fn gather(&self, layout: &Layout, ranks: &dyn Collective) -> Result<()> {
        match &self.rounded {
            Some(rounded) => Ok(ranks.all_gather(rounded.view())?),
            None => Ok(ranks.all_gather(self.whole.part(0, layout.products, 1)?)?),
        }
    }

    /// Brings together what [`Weights::values`] reads beside that.
    pub(crate) fn gather_beside(&self, layout: &Layout, ranks: &dyn Collective) -> Result<()> {
        match (&self.rounded, &self.rests) {
            (Some(_), Some(rests)) => Ok(ranks.all_gather(rests.view())?),
            (Some(_), None) => Ok(ranks.all_gather(self.whole.part(0, layout.products, 1)?)?),
            (None, _) => Ok(()),
        }
    }
}

/// Views of parameters, as [`packscan_kernels::adamw::Range`] has them.
pub(crate) struct Updated<'a> {
    pub kept: Kept,
    pub p: View<'a>,
    pub copy: Option<View<'a>>,
    pub rests: Option<View<'a>>,
}

/// A parameter's part of a flat buffer: its gradient, its moments.
///
/// # Errors
/// Never, for a slot of the layout that the buffer was made for.
pub fn part(flat: &Buffer, slot: Slot) -> Result<View<'_>> {
    Ok(flat.part(slot.offset, slot.rows, slot.cols)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_model_that_it_meant_when_convolutions_lay_between_matrices() {
        for tied in [true, false] {
            let config = ModelConfig { tied, ..ModelConfig::of(8, 3) }.for_vocabulary(16).unwrap();
            let layout = Layout::of(&config);
            let first = if tied { &["backbone.embeddings"][..] } else { &["backbone.embeddings", "lm_head"] };
            let kinds = ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"];
            let of_blocks = (0..3).flat_map(|l| kinds.map(|kind| format!("backbone.layers.{l}.mixer.{kind}")));
            let before: Vec<String> = first.iter().map(|&name| name.to_owned()).chain(of_blocks).collect();
            for (i, p) in layout.table.iter().enumerate() {
                match before.get(layout.stream(i)) {
                    Some(name) => assert_eq!(p.name, format!("{name}.weight")),
                    None => assert_eq!(layout.stream(i), i, "{}", p.name),
                }
            }
        }
    }
}
