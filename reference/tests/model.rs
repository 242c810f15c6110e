//! The whole model: every gradient is the slope of the loss, and no sequence knows of another.

mod common;

use common::Generator;
use packscan_reference::model::{self, Config, Memory, Parameters, Run, Sequence, names_and_shapes};

const CONFIG: Config =
    Config { width: 6, layers: 2, channels: 8, state: 3, taps: 4, rank: 2, vocabulary: 9, tied: true, epsilon: 1e-2 };
const UNTIED: Config = Config { tied: false, ..CONFIG };
const SCALE: f64 = 0.37;
/// Half the distance of the two points of a difference.
const STEP: f64 = 1e-5;

/// Parameters of the size that they have in a trained model, none where a mistake about it would not show.
fn parameters(config: &Config, generator: &mut Generator) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, shape) in names_and_shapes(config) {
        let (low, high) = match name.rsplit_once("mixer.").map_or(name.as_str(), |(_, name)| name) {
            "A_log" => (-0.5, 1.0),
            "D" => (0.4, 1.6),
            "dt_proj.bias" => (-2.0, 0.0),
            name if name.contains("norm") => (0.4, 1.6),
            _ => (-0.7, 0.7),
        };
        let count = shape.iter().product();
        parameters.values.insert(name, (0..count).map(|_| generator.uniform(low, high)).collect());
    }
    parameters
}

/// Tokens of a few sequences, with a target for most.
struct Text {
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<Option<u32>>>,
}

impl Text {
    fn new(lengths: &[usize], generator: &mut Generator) -> Self {
        let mut token = || generator.index(CONFIG.vocabulary) as u32;
        let tokens: Vec<Vec<u32>> = lengths.iter().map(|length| (0..*length).map(|_| token()).collect()).collect();
        let mut target = |t: usize| (t % 4 != 3).then(&mut token);
        let targets = lengths.iter().map(|length| (0..*length).map(&mut target).collect()).collect();
        Self { tokens, targets }
    }

    fn sequences(&self) -> Vec<Sequence<'_>> {
        self.tokens.iter().zip(&self.targets).map(|(tokens, targets)| Sequence::fresh(tokens, targets)).collect()
    }
}

fn memories(config: &Config, generator: &mut Generator) -> Vec<Memory> {
    let mut numbers = |count| (0..count).map(|_| generator.uniform(-1.0, 1.0)).collect();
    let (state, history) = (config.channels * config.state, (config.taps - 1) * config.channels);
    (0..config.layers).map(|_| Memory { state: numbers(state), history: numbers(history) }).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The loss whose gradients `run` gives: the scaled losses, and the memories left, as far as something depends on them.
fn loss(run: &Run, sequences: &[Sequence<'_>], scale: f64) -> f64 {
    let mut loss = scale * run.losses.iter().flatten().sum::<f64>();
    for (left, sequence) in run.left.iter().zip(sequences) {
        for (left, gradient) in left.iter().zip(sequence.left_gradient.unwrap_or_default()) {
            loss += dot(&left.state, &gradient.state) + dot(&left.history, &gradient.history);
        }
    }
    loss
}

/// (loss(STEP) - loss(-STEP)) / (2 * STEP)
fn slope(loss: impl Fn(f64) -> f64) -> f64 {
    (loss(STEP) - loss(-STEP)) / (2.0 * STEP)
}

fn assert_slope(what: &str, gradient: f64, slope: f64) {
    // 1e-8 is the square of the step times a third derivative of order 100; rounding, 2^-53 of the loss over the step, is less.
    assert!((gradient - slope).abs() <= 1e-6 * slope.abs() + 1e-8, "{what}: {gradient}, slope {slope}");
}

/// Every gradient, in a model whose sequences are fresh, empty, and continued with a gradient of what they leave.
fn assert_slopes(config: &Config, lengths: &[usize], seed: u64) {
    let mut generator = Generator(seed);
    let parameters = parameters(config, &mut generator);
    let text = Text::new(lengths, &mut generator);
    let (before, after) = (memories(config, &mut generator), memories(config, &mut generator));
    let mut sequences = text.sequences();
    let last = sequences.last_mut().expect("a sequence");
    last.memory = Some(&before);
    last.left_gradient = Some(&after);
    let loss_of = |parameters: &Parameters| loss(&model::run(config, parameters, &sequences, SCALE), &sequences, SCALE);
    let gradients = model::run(config, &parameters, &sequences, SCALE).gradients;

    let mut along = 0.0;
    let mut direction = Parameters::zeros(config);
    for (name, shape) in names_and_shapes(config) {
        let gradient = &gradients.values[&name];
        assert_eq!(gradient.len(), shape.iter().product::<usize>(), "{name}");
        for (i, &by_hand) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut parameters = parameters.clone();
                parameters.values.get_mut(&name).expect("named")[i] += by;
                loss_of(&parameters)
            };
            assert_slope(&format!("{name}[{i}]"), by_hand, slope(moved));
        }
        let toward = direction.values.get_mut(&name).expect("named");
        toward.iter_mut().for_each(|toward| *toward = generator.uniform(-0.2, 0.2));
        along += dot(gradient, toward);
    }
    let moved = |by: f64| {
        let mut parameters = parameters.clone();
        for (values, toward) in parameters.values.values_mut().zip(direction.values.values()) {
            values.iter_mut().zip(toward).for_each(|(value, toward)| *value += by * toward);
        }
        loss_of(&parameters)
    };
    assert_slope("along a random direction", along, slope(moved));
}

