//! Several ranks, as threads of this process, do what one rank does with all their packs.

mod common;

use std::collections::BTreeMap;
use std::rc::Rc;

use common::{config, pack, save, texts, values};
use packscan_reference::{Number, Perturbed, adamw, grad_norm, model as book, perturbed};
use packscan_runtime::collective::{Alone, Collective, Threads};
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::checkpoint::{self, Checkpoint};
use packscan_train::parameters::Layout;
use packscan_train::{Learner, Model, Rates};
use rayon::prelude::*;
use serde_json::Value;

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
    let recompute = vec![Recompute::None; config.layers];
    let mut learner = Learner::among(ranks.clone(), shard, model, TOKENS, packs, &recompute).unwrap();
    let rates = rates();
    let mut losses = Vec::new();
    for step in 1..=STEPS {
        let packs: Vec<_> = mine(step).iter().map(|texts| pack(&device, texts, config.vocabulary)).collect();
        losses.push(learner.step(&packs, &rates, rates.at(step)).unwrap().loss);
    }
    learner.gather_weights().unwrap();
    let weights = common::weights(&learner.model);
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

/// The weights after ten steps on all packs of every step, by the book.
fn by_the_book<X: Number>() -> Vec<X> {
    let (config, rates) = (config(true), rates());
    let layout = Layout::of(&config);
    let mut parameters = common::book_parameters::<X>(&layout, &values(&layout));
    let moments = |_| book::Parameters::<X>::zeros(&common::book_config(&config)).values;
    let [mut m, mut v] = [0, 1].map(moments);
    let constant = |value: f32| X::constant(value.into());
    let [beta1, beta2] = [rates.betas.0, rates.betas.1];
    for step in 1..=STEPS {
        let all: Vec<Vec<u32>> = (0..3).flat_map(|p| texts_of(step, p)).collect();
        let gradients = common::book_run(&config, &parameters, &all).1.gradients.values;
        let squares: Vec<X> = gradients.values().map(|g| grad_norm::sum_of_squares(g)).collect();
        let clip = grad_norm::clip(&squares, &constant(rates.clip.unwrap()));
        let corrections = adamw::corrections(beta1.into(), beta2.into(), step as i32);
        for p in &layout.table {
            let decay = if p.decays { rates.decay } else { 0.0 };
            let numbers = adamw::Step {
                learning_rate: constant(rates.at(step)),
                beta1: constant(beta1),
                beta2: constant(beta2),
                eps: constant(rates.eps),
                decay: constant(decay),
                correction1: X::constant(corrections.0),
                correction2: X::constant(corrections.1),
                grad_scale: clip.factor.clone(),
            };
            let take = |from: &mut BTreeMap<String, Vec<X>>| from.remove(&p.name).unwrap();
            let state = adamw::State { p: take(&mut parameters.values), m: take(&mut m), v: take(&mut v) };
            let next = adamw::forward(&state, &gradients[&p.name], &numbers);
            for (to, values) in [(&mut parameters.values, next.p), (&mut m, next.m), (&mut v, next.v)] {
                to.insert(p.name.clone(), values);
            }
        }
    }
    layout.table.iter().flat_map(|p| parameters.values.remove(&p.name).unwrap()).collect()
}

/// The most that weights of one rank and of several may be apart, whatever is expected of f32. Measured: 1.2e-7.
const MOST_APART: f64 = 1e-6;

/// The order of sums differs, so weights differ in their last bits, and AdamW makes of a gradient of nearly nothing, and of what is off in it, a step
/// of about the learning rate. How far each weight may be off is what the book, perturbed, is off in it after the same ten steps.
#[test]
fn ranks_together_are_one_rank_with_all_packs() {
    let (alone, losses) =
        trained(Rc::new(Alone), false, Dtype::F32, 3, |step| (0..3).map(|p| texts_of(step, p)).collect());
    let ranks = among(3, false, Dtype::F32);
    let exact = by_the_book::<f64>();
    let sample = |by| {
        perturbed::seed(by);
        by_the_book::<Perturbed>().into_iter().map(|x| x.0).collect()
    };
    let off = perturbed::expected_error(
        &exact,
        &(0..perturbed::SAMPLES as u64).into_par_iter().map(sample).collect::<Vec<_>>(),
    );
    let table = Layout::of(&config(true)).table;
    let weights = |flat: &[f32]| -> Vec<f64> {
        table.iter().flat_map(|p| &flat[p.slot.range()]).map(|&x| f64::from(x)).collect()
    };
    let (one, several) = (weights(&alone), weights(&ranks[0].0));
    let mut worst = (0.0f64, 0.0f64);
    for (i, ((one, several), (exact, off))) in one.iter().zip(&several).zip(exact.iter().zip(&off)).enumerate() {
        for (who, got) in [("one rank", one), ("three ranks", several)] {
            assert!((got - exact).abs() <= *off, "weight {i} of {who} is {got}, not {exact} within {off:e}");
            worst.0 = worst.0.max((got - exact).abs() / off);
        }
        let apart = (one - several).abs();
        assert!(apart <= (2.0 * off).min(MOST_APART), "weight {i} is {one} and {several}");
        worst.1 = worst.1.max(apart);
    }
    println!("weights are off by at most {:.2} of what may be, and {:e} apart", worst.0, worst.1);
    assert!(losses.iter().zip(&ranks[0].1).all(|(a, b)| (a - b).abs() <= 1e-5), "{losses:?}\n{:?}", ranks[0].1);
    for rank in &ranks[1..] {
        assert!(rank == &ranks[0], "ranks differ");
    }
}

