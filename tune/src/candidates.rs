//! What could run where a model runs a hand-picked variant.

use std::collections::HashSet;
use std::str::FromStr;

use packscan_kernels::{adamw, causal_conv1d, cross_entropy, embedding, grad_norm, rms_norm, selective_scan};
use packscan_runtime::kernel::{self, Value, Variant};
use packscan_runtime::nvrtc::Arch;
use packscan_runtime::{Dtype, Error, Result};

use crate::workload::Problem;

/// One launch of a training step, and what could run there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name among the variants of a model: `scan_bwd`.
    pub name: String,
    /// The kernel, the first part of the ids.
    pub kernel: &'static str,
    /// What is asked of it, in words: sizes, types, options.
    pub problem: String,
    /// What could run there: the hand-picked variant, then what is favoured, then those nearest to the hand-picked one.
    pub candidates: Vec<Candidate>,
    /// How many of them come first at every stage, whatever is predicted: the hand-picked one and those of [`Slot::favour`].
    pub favoured: usize,
}

/// A variant that keeps every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// With what it can be chosen, if it is not chosen alone: the distance of the scan's checkpoints.
    pub group: u32,
}

impl Slot {
    /// The id of the hand-picked variant.
    pub fn hand_picked(&self) -> &str {
        &self.candidates[0].id
    }

    /// Moves up, to behind the hand-picked variant, those with the mapping of one of these: of what was the fastest for other sizes, types or
    /// options.
    pub fn favour(&mut self, winners: &[&str]) {
        let winners: HashSet<Vec<&str>> = winners.iter().map(|id| mapping(id)).collect();
        let others = &mut self.candidates[1..];
        let won = |candidate: &Candidate| winners.contains(&mapping(&candidate.id));
        others.sort_by_key(|candidate| !won(candidate));
        self.favoured = 1 + others.partition_point(won);
    }
}

/// The slot of this name, for which the variant with the id `hand_picked` was picked by hand.
///
/// # Errors
/// [`Error::Id`] and [`Error::Variant`] for an id that names none that the architecture runs.
pub fn slot(name: &str, hand_picked: &str, shape: &Problem, arch: Arch) -> Result<Slot> {
    let one = Maker { name, hand_picked, arch };
    match hand_picked.split('-').next().unwrap_or_default() {
        "selective_scan_fwd" => scan(one, shape),
        "selective_scan_bwd" => scan_backward(one, shape),
        "causal_conv1d_fwd" => one.alone(|v: &causal_conv1d::Forward| {
            let problem = convolution(shape, v.width, [v.silu, v.bias, v.initial, v.last], v.io);
            let words = convolution_words(&problem);
            (words, causal_conv1d::variants(&problem))
        }),
        "causal_conv1d_bwd" => one.alone(|v: &causal_conv1d::Backward| {
            let problem = convolution(shape, v.width, [v.silu, v.bias, v.initial, v.last], v.io);
            let words = convolution_words(&problem);
            (words, causal_conv1d::backward_variants(&problem))
        }),
        "rms_norm_fwd" => one.alone(|v: &rms_norm::Forward| {
            let rms_norm::Forward { io, residual, sum, stats, alone, .. } = *v;
            let problem = rms_norm::Problem { width: v.width as usize, io, residual, sum, stats, alone };
            let options = [("residual", residual), ("sum", sum), ("stats", stats), ("alone", alone)];
            (words(&[("m", v.width as usize)], io, &options), rms_norm::variants(&problem))
        }),
        "rms_norm_bwd" => one.alone(|v: &rms_norm::Backward| {
            let rms_norm::Backward { io, incoming, dresidual, dx, .. } = *v;
            let width = v.width as usize;
            let problem = rms_norm::Problem { width, io, residual: true, sum: true, stats: true, alone: false };
            let all = rms_norm::backward_variants(&problem, incoming, dresidual, dx);
            let options = [("incoming", incoming), ("dresidual", dresidual), ("dx", dx)];
            (words(&[("m", width)], io, &options), all)
        }),
        "embedding_fwd" => one.alone(|v: &embedding::Forward| {
            let all = embedding::variants(shape.width, v.io);
            (words(&[("m", shape.width), ("v", shape.vocabulary)], v.io, &[]), all)
        }),
        "embedding_bwd" => one.alone(|v: &embedding::Backward| {
            let all = embedding::backward_variants(shape.width, v.io);
            (words(&[("m", shape.width), ("v", shape.vocabulary)], v.io, &[]), all)
        }),
        "cross_entropy" => one.alone(|v: &cross_entropy::Forward| {
            let problem = cross_entropy::Problem { vocabulary: shape.vocabulary, io: v.io };
            let all = cross_entropy::variants(&problem);
            (words(&[("v", shape.vocabulary)], v.io, &[]), all)
        }),
        "grad_norm" => one.alone(|v: &grad_norm::Forward| {
            let all = grad_norm::variants(v.io);
            (words(&[("p", shape.parameters)], v.io, &[]), all)
        }),
        "adamw" => one.alone(|v: &adamw::Forward| {
            let all = adamw::variants(v.grad, v.kept(), v.clip);
            let copies = match v.kept() {
                adamw::Kept::Whole => "no-copies".to_owned(),
                adamw::Kept::Copied(dtype) => format!("copies-{dtype}"),
                adamw::Kept::Split => "halves".to_owned(),
            };
            let problem = words(&[("p", shape.parameters)], v.grad, &[(&copies, true), ("clip", v.clip)]);
            (problem, all)
        }),
        _ => Err(Error::Id {
            id: hand_picked.to_owned(),
            expected: "it must be of a kernel of a training step".to_owned(),
        }),
    }
}

