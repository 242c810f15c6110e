//! Which variant of each kernel a model runs.

use packscan_kernels::{adamw, causal_conv1d, cross_entropy, embedding, grad_norm, rms_norm, selective_scan};
use packscan_runtime::Dtype;

use crate::ModelConfig;

/// One variant for each launch of a training step: the hand-picked ones.
#[derive(Clone, Debug)]
pub struct Variants {
    /// A row of the embedding for each token.
    pub embedding: embedding::Forward,
    /// The gradient of the embedding.
    pub embedding_bwd: embedding::Backward,
    /// The norm of the first block, which has no residual stream before it.
    pub first_norm: rms_norm::Forward,
    /// Every other norm.
    pub norm: rms_norm::Forward,
    /// A norm computed again from the residual stream that it made.
    pub norm_again: rms_norm::Forward,
    /// The gradient of the last norm, into which nothing else flows.
    pub last_norm_bwd: rms_norm::Backward,
    /// That of every other norm.
    pub norm_bwd: rms_norm::Backward,
    /// The convolution.
    pub conv: causal_conv1d::Forward,
    /// Its gradient.
    pub conv_bwd: causal_conv1d::Backward,
    /// The scan; saves states at the distance at which its backward pass wants them.
    pub scan: selective_scan::Forward,
    /// Its gradient.
    pub scan_bwd: selective_scan::Backward,
    /// The loss.
    pub loss: cross_entropy::Forward,
    /// Sums of squares of gradients.
    pub grad_norm: grad_norm::Forward,
    /// The step of the optimiser.
    pub adamw: adamw::Forward,
}

/// What a pass over a pack carries beside its own tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carries {
    /// Continued sequences start from states that an earlier pack left.
    pub initial: bool,
    /// The states after each sequence are wanted.
    pub last: bool,
}

impl Variants {
    /// The hand-picked variants for a model with activations of type `io`.
    pub fn hand_picked(config: &ModelConfig, io: Dtype, carries: Carries) -> Variants {
        let Carries { initial, last } = carries;
        let copy = (io != Dtype::F32).then_some(io);
        let norm = rms_norm::Problem { width: config.width, io, residual: true, sum: true, stats: true };
        let conv = causal_conv1d::Problem {
            channels: config.channels(),
            width: config.taps,
            io,
            silu: true,
            bias: true,
            initial,
            last,
        };
        let scan = selective_scan::Problem {
            channels: config.channels(),
            state: config.state,
            io,
            softplus: true,
            bias: true,
            skip: true,
            gate: true,
            initial,
            last,
            checkpoints: true,
        };
        let scan_bwd = fitting(selective_scan::default_backward(&scan), config, |v| &mut v.vec);
        let scan = selective_scan::Forward { chunk: scan_bwd.chunk, ..selective_scan::default_variant(&scan) };
        Variants {
            embedding: embedding::default_variant(config.width, io),
            embedding_bwd: embedding::default_backward(config.width, io),
            first_norm: rms_norm::default_variant(&rms_norm::Problem { residual: false, ..norm }),
            norm: rms_norm::default_variant(&norm),
            norm_again: rms_norm::default_variant(&rms_norm::Problem { sum: false, stats: false, ..norm }),
            last_norm_bwd: rms_norm::default_backward(&norm, false, true, true),
            norm_bwd: rms_norm::default_backward(&norm, true, true, true),
            conv: causal_conv1d::default_variant(&conv),
            conv_bwd: causal_conv1d::default_backward(&conv),
            scan: fitting(scan, config, |v| &mut v.vec),
            scan_bwd,
            loss: cross_entropy::default_variant(&cross_entropy::Problem { vocabulary: config.vocabulary, io }),
            grad_norm: grad_norm::default_variant(Dtype::F32),
            adamw: adamw::default_variant(Dtype::F32, copy, true),
        }
    }
}

/// B and C are columns of `x_dbl (T, R + 2N)`: where the scan moves several states a load, R and N must let them start and lie apart at
/// multiples of that.
fn fitting<V>(mut variant: V, config: &ModelConfig, vec: fn(&mut V) -> &mut u32) -> V {
    let loads = vec(&mut variant);
    while config.state.is_multiple_of(*loads as usize) && !config.rank.is_multiple_of(*loads as usize) {
        *loads /= 2;
    }
    variant
}
