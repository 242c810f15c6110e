//! The properties of one case.

use std::fmt;

use packscan_reference::Bounded;
use packscan_runtime::kernel::Variant;
use packscan_runtime::{Device, DevicePacked, Error, Packed};

use crate::compare::{Mismatch, agrees, same_bits};
use crate::data::{largest, rounded};
use crate::{Case, Random, Rows, Sizes, Tensor};

/// An operator under test.
pub trait Operator: Send + Sync + 'static {
    /// Its kernel.
    type Variant: Variant;

    /// The inputs that are incoming gradients; a forward pass has none.
    const INCOMING: &'static [&'static str] = &[];

    /// What random cases for a variant look like, at most `elements` elements each.
    fn sizes(variant: &Self::Variant, elements: usize) -> Sizes;

    /// Whether a variant heeds marks of continuation.
    fn continues(variant: &Self::Variant) -> bool;

    /// Random inputs for a case.
    fn inputs(variant: &Self::Variant, packed: &Packed, case: &Case) -> Vec<Tensor>;

    /// Runs the operator: its outputs, and whether everything beside them stayed untouched.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn run(call: &Call<'_, Self::Variant>, inputs: &[Tensor]) -> packscan_runtime::Result<(Vec<Tensor>, bool)>;

    /// What the book says of each output, with the bound on a float implementation, stored type included.
    fn book(variant: &Self::Variant, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>>;
}

/// One run of an operator.
#[derive(Debug)]
pub struct Call<'a, V> {
    /// What runs.
    pub variant: &'a V,
    /// On which pack and device.
    pub packed: &'a DevicePacked,
    /// Channels, D.
    pub channels: usize,
    /// Groups of sequences.
    pub groups: usize,
    /// Loads of unused columns on each side of a strided row.
    pub padding: usize,
    /// How often the operator runs on the same outputs.
    pub rounds: usize,
}

/// What every kernel must have; see the crate's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Nothing that the device can see goes wrong.
    Watched,
    /// With the book.
    Agreement,
    /// Of each sequence from every other.
    Isolation,
    /// Under packing.
    Invariance,
    /// Of repeated runs.
    Determinism,
    /// Of what is added to.
    Accumulation,
}

impl Property {
    /// All, in the order in which they are checked.
    pub const ALL: [Property; 6] = [
        Property::Watched,
        Property::Agreement,
        Property::Determinism,
        Property::Accumulation,
        Property::Isolation,
        Property::Invariance,
    ];
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Property::Watched => "watched",
            Property::Agreement => "agreement",
            Property::Isolation => "isolation",
            Property::Invariance => "invariance",
            Property::Determinism => "determinism",
            Property::Accumulation => "accumulation",
        })
    }
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Which.
    pub property: Property,
    /// What was run when it showed: `sequence 1 set to NaN`.
    pub during: String,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({}): {}", self.property, self.during, self.detail)
    }
}

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A property did not hold.
    Failed(Failure),
    /// Nothing could be said: the kernel did not compile, the cache cannot be written, a fault is not in the text.
    Error(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failed(failure)
    }
}

/// Everything that is replaced in a sequence's data, to see whether another sequence notices.
const POISONS: [(&str, f32); 4] =
    [("other numbers", 0.0), ("NaN", f32::NAN), ("infinities", f32::INFINITY), ("huge values", f32::MAX)];

/// The most sequences that are run each alone, for what they add: together they cost about as much as their pack.
const MOST_ALONE: usize = 8;

/// Checks every property of one case, each only if those before it held; returns the largest error as a share of its bound.
///
/// # Errors
/// The first property that did not hold, or what kept it from being checked.
pub(crate) fn check<O: Operator>(device: &Device, variant: &O::Variant, case: &Case) -> Result<f64, Trouble> {
    let packed = case.packed(O::continues(variant));
    let bench = Bench::<O> { device, variant, case };
    let inputs = O::inputs(variant, &packed, case);
    let outputs = bench.run(&packed, bench.usual(), &inputs, "first run")?;

    let book = O::book(variant, &packed, &inputs);
    let mut worst = 0.0f64;
    for (got, want) in std::iter::zip(&outputs, &book) {
        worst = worst.max(agrees(got, want, &packed).map_err(failed(Property::Agreement, "first run"))?);
    }
    bench.determinism(&packed, &inputs, &outputs)?;
    bench.accumulation(&packed, &inputs, &outputs)?;
    // Where nothing belongs to a sequence, nothing can pass between two.
    if !inputs.iter().all(|t| matches!(t.rows, Rows::Shared(_))) {
        bench.sums(&packed, &inputs, &outputs, &book)?;
        bench.isolation(&packed, &inputs, &outputs)?;
        bench.invariance(&packed, &inputs, &outputs)?;
    }
    Ok(worst)
}

fn failed(property: Property, during: impl Into<String>) -> impl FnOnce(Box<Mismatch>) -> Failure {
    let during = during.into();
    move |mismatch| Failure { property, during, detail: mismatch.to_string() }
}

/// What may differ between runs of the same call.
#[derive(Clone, Copy)]
struct Way {
    groups: usize,
    seed: u64,
    rounds: usize,
}