#[test]
fn every_gradient_is_a_slope() {
    assert_slopes(&CONFIG, &[5, 1, 0, 7], 21);
    assert_slopes(&UNTIED, &[3, 6], 22);
    assert_slopes(&Config { layers: 1, taps: 2, state: 1, rank: 1, ..CONFIG }, &[1, 2], 23);
    assert_slopes(&Config { layers: 0, ..CONFIG }, &[4], 24);
}

#[test]
fn the_gradient_of_a_memory_is_a_slope() {
    let mut generator = Generator(25);
    let parameters = parameters(&CONFIG, &mut generator);
    // One longer than the convolution reaches, one shorter, one empty: part of the memory is then left as it came.
    for length in [6, 2, 0] {
        let text = Text::new(&[length], &mut generator);
        let (before, after) = (memories(&CONFIG, &mut generator), memories(&CONFIG, &mut generator));
        let of = |before: &[Memory]| {
            let sequence = Sequence { memory: Some(before), left_gradient: Some(&after), ..text.sequences()[0] };
            let run = model::run(&CONFIG, &parameters, &[sequence], SCALE);
            (loss(&run, &[sequence], SCALE), run.memory_gradients)
        };
        let (_, gradients) = of(&before);
        let fields: [fn(&mut Memory) -> &mut Vec<f64>; 2] = [|memory| &mut memory.state, |memory| &mut memory.history];
        for layer in 0..CONFIG.layers {
            for field in fields {
                let gradient = field(&mut gradients[0][layer].clone()).clone();
                for (i, &by_hand) in gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut before = before.clone();
                        field(&mut before[layer])[i] += by;
                        of(&before).0
                    };
                    assert_slope(&format!("length {length}, block {layer}, [{i}]"), by_hand, slope(moved));
                }
            }
        }
    }
}

fn assert_near(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-12 * want.abs().max(1.0), "{what}[{i}]: {got}, {want}");
    }
}

#[test]
fn a_text_in_two_pieces_is_the_text_in_one() {
    let mut generator = Generator(26);
    let parameters = parameters(&UNTIED, &mut generator);
    let text = Text::new(&[9], &mut generator);
    let (tokens, targets) = (text.tokens[0].as_slice(), text.targets[0].as_slice());
    let run = |sequence: Sequence<'_>| model::run(&UNTIED, &parameters, &[sequence], SCALE);
    let whole = run(Sequence::fresh(tokens, targets));
    // A first piece that is shorter than the convolution reaches, and one that is not.
    for cut in [1, 2, 5, 9] {
        let head = Sequence::fresh(&tokens[..cut], &targets[..cut]);
        let left = &run(head).left[0];
        let tail = run(Sequence { memory: Some(left), ..Sequence::fresh(&tokens[cut..], &targets[cut..]) });
        let head = run(Sequence { left_gradient: Some(&tail.memory_gradients[0]), ..head });
        assert_eq!([&head.logits[0][..], &tail.logits[0]].concat(), whole.logits[0], "cut at {cut}");
        assert_eq!([&head.losses[0][..], &tail.losses[0]].concat(), whole.losses[0], "cut at {cut}");
        assert_eq!(tail.left, whole.left, "cut at {cut}");
        for (name, want) in &whole.gradients.values {
            let both: Vec<f64> = head.gradients[name].iter().zip(&tail.gradients[name]).map(|(a, b)| a + b).collect();
            assert_near(name, &both, want);
        }
    }
}

