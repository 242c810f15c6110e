//! Which variant of each kernel a model runs.

use std::collections::BTreeMap;
use std::str::FromStr;

use packscan_kernels::adamw::Kept;
use packscan_kernels::{adamw, causal_conv1d, cross_entropy, embedding, grad_norm, rms_norm, selective_scan};
use packscan_runtime::Dtype;
use packscan_runtime::kernel::{Domain, Parameter, Variant};

use crate::activations::Recompute;
use crate::{Error, ModelConfig, Result};

/// Ids of variants, by the names of the launches: the fields of [`Variants`].
pub type Ids = BTreeMap<String, String>;

/// One variant for each launch of a training step.
#[derive(Clone, Copy, Debug)]
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
    /// The scan of a block that computes it again before its gradient: saves no states.
    pub scan_alone: selective_scan::Forward,
    /// The gradient of the scan.
    pub scan_bwd: selective_scan::Backward,
    /// The loss.
    pub loss: cross_entropy::Forward,
    /// Sums of squares of gradients.
    pub grad_norm: grad_norm::Forward,
    /// The step of the optimiser, on matrices; that on what kernels read in f32 differs in how parameters are kept.
    pub adamw: adamw::Forward,
}

/// Tokens between saved states that nobody keeps.
const CLOSE: u32 = 8;

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
        let norm = rms_norm::Problem { width: config.width, io, residual: true, sum: true, stats: true, alone: false };
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
        let scan_bwd = selective_scan::default_backward(&scan);
        let scan_bwd = scan_bwd.with_vec(fitting(scan_bwd.vec, config));
        let scan = selective_scan::default_variant(&scan);
        let scan = selective_scan::Forward { vec: fitting(scan.vec, config), ..scan };
        Variants {
            embedding: embedding::default_variant(config.width, io),
            embedding_bwd: embedding::default_backward(config.width, io),
            first_norm: rms_norm::default_variant(&rms_norm::Problem { residual: false, ..norm }),
            norm: rms_norm::default_variant(&norm),
            norm_again: rms_norm::default_variant(&rms_norm::Problem { sum: false, stats: false, alone: true, ..norm }),
            last_norm_bwd: rms_norm::default_backward(&norm, false, true, true),
            norm_bwd: rms_norm::default_backward(&norm, true, true, true),
            conv: causal_conv1d::default_variant(&conv),
            conv_bwd: causal_conv1d::default_backward(&conv),
            scan: scan.saving_every(scan_bwd.chunk),
            scan_alone: scan.saving_none(),
            scan_bwd,
            loss: cross_entropy::default_variant(&cross_entropy::Problem { vocabulary: config.vocabulary, io }),
            grad_norm: grad_norm::default_variant(Dtype::F32),
            adamw: adamw::default_variant(Dtype::F32, Kept::of(io), true),
        }
    }

    /// The hand-picked variants, but for those that `ids` names.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Id`] for an id that names no variant, [`Error::Config`] for one that does not do what the launch needs, and
    /// for a launch that there is not.
    pub fn of(config: &ModelConfig, io: Dtype, ids: &Ids) -> Result<Variants> {
        let mut all = Variants::hand_picked(config, io, Carries { initial: false, last: false });
        let known = all.ids();
        if let Some(name) = ids.keys().find(|name| !known.contains_key(*name)) {
            let rule = format!("a step has the launches {}", known.into_keys().collect::<Vec<_>>().join(", "));
            return Err(Error::Config { field: "variants", got: format!("one for {name}"), rule });
        }
        take(&mut all.embedding, ids.get("embedding"))?;
        take(&mut all.embedding_bwd, ids.get("embedding_bwd"))?;
        take(&mut all.first_norm, ids.get("first_norm"))?;
        take(&mut all.norm, ids.get("norm"))?;
        take(&mut all.norm_again, ids.get("norm_again"))?;
        take(&mut all.last_norm_bwd, ids.get("last_norm_bwd"))?;
        take(&mut all.norm_bwd, ids.get("norm_bwd"))?;
        take(&mut all.conv, ids.get("conv"))?;
        take(&mut all.conv_bwd, ids.get("conv_bwd"))?;
        take(&mut all.scan, ids.get("scan"))?;
        take(&mut all.scan_alone, ids.get("scan_alone"))?;
        take(&mut all.scan_bwd, ids.get("scan_bwd"))?;
        take(&mut all.loss, ids.get("loss"))?;
        take(&mut all.grad_norm, ids.get("grad_norm"))?;
        take(&mut all.adamw, ids.get("adamw"))?;
        if all.scan.distance != all.scan_bwd.chunk {
            let rule = format!("its backward pass {} wants states {} tokens apart", all.scan_bwd, all.scan_bwd.chunk);
            return Err(Error::Config { field: "variants", got: all.scan.to_string(), rule });
        }
        Ok(all)
    }

    /// The same for blocks that compute again what `recompute` says. Where all compute the scan again, the states between are one block's and
    /// soon gone: they can lie close together, which takes the backward pass an eighth less time.
    pub fn computing_again(mut self, recompute: &[Recompute]) -> Variants {
        if recompute.iter().all(|&how| how >= Recompute::Scan) {
            self.scan = self.scan.saving_every(self.scan.distance.min(CLOSE));
            self.scan_bwd.chunk = self.scan_bwd.chunk.min(CLOSE);
            self.scan_bwd.kept = self.scan_bwd.kept.min(CLOSE);
        }
        self
    }

    /// The id of each.
    pub fn ids(&self) -> Ids {
        let all = [
            ("embedding", self.embedding.to_string()),
            ("embedding_bwd", self.embedding_bwd.to_string()),
            ("first_norm", self.first_norm.to_string()),
            ("norm", self.norm.to_string()),
            ("norm_again", self.norm_again.to_string()),
            ("last_norm_bwd", self.last_norm_bwd.to_string()),
            ("norm_bwd", self.norm_bwd.to_string()),
            ("conv", self.conv.to_string()),
            ("conv_bwd", self.conv_bwd.to_string()),
            ("scan", self.scan.to_string()),
            ("scan_alone", self.scan_alone.to_string()),
            ("scan_bwd", self.scan_bwd.to_string()),
            ("loss", self.loss.to_string()),
            ("grad_norm", self.grad_norm.to_string()),
            ("adamw", self.adamw.to_string()),
        ];
        all.map(|(name, id)| (name.to_owned(), id)).into()
    }
}