/// What an id says before types and options, but for the width of norms.
fn mapping(id: &str) -> Vec<&str> {
    let numbers = id.split('-').take_while(|word| word.parse::<Dtype>().is_err());
    numbers.filter(|word| !word.starts_with('m')).collect()
}

/// What a slot is made from.
#[derive(Clone, Copy)]
struct Maker<'a> {
    name: &'a str,
    hand_picked: &'a str,
    arch: Arch,
}

impl Maker<'_> {
    /// Reads the hand-picked variant, asks for the problem that it answers and the others that do, and orders them.
    fn alone<V: Variant + FromStr<Err = Error>>(self, others: impl FnOnce(&V) -> (String, Vec<V>)) -> Result<Slot> {
        self.grouped(others, |_| 0)
    }

    /// The same for candidates that are chosen together with those of another slot in the same group.
    fn grouped<V: Variant + FromStr<Err = Error>>(
        self,
        others: impl FnOnce(&V) -> (String, Vec<V>),
        group: impl Fn(&V) -> u32,
    ) -> Result<Slot> {
        let hand: V = self.hand_picked.parse()?;
        kernel::check(&hand, self.arch)?;
        let (problem, mut all) = others(&hand);
        all.retain(|variant| *variant != hand && kernel::check(variant, self.arch).is_ok());
        all.sort_by(|a, b| distance(a, &hand).total_cmp(&distance(b, &hand)));
        let ordered = std::iter::once(hand).chain(all);
        let candidates = ordered.map(|v| Candidate { id: v.to_string(), group: group(&v) }).collect();
        Ok(Slot { name: self.name.to_owned(), kernel: V::SPEC.name, problem, candidates, favoured: 1 })
    }
}

/// How far two variants of a problem lie apart: doublings of each number, one for each option.
fn distance<V: Variant>(a: &V, b: &V) -> f64 {
    let apart = |pair: (Value, Value)| match pair {
        (Value::Int(a), Value::Int(b)) => (f64::from(a) / f64::from(b)).log2().abs(),
        (a, b) => f64::from(u8::from(a != b)),
    };
    std::iter::zip(a.values(), b.values()).map(apart).sum()
}

/// `d4096 n16 bf16 softplus gate`
fn words(sizes: &[(&str, usize)], io: Dtype, options: &[(&str, bool)]) -> String {
    let sizes = sizes.iter().map(|(letter, size)| format!("{letter}{size}"));
    let options = options.iter().filter(|option| option.1).map(|option| option.0.to_owned());
    sizes.chain([io.to_string()]).chain(options).collect::<Vec<_>>().join(" ")
}

fn convolution(
    shape: &Problem,
    taps: u32,
    [silu, bias, initial, last]: [bool; 4],
    io: Dtype,
) -> causal_conv1d::Problem {
    causal_conv1d::Problem { channels: shape.channels, width: taps as usize, io, silu, bias, initial, last }
}

