//! Perturbed computations stay within what is proven of each operation, and say of many what f32 then does.

use packscan_reference::perturbed::{SAMPLES, expected_error, seed};
use packscan_reference::{Bounded, Number, Perturbed};

/// What Bounded allows, Perturbed keeps within, and it does move: for each function, over a range of operands.
#[test]
fn each_operation_stays_within_its_bound_and_moves() {
    type Function<X> = fn(&X, &X) -> X;
    fn functions<X: Number>() -> [(&'static str, Function<X>); 12] {
        [
            ("add", |x, y| x.add(y)),
            ("sub", |x, y| x.sub(y)),
            ("mul", |x, y| x.mul(y)),
            ("div", |x, y| x.div(y)),
            ("sqrt", |_, y| y.sqrt()),
            ("exp", |x, _| x.exp()),
            ("ln", |_, y| y.ln()),
            ("softplus", |x, _| x.softplus()),
            ("silu", |x, _| x.silu()),
            ("sigmoid", |x, _| x.sigmoid()),
            ("rsqrt", |_, y| y.rsqrt()),
            ("sum", |x, y| X::sum([x.clone(), y.clone(), y.clone(), x.mul(x)].into_iter())),
        ]
    }
    seed(1);
    for ((name, perturbed), (_, bounded)) in functions::<Perturbed>().into_iter().zip(functions::<Bounded>()) {
        let mut moved = 0;
        for i in -40..=40 {
            let (x, y) = (f64::from(0.37f32 * i as f32), f64::from(1.0f32 + 0.11 * (i as f32).abs()));
            let got = perturbed(&Perturbed::constant(x), &Perturbed::constant(y));
            let bound = bounded(&Bounded::constant(x), &Bounded::constant(y));
            assert!(bound.allows(got.0), "{name}({x}, {y}) = {} is not within {bound:?}", got.0);
            moved += usize::from(got.0 != bound.value);
        }
        assert!(moved > 60, "{name} moves {moved} of 81 results");
    }
}

#[test]
fn the_same_seed_moves_alike() {
    let run = |by| {
        seed(by);
        Perturbed::sum((1..50).map(|i| Perturbed::constant(f64::from(i)).exp()))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Of sums of a thousand products, f32 is off by as much as is expected, and by far less than a proof must allow.
#[test]
fn a_long_sum_in_f32_is_off_as_expected() {
    let terms =
        |k: usize| (0..1000).map(move |i| (((i * 37 + k * 11) as f32 * 0.7).sin(), ((i + k) as f32 * 0.3).cos()));
    let of = |k: usize| -> (f32, f64, Bounded) {
        let bounded =
            Bounded::sum(terms(k).map(|(x, y)| Bounded::constant(x.into()).mul(&Bounded::constant(y.into()))));
        (terms(k).map(|(x, y)| x * y).sum(), terms(k).map(|(x, y)| f64::from(x) * f64::from(y)).sum(), bounded)
    };
    let sums: Vec<(f32, f64, Bounded)> = (0..100).map(of).collect();
    let exact: Vec<f64> = sums.iter().map(|sum| sum.1).collect();
    let sample = |by: usize| {
        seed(by as u64);
        let sum = |k| Perturbed::sum(terms(k).map(|(x, y)| Perturbed(x.into()).mul(&Perturbed(y.into()))));
        (0..100).map(|k| sum(k).0).collect()
    };
    let expected = expected_error(&exact, &(0..SAMPLES).map(sample).collect::<Vec<_>>());
    for (k, ((got, want, bounded), expected)) in sums.iter().zip(&expected).enumerate() {
        assert!((f64::from(*got) - want).abs() <= *expected, "sum {k} is {got}, not {want} within {expected:e}");
        assert!(*expected < bounded.error / 10.0, "sum {k}: {expected:e} against {:e}", bounded.error);
    }
    // One that loses a single term of the thousand is noticed.
    let lost = |k: usize| terms(k).nth(500).map_or(0.0, |(x, y)| f64::from(x * y).abs());
    assert!((0..100).filter(|&k| lost(k) > expected[k]).count() > 95);
}
