//! The Mamba language model, forward and backward, composed of the book's operators and a plain matrix product.
//!
//! Each sequence is run alone. For one of T tokens, with the parameters under their Hugging Face names (arXiv 2312.00752, figure 3, and
//! `MambaForCausalLM`):
//!
//! ```text
//! x = embedding(tokens)                                          backbone.embeddings            residual = none
//! for each block:                                                backbone.layers.{l}.
//!     y, r    = rms_norm(residual + x)                           norm
//!     x', z   = the halves of y W^T                              mixer.in_proj
//!     u       = silu(causal_conv1d(x'))                          mixer.conv1d
//!     dt,B,C  = the columns R, N, N of u W^T                     mixer.x_proj
//!     delta   = dt W^T                                           mixer.dt_proj, whose bias the scan adds
//!     s       = selective_scan(u, delta, A, B, C, D_skip, z)     A = -exp(mixer.A_log), D_skip = mixer.D, with softplus
//!     x       = s W^T                                            mixer.out_proj
//!     residual = r
//! y      = rms_norm(residual + x)                                backbone.norm_f
//! logits = y W^T                                                 lm_head, or the embedding's table if the two are tied
//! ```
//!
//! [`run`] has the gradients, each block's written by hand. They flow into the memory that a continued sequence starts from, and out of
//! the memory that a sequence leaves, so that a text cut in two can be held against the text in one piece.
//!
//! What `Bounded` says of an f32 kernel is useful for one operator and nothing after two blocks of them: its bounds add up what in truth cancels.
//! [`Perturbed`](crate::Perturbed) says how far f32 is off after many.

mod block;
mod matrix;
mod parameters;

pub use block::Memory;
pub use parameters::{Parameters, names_and_shapes};

use crate::{Number, cross_entropy, embedding, rms_norm};
use block::{Block, Computed};

/// The sizes of a model, and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Model width, M. At least 1.
    pub width: usize,
    /// Blocks. 0 is legal: an embedding, a norm and a head.
    pub layers: usize,
    /// Channels, D. At least 1.
    pub channels: usize,
    /// State size, N. At least 1.
    pub state: usize,
    /// Taps of the convolution, K. At least 2.
    pub taps: usize,
    /// Rank of delta, R. At least 1.
    pub rank: usize,
    /// Vocabulary, V. At least 1.
    pub vocabulary: usize,
    /// Whether the head uses the embedding's table.
    pub tied: bool,
    /// Added to the mean square in every norm.
    pub epsilon: f64,
}

impl Config {
    /// The name of the head's weight, (V, M).
    fn head(&self) -> &'static str {
        if self.tied { parameters::EMBEDDING } else { parameters::HEAD }
    }
}

/// One sequence of T tokens, and what is around it.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a, X = f64> {
    /// Below V, (T). None is legal.
    pub tokens: &'a [u32],
    /// What each token should predict, below V, or nothing, (T).
    pub targets: &'a [Option<u32>],
    /// What each block remembers of the tokens before, one a block; none for a fresh sequence.
    pub memory: Option<&'a [Memory<X>]>,
    /// The gradient of the memory that the sequence leaves, one a block; none where no loss depends on it. `scale` is in it already.
    pub left_gradient: Option<&'a [Memory<X>]>,
}

impl<'a, X> Sequence<'a, X> {
    /// A sequence that continues nothing and that nothing continues.
    pub fn fresh(tokens: &'a [u32], targets: &'a [Option<u32>]) -> Self {
        Self { tokens, targets, memory: None, left_gradient: None }
    }
}

/// What a model computes of sequences, and its gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Run<X = f64> {
    /// Of each sequence, (T, V).
    pub logits: Vec<Vec<X>>,
    /// Of each token of each sequence, (T). 0 where there is no target.
    pub losses: Vec<Vec<X>>,
    /// What each sequence leaves, one a block.
    pub left: Vec<Vec<Memory<X>>>,
    /// The gradient of what each sequence continued, one a block. 0 for a fresh one.
    pub memory_gradients: Vec<Vec<Memory<X>>>,
    /// Of `scale` times the sum of all losses, under the names and in the shapes of the parameters.
    pub gradients: Parameters<X>,
}

/// The logits of one fresh sequence, (T, V). `tokens: (T)`
///
/// # Panics
///
/// Where a parameter is missing or has not the length of its shape, or a token is not below V.
pub fn logits<X: Number>(config: &Config, parameters: &Parameters<X>, tokens: &[u32]) -> Vec<X> {
    parameters.check(config);
    Alone::forward(config, parameters, &Sequence::fresh(tokens, &[])).logits
}

