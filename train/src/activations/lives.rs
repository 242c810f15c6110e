//! When each activation is written and when it is read last: what shows that those who share memory may.
//!
//! [`steps`] is the table: each operator of `forward.rs` and `backward.rs` with what it reads and what it writes. From it the tests walk
//! through a pass and note for every piece of memory what it holds. An operator that would read something else, or write where it still
//! reads, is an error.

use std::collections::HashMap;

use packscan_runtime::{Buffer, Device, Dtype};

use super::{Activations, OF_BLOCKS, ONCE, Recompute, Sizes, TURNS, Tensor, Tensor::*, kept, of_last_norm};
use crate::ModelConfig;
use crate::parameters::Layout;

/// A tensor of a block.
type At = (usize, Tensor);

/// One operator of one block.
struct Step {
    what: String,
    reads: Vec<At>,
    writes: Vec<At>,
}

/// Operators of a block on the way forward, or again on the way back. Beside these, the norm reads and writes the residual stream.
const FORWARD: [(&str, &[Tensor], &[Tensor]); 7] = [
    ("norm", &[Hidden], &[Normed, Rstd]),
    ("in_proj", &[Normed], &[Xz]),
    ("conv", &[Xz], &[U]),
    ("x_proj", &[U], &[XDbl]),
    ("dt_proj", &[XDbl], &[Delta]),
    ("scan", &[U, Delta, XDbl, Xz], &[Out, Checkpoints, Entering]),
    ("out_proj", &[Out], &[Hidden]),
];

/// What it computes again, from what step on.
const AGAIN: [(&str, Recompute, &[Tensor], &[Tensor]); 5] = [
    ("norm again", Recompute::Cheap, &[Residual], &[Normed]),
    ("in_proj again", Recompute::Full, &[Normed], &[Xz]),
    ("conv again", Recompute::Cheap, &[Xz], &[U]),
    ("dt_proj again", Recompute::Cheap, &[XDbl], &[Delta]),
    ("scan again", Recompute::Scan, &[U, Delta, XDbl, Xz], &[Out, Checkpoints, Entering]),
];

/// Its gradients. Beside these, that of the norm reads and writes the gradient of the residual stream.
const BACKWARD: [(&str, &[Tensor], &[Tensor]); 9] = [
    ("out_proj's input", &[Hidden], &[DOut]),
    ("out_proj's weight", &[Hidden, Out], &[]),
    ("scan's", &[DOut, U, Delta, XDbl, Xz, Checkpoints, Entering], &[DU, DDelta, DXDbl, DXz]),
    ("dt_proj's", &[DDelta, XDbl, DXDbl], &[DXDbl]),
    ("x_proj's", &[DXDbl, U, DU], &[DU]),
    ("conv's", &[DU, Xz, DXz], &[DXz]),
    ("in_proj's input", &[DXz], &[DNormed]),
    ("in_proj's weight", &[DXz, Normed], &[]),
    ("norm's", &[DNormed, Residual, Rstd], &[Hidden]),
];