/// A device, a variant and a case.
struct Bench<'a, O: Operator> {
    device: &'a Device,
    variant: &'a O::Variant,
    case: &'a Case,
}

impl<O: Operator> Bench<'_, O> {
    /// Runs in one of the ways that must not matter.
    fn run(&self, packed: &Packed, way: Way, inputs: &[Tensor], during: &str) -> Result<Vec<Tensor>, Trouble> {
        if let Device::Emulator(emulated) = self.device {
            emulated.set_seed(way.seed);
        }
        let watched = |detail: String| {
            Trouble::Failed(Failure { property: Property::Watched, during: during.to_owned(), detail })
        };
        let ran = packed.on(self.device).and_then(|packed| {
            let Case { channels, padding, .. } = *self.case;
            let Way { groups, rounds, .. } = way;
            let call = Call { variant: self.variant, packed: &packed, channels, groups, padding, rounds };
            O::run(&call, inputs)
        });
        match ran {
            Ok((outputs, true)) => Ok(outputs),
            Ok((_, false)) => Err(watched("memory beside an output was written".to_owned())),
            Err(error @ (Error::Emulated { .. } | Error::Cuda { .. })) => Err(watched(error.to_string())),
            Err(error) => Err(Trouble::Error(error)),
        }
    }

    /// The way of the first run.
    fn usual(&self) -> Way {
        Way { groups: self.case.groups, seed: 0, rounds: 1 }
    }

    /// Another run, schedule and grouping: the same bits. What is summed over all sequences may depend on the grouping.
    fn determinism(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Tensor]) -> Result<(), Trouble> {
        for (groups, seed) in
            [(self.case.groups, self.case.seed.wrapping_add(1)), (self.case.groups + 1, self.case.seed.wrapping_add(2))]
        {
            let during = format!("another run in {groups} groups");
            let again = self.run(packed, Way { groups, seed, ..self.usual() }, inputs, &during)?;
            for (got, want) in std::iter::zip(&again, outputs) {
                if groups != self.case.groups && matches!(got.rows, Rows::Shared(_)) {
                    continue;
                }
                let rows = 0..got.rows.count(packed);
                same_bits(got, want, rows.map(|r| (r, r)), packed)
                    .map_err(failed(Property::Determinism, during.clone()))?;
            }
        }
        Ok(())
    }

    /// Two runs on the same outputs: what is added to has twice the value, the rest the same.
    fn accumulation(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Tensor]) -> Result<(), Trouble> {
        if !outputs.iter().any(|t| t.accumulated) {
            return Ok(());
        }
        let during = "two runs on the same outputs";
        let twice = self.run(packed, Way { rounds: 2, ..self.usual() }, inputs, during)?;
        for (got, once) in std::iter::zip(&twice, outputs) {
            let factor = if got.accumulated { 2.0 } else { 1.0 };
            let want = Tensor { values: once.values.iter().map(|x| factor * x).collect(), ..once.clone() };
            let rows = 0..got.rows.count(packed);
            same_bits(got, &want, rows.map(|r| (r, r)), packed).map_err(failed(Property::Accumulation, during))?;
        }
        Ok(())
    }

    /// What is added up over all sequences is the sum of what each adds alone, within the bounds of both.
    fn sums(
        &self,
        packed: &Packed,
        inputs: &[Tensor],
        outputs: &[Tensor],
        book: &[Vec<Bounded>],
    ) -> Result<(), Trouble> {
        let sequences: Vec<usize> = (0..packed.sequences()).filter(|&s| !packed.range(s).is_empty()).collect();
        if !outputs.iter().any(|t| t.accumulated) || !(2..=MOST_ALONE).contains(&sequences.len()) {
            return Ok(());
        }
        let during = "the sum of each sequence alone";
        let mut sums: Vec<Vec<Bounded>> =
            book.iter().map(|all| all.iter().map(|x| Bounded { value: 0.0, error: x.error }).collect()).collect();
        for s in sequences {
            let (alone, moved) = reordered(packed, inputs, &[s]);
            let got = self.run(&alone, self.usual(), &moved, during)?;
            let bounds = O::book(self.variant, &alone, &moved);
            for ((sum, got), bounds) in std::iter::zip(&mut sums, &got).zip(&bounds).filter(|part| part.0.1.accumulated)
            {
                for ((sum, got), bound) in std::iter::zip(sum, &got.values).zip(bounds) {
                    *sum = Bounded { value: sum.value + f64::from(*got), error: sum.error + bound.error };
                }
            }
        }
        for (got, want) in std::iter::zip(outputs, &sums).filter(|pair| pair.0.accumulated) {
            agrees(got, want, packed).map_err(failed(Property::Accumulation, during))?;
        }
        Ok(())
    }

    /// One sequence's data replaced, all of it and a part alone, an incoming gradient if there is one: every other sequence keeps every bit.
    fn isolation(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Tensor]) -> Result<(), Trouble> {
        let mut random = Random::new(self.case.seed, "victim");
        let victims: Vec<usize> = (0..packed.sequences()).filter(|&s| !packed.range(s).is_empty()).collect();
        if victims.is_empty() || packed.sequences() < 2 {
            return Ok(());
        }
        let owned: Vec<&str> = inputs.iter().filter(|t| !matches!(t.rows, Rows::Shared(_))).map(|t| t.name).collect();
        let first = random.below(victims.len());
        for (i, (what, poison)) in POISONS.into_iter().enumerate() {
            // NaN and infinities in turn, so that one of them has a sequence behind it and one of them a sequence before it.
            let victim = victims[(first + i) % victims.len()];
            // One tensor may show what all together hide: a huge step size makes every state forget a huge input.
            let mut part: Vec<&str> = owned.iter().copied().filter(|name| O::INCOMING.contains(name)).collect();
            if part.is_empty() {
                part.push(owned[random.below(owned.len())]);
            }
            for names in [&owned, &part] {
                let all = names.len() == owned.len();
                let tensors = if all { "all its tensors".to_owned() } else { names.join(" and ") };
                let during = format!("sequence {victim} set to {what} in {tensors}");
                let poisoned: Vec<Tensor> = inputs
                    .iter()
                    .map(|t| match names.contains(&t.name) {
                        true => poisoned(t, packed, victim, poison, &mut random),
                        false => t.clone(),
                    })
                    .collect();
                let got = self.run(packed, self.usual(), &poisoned, &during)?;
                self.others_keep(packed, victim, &got, outputs).map_err(failed(Property::Isolation, during))?;
            }
        }
        Ok(())
    }

    /// Whether every row of another sequence than `victim` has the same bits.
    fn others_keep(
        &self,
        packed: &Packed,
        victim: usize,
        got: &[Tensor],
        outputs: &[Tensor],
    ) -> Result<(), Box<Mismatch>> {
        for (got, want) in std::iter::zip(got, outputs).filter(|pair| !matches!(pair.0.rows, Rows::Shared(_))) {
            let own = got.rows.of_sequence(packed, victim);
            let others = (0..got.rows.count(packed)).filter(|r| !own.contains(r));
            same_bits(got, want, others.map(|r| (r, r)), packed)?;
        }
        Ok(())
    }

    /// The sequences in reverse after a stranger, and one of them alone: the same bits.
    fn invariance(&self, packed: &Packed, inputs: &[Tensor], outputs: &[Tensor]) -> Result<(), Trouble> {
        let mut random = Random::new(self.case.seed, "packing");
        let sequences = packed.sequences();
        let stranger = random.below(sequences);
        let reversed: Vec<usize> = std::iter::once(stranger).chain((0..sequences).rev()).collect();
        let alone = vec![random.below(sequences)];
        for (order, during) in [(reversed, "sequences in reverse after one of them"), (alone, "one sequence alone")] {
            let (other, moved) = reordered(packed, inputs, &order);
            let got = self.run(&other, self.usual(), &moved, during)?;
            for (got, want) in std::iter::zip(&got, outputs) {
                if !matches!(got.rows, Rows::Tokens | Rows::Sequences) {
                    continue;
                }
                let pairs = order.iter().enumerate().flat_map(|(place, &s)| {
                    std::iter::zip(got.rows.of_sequence(&other, place), got.rows.of_sequence(packed, s))
                });
                same_bits(got, want, pairs, &other).map_err(failed(Property::Invariance, during))?;
            }
        }
        Ok(())
    }
}

