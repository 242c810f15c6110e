//! The gradients of whole models, held against the book's, and what packing must not change.

mod common;

use common::{Gradients, book_parameters, book_run, config, learner, pack, texts, values};
use packscan_runtime::{Device, Dtype};
use packscan_train::Cut;
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{Learner, Model, Rates};

fn check(device: &Device, tied: bool) {
    let config = config(tied);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[9, 1, 0, 17, 2], config.vocabulary);
    let mut learner = learner(device, Dtype::F32, &config, &values, 64, Recompute::None);
    let (loss, gradients) = learner.gradients_of(&[pack(device, &texts, config.vocabulary)]).unwrap();

    let want = book_run(&config, &book_parameters::<f64>(&layout, &values), &texts).0;
    assert!((loss - want).abs() <= 1e-6 * want.abs(), "the loss is {loss}, not {want}");
    let expected = Gradients::of_texts(&config, &layout, &values, &texts);
    expected.check(&layout, &gradients, &format!("on {device}"));
}

#[test]
fn the_gradients_are_the_books_on_the_cpu() {
    check(&Device::Cpu, true);
    check(&Device::Cpu, false);
}

#[test]
fn the_gradients_are_the_books_on_the_emulator() {
    check(&Device::emulator(1), true);
}

/// Sequences that the scan cuts along time, as it does on a GPU where a pack is one long sequence. The CPU walks whole ones whatever it is told.
#[test]
fn the_gradients_of_cut_sequences_are_the_books() {
    let config = config(true);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[9, 1, 0, 17, 2], config.vocabulary);
    let expected = Gradients::of_texts(&config, &layout, &values, &texts);
    let mut devices = vec![
        (Device::emulator(1), Recompute::None),
        (Device::emulator(2), Recompute::Full),
        (Device::Cpu, Recompute::None),
    ];
    match Device::cuda(0) {
        Ok(device) => devices.extend(Recompute::ALL.map(|how| (device.clone(), how))),
        Err(error) => println!("skipped on a GPU: {error}"),
    }
    for (device, how) in devices {
        // Room for more segments than a pack of so few tokens would be cut into.
        let mut learner = learner(&device, Dtype::F32, &config, &values, 256, how);
        learner.model.cut = Cut::Into(4);
        let packs = [pack(&device, &texts, config.vocabulary)];
        let (_, gradients) = learner.gradients_of(&packs).unwrap();
        expected.check(&layout, &gradients, &format!("cut, recompute {how}, on {device}"));
        assert!(learner.gradients_of(&packs).unwrap().1 == gradients, "{how} on {device}: not repeatable");
        learner.model.cut = Cut::Auto;
        let whole = learner.gradients_of(&packs).unwrap().1;
        assert_eq!(
            whole == gradients,
            matches!(device, Device::Cpu),
            "{how} on {device}: sums of other terms round differently"
        );
    }
}

#[test]
fn the_gradients_are_the_books_on_a_gpu() {
    match Device::cuda(0) {
        Ok(device) => check(&device, false),
        Err(error) => println!("skipped: {error}"),
    }
}

/// What is computed again is what was there.
#[test]
fn recomputing_changes_no_bit() {
    let config = config(true);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[20, 3, 40], config.vocabulary);
    for io in [Dtype::F32, Dtype::Bf16] {
        let run = |how| {
            let mut learner = learner(&Device::Cpu, io, &config, &values, 64, how);
            learner.gradients_of(&[pack(&Device::Cpu, &texts, config.vocabulary)]).unwrap()
        };
        let kept = run(Recompute::None);
        for how in [Recompute::Cheap, Recompute::Scan, Recompute::Full] {
            assert!(run(how) == kept, "{io}: recompute {how} changes the gradients");
        }
    }
}

/// Where a step has one pack, activations lie where its gradients come later. No gradient knows, nor what only aligns them.
#[test]
fn lent_memory_changes_no_bit() {
    let config = config(true);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[20, 3, 40], config.vocabulary);
    let gpu = Device::cuda(0).map_err(|error| println!("skipped on a GPU: {error}"));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        for (io, how) in [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|io| Recompute::ALL.map(|how| (io, how))) {
            let learner = |packs| {
                let model = Model::new(&device, io, &config, &values).unwrap();
                Learner::new(model, 64, packs, &vec![how; config.layers]).unwrap()
            };
            let pack = pack(&device, &texts, config.vocabulary);
            let alone = learner(2).gradients_of(std::slice::from_ref(&pack)).unwrap();
            let mut lent = learner(1);
            for time in 0..2 {
                let got = lent.gradients_of(std::slice::from_ref(&pack)).unwrap();
                assert!(got == alone, "{io}, recompute {how}, time {time} on {device}");
            }
        }
    }
}

