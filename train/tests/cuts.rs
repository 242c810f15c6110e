//! A document that is cut at the end of a pack and goes on in the next one.

mod common;

use common::{Gradients, book_config, book_parameters, config, texts, values, worst};
use packscan_kernels::cross_entropy::NO_TARGET;
use packscan_reference::{Number, model as book};
use packscan_runtime::{Device, Dtype, Packed};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{Cut, DevicePack, Learner, ModelConfig};

/// Documents of 7, 20 and 3 tokens in packs of 10: the second is in three of them.
const LENGTHS: [usize; 3] = [7, 20, 3];
const TOKENS: usize = 10;

/// The documents as packs that split them.
fn packs(device: &Device, config: &ModelConfig) -> (Vec<Vec<u32>>, Vec<DevicePack>) {
    let texts = texts(&LENGTHS, config.vocabulary);
    let tokens = texts.concat();
    let targets: Vec<u32> = texts.iter().flat_map(|t| t[1..].iter().copied().chain([NO_TARGET])).collect();
    let pieces: [(&[usize], bool); 3] = [(&[7, 3], true), (&[10], true), (&[7, 3], false)];
    let packs = pieces.iter().enumerate().map(|(i, (lengths, continues))| {
        let mut marks = vec![false; lengths.len()];
        marks[0] = i > 0;
        let packed = Packed::from_lengths(lengths).and_then(|p| p.with_continued(&marks)).unwrap();
        let range = TOKENS * i..TOKENS * (i + 1);
        let pack =
            DevicePack::new(device, &packed, &tokens[range.clone()], &targets[range], config.vocabulary).unwrap();
        DevicePack { continues: *continues, ..pack }
    });
    let packs = packs.collect();
    (texts, packs)
}

fn learner_of(device: &Device, io: Dtype, how: Recompute, flow: bool) -> Learner {
    learner_with_room(device, io, how, flow, TOKENS)
}

fn learner_with_room(device: &Device, io: Dtype, how: Recompute, flow: bool, tokens: usize) -> Learner {
    let config = config(true);
    let values = values(&Layout::of(&config));
    let model = packscan_train::Model::new(device, io, &config, &values).unwrap();
    let mut learner = Learner::new(model, tokens, 3, &vec![how; config.layers]).unwrap();
    learner.let_gradients_flow(flow);
    learner
}

/// With gradients that flow, a cut is as if it were not there.
#[test]
fn gradients_flow_through_cuts() {
    let config = config(true);
    let layout = Layout::of(&config);
    for device in [Device::Cpu, Device::emulator(3)] {
        let (texts, packs) = packs(&device, &config);
        let want = common::book_run(&config, &book_parameters::<f64>(&layout, &values(&layout)), &texts).0;
        let (loss, gradients) = learner_of(&device, Dtype::F32, Recompute::None, true).gradients_of(&packs).unwrap();
        assert!((loss - want).abs() < 1e-6 * want, "the loss is {loss}, not {want}");
        let expected = Gradients::of_texts(&config, &layout, &values(&layout), &texts);
        expected.check(&layout, &gradients, &format!("on {device}"));
    }
}

/// The same where the scan cuts each piece once more, along time: states come from the pack before, and gradients from the pack behind.
#[test]
fn gradients_flow_through_cuts_between_segments_too() {
    let config = config(true);
    let layout = Layout::of(&config);
    let device = Device::emulator(3);
    let (texts, packs) = packs(&device, &config);
    let expected = Gradients::of_texts(&config, &layout, &values(&layout), &texts);
    for how in [Recompute::None, Recompute::Scan] {
        let mut learner = learner_with_room(&device, Dtype::F32, how, true, 16 * TOKENS);
        learner.model.cut = Cut::Into(4);
        let (_, gradients) = learner.gradients_of(&packs).unwrap();
        expected.check(&layout, &gradients, &format!("in segments, recompute {how}"));
    }
}

/// The gradients where those of each piece stop at its edges: each is a text of its own that starts from what the one before left.
fn stopping<X: Number>(
    config: &ModelConfig,
    parameters: &book::Parameters<X>,
    texts: &[Vec<u32>],
) -> book::Parameters<X> {
    let predicted: usize = texts.iter().map(|t| t.len() - 1).sum();
    let targets: Vec<Vec<Option<u32>>> =
        texts.iter().map(|t| (0..t.len()).map(|i| t.get(i + 1).copied()).collect()).collect();
    let mut sums = book::Parameters::<X>::zeros(&book_config(config));
    let mut left: Option<Vec<book::Memory<X>>> = None;
    for (document, range) in [(0, 0..7), (1, 0..3), (1, 3..13), (1, 13..20), (2, 0..3)] {
        let memory = if range.start > 0 { left.take() } else { None };
        let sequence = book::Sequence {
            tokens: &texts[document][range.clone()],
            targets: &targets[document][range],
            memory: memory.as_deref(),
            left_gradient: None,
        };
        let mut run = book::run(&book_config(config), parameters, &[sequence], 1.0 / predicted as f64);
        left = run.left.pop();
        for (name, sums) in &mut sums.values {
            sums.iter_mut().zip(&run.gradients[name.as_str()]).for_each(|(sum, g)| *sum = sum.add(g));
        }
    }
    sums
}

#[test]
fn gradients_stop_at_cuts() {
    let config = config(true);
    let layout = Layout::of(&config);
    let (device, values) = (Device::Cpu, values(&layout));
    let (texts, packs) = packs(&device, &config);
    let want = stopping(&config, &book_parameters::<f64>(&layout, &values), &texts);
    let expected = Gradients::of(want.clone(), || stopping(&config, &book_parameters(&layout, &values), &texts));
    let (_, gradients) = learner_of(&device, Dtype::F32, Recompute::None, false).gradients_of(&packs).unwrap();
    expected.check(&layout, &gradients, "stopped");
    let flowing = learner_of(&device, Dtype::F32, Recompute::None, true).gradients_of(&packs).unwrap().1;
    assert!(worst(&layout, &flowing, &want) > 1e-3, "the cuts make a difference");
}

/// What is computed again is what was there, at cuts too.
#[test]
fn recomputing_changes_no_bit_at_cuts() {
    let config = config(true);
    let (_, packs) = packs(&Device::Cpu, &config);
    for (io, flow) in [(Dtype::F32, true), (Dtype::F32, false), (Dtype::Bf16, true)] {
        let run = |how| learner_of(&Device::Cpu, io, how, flow).gradients_of(&packs).unwrap();
        let kept = run(Recompute::None);
        assert!(Recompute::ALL.into_iter().all(|how| run(how) == kept), "{io}, flow {flow}");
    }
}
