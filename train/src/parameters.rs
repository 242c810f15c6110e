//! The table of parameters, and the flat buffers that it cuts up.
//!
//! All parameters lie in one buffer, so that a step of the optimiser, the norm of the gradients and a reduction over GPUs are a launch or
//! two each. The table says what lies where, what it is called (as Hugging Face's `MambaForCausalLM` calls it), how it starts and
//! whether it decays. What decays comes first, and the `A_log` of all blocks last, side by side.

use std::ops::Range;

use packscan_kernels::cast;
use packscan_runtime::{Buffer, Device, Dtype, Packed, View};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::{ModelConfig, Result};

/// Elements that every parameter starts at a multiple of: 128 bytes of the smallest type.
const ALIGNMENT: usize = 64;
/// A flat buffer is a multiple of so many aligned pieces long: 1 to 10 ranks, and 12, 14, 15 and more, can share it out equally.
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
        let matrices: Vec<[Slot; 5]> = (0..layers)
            .map(|l| {
                // Every block adds to the residual stream: the more there are, the less each starts with.
                let out = Start::Uniform(fan(d) * fan(layers));
                [
                    table.add(name(l, "mixer.in_proj.weight"), &[2 * d, m], Start::Uniform(fan(m)), true),
                    table.add(name(l, "mixer.conv1d.weight"), &[d, 1, k], Start::Uniform(fan(k)), true),
                    table.add(name(l, "mixer.x_proj.weight"), &[dbl, d], Start::Uniform(fan(d)), true),
                    table.add(name(l, "mixer.dt_proj.weight"), &[d, r], Start::Uniform(fan(r)), true),
                    table.add(name(l, "mixer.out_proj.weight"), &[m, d], out, true),
                ]
            })
            .collect();
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
                let [in_proj, conv, x_proj, dt_proj, out_proj] = matrices[l];
                let [norm, conv_bias, dt_bias, d_skip] = vectors[l];
                let a_log = table.add(name(l, "mixer.A_log"), &[d, n], Start::LogCount, false);
                BlockSlots { norm, in_proj, conv, conv_bias, x_proj, dt_proj, dt_bias, a_log, d_skip, out_proj }
            })
            .collect();
        let elements = table.elements.next_multiple_of(ALIGNMENT * SHARES);
        let a_logs = first_a_log..table.elements;
        Layout { table: table.rows, embedding, head, blocks, norm_f, decaying, a_logs, elements }
    }

    /// Where the matrices of a block lie, side by side.
    pub fn matrices(&self, block: usize) -> Range<usize> {
        let next = self.blocks.get(block + 1).map_or(self.decaying, |next| next.in_proj.offset);
        self.blocks[block].in_proj.offset..next
    }

    /// Parameters, without what only aligns them.
    pub fn parameters(&self) -> usize {
        self.table.iter().map(|p| p.slot.elements()).sum()
    }

    /// The row of that name.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.table.iter().find(|p| p.name == name)
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
            random.set_stream(i as u64);
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

/// A model's parameters on a device: f32, and where kernels compute in another type the copies that matrix products read.
#[derive(Debug)]
pub struct Weights {
    /// `[layout.elements]` f32.
    pub master: Buffer,
    /// `[layout.elements]` io; none where that is f32.
    pub copies: Option<Buffer>,
}

impl Weights {
    /// Places parameters on a device, for activations of type `io`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &Device, io: Dtype, values: &[f32]) -> Result<Weights> {
        Weights::of(device, io, Buffer::from_slice(device, values)?)
    }

    /// Places parameters on a device one at a time, as `values_of` gives them.
    ///
    /// # Errors
    /// Those of `values_of`, and where the device has no room.
    pub fn read(
        device: &Device,
        io: Dtype,
        layout: &Layout,
        mut values_of: impl FnMut(&Parameter) -> Result<Vec<f32>>,
    ) -> Result<Weights> {
        let master = Buffer::unwritten(device, Dtype::F32, layout.elements)?;
        // What lies between parameters is read by the optimiser, and must stay 0.
        master.zero()?;
        for parameter in &layout.table {
            part(&master, parameter.slot)?.write(&values_of(parameter)?)?;
        }
        Weights::of(device, io, master)
    }

    fn of(device: &Device, io: Dtype, master: Buffer) -> Result<Weights> {
        let copies = match io {
            Dtype::F32 => None,
            io => Some(Buffer::unwritten(device, io, master.len())?),
        };
        let weights = Weights { master, copies };
        weights.refresh_copies()?;
        Ok(weights)
    }

    /// Rounds the parameters into the copies. The optimiser does it by itself.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn refresh_copies(&self) -> Result<()> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let rows = self.master.len() / ALIGNMENT;
        let packed = Packed::from_lengths(&[rows])?.on(self.master.device())?;
        let variant = cast::default_variant(ALIGNMENT, Dtype::F32, copies.dtype());
        cast::forward(&packed, &variant, self.master.rows(rows)?, copies.rows(rows)?)?;
        Ok(())
    }

    /// A parameter in the type that matrix products read.
    ///
    /// # Errors
    /// Never, for a slot of the layout that the buffers were made for.
    pub fn io(&self, slot: Slot) -> Result<View<'_>> {
        part(self.copies.as_ref().unwrap_or(&self.master), slot)
    }

    /// A parameter in f32.
    ///
    /// # Errors
    /// As [`Weights::io`].
    pub fn f32(&self, slot: Slot) -> Result<View<'_>> {
        part(&self.master, slot)
    }
}

/// A parameter's part of a flat buffer: its gradient, its moments.
///
/// # Errors
/// Never, for a slot of the layout that the buffer was made for.
pub fn part(flat: &Buffer, slot: Slot) -> Result<View<'_>> {
    Ok(flat.part(slot.offset, slot.rows, slot.cols)?)
}