/// A pass there and back over blocks that compute again what `recompute` says.
fn steps(recompute: &[Recompute]) -> Vec<Step> {
    let last = recompute.len();
    let at = |l: usize, tensors: &[Tensor]| tensors.iter().map(|&t| (l, t)).collect::<Vec<_>>();
    let step = |l: usize, what: &str, reads: &[Tensor], writes: &[Tensor]| Step {
        what: format!("{what} of block {l}"),
        reads: at(l, reads),
        writes: at(l, writes),
    };
    let norm = |l: usize| {
        let mut norm = step(l, FORWARD[0].0, FORWARD[0].1, FORWARD[0].2);
        norm.reads.extend(l.checked_sub(1).map(|before| (before, Residual)));
        norm.writes.push((l, Residual));
        norm
    };
    let turns = |l: usize| if l.is_multiple_of(2) { (DResidual, DResidual2) } else { (DResidual2, DResidual) };
    let norm_gradient = |l: usize| {
        let (what, reads, writes) = BACKWARD[8];
        let mut gradient = step(l, what, reads, writes);
        gradient.reads.extend((l < last).then_some((l, turns(l).0)));
        gradient.writes.push((l, turns(l).1));
        gradient
    };

    let mut all = vec![step(0, "embedding", &[], &[Hidden])];
    for (l, &kind) in recompute.iter().enumerate() {
        all.push(norm(l));
        for (what, reads, writes) in &FORWARD[1..] {
            // States that would be computed again are not saved.
            let saved = |t: &&Tensor| **t != Checkpoints || kind < Recompute::Scan;
            let writes: Vec<Tensor> = writes.iter().filter(saved).copied().collect();
            all.push(step(l, what, reads, &writes));
        }
    }
    all.push(norm(last));
    all.push(step(last, "head", &[Normed], &[Logits]));
    all.push(step(last, "loss", &[Logits], &[Losses, Logits]));
    all.push(step(last, "head's input", &[Logits], &[DNormed]));
    all.push(step(last, "head's weight", &[Logits, Normed], &[]));
    all.push(step(last, "sum of losses", &[Losses], &[]));
    all.push(norm_gradient(last));
    for (l, &kind) in recompute.iter().enumerate().rev() {
        let again = AGAIN.iter().filter(|(what, least, ..)| kind >= *least && (l + 1 < last || *what == "scan again"));
        all.extend(again.map(|(what, _, reads, writes)| step(l, what, reads, writes)));
        all.extend(BACKWARD[..8].iter().map(|(what, reads, writes)| step(l, what, reads, writes)));
        all.push(norm_gradient(l));
    }
    all.push(step(0, "embedding's", &[Hidden], &[]));
    all
}

/// Goes through a pass where each tensor lies in the memory that `place` names, and says what goes wrong first.
fn walk<P: std::hash::Hash + Eq>(recompute: &[Recompute], place: impl Fn(At) -> P) -> Result<(), String> {
    // What there is once is the same for all blocks.
    let named = |(l, t): At| if ONCE.contains(&t) { (0, t) } else { (l, t) };
    let mut holds: HashMap<P, At> = HashMap::new();
    for Step { what, reads, writes } in steps(recompute) {
        for &read in &reads {
            match holds.get(&place(read)) {
                Some(&found) if found == named(read) => {}
                found => return Err(format!("{what} reads {read:?} where {found:?} is")),
            }
        }
        for (i, &write) in writes.iter().enumerate() {
            let others = reads.iter().chain(&writes[..i]).filter(|&&other| named(other) != named(write));
            for &other in others {
                if place(other) == place(write) {
                    return Err(format!("{what} writes {write:?} where its {other:?} is"));
                }
            }
            holds.insert(place(write), named(write));
        }
    }
    Ok(())
}

/// Every mix of what three blocks can compute again.
fn mixes() -> impl Iterator<Item = [Recompute; 3]> {
    let of = |i: usize| Recompute::ALL[i % 4];
    (0..64).map(move |i| [of(i), of(i / 4), of(i / 16)])
}

fn sizes(recompute: &[Recompute]) -> Sizes {
    let config = ModelConfig::of(12, recompute.len()).for_vocabulary(24).expect("the sizes are legal");
    Sizes { config, io: Dtype::Bf16, tokens: 40, distance: 8, recompute: recompute.to_vec() }
}

#[test]
fn every_operator_finds_what_it_reads() {
    for recompute in mixes() {
        let activations = Activations::new(&Device::Cpu, sizes(&recompute)).unwrap();
        let place = |(l, t): At| std::ptr::from_ref(activations.buffer(l, t));
        walk(&recompute, place).unwrap_or_else(|wrong| panic!("{recompute:?}: {wrong}"));
    }
}