#[test]
fn no_sequence_knows_of_another() {
    let mut generator = Generator(27);
    let parameters = parameters(&CONFIG, &mut generator);
    let text = Text::new(&[5, 4, 3], &mut generator);
    let run = model::run(&CONFIG, &parameters, &text.sequences(), SCALE);
    let other = Text::new(&[8], &mut generator);
    let others = [other.sequences()[0], text.sequences()[1], text.sequences()[2]];
    let changed = model::run(&CONFIG, &parameters, &others, SCALE);
    assert_ne!(changed.losses[0], run.losses[0]);
    for s in [1, 2] {
        assert_eq!(changed.logits[s], run.logits[s]);
        assert_eq!(changed.losses[s], run.losses[s]);
        assert_eq!(changed.left[s], run.left[s]);
    }
    for (s, tokens) in text.tokens.iter().enumerate() {
        assert_eq!(model::logits(&CONFIG, &parameters, tokens), run.logits[s]);
    }
}

#[test]
fn the_gradient_of_all_is_the_sum_of_those_of_each() {
    let mut generator = Generator(28);
    let parameters = parameters(&CONFIG, &mut generator);
    let text = Text::new(&[5, 1, 7], &mut generator);
    let together = model::run(&CONFIG, &parameters, &text.sequences(), SCALE).gradients;
    let each: Vec<Parameters> = text
        .sequences()
        .iter()
        .map(|sequence| model::run(&CONFIG, &parameters, std::slice::from_ref(sequence), SCALE).gradients)
        .collect();
    for (name, together) in &together.values {
        let sum: Vec<f64> = (0..together.len()).map(|i| each.iter().map(|one| one[name][i]).sum()).collect();
        assert_near(name, together, &sum);
    }
}

#[test]
fn a_token_sees_none_after_it() {
    let mut generator = Generator(29);
    let parameters = parameters(&CONFIG, &mut generator);
    let text = Text::new(&[8], &mut generator);
    let logits = model::logits(&CONFIG, &parameters, &text.tokens[0]);
    let until = 5 * CONFIG.vocabulary;
    assert_eq!(model::logits(&CONFIG, &parameters, &text.tokens[0][..5]), logits[..until]);
}

#[test]
fn a_tied_gradient_is_the_sum_of_both_uses() {
    let mut generator = Generator(30);
    let tied = parameters(&CONFIG, &mut generator);
    let mut untied = tied.clone();
    untied.values.insert("lm_head.weight".to_owned(), tied["backbone.embeddings.weight"].clone());
    let text = Text::new(&[7], &mut generator);
    let together = model::run(&CONFIG, &tied, &text.sequences(), SCALE);
    let apart = model::run(&UNTIED, &untied, &text.sequences(), SCALE);
    assert_eq!(together.logits, apart.logits);
    let both = apart.gradients["backbone.embeddings.weight"].iter().zip(&apart.gradients["lm_head.weight"]);
    let sum: Vec<f64> = both.map(|(embedding, head)| embedding + head).collect();
    assert_eq!(together.gradients["backbone.embeddings.weight"], sum);
    for (name, gradient) in together.gradients.values.iter().filter(|(name, _)| *name != "backbone.embeddings.weight") {
        assert_eq!(apart.gradients[name], *gradient, "{name}");
    }
}

#[test]
fn tokens_without_targets_have_no_gradient() {
    let mut generator = Generator(31);
    let parameters = parameters(&CONFIG, &mut generator);
    let text = Text::new(&[6], &mut generator);
    let run = model::run(&CONFIG, &parameters, &[Sequence::fresh(&text.tokens[0], &[None; 6])], SCALE);
    assert_eq!(run.losses, [[0.0; 6]]);
    assert!(run.gradients.values.values().flatten().all(|gradient| *gradient == 0.0));
}

#[test]
#[should_panic(expected = "token 9 is outside the vocabulary of 9")]
fn a_token_outside_the_vocabulary_is_named() {
    let parameters = parameters(&CONFIG, &mut Generator(32));
    model::logits(&CONFIG, &parameters, &[1, 9]);
}

#[test]
#[should_panic(expected = "the model needs the parameter backbone.layers.1.mixer.D")]
fn a_missing_parameter_is_named() {
    let mut parameters = parameters(&CONFIG, &mut Generator(33));
    parameters.values.remove("backbone.layers.1.mixer.D");
    model::logits(&CONFIG, &parameters, &[1]);
}
