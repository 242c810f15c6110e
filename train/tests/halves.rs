//! A model trained in bf16 keeps its matrices in halves, and learns bit for bit what one with f32 parameters beside rounded copies would.

mod common;

use common::{config, learner, pack, texts, values, weights};
use packscan_kernels::adamw::{self, Kept, halves};
use packscan_kernels::grad_norm;
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, View};
use packscan_train::Rates;
use packscan_train::activations::Recompute;
use packscan_train::parameters::{Layout, Slot};

const STEPS: u32 = 4;

/// Everything in f32, on the host: `[layout.elements]` each.
struct Whole {
    p: Buffer,
    m: Buffer,
    v: Buffer,
}

fn of(flat: &Buffer, slot: Slot) -> View<'_> {
    flat.part(slot.offset, slot.elements(), 1).unwrap()
}

impl Whole {
    /// One step by the gradients of the model under test.
    fn step(&self, layout: &Layout, gradients: &[f32], rates: &Rates, step: u32) {
        let floats = |values: &[f32]| Buffer::from_slice(&Device::Cpu, values).unwrap();
        let nothing = DevicePacked::empty(&Device::Cpu).unwrap();
        let (g, norm) = (floats(gradients), grad_norm::default_variant(Dtype::F32));
        let parts = floats(&vec![0.0; grad_norm::parts(&norm, gradients.len())]);
        let (limit, clip) = (floats(&grad_norm::limit(rates.clip.unwrap()).unwrap()), floats(&[0.0; 3]));
        grad_norm::forward(&nothing, &norm, g.view(), parts.view()).unwrap();
        grad_norm::clip(&nothing, &grad_norm::CLIP, parts.view(), limit.view(), clip.view()).unwrap();
        for p in &layout.table {
            let numbers = adamw::Step {
                step,
                learning_rate: rates.at(step),
                beta1: rates.betas.0,
                beta2: rates.betas.1,
                eps: rates.eps,
                decay: if p.decays { rates.decay } else { 0.0 },
                grad_scale: 1.0,
            };
            let scalars = floats(&numbers.scalars().unwrap());
            let range = adamw::Range {
                p: of(&self.p, p.slot),
                m: of(&self.m, p.slot),
                v: of(&self.v, p.slot),
                g: of(&g, p.slot),
                scalars: scalars.view(),
                clip: Some(clip.view()),
                copy: None,
                rests: None,
            };
            adamw::forward(&nothing, &adamw::default_variant(Dtype::F32, Kept::Whole, true), &range).unwrap();
        }
    }
}

#[test]
fn training_in_halves_is_training_in_f32() {
    let (device, config) = (Device::Cpu, config(true));
    let layout = Layout::of(&config);
    let start = values(&layout);
    let mut learner = learner(&device, Dtype::Bf16, &config, &start, 64, Recompute::None);
    let whole = Whole {
        p: Buffer::from_slice(&device, &start).unwrap(),
        m: Buffer::from_slice(&device, &vec![0.0f32; layout.elements]).unwrap(),
        v: Buffer::from_slice(&device, &vec![0.0f32; layout.elements]).unwrap(),
    };
    let rates = Rates { learning_rate: 1e-2, warmup: 2, steps: STEPS, ..Rates::default() };
    for step in 1..=STEPS {
        let packs = [pack(&device, &texts(&[9 + step as usize, 1, 17], config.vocabulary), config.vocabulary)];
        let gradients = learner.gradients_of(&packs).unwrap().1;
        learner.step(&packs, &rates, rates.at(step)).unwrap();
        whole.step(&layout, &gradients, &rates, step);
        let (got, want) = (weights(&learner.model), whole.p.to_vec::<f32>().unwrap());
        for p in &layout.table {
            let bits = |flat: &[f32]| flat[p.slot.range()].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&got) == bits(&want), "{} after step {step}", p.name);
            assert!(bits(&got) != bits(&start), "{} learns nothing", p.name);
            if p.slot.offset < layout.products {
                let read = learner.model.weights.io(p.slot).unwrap().to_f32().unwrap();
                let rounded: Vec<f32> = want[p.slot.range()].iter().map(|&x| halves::split(x).0.to_f32()).collect();
                assert_eq!(read, rounded, "{}: what products read is each weight, rounded", p.name);
            }
        }
    }
}