/// The walk finds fault with each of these pairs; with those that do take turns it does not.
#[test]
fn what_lives_at_the_same_time_may_not_take_turns() {
    let recompute = [Recompute::Full; 3];
    // Each block's own, but for the pair, which lies in one place.
    let with = |a: Tensor, b: Tensor| {
        walk(&recompute, |(l, t)| match if l == recompute.len() { of_last_norm(t) } else { t } {
            t if t == a || t == b => (0, a),
            t if ONCE.contains(&t) => (0, t),
            t => (l, t),
        })
    };
    for (a, b) in [
        (Hidden, DOut),
        (Hidden, DNormed),
        (Hidden, Out),
        (Out, DOut),
        (DOut, DU),
        (DDelta, DU),
        (DXz, DU),
        (DXz, Xz),
        (U, DDelta),
        (Normed, DNormed),
        (Delta, DDelta),
        (Checkpoints, DXz),
        (Logits, DNormed),
        (LastNormed, Logits),
        (LastNormed, DNormed),
        (LastResidual, DResidual),
        (DResidual, DResidual2),
    ] {
        assert!(with(a, b).is_err(), "{a:?} and {b:?} take turns unnoticed");
    }
    for pair in TURNS.iter().flat_map(|turns| turns.windows(2)) {
        assert_eq!(with(pair[0], pair[1]), Ok(()), "{pair:?}");
    }
}

/// Gradients of matrices are written only after what lay in their place was read last; where others go nothing ever lies.
#[test]
fn activations_leave_before_gradients_come() {
    for recompute in mixes() {
        let (sizes, steps) = (sizes(&recompute), steps(&recompute));
        let layout = Layout::of(&sizes.config);
        let gradients = Buffer::unwritten(&Device::Cpu, Dtype::F32, layout.elements).unwrap();
        let activations = Activations::lent(&gradients, sizes).unwrap();
        assert!(activations.check_accumulation(false).is_ok() && activations.check_accumulation(true).is_err());
        let own = |j: usize| OF_BLOCKS.into_iter().filter(move |&t| kept(t, recompute[j])).map(move |t| (j, t));
        let all: Vec<At> = (0..recompute.len()).flat_map(own).collect();
        let lies_in = |(j, t): At, range: std::ops::Range<usize>| {
            gradients.part(range.start, range.len(), 1).unwrap().overlaps(&activations.buffer(j, t).view())
        };
        let mut met = 0;
        for &at in &all {
            let read = steps.iter().rposition(|step| step.reads.contains(&at) || step.writes.contains(&at));
            for l in (0..recompute.len()).filter(|&l| lies_in(at, layout.matrices(l))) {
                let of_block =
                    |step: &Step| BACKWARD.iter().any(|(what, ..)| step.what == format!("{what} of block {l}"));
                let written = steps.iter().position(of_block);
                assert!(read < written, "{recompute:?}: {at:?} is still read when gradients of block {l} are written");
                met += 1;
            }
            for others in [0..layout.matrices(0).start, layout.products..layout.elements] {
                assert!(!lies_in(at, others), "{recompute:?}: {at:?} lies where no block's matrices are");
            }
            let here = activations.buffer(at.0, at.1).view();
            let shared = |other: &&At| **other != at && activations.buffer(other.0, other.1).view().overlaps(&here);
            assert_eq!(all.iter().find(shared), None, "{recompute:?}: {at:?} shares its place");
        }
        assert!(met > 0, "{recompute:?}: nothing lies among gradients");
    }
}

#[test]
fn memory_is_what_is_planned() {
    for recompute in mixes() {
        let (device, sizes) = (Device::emulator(1), sizes(&recompute));
        let (planned, lent) = (sizes.total_bytes(), sizes.lent_bytes());
        let alone = Activations::new(&device, sizes.clone()).unwrap();
        assert_eq!(device.allocated_bytes(), planned, "{recompute:?}");
        drop(alone);
        let elements = Layout::of(&sizes.config).elements;
        let gradients = Buffer::unwritten(&device, Dtype::F32, elements).unwrap();
        let _activations = Activations::lent(&gradients, sizes).unwrap();
        assert_eq!(device.allocated_bytes(), planned - lent + 4 * elements, "{recompute:?}");
    }
}
