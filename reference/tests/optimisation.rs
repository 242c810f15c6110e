//! The loss, the norm and the optimiser against closed forms, and the loss's gradient against its differences.

mod common;

use common::Generator;
use packscan_reference::adamw::{self, State, Step, corrections};
use packscan_reference::cross_entropy::{self, Inputs};
use packscan_reference::{IndexSet, Traced, grad_norm, neg_exp};

const V: usize = 7;

#[test]
fn the_gradient_of_the_loss_is_its_difference_quotient() {
    let mut generator = Generator(5);
    let targets = [Some(0), None, Some(V - 1), Some(3)];
    let logits: Vec<f64> = (0..targets.len() * V).map(|_| generator.uniform(-4.0, 4.0)).collect();
    let scale = 0.37;
    let total = |logits: &[f64]| -> f64 {
        scale * cross_entropy::forward(&Inputs { vocabulary: V, logits, targets: &targets }).iter().sum::<f64>()
    };
    let gradient = cross_entropy::backward(&Inputs { vocabulary: V, logits: &logits, targets: &targets }, &scale);
    for i in 0..logits.len() {
        let step = 1e-5;
        let moved = |by: f64| {
            let mut logits = logits.clone();
            logits[i] += by;
            total(&logits)
        };
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        assert!((gradient[i] - difference).abs() <= 1e-9, "logit {i}: {} and {difference}", gradient[i]);
    }
}

#[test]
fn equal_logits_lose_the_logarithm_of_the_vocabulary() {
    // A large common shift changes nothing.
    let logits = [1000.0; V];
    let inputs = Inputs { vocabulary: V, logits: &logits, targets: &[Some(2)] };
    assert!((cross_entropy::forward(&inputs)[0] - (V as f64).ln()).abs() <= 1e-15);
    let gradient = cross_entropy::backward(&inputs, &1.0);
    assert!(gradient.iter().sum::<f64>().abs() <= 1e-15);
    assert!((gradient[2] - (1.0 / V as f64 - 1.0)).abs() <= 1e-15);
}

#[test]
fn a_token_is_influenced_by_its_own_logits_and_by_all_of_them() {
    let logits: Vec<Traced> = (0..3 * V).map(|i| Traced::input(i as f64 * 0.1, i)).collect();
    let targets = [Some(1), None, Some(4)];
    let inputs = Inputs { vocabulary: V, logits: &logits, targets: &targets };
    let own = |t: usize| -> IndexSet {
        if targets[t].is_some() { (t * V..(t + 1) * V).collect() } else { IndexSet::default() }
    };
    for (t, loss) in cross_entropy::forward(&inputs).iter().enumerate() {
        assert_eq!(loss.influences, own(t));
    }
    let scale = Traced { value: 1.0, influences: IndexSet::default() };
    for (i, gradient) in cross_entropy::backward(&inputs, &scale).iter().enumerate() {
        assert_eq!(gradient.influences, own(i / V));
    }
}

fn step(t: i32) -> Step<f64> {
    let (beta1, beta2) = (0.9, 0.95);
    let (correction1, correction2) = corrections(beta1, beta2, t);
    Step { learning_rate: 0.01, beta1, beta2, eps: 1e-12, decay: 0.1, correction1, correction2, grad_scale: 1.0 }
}

#[test]
fn the_first_step_moves_every_parameter_by_the_learning_rate() {
    let state = State { p: vec![0.5, -0.25], m: vec![0.0; 2], v: vec![0.0; 2] };
    let next = adamw::forward(&state, &[3.0, -0.02], &Step { decay: 0.0, ..step(1) });
    assert!((next.p[0] - 0.49).abs() <= 1e-12 && (next.p[1] + 0.24).abs() <= 1e-12, "{next:?}");
    assert!((next.m[0] - 0.3).abs() <= 1e-15 && (next.v[0] - 0.45).abs() <= 1e-15);
}

#[test]
fn a_constant_gradient_keeps_moving_at_the_learning_rate() {
    let mut state = State { p: vec![0.0], m: vec![0.0], v: vec![0.0] };
    for t in 1..=50 {
        state = adamw::forward(&state, &[-2.0], &Step { decay: 0.0, ..step(t) });
        assert!((state.p[0] - 0.01 * f64::from(t)).abs() <= 1e-10, "step {t}: {state:?}");
    }
}

#[test]
fn decay_is_decoupled_from_the_gradient() {
    let state = State { p: vec![2.0], m: vec![0.0], v: vec![0.0] };
    let next = adamw::forward(&state, &[0.0], &step(1));
    assert!((next.p[0] - 2.0 * (1.0 - 0.001)).abs() <= 1e-15);
    assert_eq!((next.m[0], next.v[0]), (0.0, 0.0), "the moments do not see it");
}

#[test]
fn scaled_gradients_are_the_gradients_of_a_scaled_loss() {
    let state = State { p: vec![1.0], m: vec![0.2], v: vec![0.3] };
    let scaled = adamw::forward(&state, &[4.0], &Step { grad_scale: 0.25, ..step(3) });
    assert_eq!(scaled, adamw::forward(&state, &[1.0], &step(3)));
}

#[test]
fn gradients_are_clipped_to_the_limit_and_not_stretched() {
    let g = [3.0, -4.0, 12.0];
    let parts = [grad_norm::sum_of_squares(&g[..2]), grad_norm::sum_of_squares(&g[2..])];
    let clip = grad_norm::clip(&parts, &6.5);
    assert_eq!(clip.norm, 13.0);
    assert!((clip.factor - 0.5).abs() <= 1e-7);
    assert_eq!(grad_norm::clip(&parts, &20.0).factor, 1.0);
    assert_eq!(grad_norm::clip::<f64>(&[], &1.0).factor, 1.0);
}

#[test]
fn the_state_matrix_is_negative_and_its_gradient_is_a_slope() {
    let a_log = [-6.0, -0.7, 0.0, 1.3, 4.0];
    let a = neg_exp::forward(&a_log);
    assert_eq!(a[2], -1.0);
    // A power of two, so that the difference of the arguments is exact.
    let step = 2f64.powi(-17);
    for (x, gradient) in std::iter::zip(a_log, neg_exp::backward(&[0.5; 5], &a)) {
        let at = |x| neg_exp::forward(&[x])[0];
        let difference = 0.5 * (at(x + step) - at(x - step)) / (2.0 * step);
        assert!(at(x) < 0.0 && (gradient / difference - 1.0).abs() <= 1e-9, "{x}: {gradient} and {difference}");
    }
}