/// A tensor with the rows of `victim` replaced: by `poison`, or by other numbers where that is 0.
fn poisoned(tensor: &Tensor, packed: &Packed, victim: usize, poison: f32, random: &mut Random) -> Tensor {
    let mut tensor = tensor.clone();
    let rows = tensor.rows.of_sequence(packed, victim);
    for value in &mut tensor.values[rows.start * tensor.cols..rows.end * tensor.cols] {
        let sign = if random.bits() & 1 == 0 { 1.0 } else { -1.0 };
        let replacement = match poison {
            0.0 => random.between(0.0, 4.0),
            f32::MAX => largest(tensor.dtype),
            _ => poison,
        };
        *value = rounded(tensor.dtype, sign * replacement);
    }
    tensor
}

/// The pack with the sequences `order` of another, and its tensors.
fn reordered(packed: &Packed, tensors: &[Tensor], order: &[usize]) -> (Packed, Vec<Tensor>) {
    let lengths: Vec<usize> = order.iter().map(|&s| packed.range(s).len()).collect();
    let marks: Vec<bool> = order.iter().map(|&s| packed.continued()[s]).collect();
    let other = Packed::from_lengths(&lengths).and_then(|p| p.with_continued(&marks));
    let moved = |tensor: &Tensor| {
        if matches!(tensor.rows, Rows::Shared(_)) {
            return tensor.clone();
        }
        let rows = order.iter().flat_map(|&s| tensor.rows.of_sequence(packed, s));
        Tensor { values: rows.flat_map(|r| tensor.row(r)).copied().collect(), ..tensor.clone() }
    };
    (other.expect("sequences of a legal pack"), tensors.iter().map(moved).collect())
}

#[cfg(test)]
mod tests;