/// Puts the variant with this id in the place of the hand-picked one.
fn take<V: Variant + FromStr<Err = packscan_runtime::Error>>(place: &mut V, id: Option<&String>) -> Result<()> {
    let Some(id) = id else { return Ok(()) };
    let variant: V = id.parse()?;
    // What a launch needs: its sizes, types and options. The rest says how it is done.
    let asked = |parameter: &Parameter| {
        matches!(parameter.domain, Domain::Flag | Domain::Dtype(_)) || matches!(parameter.name, "state" | "width")
    };
    let pairs = std::iter::zip(variant.values(), place.values()).zip(V::SPEC.parameters);
    let other = |&((got, want), parameter): &((_, _), &Parameter)| got != want && asked(parameter);
    if let Some((_, parameter)) = pairs.into_iter().find(|pair| other(pair)) {
        let rule = format!("its {} is not that of {place}, which the launch needs", parameter.name);
        return Err(Error::Config { field: "variants", got: id.clone(), rule });
    }
    *place = variant;
    Ok(())
}

/// B and C are columns of `x_dbl (T, R + 2N)`: where the scan moves `vec` states a load, R and N must let them start and lie apart at
/// multiples of that.
fn fitting(mut vec: u32, config: &ModelConfig) -> u32 {
    while config.state.is_multiple_of(vec as usize) && !config.rank.is_multiple_of(vec as usize) {
        vec /= 2;
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig::named("1.4b").unwrap().for_vocabulary(50_277).unwrap()
    }

    fn with(name: &str, id: &str) -> Result<Variants> {
        Variants::of(&config(), Dtype::Bf16, &[(name.to_owned(), id.to_owned())].into())
    }

    #[test]
    fn ids_name_every_variant() {
        let picked = Variants::hand_picked(&config(), Dtype::Bf16, Carries { initial: false, last: false });
        let ids = picked.ids();
        assert_eq!(ids.len(), 15);
        assert_eq!(Variants::of(&config(), Dtype::Bf16, &ids).unwrap().ids(), ids);
        assert_eq!(Variants::of(&config(), Dtype::Bf16, &Ids::new()).unwrap().ids(), ids);
    }

    #[test]
    fn a_named_variant_takes_the_place_of_the_hand_picked_one() {
        let id = "cross_entropy-b512-k8-v8-bf16";
        assert_eq!(with("loss", id).unwrap().ids()["loss"], id);
        let picked = Variants::of(&config(), Dtype::Bf16, &Ids::new()).unwrap();
        let scan = selective_scan::Forward { distance: 8, ..picked.scan }.to_string();
        let scan_bwd = selective_scan::Backward { chunk: 8, ..picked.scan_bwd }.to_string();
        let both = [("scan".to_owned(), scan), ("scan_bwd".to_owned(), scan_bwd)].into();
        let scan = Variants::of(&config(), Dtype::Bf16, &both).unwrap().scan;
        assert_eq!((scan.distance, scan.chunk), (8, picked.scan.chunk));
    }

    #[test]
    fn what_a_launch_cannot_run_is_refused() {
        let scan = Variants::of(&config(), Dtype::Bf16, &Ids::new()).unwrap().scan;
        let other_distance = selective_scan::Forward { distance: 8, ..scan }.to_string();
        for (name, id, word) in [
            ("loss", "cross_entropy-b512-k8-v8-f16", "its io is not that of cross_entropy"),
            ("loss", "adamw-b256-v4-f32-bf16-split-clip", "it must start with cross_entropy"),
            ("norm", "rms_norm_fwd-m2048-s128-r1-v4-bf16-sum-stats", "its residual is not"),
            ("norm", "rms_norm_fwd-m1024-s128-r1-v4-bf16-residual-sum-stats", "its width is not"),
            ("scan", &other_distance, "tokens apart"),
            ("gemm", "cross_entropy-b512-k8-v8-bf16", "one for gemm"),
        ] {
            let error = with(name, id).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
