//! The gradients of whole models, held against the book's, and what packing must not change.

mod common;

use common::{book_parameters, book_run, config, learner, pack, texts, values, worst};
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;

/// What f32 may be off, as a share of the largest gradient of a parameter: sums of about a thousand products, each within 2^-24,
/// through three blocks. Measured: below 3e-6.
const F32_SHARE: f64 = 1e-5;

fn check(device: &Device, tied: bool) {
    let config = config(tied);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[9, 1, 0, 17, 2], config.vocabulary);
    let mut learner = learner(device, Dtype::F32, &config, &values, 64, Recompute::None);
    let (loss, gradients) = learner.gradients_of(&[pack(device, &texts, config.vocabulary)]).unwrap();

    let (want, run) = book_run(&config, &book_parameters(&layout, &values), &texts);
    let (share, name) = worst(&layout, &gradients, &run.gradients);
    println!("on {device}: loss {loss} of {want}, gradients off by at most {share:.1e}, in {name}");
    assert!((loss - want).abs() <= 1e-6 * want.abs(), "the loss is {loss}, not {want}");
    assert!(share <= F32_SHARE, "{name} is off by {share:.1e} of its largest gradient");
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

/// Sequences that the scan cuts along time, as it does on a GPU where a pack is one long sequence.
#[test]
fn the_gradients_of_cut_sequences_are_the_books() {
    let device = Device::emulator(1);
    let config = config(true);
    let layout = Layout::of(&config);
    let values = values(&layout);
    let texts = texts(&[9, 1, 0, 17, 2], config.vocabulary);
    let (want, run) = book_run(&config, &book_parameters(&layout, &values), &texts);
    for how in [Recompute::None, Recompute::Full] {
        // Room for more segments than a pack of so few tokens would be cut into.
        let mut learner = learner(&device, Dtype::F32, &config, &values, 8 * 1024, how);
        let pack = pack(&device, &texts, config.vocabulary).cut(4).unwrap();
        let (loss, gradients) = learner.gradients_of(&[pack]).unwrap();
        let (share, name) = worst(&layout, &gradients, &run.gradients);
        assert!((loss - want).abs() <= 1e-6 * want.abs(), "the loss is {loss}, not {want}");
        assert!(share <= F32_SHARE, "{name} is off by {share:.1e} of its largest gradient, recompute {how}");
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
        for how in [Recompute::Cheap, Recompute::Full] {
            assert!(run(how) == kept, "{io}: recompute {how} changes the gradients");
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
    for p in &layout.table {
        let alone = &alone[p.slot.range()];
        let largest = alone.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for (name, got) in [("packed", &packed), ("in two packs", &two_packs)] {
            for (i, (&got, want)) in got[p.slot.range()].iter().zip(alone).enumerate() {
                let off = (f64::from(got) - want).abs();
                assert!(off <= F32_SHARE * largest, "{name}: element {i} of {} is {got}, alone {want}", p.name);
            }
        }
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
