//! What a run needs of a device's memory, before anything runs.

use std::fmt;

use packscan_kernels::adamw::Kept;
use packscan_kernels::{causal_conv1d, grad_norm, selective_scan};
use packscan_runtime::Dtype;

use super::source::AHEAD;
use crate::activations::{Recompute, Sizes};
use crate::parameters::Layout;
use crate::report::number::{self, counted};
use crate::step::memory_bytes;
use crate::variants::Variants;
use crate::{DevicePack, Error, ModelConfig, Result};

/// Bytes by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    rows: Vec<(String, usize)>,
}

/// What decides a plan.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Type of the activations.
    pub io: Dtype,
    /// The most tokens of a pack.
    pub tokens: usize,
    /// Packs of a step.
    pub packs: usize,
    /// Of them those between which gradients flow where a document is cut: see [`Text::chain`](super::Text::chain).
    pub chain: usize,
    /// Ranks that share the state of the optimiser; 1 where it is not shared.
    pub shards: usize,
    /// What the launches run: saved states and partial sums are theirs.
    pub variants: Variants,
    /// Whether it runs on a GPU.
    pub on_gpu: bool,
}

/// What cuBLASLt may use, and what a driver keeps to itself: measured on an H200, rounded up.
const BESIDE_ON_GPU_BYTES: usize = 1 << 30;
/// What a run on a CPU takes beside its buffers: 27 MB of `tiny` on two cores, rounded up for more threads and a large tokenizer.
const BESIDE_BYTES: usize = 64_000_000;
/// Blocks of the scan that partial sums are kept of, at most, where the device is not asked: some rounds of a large GPU.
const BLOCKS: usize = 4096;

