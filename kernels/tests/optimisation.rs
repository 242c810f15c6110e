//! The loss, the norm and the optimiser as a trainer calls them: what bad calls get, and how they work together.

use packscan_kernels::adamw::halves;
use packscan_kernels::{adamw, cross_entropy, grad_norm};
use packscan_runtime::launch::check_call;
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, Result};

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("this is refused").to_string()
}

fn floats(device: &Device, values: &[f32]) -> Buffer {
    Buffer::from_slice(device, values).unwrap()
}

#[test]
fn rates_outside_their_ranges_are_refused_by_name() {
    let good = adamw::Step::default();
    assert!(good.scalars().is_ok());
    for (step, words) in [
        (adamw::Step { learning_rate: f32::NAN, ..good }, "learning_rate is NaN; a learning rate is a finite number"),
        (adamw::Step { learning_rate: -1e-3, ..good }, "learning_rate is -0.001"),
        (adamw::Step { learning_rate: f32::INFINITY, ..good }, "learning_rate is inf"),
        (adamw::Step { beta1: 1.0, ..good }, "beta1 is 1; a decay rate of moments is at least 0 and below 1"),
        (adamw::Step { beta2: -0.1, ..good }, "beta2 is -0.1"),
        (adamw::Step { beta2: f32::NAN, ..good }, "beta2 is NaN"),
        (adamw::Step { eps: 0.0, ..good }, "eps is 0"),
        (adamw::Step { decay: -0.1, ..good }, "decay is -0.1"),
        (adamw::Step { grad_scale: f32::NAN, ..good }, "grad_scale is NaN"),
        (adamw::Step { step: 0, ..good }, "step is 0; steps are counted from 1"),
    ] {
        let error = refusal(step.scalars());
        assert!(error.contains(words), "{error}");
    }
    for (limit, words) in
        [(0.0, "max_norm is 0;"), (f32::NAN, "max_norm is NaN"), (f32::INFINITY, "leave clipping out")]
    {
        let error = refusal(grad_norm::limit(limit));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_corrections_undo_the_bias_of_moments_that_start_at_zero() {
    let at = |step| adamw::Step { step, beta1: 0.5, beta2: 0.75, ..adamw::Step::default() }.scalars().unwrap();
    assert_eq!(at(1)[5..7], [2.0, 4.0]);
    assert_eq!(at(2)[5..7], [(1.0f64 / 0.75) as f32, (1.0f64 / 0.4375) as f32]);
    assert_eq!(at(i32::MAX as u32)[5..7], [1.0, 1.0]);
}

#[test]
fn a_target_outside_the_vocabulary_is_refused_with_its_position() {
    let none = cross_entropy::NO_TARGET;
    assert_eq!(cross_entropy::check_targets(&[0, none, 9, none], 10).unwrap(), 2);
    let error = refusal(cross_entropy::check_targets(&[3, none, 10, 11], 10));
    assert!(error.starts_with("targets is 10 at token 2; a target is below the vocabulary of 10"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let device = Device::Cpu;
    let nothing = DevicePacked::empty(&device).unwrap();
    let variant = adamw::default_variant(Dtype::F32, adamw::Kept::Whole, false);
    let [p, m, v, g] = [(); 4].map(|()| floats(&device, &[0.5; 12]));
    let scalars = floats(&device, &adamw::Step::default().scalars().unwrap());
    let (clip, copy, rests) = (None, None, None);
    let range =
        adamw::Range { p: p.view(), m: m.view(), v: v.view(), g: g.view(), scalars: scalars.view(), clip, copy, rests };
    adamw::forward(&nothing, &variant, &range).unwrap();

    let short = floats(&device, &[0.5; 11]);
    let step = |range: &adamw::Range<'_>| refusal(adamw::forward(&nothing, &variant, range));
    let error = step(&adamw::Range { g: short.view(), ..range });
    assert!(error.starts_with("g [N] of adamw-b256-v4-f32-bf16: it has 11 rows of 1"), "{error}");
    let error = step(&adamw::Range { m: p.view(), ..range });
    assert!(error.contains("it overlaps m") || error.contains("it overlaps p"), "{error}");
    let error = step(&adamw::Range { scalars: g.view(), ..range });
    assert!(error.starts_with("scalars [8]"), "{error}");
    let error = step(&adamw::Range { clip: Some(g.view()), ..range });
    assert!(error.starts_with("clip_by [3]") && error.contains("it was given"), "{error}");

    let g = floats(&device, &[0.5; 100]);
    let parts = floats(&device, &[0.0; 2]);
    let error = refusal(grad_norm::forward(&nothing, &grad_norm::default_variant(Dtype::F32), g.view(), parts.view()));
    assert!(error.starts_with("parts [N.div_ceil(part)]") && error.contains("1 rows of 1"), "{error}");
}

#[test]
fn a_size_beyond_32_bits_is_refused_and_not_cut_off() {
    let device = Device::Cpu;
    let nothing = DevicePacked::empty(&device).unwrap();
    let one = floats(&device, &[0.5]);
    let args = grad_norm::ForwardArgs { n: (1 << 32) + 1, g: one.view(), parts: one.view() };
    let error = refusal(check_call(&grad_norm::default_variant(Dtype::F32), &nothing, &args));
    assert!(error.contains("is 4294967297") && error.contains("split the call"), "{error}");
}

#[test]
fn logits_that_a_load_does_not_divide_are_refused() {
    let device = Device::Cpu;
    let packed = Packed::from_lengths(&[2]).unwrap().on(&device).unwrap();
    let logits = floats(&device, &[0.5; 14]);
    let targets = Buffer::from_slice(&device, &[0u32, 6]).unwrap();
    let (scale, loss) = (floats(&device, &[1.0]), floats(&device, &[0.0; 2]));
    let tensors = cross_entropy::Tensors {
        logits: logits.rows(2).unwrap(),
        targets: targets.view(),
        scale: scale.view(),
        loss: loss.view(),
    };
    let variant = cross_entropy::Forward { block: 32, keep: 1, vec: 4, io: Dtype::F32 };
    let error = refusal(cross_entropy::forward(&packed, &variant, &tensors));
    assert!(error.starts_with("logits [T, V]") && error.contains("4 at a time"), "{error}");
}

/// Every size from one to the largest vocabulary that a variant must be found for.
#[test]
fn every_vocabulary_has_a_variant() {
    for vocabulary in (1..600).chain([1023, 32_000, 50_257, 50_277, 50_280, 65_536, 128_256, 262_144]) {
        for io in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let problem = cross_entropy::Problem { vocabulary, io };
            let variant = cross_entropy::default_variant(&problem);
            Device::emulator(0).check(&variant).unwrap();
            assert!(vocabulary.is_multiple_of(variant.vec as usize));
            assert_eq!(variant.to_string().parse::<cross_entropy::Forward>().unwrap(), variant);
            assert!(!cross_entropy::variants(&problem).is_empty());
        }
    }
}

/// Parameters and gradients of a small model on a device, stepped as a trainer does.
struct Model {
    nothing: DevicePacked,
    p: Buffer,
    m: Buffer,
    v: Buffer,
    copy: Buffer,
}

const N: usize = 70;

impl Model {
    fn new(device: &Device) -> Model {
        let start: Vec<f32> = (0..N).map(|i| i as f32 / 100.0 - 0.3).collect();
        Model {
            nothing: DevicePacked::empty(device).unwrap(),
            p: floats(device, &start),
            m: floats(device, &[0.0; N]),
            v: floats(device, &[0.0; N]),
            copy: Buffer::unwritten(device, Dtype::Bf16, N).unwrap(),
        }
    }

    /// One clipped step; returns the factor, the norm and whether it is not finite.
    fn step(&self, gradients: &[f32; N]) -> Vec<f32> {
        let device = self.p.device();
        let g = floats(device, gradients);
        let (sum, limit) = (grad_norm::default_variant(Dtype::F32), grad_norm::limit(1.0).unwrap());
        let parts = Buffer::unwritten(device, Dtype::F32, grad_norm::parts(&sum, N)).unwrap();
        let (limit, result) = (floats(device, &limit), Buffer::unwritten(device, Dtype::F32, 3).unwrap());
        grad_norm::forward(&self.nothing, &sum, g.view(), parts.view()).unwrap();
        grad_norm::clip(&self.nothing, &grad_norm::CLIP, parts.view(), limit.view(), result.view()).unwrap();
        let scalars = floats(device, &adamw::Step { decay: 0.0, ..adamw::Step::default() }.scalars().unwrap());
        let range = adamw::Range {
            p: self.p.view(),
            m: self.m.view(),
            v: self.v.view(),
            g: g.view(),
            scalars: scalars.view(),
            clip: Some(result.view()),
            copy: Some(self.copy.view()),
            rests: None,
        };
        let variant = adamw::default_variant(Dtype::F32, adamw::Kept::Copied(Dtype::Bf16), true);
        adamw::forward(&self.nothing, &variant, &range).unwrap();
        result.to_vec().unwrap()
    }
}

#[test]
fn one_gradient_that_is_not_finite_leaves_every_parameter_alone() {
    for device in [Device::Cpu, Device::emulator(0)] {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            let model = Model::new(&device);
            let before = model.p.to_f32().unwrap();
            let mut gradients = [0.1; N];
            gradients[N - 1] = poison;
            let result = model.step(&gradients);
            assert_eq!((result[0], result[2]), (0.0, 1.0), "{poison} on {device}");
            assert_eq!(model.p.to_f32().unwrap(), before);
            assert_eq!(model.m.to_f32().unwrap(), [0.0; N]);
            let copied = Buffer::from_f32(&Device::Cpu, Dtype::Bf16, &before).unwrap().to_f32().unwrap();
            assert_eq!(model.copy.to_f32().unwrap(), copied, "the copies are written all the same");

            // The next gradients are finite: their norm is 10 times the square root of 70, clipped to 1.
            let result = model.step(&[10.0; N]);
            let norm = 10.0 * (N as f32).sqrt();
            assert!((result[1] / norm - 1.0).abs() < 1e-6 && (result[0] * norm - 1.0).abs() < 1e-6, "{result:?}");
            assert_eq!(result[2], 0.0);
            let rate = adamw::Step::default().learning_rate;
            let moved = std::iter::zip(model.p.to_f32().unwrap(), before).map(|(now, before)| before - now);
            assert!(moved.into_iter().all(|by| (by / rate - 1.0).abs() < 1e-3), "the first step moves by the rate");
        }
    }
}

/// Bits of parameters and moments after some steps; there are `rests` where parameters are kept in halves.
fn stepped(device: &Device, p: &Buffer, rests: Option<&Buffer>) -> Vec<u32> {
    let nothing = DevicePacked::empty(device).unwrap();
    let [m, v] = [(); 2].map(|()| floats(device, &[0.0; N]));
    let kept = if rests.is_some() { adamw::Kept::Split } else { adamw::Kept::Whole };
    let variant = adamw::default_variant(Dtype::F32, kept, false);
    for step in 1..=5 {
        let numbers = adamw::Step { step, learning_rate: 0.01, ..adamw::Step::default() };
        let scalars = floats(device, &numbers.scalars().unwrap());
        let gradient = |i| ((i * 37 + step as usize * 11) as f32).sin();
        let gradients = floats(device, &(0..N).map(gradient).collect::<Vec<_>>());
        let range = adamw::Range {
            p: p.view(),
            m: m.view(),
            v: v.view(),
            g: gradients.view(),
            scalars: scalars.view(),
            clip: None,
            copy: None,
            rests: rests.map(Buffer::view),
        };
        adamw::forward(&nothing, &variant, &range).unwrap();
    }
    let p = match rests {
        Some(rests) => halves::join_all(&p.to_vec().unwrap(), &rests.to_vec().unwrap()),
        None => p.to_vec().unwrap(),
    };
    [p, m.to_vec().unwrap(), v.to_vec().unwrap()].concat().into_iter().map(f32::to_bits).collect()
}

/// 70 parameters, of all sizes; the last two are a tail that no load of four reads.
#[test]
fn parameters_in_halves_learn_bit_for_bit_what_whole_ones_do() {
    for device in [Device::Cpu, Device::emulator(0)] {
        let values: Vec<f32> = (0..N).map(|i| (i as f32 - 30.0) * 10.0f32.powi(i as i32 % 9 - 6)).collect();
        let (rounded, rests) = halves::split_all(&values);
        let [rounded, rests] =
            [Buffer::from_slice(&device, &rounded), Buffer::from_slice(&device, &rests)].map(Result::unwrap);
        let whole = floats(&device, &values);
        let after = stepped(&device, &whole, None);
        assert_eq!(stepped(&device, &rounded, Some(&rests)), after, "{device}");
        let copies: Vec<f32> = whole.to_vec().unwrap().into_iter().map(|p| halves::split(p).0.to_f32()).collect();
        assert_eq!(rounded.to_f32().unwrap(), copies, "what products read is each parameter, rounded");
        assert!(whole.to_vec::<f32>().unwrap() != values, "nothing was learnt");
    }
}

#[test]
fn halves_of_another_type_are_refused() {
    let variant = adamw::Forward { io: Dtype::F16, ..adamw::default_variant(Dtype::F32, adamw::Kept::Split, false) };
    let error = refusal(variant.check(&Device::Cpu));
    assert!(error.contains("the upper half of an f32 is a bf16"), "{error}");
}