/// Runs each sequence alone, forward and backward. The gradients are those of `scale` times the sum of all losses.
///
/// # Panics
///
/// As [`logits`]; and where a target is not below V, or a sequence's slices have not the lengths of their shapes.
pub fn run<X: Number>(
    config: &Config,
    parameters: &Parameters<X>,
    sequences: &[Sequence<'_, X>],
    scale: f64,
) -> Run<X> {
    parameters.check(config);
    let gradients = Parameters::zeros(config);
    let mut run = Run { logits: vec![], losses: vec![], left: vec![], memory_gradients: vec![], gradients };
    for sequence in sequences {
        assert_eq!(sequence.targets.len(), sequence.tokens.len(), "targets has the wrong length for the shape (T)");
        let alone = Alone::forward(config, parameters, sequence);
        let targets: Vec<Option<usize>> = sequence.targets.iter().map(|target| target.map(|k| k as usize)).collect();
        let loss = cross_entropy::Inputs { vocabulary: config.vocabulary, logits: &alone.logits, targets: &targets };
        run.losses.push(cross_entropy::forward(&loss));
        let dlogits = cross_entropy::backward(&loss, &X::constant(scale));
        run.memory_gradients.push(alone.backward(&dlogits, &mut run.gradients));
        run.left.push(alone.blocks.into_iter().map(|block| block.left).collect());
        run.logits.push(alone.logits);
    }
    run
}

/// One sequence, which is all there is, and what the model computes of it.
struct Alone<'a, X> {
    config: &'a Config,
    parameters: &'a Parameters<X>,
    sequence: &'a Sequence<'a, X>,
    /// (T)
    ids: Vec<usize>,
    blocks: Vec<Computed<X>>,
    /// Of the last norm.
    norm: rms_norm::Outputs<X>,
    /// (T, V)
    logits: Vec<X>,
}

impl<'a, X: Number> Alone<'a, X> {
    fn forward(config: &'a Config, parameters: &'a Parameters<X>, sequence: &'a Sequence<'a, X>) -> Self {
        let ids: Vec<usize> = sequence.tokens.iter().map(|token| *token as usize).collect();
        let vocabulary = config.vocabulary;
        ids.iter().for_each(|id| assert!(*id < vocabulary, "token {id} is outside the vocabulary of {vocabulary}"));
        for memory in [sequence.memory, sequence.left_gradient].into_iter().flatten() {
            assert_eq!(memory.len(), config.layers, "a sequence has one memory a block");
        }
        let embedded = embedding::forward(config.width, &parameters[parameters::EMBEDDING], &ids);

        let mut blocks: Vec<Computed<X>> = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let (x, residual) = stream(&embedded, &blocks);
            let memory = sequence.memory.map(|memory| &memory[layer]);
            let computed = Block { config, parameters, layer, memory }.forward(x, residual);
            blocks.push(computed);
        }

        let (x, residual) = stream(&embedded, &blocks);
        let weight = &parameters[parameters::NORM];
        let inputs =
            rms_norm::Inputs { width: config.width, x, residual, weight, epsilon: X::constant(config.epsilon) };
        let norm = rms_norm::forward(&inputs);
        let logits = matrix::forward(config.width, &norm.y, &parameters[config.head()]);
        Self { config, parameters, sequence, ids, blocks, norm, logits }
    }

    /// Adds the gradients of the parameters; returns those of the memory that the sequence continued. `dlogits: (T, V)`
    fn backward(&self, dlogits: &[X], gradients: &mut Parameters<X>) -> Vec<Memory<X>> {
        let Self { config, parameters, sequence, .. } = *self;
        let head = matrix::backward(config.width, &self.norm.y, &parameters[config.head()], dlogits);
        gradients.add(config.head(), &head.w);
        let norm = rms_norm::backward(&rms_norm::Incoming {
            width: config.width,
            dy: &head.x,
            r: &self.norm.r,
            rstd: &self.norm.rstd,
            weight: &parameters[parameters::NORM],
            incoming: None,
        });
        gradients.add(parameters::NORM, &norm.weight);

        // What is added has the gradient of the sum: of each block's output and of the residual stream beside it, (T, M).
        let mut dr = norm.r;
        let mut memory_gradients = Vec::with_capacity(config.layers);
        for (layer, computed) in self.blocks.iter().enumerate().rev() {
            let memory = sequence.memory.map(|memory| &memory[layer]);
            let left_gradient = sequence.left_gradient.map(|gradient| &gradient[layer]);
            let block = Block { config, parameters, layer, memory };
            let (dx, dmemory) = block.backward(computed, &dr, left_gradient, gradients);
            dr = dx;
            memory_gradients.push(dmemory);
        }
        memory_gradients.reverse();
        let dtable = embedding::backward(config.width, config.vocabulary, &dr, &self.ids);
        gradients.add(parameters::EMBEDDING, &dtable);
        memory_gradients
    }
}

/// What the next norm adds, (T, M) each: the last block's output and the residual stream beside it; of no block, the embedding alone.
fn stream<'a, X>(embedded: &'a [X], blocks: &'a [Computed<X>]) -> (&'a [X], Option<&'a [X]>) {
    blocks.last().map_or((embedded, None), |block| (&block.out, Some(&block.norm.r)))
}