fn convolution_words(problem: &causal_conv1d::Problem) -> String {
    let causal_conv1d::Problem { channels, width, io, silu, bias, initial, last } = *problem;
    let options = [("silu", silu), ("bias", bias), ("initial", initial), ("final", last)];
    words(&[("d", channels), ("k", width)], io, &options)
}

fn scan(one: Maker<'_>, shape: &Problem) -> Result<Slot> {
    one.grouped(
        |v: &selective_scan::Forward| {
            let selective_scan::Forward { io, softplus, bias, skip, gate, initial, last, checkpoints, .. } = *v;
            let (channels, state) = (shape.channels, v.state as usize);
            let problem =
                selective_scan::Problem { channels, state, io, softplus, bias, skip, gate, initial, last, checkpoints };
            let mut all = selective_scan::variants(&problem);
            all.retain(|v| starts_aligned(shape, state, v.vec) && carries(v, one.arch));
            (scan_words(&problem, shape), all)
        },
        |v| v.distance,
    )
}

/// That the same mapping also runs where states are carried over the edge of a pack.
fn carries(v: &selective_scan::Forward, arch: Arch) -> bool {
    kernel::check(&selective_scan::Forward { initial: true, last: true, ..*v }, arch).is_ok()
}

fn scan_backward(one: Maker<'_>, shape: &Problem) -> Result<Slot> {
    one.grouped(
        |v: &selective_scan::Backward| {
            let selective_scan::Backward { io, softplus, bias, skip, gate, initial, last, .. } = *v;
            let (channels, state) = (shape.channels, v.state as usize);
            let problem = selective_scan::Problem {
                channels,
                state,
                io,
                softplus,
                bias,
                skip,
                gate,
                initial,
                last,
                checkpoints: true,
            };
            let mut all = selective_scan::backward_variants(&problem);
            let carries = |v: &selective_scan::Backward| {
                kernel::check(&selective_scan::Backward { initial: true, last: true, ..*v }, one.arch).is_ok()
            };
            all.retain(|v| starts_aligned(shape, state, v.vec) && carries(v));
            (scan_words(&problem, shape), all)
        },
        |v| v.chunk,
    )
}

/// B and C are columns of `x_dbl (T, R + 2N)`: where several states are moved a load, R must let them start at a multiple of that.
fn starts_aligned(shape: &Problem, state: usize, vec: u32) -> bool {
    !state.is_multiple_of(vec as usize) || shape.rank.is_multiple_of(vec as usize)
}

fn scan_words(problem: &selective_scan::Problem, shape: &Problem) -> String {
    let selective_scan::Problem { channels, state, io, softplus, bias, skip, gate, initial, last, checkpoints } =
        *problem;
    let options = [
        ("softplus", softplus),
        ("bias", bias),
        ("skip", skip),
        ("gate", gate),
        ("initial", initial),
        ("final", last),
        ("checkpoints", checkpoints),
    ];
    // Of R only its alignment matters.
    let aligned = 1 << shape.rank.trailing_zeros().min(3);
    words(&[("d", channels), ("n", state), ("r", aligned)], io, &options)
}

/// The id of the same mapping where states are carried over the edges of a pack; `None` for kernels that carry none.
pub fn carrying(id: &str) -> Option<String> {
    match id.split('-').next()? {
        "selective_scan_fwd" => {
            let v: selective_scan::Forward = id.parse().ok()?;
            Some(selective_scan::Forward { initial: true, last: true, ..v }.to_string())
        }
        "selective_scan_bwd" => {
            let v: selective_scan::Backward = id.parse().ok()?;
            Some(selective_scan::Backward { initial: true, last: true, ..v }.to_string())
        }
        "causal_conv1d_fwd" => {
            let v: causal_conv1d::Forward = id.parse().ok()?;
            Some(causal_conv1d::Forward { initial: true, last: true, ..v }.to_string())
        }
        "causal_conv1d_bwd" => {
            let v: causal_conv1d::Backward = id.parse().ok()?;
            Some(causal_conv1d::Backward { initial: true, last: true, ..v }.to_string())
        }
        _ => None,
    }
}
