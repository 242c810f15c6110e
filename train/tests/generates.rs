//! A text made token by token is the text that whole passes would make.

mod common;

use common::{config, texts, values};
use packscan_runtime::{Device, Dtype};
use packscan_train::parameters::Layout;
use packscan_train::{Generator, Model, Sampling};

/// The most likely next tokens, by the book, each from the whole text so far.
fn by_the_book(values: &[f32], prompt: &[u32], tokens: usize) -> Vec<u32> {
    let config = config(true);
    let parameters = common::book_parameters::<f64>(&Layout::of(&config), values);
    let mut text = prompt.to_vec();
    for _ in 0..tokens {
        let logits = packscan_reference::model::logits(&common::book_config(&config), &parameters, &text);
        let last = &logits[logits.len() - config.vocabulary..];
        let most = (0..config.vocabulary).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        text.push(most as u32);
    }
    text.split_off(prompt.len())
}

#[test]
fn the_most_likely_tokens_are_the_books() {
    let config = config(true);
    let values = values(&Layout::of(&config));
    // One longer than is read at a time, one of a single token.
    let prompts = texts(&[600, 1, 9], config.vocabulary);
    let views: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let model = Model::new(&Device::Cpu, Dtype::F32, &config, &values).unwrap();
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut generator = Generator::new(&model, greedy, &views, config.vocabulary).unwrap();
    let steps: Vec<Vec<u32>> = (0..12).map(|_| generator.next_tokens().unwrap()).collect();
    for (i, prompt) in prompts.iter().enumerate() {
        let got: Vec<u32> = steps.iter().map(|tokens| tokens[i]).collect();
        assert_eq!(got, by_the_book(&values, prompt, 12), "text {i}");
    }
}

/// A text does not depend on what else is in its batch.
#[test]
fn a_batch_draws_for_each_text_alone() {
    let config = config(true);
    let values = values(&Layout::of(&config));
    let prompts = texts(&[5, 30, 2], config.vocabulary);
    let model = Model::new(&Device::Cpu, Dtype::F32, &config, &values).unwrap();
    let sampling = Sampling { top_p: 0.9, seed: 3, ..Sampling::default() };
    let draw = |prompts: &[&[u32]]| -> Vec<u32> {
        let mut generator = Generator::new(&model, sampling, prompts, config.vocabulary).unwrap();
        (0..10).map(|_| generator.next_tokens().unwrap()[0]).collect()
    };
    let all: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    assert_eq!(draw(&all), draw(&all[..1]));
}

#[test]
fn a_prompt_has_at_least_one_token() {
    let config = config(true);
    let model = Model::new(&Device::Cpu, Dtype::F32, &config, &values(&Layout::of(&config))).unwrap();
    for (prompts, words) in [(&[][..], "batch is 0"), (&[&[3u32][..], &[]], "prompt is empty (prompt 1)")] {
        let error = Generator::new(&model, Sampling::default(), prompts, config.vocabulary).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
}
