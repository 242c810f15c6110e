//! Several ranks, as threads of this process, do what one rank does with all their packs.

mod common;

use std::rc::Rc;

use common::{config, pack, texts, values};
use packscan_runtime::collective::{Alone, Collective, Threads};
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{Learner, Model, Rates};

const STEPS: u32 = 10;
const TOKENS: usize = 64;

fn rates() -> Rates {
    Rates { learning_rate: 1e-3, warmup: 2, steps: STEPS, ..Rates::default() }
}

/// The weights and losses after ten steps of one rank, whose step `s` has packs `mine(s)`.
fn trained(
    ranks: Rc<dyn Collective>,
    shard: bool,
    io: Dtype,
    packs: usize,
    mine: impl Fn(u32) -> Vec<Vec<Vec<u32>>>,
) -> (Vec<f32>, Vec<f64>) {
    let (config, device) = (config(true), Device::Cpu);
    let layout = Layout::of(&config);
    // Each rank starts from other parameters, to see that it takes those of rank 0.
    let mut values = values(&layout);
    values.iter_mut().for_each(|value| *value += ranks.rank() as f32);
    let model = Model::new(&device, io, &config, &values).unwrap();
    let learner = Learner::new(model, TOKENS, packs, &vec![Recompute::None; config.layers]).unwrap();
    let mut learner = learner.among(ranks.clone(), shard).unwrap();
    let rates = rates();
    let mut losses = Vec::new();
    for step in 1..=STEPS {
        let packs: Vec<_> = mine(step).iter().map(|texts| pack(&device, texts, config.vocabulary)).collect();
        losses.push(learner.step(&packs, &rates, rates.at(step)).unwrap().loss);
    }
    let weights = learner.model.weights.master.to_vec().unwrap();
    ranks.leave().unwrap();
    (weights, losses)
}

/// The texts of pack `p` of step `s`.
fn texts_of(step: u32, pack: usize) -> Vec<Vec<u32>> {
    let at = step as usize * 5 + pack * 3;
    texts(&[at % 7 + 2, (at * at) % 23 + 1, 20 - at % 11], config(true).vocabulary)
}

/// The weights and losses of every rank.
fn among(size: usize, shard: bool, io: Dtype) -> Vec<(Vec<f32>, Vec<f64>)> {
    let run = |ranks: Threads| {
        let rank = ranks.rank();
        trained(Rc::new(ranks), shard, io, 1, |step| vec![texts_of(step, rank)])
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(size).into_iter().map(|ranks| scope.spawn(move || run(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The order of sums differs, so weights differ in their last bits; AdamW takes a step of at most about the learning rate whatever
/// the size of a gradient, so what is off in a gradient of nearly nothing is off by a share of that. Measured: 1.2e-7.
const OFF: f32 = 1e-6;

#[test]
fn ranks_together_are_one_rank_with_all_packs() {
    let (alone, losses) =
        trained(Rc::new(Alone), false, Dtype::F32, 3, |step| (0..3).map(|p| texts_of(step, p)).collect());
    let ranks = among(3, false, Dtype::F32);
    let worst = alone.iter().zip(&ranks[0].0).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    println!("weights differ by at most {worst:e}");
    assert!(worst <= OFF, "weights differ by {worst:e}");
    assert!(losses.iter().zip(&ranks[0].1).all(|(a, b)| (a - b).abs() <= 1e-5), "{losses:?}\n{:?}", ranks[0].1);
    for rank in &ranks[1..] {
        assert!(rank == &ranks[0], "ranks differ");
    }
}

#[test]
fn sharing_the_optimiser_out_changes_no_bit() {
    for io in [Dtype::F32, Dtype::Bf16] {
        let whole = among(2, false, io);
        assert!(among(2, true, io) == whole, "{io}");
    }
}

#[test]
fn a_number_of_ranks_without_equal_shares_is_refused() {
    let error = std::thread::scope(|scope| {
        let run = |ranks: Threads| {
            let config = config(true);
            let model = Model::new(&Device::Cpu, Dtype::F32, &config, &Layout::of(&config).fresh(0)).unwrap();
            let learner = Learner::new(model, TOKENS, 1, &vec![Recompute::None; config.layers]).unwrap();
            learner.among(Rc::new(ranks), true).map(drop).unwrap_err().to_string()
        };
        let threads: Vec<_> = Threads::group(11).into_iter().map(|ranks| scope.spawn(move || run(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).next_back().unwrap()
    });
    assert!(error.starts_with("ranks is 11"), "{error}");
}
