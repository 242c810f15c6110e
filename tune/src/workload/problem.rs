//! [`Problem`]: the sizes of what is timed, and the question that each operator is asked for them.

use packscan_kernels::{
    adamw, cast, causal_conv1d, cross_entropy, embedding, grad_norm, neg_exp, rms_norm, selective_scan, sum_rows,
};
use packscan_runtime::Dtype;
use packscan_runtime::kernel::Variant;

use crate::{Error, Result};

/// The sizes of a block and a pack; the letters are those of the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Tokens of each sequence of the pack, `[S]`.
    pub lengths: Vec<usize>,
    /// Model width, M.
    pub width: usize,
    /// Channels, D.
    pub channels: usize,
    /// State size, N.
    pub state: usize,
    /// Taps of the convolution, K.
    pub taps: usize,
    /// Rank of delta, R: B and C are columns of `x_dbl (T, R + 2N)`.
    pub rank: usize,
    /// Vocabulary, V.
    pub vocabulary: usize,
    /// Tokens whose logits exist at a time.
    pub logits_rows: usize,
    /// Parameters that the optimiser updates in one launch.
    pub parameters: usize,
    /// Elements of A of all blocks together.
    pub decays: usize,
    /// Type of the activations.
    pub io: Dtype,
}

impl Problem {
    /// A block of so many channels with sizes as published: half as wide, four taps, a rank of a sixteenth of its width, 50,280 entries
    /// of the vocabulary. Of the optimiser's parameters there are 2^28, enough for any GPU to show its bandwidth.
    pub fn of_channels(lengths: Vec<usize>, channels: usize, state: usize, io: Dtype) -> Problem {
        let width = channels.div_ceil(2);
        let tokens: usize = lengths.iter().sum();
        Problem {
            lengths,
            width,
            channels,
            state,
            taps: 4,
            rank: width.div_ceil(16),
            vocabulary: 50_280,
            logits_rows: tokens.min(8192),
            parameters: 1 << 28,
            decays: 48 * channels * state,
            io,
        }
    }

    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The scan of a block in training: everything but states of other packs.
    pub fn scan(&self) -> selective_scan::Problem {
        selective_scan::Problem {
            channels: self.channels,
            state: self.state,
            io: self.io,
            softplus: true,
            bias: true,
            skip: true,
            gate: true,
            initial: false,
            last: false,
            checkpoints: true,
        }
    }

    /// The convolution of a block in training.
    pub fn conv(&self) -> causal_conv1d::Problem {
        causal_conv1d::Problem {
            channels: self.channels,
            width: self.taps,
            io: self.io,
            silu: true,
            bias: true,
            initial: false,
            last: false,
        }
    }

    /// The norm between two blocks in training.
    pub fn norm(&self) -> rms_norm::Problem {
        rms_norm::Problem { width: self.width, io: self.io, residual: true, sum: true, stats: true, alone: false }
    }

    /// The loss.
    pub fn loss(&self) -> cross_entropy::Problem {
        cross_entropy::Problem { vocabulary: self.vocabulary, io: self.io }
    }

    /// Partial sums of a gradient of all channels, as the backward passes leave them.
    pub fn sums(&self) -> sum_rows::Sizes {
        sum_rows::Sizes { groups: 1, rows: self.tokens().div_ceil(128).max(1), columns: self.channels }
    }

    /// Partial sums of each token, a row for 32 channels.
    pub fn token_sums(&self) -> sum_rows::Sizes {
        sum_rows::Sizes { groups: self.tokens(), rows: self.channels.div_ceil(32).max(1), columns: self.state }
    }

    /// The most neighbouring states that one load can move where B and C lie as columns of `x_dbl`: `vec`, or less.
    pub fn load_of_columns(&self, vec: u32) -> u32 {
        let apart = |vec: u32| !self.state.is_multiple_of(vec as usize) || self.rank.is_multiple_of(vec as usize);
        std::iter::successors(Some(vec), |vec| Some(vec / 2)).find(|&vec| vec <= 1 || apart(vec)).unwrap_or(1)
    }

    /// The id of the hand-picked variant of a kernel.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Unknown`] for a kernel that there is not.
    pub fn hand_picked(&self, kernel: &str) -> Result<String> {
        let id = match kernel {
            "selective_scan_fwd" => {
                let v = selective_scan::default_variant(&self.scan());
                named(&selective_scan::Forward { vec: self.load_of_columns(v.vec), ..v })?
            }
            "selective_scan_bwd" => {
                let v = selective_scan::default_backward(&self.scan());
                named(&v.with_vec(self.load_of_columns(v.vec)))?
            }
            "causal_conv1d_fwd" => named(&causal_conv1d::default_variant(&self.conv()))?,
            "causal_conv1d_bwd" => named(&causal_conv1d::default_backward(&self.conv()))?,
            "rms_norm_fwd" => named(&rms_norm::default_variant(&self.norm()))?,
            "rms_norm_bwd" => named(&rms_norm::default_backward(&self.norm(), true, true, true))?,
            "embedding_fwd" => named(&embedding::default_variant(self.width, self.io))?,
            "embedding_bwd" => named(&embedding::default_backward(self.width, self.io))?,
            "cross_entropy" => named(&cross_entropy::default_variant(&self.loss()))?,
            "adamw" => named(&adamw::default_variant(Dtype::F32, adamw::Kept::of(self.io), true))?,
            "grad_norm" => named(&grad_norm::default_variant(Dtype::F32))?,
            "grad_norm_clip" => named(&grad_norm::CLIP)?,
            "neg_exp_fwd" => named(&neg_exp::default_variant())?,
            "neg_exp_bwd" => named(&neg_exp::default_backward())?,
            "sum_rows" => named(&sum_rows::default_variant(&self.sums(), Dtype::F32, true))?,
            "sum_rows_tokens" => named(&sum_rows::default_token_variant(self.state, 4, self.io))?,
            "cast" => named(&cast::default_variant(self.channels, Dtype::F32, self.io))?,
            _ => {
                let known = super::passes().map(|pass| pass.kernel);
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(packscan_runtime::Error::Unknown { what: "kernel", got: kernel.to_owned(), known }.into());
            }
        };
        Ok(id)
    }

    /// Checks that a number of a variant is that of the problem.
    pub(super) fn same<V: Variant, T: PartialEq + ToString>(
        &self,
        variant: &V,
        parameter: &'static str,
        got: T,
        want: T,
    ) -> Result<()> {
        if got == want {
            return Ok(());
        }
        let (id, got, want) = (variant.to_string(), got.to_string(), want.to_string());
        Err(Error::OtherProblem { id, parameter, got, want })
    }
}

/// The id of a variant. An id states no number that is out of its range, so that is told before there is one.
fn named<V: Variant>(variant: &V) -> Result<String> {
    packscan_runtime::kernel::check(variant, packscan_runtime::nvrtc::Arch::default())?;
    Ok(variant.to_string())
}
