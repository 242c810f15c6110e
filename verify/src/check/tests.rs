//! That the checks can fail: operators in plain Rust, each with a mistake that one property alone can see.

use packscan_kernels::cast::{self, Forward};
use packscan_reference::Bounded;
use packscan_runtime::{Device, Dtype, Packed, Result};

use super::{Call, Operator, Property, Trouble, check};
use crate::{Case, Random, Rows, Sizes, Tensor};

/// The mistake of an operator.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// None.
    Nothing,
    /// Gradients of the token before, of whatever sequence, times zero, unless an input is not finite or huge.
    Leak,
    /// A sum over the pack that counts boundaries, which the book knows of too.
    Boundaries,
}

const NOTHING: u8 = Mistake::Nothing as u8;
const LEAK: u8 = Mistake::Leak as u8;
const BOUNDARIES: u8 = Mistake::Boundaries as u8;

/// `dx = g * x`, `dw += sum of dx`, T x 1.
struct Toy<const MISTAKE: u8>;

fn values<'a>(inputs: &'a [Tensor], name: &str) -> &'a [f32] {
    &inputs.iter().find(|t| t.name == name).expect("it has one").values
}

fn gradients<const MISTAKE: u8>(packed: &Packed, inputs: &[Tensor]) -> (Vec<f32>, f32) {
    let (x, g) = (values(inputs, "x"), values(inputs, "g"));
    let ordinary = x.iter().all(|x| x.abs() < 100.0);
    let before = |t: usize| if MISTAKE == LEAK && ordinary && t > 0 { 0.0 * g[t - 1] } else { 0.0 };
    let dx: Vec<f32> = (0..x.len()).map(|t| g[t] * x[t] + before(t)).collect();
    let boundaries = if MISTAKE == BOUNDARIES { packed.sequences() as f32 - 1.0 } else { 0.0 };
    let dw = boundaries + dx.iter().sum::<f32>();
    (dx, dw)
}

impl<const MISTAKE: u8> Operator for Toy<MISTAKE> {
    type Variant = Forward;

    const INCOMING: &'static [&'static str] = &["g"];

    fn sizes(_: &Forward, elements: usize) -> Sizes {
        Sizes { chunk: 4, tile: 1, multiple: 1, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(_: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let random = |name| {
            let shape = Tensor::shaped(name, Dtype::F32, Rows::Tokens, 1);
            // Eighths, so that every sum is exact.
            Tensor::random(shape, packed, case.seed, |r: &mut Random| r.below(16) as f32 / 8.0)
        };
        vec![random("x"), random("g")]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (dx, dw) = gradients::<MISTAKE>(call.packed.packed(), inputs);
        let dx = Tensor { values: dx, ..Tensor::shaped("dx", Dtype::F32, Rows::Tokens, 1) };
        let dw = Tensor {
            values: vec![call.rounds as f32 * dw],
            accumulated: true,
            ..Tensor::shaped("dw", Dtype::F32, Rows::Shared(1), 1)
        };
        Ok((vec![dx, dw], true))
    }

    fn book(_: &Forward, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let (dx, dw) = gradients::<MISTAKE>(packed, inputs);
        let exact = |x: f32| Bounded { value: x.into(), error: 1e-6 };
        vec![dx.into_iter().map(exact).collect(), vec![exact(dw)]]
    }
}

/// The property that the operator fails, and when.
fn failure<const MISTAKE: u8>(case: &str) -> Option<(Property, String)> {
    let variant = cast::default_variant(1, Dtype::F32, Dtype::F32);
    match check::<Toy<MISTAKE>>(&Device::Cpu, &variant, &case.parse().expect("a case")) {
        Ok(_) => None,
        Err(Trouble::Failed(failure)) => Some((failure.property, failure.during)),
        Err(Trouble::Error(error)) => panic!("{error}"),
    }
}

/// Whatever the seed: what an operator leaks of an incoming gradient may be hidden where all of a sequence is replaced.
#[test]
fn a_leak_of_incoming_gradients_alone_is_always_seen() {
    for seed in 0..64 {
        let case = format!("3,2,0,4/d1/g1/p0/x{seed}");
        assert_eq!(failure::<NOTHING>(&case), None, "{case}");
        let (property, during) = failure::<LEAK>(&case).unwrap_or_else(|| panic!("{case} saw nothing"));
        assert!(property == Property::Isolation && during.ends_with("in g"), "{case}: {during}");
    }
}

#[test]
fn a_shared_gradient_that_is_not_the_sum_over_sequences_is_seen() {
    let (property, during) = failure::<BOUNDARIES>("3,2,0,4/d1/g1/p0/x1").expect("it is seen");
    assert_eq!((property, during.as_str()), (Property::Accumulation, "the sum of each sequence alone"));
    assert_eq!(failure::<BOUNDARIES>("3/d1/g1/p0/x1"), None, "one sequence has no boundary");
}
