//! A step that is launched before the one before it was looked at: nothing that is computed or reported depends on when the host looks.

mod common;

use common::{config, save, texts, values};
use packscan_kernels::cross_entropy::NO_TARGET;
use packscan_runtime::{Device, Dtype, Packed};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{DevicePack, Learner, Model, ModelConfig, Rates, Report};
use serde_json::json;

const TOKENS: usize = 40;
const STEPS: u32 = 6;
/// The step whose pack has the token that spoils it.
const SPOILT: u32 = 3;

/// A learner whose embedding of the last token is not a number, in a head of its own: only packs with it are spoilt.
fn learner(device: &Device, config: &ModelConfig) -> Learner {
    let layout = Layout::of(config);
    let mut values = values(&layout);
    let row = layout.embedding.offset + (config.vocabulary - 1) * config.width;
    values[row..row + config.width].fill(f32::NAN);
    let model = Model::new(device, Dtype::F32, config, &values).unwrap();
    Learner::new(model, TOKENS, 1, &vec![Recompute::None; config.layers]).unwrap()
}

/// Puts the pack of a step where that of the step before is.
fn fill(room: &mut DevicePack, step: u32, vocabulary: usize) {
    let mut tokens = texts(&[5 + step as usize, 30 - step as usize], vocabulary - 1);
    if step == SPOILT {
        tokens[0][2] = vocabulary as u32 - 1;
    }
    let targets: Vec<u32> = tokens.iter().flat_map(|t| t[1..].iter().copied().chain([NO_TARGET])).collect();
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    room.set(&Packed::from_lengths(&lengths).unwrap(), &tokens.concat(), &targets).unwrap();
}

/// What a report says, bit for bit.
fn said(report: Report) -> (u64, Vec<u64>, u32, bool) {
    let losses = report.losses.iter().map(|loss| loss.to_bits()).collect();
    (report.loss.to_bits(), losses, report.gradient_norm.to_bits(), report.skipped)
}

fn check(device: &Device) {
    let config = config(false);
    let rates = Rates { warmup: 2, steps: STEPS, ..Rates::default() };
    let run = |ahead: bool| {
        let mut learner = learner(device, &config);
        let mut room = DevicePack::with_room(device, TOKENS, config.vocabulary).unwrap();
        let mut reports = Vec::new();
        for step in 1..=STEPS {
            fill(&mut room, step, config.vocabulary);
            let packs = std::slice::from_ref(&room);
            match ahead {
                true => reports.extend(learner.start(packs, &rates, rates.at(step)).unwrap()),
                false => reports.push(learner.step(packs, &rates, rates.at(step)).unwrap()),
            }
        }
        if ahead {
            assert_eq!(reports.len(), STEPS as usize - 1, "one step is under way");
            let folder = tempfile::tempdir().unwrap();
            let early = save(folder.path(), STEPS, &mut learner, &json!({}), 1);
            assert!(early.unwrap_err().to_string().contains("only started"), "no checkpoint of half a step");
        }
        reports.extend(learner.finish().unwrap());
        assert!(learner.finish().unwrap().is_none());
        assert_eq!(learner.optimiser.taken, STEPS - 1);
        let head = learner.model.weights.values(learner.model.layout.head).unwrap();
        let moments = learner.optimiser.v.to_vec::<f32>().unwrap();
        let bits: Vec<u32> = head.into_iter().chain(moments).map(f32::to_bits).collect();
        (reports.into_iter().map(said).collect::<Vec<_>>(), bits)
    };
    let (waited, ahead) = (run(false), run(true));
    assert!(waited.0 == ahead.0, "reports differ on {device}:\n{:?}\n{:?}", waited.0, ahead.0);
    assert!(waited.1 == ahead.1, "parameters differ on {device}");
    let skipped: Vec<bool> = ahead.0.iter().map(|report| report.3).collect();
    assert_eq!(skipped, (1..=STEPS).map(|step| step == SPOILT).collect::<Vec<_>>());
}

#[test]
fn looking_later_changes_nothing() {
    check(&Device::Cpu);
    match Device::cuda(0) {
        Ok(device) => check(&device),
        Err(error) => println!("skipped: {error}"),
    }
}
