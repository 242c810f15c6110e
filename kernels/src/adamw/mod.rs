//! AdamW over a range of parameters, with the copies that the next forward pass reads written in the same pass, or with parameters that are
//! kept as such copies and the bits that f32 has more ([`halves`]).
//!
//! ```text
//! g' = g * grad_scale * clip
//! m  = beta1*m + (1 - beta1)*g'                 v  = beta2*v + (1 - beta2)*g'*g'
//! p  = p - lr*decay*p - lr * (m*c1) / (sqrt(v*c2) + eps)        copy = p
//! ```
//!
//! Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101); `c1 = 1 / (1 - beta1^t)` and `c2 = 1 / (1 - beta2^t)` correct the
//! bias of step t. Parameters with another decay are another range, hence another call.

pub mod cpu;
mod faults;
pub mod halves;

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Dtype, Error, Result, View};

pub use faults::faults;

packscan_macros::kernel! {
    /// One step of AdamW.
    pub kernel Forward = "adamw" in "kernels/src/adamw" from ["forward.cuh"] {
        variant {
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring parameters that a thread updates.
            vec: "v" in [1, 2, 4],
            /// Type of the gradients.
            grad: dtype in [F32, F16, Bf16],
            /// Type of the copies.
            io: dtype in [F32, F16, Bf16],
            /// Write copies.
            copy: flag "copy",
            /// Keep parameters in halves, a bf16 and the 16 bits that f32 has more.
            split: flag "split",
            /// Clip the gradients as `grad_norm` found.
            clip: flag "clip",
        }
        rules {
            !split || (io == Dtype::Bf16 && !copy), split: "the upper half of an f32 is a bf16, and is the copy",
                "take bf16 without copy";
        }
        dims {
            /// Parameters.
            n: "N",
        }
        tensors {
            /// Parameters.
            p: inout f32 [N] if !split,
            /// First moments.
            m: inout f32 [N],
            /// Second moments.
            v: inout f32 [N],
            /// Gradients.
            g: in grad [N],
            /// The numbers of the step, by `Step::scalars`.
            scalars: in f32 [8],
            /// The result of `grad_norm::clip`.
            clip_by: in f32 [3] if clip,
            /// The new parameters, rounded.
            copy_to: out io [N] if copy,
            /// Parameters, rounded to the nearest bf16.
            rounded: inout bf16 [N] if split,
            /// The 16 bits that they have more, two parameters in a word.
            rests: inout u32 [N.div_ceil(2)] if split,
        }
        launch { grid: [N.div_ceil(block * vec)], threads: block }
    }
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Which step it is, from 1; a step that was skipped because its gradients were not finite does not count.
    pub step: u32,
    /// Learning rate, lr.
    pub learning_rate: f32,
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Keeps the quotient finite where a gradient was always 0.
    pub eps: f32,
    /// Weight decay, multiplied with the learning rate.
    pub decay: f32,
    /// What gradients are multiplied with first: 1 over the number of packs that they were summed over, or over the loss scale.
    pub grad_scale: f32,
}

impl Default for Step {
    /// The first step with the rates that language models are usually trained with.
    fn default() -> Step {
        Step { step: 1, learning_rate: 6e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, grad_scale: 1.0 }
    }
}

impl Step {
    /// What the kernel is given: lr, beta1, beta2, eps, decay, c1, c2, grad_scale.
    ///
    /// # Errors
    /// [`Error::Argument`] for a number that is NaN or outside its range, by name.
    pub fn scalars(&self) -> Result<[f32; 8]> {
        let Step { step, learning_rate, beta1, beta2, eps, decay, grad_scale } = *self;
        let finite = f32::MIN..=f32::MAX;
        let not_negative = 0.0..=f32::MAX;
        let below_one = 0.0..=1.0 - f32::EPSILON / 2.0;
        let positive = f32::MIN_POSITIVE..=f32::MAX;
        for (argument, value, range, rule) in [
            ("learning_rate", learning_rate, &not_negative, "a learning rate is a finite number from 0 on"),
            ("beta1", beta1, &below_one, "a decay rate of moments is at least 0 and below 1, usually 0.9"),
            ("beta2", beta2, &below_one, "a decay rate of moments is at least 0 and below 1, usually 0.95 or 0.999"),
            ("eps", eps, &positive, "eps is a finite number above 0, usually 1e-8"),
            ("decay", decay, &not_negative, "weight decay is a finite number from 0 on, usually 0.1"),
            ("grad_scale", grad_scale, &finite, "gradients are scaled by a finite number, 1 to leave them"),
        ] {
            // NaN is in no range.
            if !range.contains(&value) {
                return Err(Error::Argument { argument, got: value.to_string(), rule: rule.to_owned() });
            }
        }
        let Some(exponent) = i32::try_from(step).ok().filter(|&step| step > 0) else {
            let rule = "steps are counted from 1 to 2147483647; count before the call".to_owned();
            return Err(Error::Argument { argument: "step", got: step.to_string(), rule });
        };
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(exponent))) as f32;
        Ok([learning_rate, beta1, beta2, eps, decay, correction(beta1), correction(beta2), grad_scale])
    }
}