impl Request<'_> {
    fn sizes(&self, recompute: &[Recompute]) -> Sizes {
        Sizes {
            config: self.config.clone(),
            io: self.io,
            tokens: self.tokens,
            distance: self.variants.computing_again(recompute).scan.distance as usize,
            recompute: recompute.to_vec(),
        }
    }

    /// Partial sums of gradients.
    fn workspace_bytes(&self) -> usize {
        let (d, n) = (self.config.channels(), self.config.state);
        let Variants { scan_bwd, conv_bwd, .. } = self.variants;
        let selective_scan::Backward { channels, .. } = scan_bwd;
        let causal_conv1d::Backward { ways, run, .. } = conv_bwd;
        let tokens = self.tokens * d.div_ceil(channels as usize) * 2 * n;
        // A CPU goes through all sequences in one.
        let groups = if self.on_gpu { BLOCKS.div_ceil(d.div_ceil(channels as usize)) } else { 1 } * d * (n + 2);
        let conv = self.tokens.div_ceil((ways * run) as usize) * d * (self.config.taps + 1);
        4 * (tokens + groups + conv + 1024 * self.config.width)
    }

    /// What `matrices` elements of matrices and `others` of other parameters take, and what belongs to them; activations lie in the room of gradients
    /// of a single pack.
    fn parameter_rows(&self, sizes: &Sizes, matrices: usize, others: usize) -> Vec<(String, usize)> {
        let elements = matrices + others;
        let mut rows = match Kept::of(self.io) {
            Kept::Whole => vec![("parameters, f32".to_owned(), 4 * elements)],
            Kept::Copied(dtype) => vec![
                ("parameters, f32".to_owned(), 4 * elements),
                (format!("copies of matrices, {dtype}"), dtype.bytes() * matrices),
            ],
            Kept::Split => vec![
                ("matrices, bf16 and 16 bits more".to_owned(), 4 * matrices),
                ("other parameters, f32".to_owned(), 4 * others),
            ],
        };
        let (lent, gradients) = match self.packs {
            1 => (sizes.lent_bytes(), "gradients, f32, beyond the room of activations"),
            _ => (0, "gradients, f32"),
        };
        rows.extend([
            (gradients.to_owned(), 4 * elements - lent + 4 * elements.div_ceil(grad_norm_part())),
            ("moments of the optimiser, f32".to_owned(), 8 * (matrices.div_ceil(self.shards) + others)),
        ]);
        rows
    }

    /// The plan for what each block computes again.
    pub fn plan(&self, recompute: &[Recompute]) -> Plan {
        let layout = Layout::of(self.config);
        let sizes = self.sizes(recompute);
        let count = |kind| recompute.iter().filter(|&&r| r == kind).count();
        let matrices = layout.product_parameters();
        let mut rows = self.parameter_rows(&sizes, matrices, layout.parameters() - matrices);
        let bytes = |rows: &[(String, usize)]| rows.iter().map(|row| row.1).sum::<usize>();
        let laid_out = bytes(&self.parameter_rows(&sizes, layout.products, layout.elements - layout.products));
        rows.push(("gaps, so that ranks can share matrices out".to_owned(), laid_out - bytes(&rows)));
        for kind in Recompute::ALL {
            if count(kind) > 0 {
                let name = format!("activations of {}, recompute {kind}", counted(count(kind) as u64, "block"));
                rows.push((name, count(kind) * sizes.block_bytes(kind)));
            }
        }
        rows.push(("activations that blocks take turns with".to_owned(), sizes.shared_bytes()));
        rows.push(("partial sums of gradients".to_owned(), self.workspace_bytes()));
        let indices = self.packs * DevicePack::bytes(self.tokens, self.config.vocabulary);
        // Tokens and targets of packs that are made ahead, and of those that go to the device, lie in the host's memory.
        let ahead = if self.on_gpu { 0 } else { (AHEAD + 1) * self.packs * 2 * Dtype::U32.bytes() * self.tokens };
        rows.push(("tokens, targets and boundaries of packs".to_owned(), indices + ahead));
        if self.chain > 0 {
            let memories = memory_bytes(self.config, self.io, self.tokens, self.chain);
            rows.push(("states of documents cut between packs".to_owned(), memories));
        }
        rows.push(match self.on_gpu {
            true => ("libraries and driver".to_owned(), BESIDE_ON_GPU_BYTES),
            false => ("the program, its threads and the tokenizer".to_owned(), BESIDE_BYTES),
        });
        Plan { rows }
    }

    /// What each block computes again so that the plan stays within `budget` bytes: as little as will do, the last blocks least. `None`
    /// sets no limit.
    ///
    /// # Errors
    /// [`Error::Memory`] with the plan that needs least and the tokens that would fit.
    pub fn choose(&self, budget: Option<usize>) -> Result<Vec<Recompute>> {
        let layers = self.config.layers;
        let Some(budget) = budget else { return Ok(vec![Recompute::None; layers]) };
        let mix = |more: Recompute, blocks: usize, less: Recompute| -> Vec<Recompute> {
            (0..layers).map(|l| if l < blocks { more } else { less }).collect()
        };
        let ladder = (0..=layers).map(|blocks| mix(Recompute::Cheap, blocks, Recompute::None));
        let ladder = ladder.chain((1..=layers).map(|blocks| mix(Recompute::Scan, blocks, Recompute::Cheap)));
        let ladder = ladder.chain((1..=layers).map(|blocks| mix(Recompute::Full, blocks, Recompute::Scan)));
        for recompute in ladder {
            if self.plan(&recompute).bytes() <= budget {
                return Ok(recompute);
            }
        }
        let least = vec![Recompute::Full; layers];
        let fits = |tokens, packs| Request { tokens, packs, ..*self }.plan(&least).bytes() <= budget;
        let halves = |of: usize, least| {
            std::iter::successors(Some(of / 2), |half| Some(half / 2)).take_while(move |&half| half >= least)
        };
        let packs = halves(self.packs, 1).find(|&packs| fits(self.tokens, packs));
        let cure = match (packs, halves(self.tokens, 256).find(|&tokens| fits(tokens, self.packs))) {
            (Some(packs), _) => format!("--packs {packs} would fit"),
            (None, Some(tokens)) => format!("--tokens {tokens} would fit; --packs makes up for smaller packs"),
            (None, None) => "no pack would fit; take a smaller model or more memory".to_owned(),
        };
        Err(Error::Memory { needed: self.plan(&least).to_string(), budget: number::bytes(budget as u64), cure })
    }
}