#[test]
fn sharing_the_optimiser_out_changes_no_bit() {
    for io in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let whole = among(2, false, io);
        assert!(among(2, true, io) == whole, "{io}");
    }
}

/// The most bytes that are ever allocated on the device of each of two ranks, and the matrices that they have.
fn peaks(shard: bool) -> Vec<(usize, usize)> {
    let one = |ranks: Threads| {
        let (config, device) = (config(true), Device::emulator(0));
        let layout = Layout::of(&config);
        let model = Model::new(&device, Dtype::Bf16, &config, &values(&layout)).unwrap();
        let (ranks, recompute): (Rc<dyn Collective>, _) = (Rc::new(ranks), vec![Recompute::None; config.layers]);
        let _learner = Learner::among(ranks.clone(), shard, model, TOKENS, 1, &recompute).unwrap();
        ranks.leave().unwrap();
        (device.peak_bytes(), layout.products)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(2).into_iter().map(|ranks| scope.spawn(move || one(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Also where a rank begins: the plan has no room for the moments of all.
#[test]
fn a_share_of_the_optimiser_is_all_that_is_ever_allocated() {
    for ((whole, products), (shared, _)) in std::iter::zip(peaks(false), peaks(true)) {
        // Two moments, four bytes each, of half of the matrices.
        assert_eq!(whole - shared, 2 * 4 * products / 2, "{whole} bytes and {shared}");
    }
}

/// The files of the last checkpoint of two ranks that take a step, stop, go on from a checkpoint and take another.
fn checkpointed(shard: bool, io: Dtype) -> Vec<Vec<u8>> {
    let run = tempfile::tempdir().unwrap();
    let go_on = |ranks: Rc<dyn Collective>, model: Model| {
        Learner::among(ranks, shard, model, TOKENS, 1, &[Recompute::None; 3]).unwrap()
    };
    let step = |learner: &mut Learner, step: u32| {
        let vocabulary = learner.model.config.vocabulary;
        let pack = pack(&Device::Cpu, &texts_of(step, learner.rank()), vocabulary);
        learner.step(&[pack], &rates(), rates().at(step)).unwrap();
        save(run.path(), step, learner, &Value::Null, 2).unwrap()
    };
    let one = |ranks: Threads| {
        let (ranks, config): (Rc<dyn Collective>, _) = (Rc::new(ranks), config(true));
        let model = Model::new(&Device::Cpu, io, &config, &values(&Layout::of(&config))).unwrap();
        let folder = step(&mut go_on(ranks.clone(), model), 1);
        // Rank 0 writes; where it tells the others something, it has written.
        ranks.all_reduce_f64(&mut [0.0]).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let mut learner = go_on(ranks.clone(), checkpoint.model(&Device::Cpu, io).unwrap());
        checkpoint.restore(&mut learner).unwrap();
        step(&mut learner, 2);
        ranks.leave().unwrap();
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(2).into_iter().map(|ranks| scope.spawn(move || one(ranks))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let newest = checkpoint::newest(run.path()).unwrap().0.unwrap().folder;
    ["model.safetensors", "optimizer.safetensors"].map(|name| std::fs::read(newest.join(name)).unwrap()).into()
}

#[test]
fn a_checkpoint_is_the_same_where_the_optimiser_is_shared_out() {
    for io in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        assert!(checkpointed(true, io) == checkpointed(false, io), "{io}");
    }
}

#[test]
fn a_number_of_ranks_without_equal_shares_is_refused() {
    let error = std::thread::scope(|scope| {
        let run = |ranks: Threads| {
            let config = config(true);
            let model = Model::new(&Device::Cpu, Dtype::F32, &config, &Layout::of(&config).fresh(0)).unwrap();
            let recompute = vec![Recompute::None; config.layers];
            let learner = Learner::among(Rc::new(ranks), true, model, TOKENS, 1, &recompute);
            learner.map(drop).unwrap_err().to_string()
        };
        let threads: Vec<_> = Threads::group(11).into_iter().map(|ranks| scope.spawn(move || run(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).next_back().unwrap()
    });
    assert!(error.starts_with("ranks is 11"), "{error}");
}