/// Gradients of a pack are the sum of those of its sequences, each run alone, and so are those of two packs of a step.
#[test]
fn a_packed_step_is_the_sum_of_the_unpacked_ones() {
    let (config, device) = (config(false), Device::Cpu);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[9, 1, 17, 2], config.vocabulary);
    let predicted: usize = texts.iter().map(|t| t.len().saturating_sub(1)).sum();
    let mut learner = learner(&device, Dtype::F32, &config, &values, 64, Recompute::None);

    let packed = learner.gradients_of(&[pack(&device, &texts, config.vocabulary)]).unwrap().1;
    let (left, right) = texts.split_at(2);
    let halves = [left, right].map(|half| pack(&device, half, config.vocabulary));
    let two_packs = learner.gradients_of(&halves).unwrap().1;
    let mut alone = vec![0.0f64; layout.elements];
    for text in &texts {
        let gradients =
            learner.gradients_of(&[pack(&device, std::slice::from_ref(text), config.vocabulary)]).unwrap().1;
        let share = text.len().saturating_sub(1) as f64 / predicted as f64;
        alone.iter_mut().zip(&gradients).for_each(|(sum, &g)| *sum += share * f64::from(g));
    }
    // All are sums of the same terms, and each is off by no more than f32 may be. How far two of them are apart follows.
    let alone: Vec<f32> = alone.into_iter().map(|sum| sum as f32).collect();
    let expected = Gradients::of_texts(&config, &layout, &values, &texts);
    for (name, got) in [("packed", &packed), ("in two packs", &two_packs), ("alone", &alone)] {
        expected.check(&layout, got, name);
    }
}

/// What a step finds where gradients go is no part of its own, not even where that is not finite.
#[test]
fn a_step_begins_without_the_gradients_of_the_one_before() {
    for (device, tied, packs) in [(Device::Cpu, true, 1), (Device::Cpu, false, 2), (Device::emulator(1), false, 1)] {
        let config = config(tied);
        let layout = Layout::of(&config);
        let values = values(&layout);
        let texts = texts(&[9, 1, 5], config.vocabulary);
        let packs: Vec<_> = (0..packs).map(|_| pack(&device, &texts, config.vocabulary)).collect();
        let fresh = || learner(&device, Dtype::F32, &config, &values, 64, Recompute::None);
        let want = fresh().gradients_of(&packs).unwrap().1;

        let mut learner = fresh();
        let norm = learner.model.weights.values(layout.norm_f).unwrap();
        let set = |learner: &Learner, values: &[f32]| {
            learner.model.weights.f32(layout.norm_f).unwrap().write(values).unwrap();
        };
        set(&learner, &vec![f32::NAN; norm.len()]);
        // Ids that the packs do not have.
        let other: Vec<u32> = (0..config.vocabulary as u32).collect();
        let other = pack(&device, &[other], config.vocabulary);
        assert!(learner.step(&[other], &Rates::default(), 1e-3).unwrap().skipped);
        set(&learner, &norm);
        let got = learner.gradients_of(&packs).unwrap().1;
        let mut between = got.clone();
        for p in &layout.table {
            let bits = |all: &[f32]| all[p.slot.range()].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let what = format!("{} of {} packs on {device}, tied {tied}", p.name, packs.len());
            assert!(bits(&got) == bits(&want), "{what}");
            between[p.slot.range()].fill(0.0);
        }
        assert!(between.iter().all(|&x| x == 0.0), "what lies between parameters");
        assert!(learner.gradients_of(&[]).unwrap().1.iter().all(|&x| x == 0.0), "no pack has no gradients");
    }
}

/// A NaN that only one document meets stays in that document.
#[test]
fn nan_in_one_document_changes_no_other_loss() {
    let (config, device) = (config(false), Device::Cpu);
    let layout = Layout::of(&config);
    let mut values = values(&layout);
    let rare = config.vocabulary as u32 - 1;
    let mut documents = texts(&[9, 12, 17], config.vocabulary - 1);
    documents[1][4] = rare;
    let losses = |values: &[f32]| {
        let learner = learner(&device, Dtype::F32, &config, values, 64, Recompute::None);
        learner.losses(&pack(&device, &documents, config.vocabulary)).unwrap()
    };
    // The head of its own keeps the row of the embedding out of every token's logits.
    let clean = losses(&values);
    let row = layout.embedding.offset + rare as usize * config.width;
    values[row..row + config.width].fill(f32::NAN);
    let poisoned = losses(&values);
    let victim = 9..21;
    assert!(poisoned[9 + 4..20].iter().all(|loss| loss.is_nan()), "the document itself goes wrong: {poisoned:?}");
    for t in (0..clean.len()).filter(|t| !victim.contains(t)) {
        assert_eq!(clean[t].to_bits(), poisoned[t].to_bits(), "token {t} of another document");
    }
}
