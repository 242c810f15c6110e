//! A small model learns a small text by heart.

use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{DevicePack, Learner, Model, ModelConfig, Rates};

const TEXTS: [&str; 3] = ["packed sequences of very different lengths", "a", "nothing passes from one to the next"];

fn rates(steps: u32) -> Rates {
    Rates {
        learning_rate: 1e-2,
        final_share: 0.1,
        warmup: 5,
        steps,
        betas: (0.9, 0.95),
        eps: 1e-8,
        decay: 0.1,
        clip: Some(1.0),
    }
}

#[test]
fn a_text_is_learnt_by_heart() {
    let device = Device::Cpu;
    let config = ModelConfig::of(32, 2).for_vocabulary(256).unwrap();
    let model = Model::new(&device, Dtype::F32, &config, &Layout::of(&config).fresh(1)).unwrap();
    let tokens: Vec<Vec<u32>> = TEXTS.iter().map(|text| text.bytes().map(u32::from).collect()).collect();
    let sequences: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let pack = DevicePack::next_token(&device, &sequences, 256).unwrap();
    let mut learner = Learner::new(model, 128, 1, &[Recompute::None, Recompute::None]).unwrap();
    let rates = rates(200);
    let mut losses = Vec::new();
    for step in 1..=rates.steps {
        let report = learner.step(std::slice::from_ref(&pack), &rates, rates.at(step)).unwrap();
        assert!(!report.skipped);
        losses.push(report.loss);
    }
    println!("{losses:.3?}");
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!((first - f64::from(256f32.ln())).abs() < 0.3, "the first loss is about that of guessing: {first}");
    assert!(last < 0.2, "the last loss is {last}");
}