/// What a step reads and writes; a range of n parameters.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// `(n)` f32, bf16 in halves: parameters, updated.
    pub p: View<'a>,
    /// `(n)` f32: first moments, updated.
    pub m: View<'a>,
    /// `(n)` f32: second moments, updated.
    pub v: View<'a>,
    /// `(n)` grad: gradients.
    pub g: View<'a>,
    /// `(8)` f32: [`Step::scalars`].
    pub scalars: View<'a>,
    /// `(3)` f32: the result of [`grad_norm::clip`](crate::grad_norm::clip). Where it says that gradients were not finite, nothing is
    /// updated.
    pub clip: Option<View<'a>>,
    /// `(n)` io: copies of the parameters.
    pub copy: Option<View<'a>>,
    /// `(n / 2, rounded up)` u32, in halves: the other half of the parameters, [`halves::split_all`], updated.
    pub rests: Option<View<'a>>,
}

/// How parameters are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In f32 alone.
    Whole,
    /// In f32, with copies of this type.
    Copied(Dtype),
    /// In halves.
    Split,
}

impl Kept {
    /// As little as an exact step needs where products read parameters in type `io`.
    pub fn of(io: Dtype) -> Kept {
        match io {
            Dtype::F32 => Kept::Whole,
            Dtype::Bf16 => Kept::Split,
            other => Kept::Copied(other),
        }
    }

    /// Bytes of a parameter, all in all.
    pub fn bytes(self) -> usize {
        match self {
            Kept::Whole | Kept::Split => 4,
            Kept::Copied(dtype) => 4 + dtype.bytes(),
        }
    }
}

impl Forward {
    /// How its parameters are kept.
    pub fn kept(&self) -> Kept {
        match (self.split, self.copy) {
            (true, _) => Kept::Split,
            (false, true) => Kept::Copied(self.io),
            (false, false) => Kept::Whole,
        }
    }

    /// The same for parameters that are kept in another way.
    pub fn keeping(self, kept: Kept) -> Forward {
        let io = if let Kept::Copied(dtype) = kept { dtype } else { Dtype::Bf16 };
        Forward { io, copy: matches!(kept, Kept::Copied(_)), split: kept == Kept::Split, ..self }
    }
}

/// A hand-picked variant: four parameters a thread, 256 threads. Memory is the limit, so there is little to pick.
pub fn default_variant(grad: Dtype, kept: Kept, clip: bool) -> Forward {
    Forward { block: 256, vec: 4, grad, io: Dtype::Bf16, copy: false, split: false, clip }.keeping(kept)
}

/// Every variant worth timing.
pub fn variants(grad: Dtype, kept: Kept, clip: bool) -> Vec<Forward> {
    let picked = default_variant(grad, kept, clip);
    let of = |block| [1, 2, 4].map(|vec| Forward { block, vec, ..picked });
    [128, 256, 512, 1024].into_iter().flat_map(of).collect()
}

/// Updates a range of parameters on the device that `packed` names, for which [`DevicePacked::empty`] will do.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn forward(packed: &DevicePacked, variant: &Forward, range: &Range<'_>) -> Result<Launched> {
    let Range { p, m, v, g, scalars, clip, copy, rests } = *range;
    let n = p.len();
    let (p, rounded) = if variant.split { (None, Some(p)) } else { (Some(p), None) };
    let args = ForwardArgs { n, p, m, v, g, scalars, clip_by: clip, copy_to: copy, rounded, rests };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