fn grad_norm_part() -> usize {
    grad_norm::default_variant(Dtype::F32).part as usize
}

impl Plan {
    /// All of it.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.1).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in &self.rows {
            writeln!(f, "  {name:<48}{:>12}", number::bytes(*bytes as u64))?;
        }
        write!(f, "  {:<48}{:>12}", "together", number::bytes(self.bytes() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::{Carries, Ids};

    fn request(config: &ModelConfig, variants: Variants) -> Request<'_> {
        Request { config, io: Dtype::Bf16, tokens: 16_384, packs: 1, chain: 0, shards: 1, variants, on_gpu: true }
    }

    fn hand_picked(config: &ModelConfig) -> Variants {
        Variants::hand_picked(config, Dtype::Bf16, Carries { initial: false, last: false })
    }

    #[test]
    fn checkpoints_closer_together_take_more() {
        let config = ModelConfig::named("1.4b").unwrap().for_vocabulary(50_277).unwrap();
        let far = hand_picked(&config);
        let scan = selective_scan::Forward { distance: 8, ..far.scan }.to_string();
        let scan_bwd = selective_scan::Backward { chunk: 8, ..far.scan_bwd }.to_string();
        let ids = Ids::from([("scan", scan), ("scan_bwd", scan_bwd)].map(|(name, id)| (name.to_owned(), id)));
        let near = Variants::of(&config, Dtype::Bf16, &ids).unwrap();
        let bytes = |variants| request(&config, variants).plan(&[Recompute::None; 48]).bytes();
        let states = |distance: u32| 48 * 16_384 / distance as usize * 4096 * 16 * 4;
        assert_eq!(bytes(near) - bytes(far), states(8) - states(far.scan.distance));
    }

    #[test]
    fn as_little_is_computed_again_as_fits() {
        let config = ModelConfig::named("1.4b").unwrap().for_vocabulary(50_277).unwrap();
        let request = request(&config, hand_picked(&config));
        assert_eq!(request.choose(None).unwrap(), vec![Recompute::None; 48]);
        for (budget, more, less) in [
            (60 << 30, Recompute::Cheap, Recompute::None),
            (40 << 30, Recompute::Scan, Recompute::Cheap),
            (28 << 30, Recompute::Full, Recompute::Scan),
        ] {
            let chosen = request.choose(Some(budget)).unwrap();
            let mut with_less = chosen.clone();
            with_less[chosen.iter().rposition(|&r| r == more).unwrap()] = less;
            let bytes = |recompute: &[Recompute]| request.plan(recompute).bytes();
            assert!(bytes(&chosen) <= budget && bytes(&with_less) > budget, "{chosen:?}");
        }
    }

    #[test]
    fn too_little_memory_names_what_would_fit() {
        let config = ModelConfig::named("2.8b").unwrap().for_vocabulary(50_277).unwrap();
        let error = request(&config, hand_picked(&config)).choose(Some(45 << 30)).unwrap_err().to_string();
        assert!(error.contains("--tokens 8192"), "{error}");
        let error = request(&config, hand_picked(&config)).choose(Some(8 << 30)).unwrap_err().to_string();
        assert!(error.contains("smaller model"), "{error}");
    }

    /// Activations lie where the gradients of one pack come later, and not where those of the pack before are.
    #[test]
    fn a_step_of_one_pack_takes_less() {
        let config = ModelConfig::named("2.8b").unwrap().for_vocabulary(50_277).unwrap();
        let one = request(&config, hand_picked(&config));
        let all = vec![Recompute::Scan; config.layers];
        let pack = DevicePack::bytes(one.tokens, config.vocabulary);
        let lent = one.sizes(&all).lent_bytes();
        assert_eq!(Request { packs: 2, ..one }.plan(&all).bytes() - one.plan(&all).bytes(), lent + pack);
        // All but the room of what does not fit as a whole, of the gradients that come before the last block's.
        let matrices = 4 * (Layout::of(&config).matrices(63).start - Layout::of(&config).matrices(0).start);
        assert!(lent <= matrices && lent > matrices * 9 / 10, "{lent} of {matrices}");
    }
}
