//! A step allocates nothing on its device: whatever it needs was allocated before, for the largest packs.

mod common;

use common::{config, texts, values};
use packscan_kernels::cross_entropy::NO_TARGET;
use packscan_runtime::{Device, Dtype, Packed};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{Cut, DevicePack, Learner, Model, Rates};

const TOKENS: usize = 40;
const PACKS: usize = 3;

/// The packs of each step: lengths of sequences, and whether the last goes on in the pack after it. Every pack differs from every other
/// in tokens or sequences, and documents are cut between packs and between steps.
const STEPS: [[(&[usize], bool); PACKS]; 4] = [
    [(&[7, 13, 1], true), (&[40], true), (&[3, 2], false)],
    [(&[1; 20], false), (&[5, 5, 30], true), (&[39], true)],
    [(&[4, 36], true), (&[2, 1, 1, 9], false), (&[1], false)],
    [(&[1; 40], true), (&[11], true), (&[12, 9], true)],
];

fn fill(rooms: &mut [DevicePack], packs: &[(&[usize], bool); PACKS], mut continued: bool, vocabulary: usize) -> bool {
    for (room, &(lengths, continues)) in rooms.iter_mut().zip(packs) {
        let texts = texts(lengths, vocabulary);
        let targets: Vec<u32> = texts.iter().flat_map(|t| t[1..].iter().copied().chain([NO_TARGET])).collect();
        let marks: Vec<bool> = (0..lengths.len()).map(|s| s == 0 && continued).collect();
        let packed = Packed::from_lengths(lengths).and_then(|packed| packed.with_continued(&marks)).unwrap();
        room.set(&packed, &texts.concat(), &targets).unwrap();
        room.continues = continues;
        continued = continues;
    }
    continued
}

fn check(device: &Device, io: Dtype, how: Recompute, flow: bool, steps: usize) {
    check_cut(device, io, how, flow, steps, (Cut::Auto, TOKENS));
}

/// The same with sequences cut along time, and room for packs of more tokens than there are.
fn check_cut(device: &Device, io: Dtype, how: Recompute, flow: bool, steps: usize, (cut, tokens): (Cut, usize)) {
    let config = config(true);
    let mut model = Model::new(device, io, &config, &values(&Layout::of(&config))).unwrap();
    model.cut = cut;
    let mut learner = Learner::new(model, tokens, PACKS, &vec![how; config.layers]).unwrap();
    learner.let_gradients_flow(flow);
    learner.expect_cuts().unwrap();
    let room = |_| DevicePack::with_room(device, TOKENS, config.vocabulary).unwrap();
    let mut rooms: Vec<DevicePack> = (0..PACKS).map(room).collect();
    let rates = Rates { steps: 8, ..Rates::default() };
    let (mut continued, before) = (false, device.allocations());
    for (i, packs) in STEPS.iter().enumerate().take(steps) {
        continued = fill(&mut rooms, packs, continued, config.vocabulary);
        assert_eq!(device.allocations(), before, "{how}, step {i} on {device}: taking packs allocates");
        assert!(!learner.step(&rooms, &rates, 1e-3).unwrap().skipped);
        let made = device.allocations() - before;
        assert_eq!(made, 0, "{how}, flow {flow}, step {i} on {device}: {made} buffers are made");
    }
    assert!(learner.losses(&rooms[0]).unwrap().len() == rooms[0].tokens());
    assert_eq!(device.allocations(), before, "an evaluation allocates");
}

/// In one test, since the CPU is one device for the whole process.
#[test]
fn no_step_allocates() {
    for how in Recompute::ALL {
        for flow in [false, true] {
            check(&Device::Cpu, Dtype::F32, how, flow, STEPS.len());
            check(&Device::Cpu, Dtype::Bf16, how, flow, STEPS.len());
        }
    }
    check(&Device::emulator(1), Dtype::F32, Recompute::Cheap, true, 2);
    // As many segments as there is room for are of longer packs.
    let cut = (Cut::Into(7), 16 * TOKENS);
    check_cut(&Device::emulator(1), Dtype::F32, Recompute::Scan, true, 2, cut);
    check_cut(&Device::Cpu, Dtype::F32, Recompute::None, true, STEPS.len(), cut);
    match Device::cuda(0) {
        Ok(device) => Recompute::ALL.into_iter().for_each(|how| {
            check(&device, Dtype::Bf16, how, true, STEPS.len());
            check_cut(&device, Dtype::Bf16, how, true, STEPS.len(), cut);
        }),
        Err(error) => println!("skipped: {error}"),
    }
}
