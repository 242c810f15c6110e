//! `packscan generate`: text that goes on from a prompt.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use clap::Args;
use packscan_data::{Decoder, Tokenizer};
use packscan_train::{Generator, Sampling};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::saved::Saved;
use crate::{Verdict, output, parse};

/// Which model, from which prompt, how.
#[derive(Debug, Args)]
pub struct Generate {
    /// A run, a checkpoint of one, or a Hugging Face model.
    model: PathBuf,
    /// What the text begins with [default: standard input where that is no terminal, else the start of a document].
    prompt: Option<String>,
    /// Most tokens to make.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = parse::whole::<usize>)]
    tokens: usize,
    /// Texts to make.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse::whole::<usize>)]
    batch: usize,
    /// What logits are divided by; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw among the K most likely tokens; 0: among all.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = parse::whole::<usize>)]
    top_k: usize,
    /// Draw among the most likely tokens that together have probability P.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// The same seed makes the same text.
    #[arg(long, default_value_t = 0, value_parser = parse::whole::<u64>)]
    seed: u64,
    /// A tokenizer.json [default: the one beside the model, else bytes].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

impl Generate {
    /// Writes one text as it is made, or several one after the other once they are.
    pub fn run(&self) -> Result<Verdict> {
        let saved = Saved::open(&self.model, self.tokenizer.as_deref())?;
        let device = self.machine.device(None)?;
        let model = saved.pretrained.model(&device, self.machine.dtype(&device))?;
        let prompt = self.prompt()?;
        let tokens = prompt_tokens(&saved.tokenizer, &prompt)?;
        let Generate { temperature, top_k, top_p, seed, .. } = *self;
        let sampling = Sampling { temperature, top_k, top_p, seed };
        let prompts = vec![tokens.as_slice(); self.batch];
        let mut generator = Generator::new(&model, sampling, &prompts, saved.tokenizer.vocabulary())?;
        let mut texts: Vec<Text<'_>> = (0..self.batch).map(|_| Text::new(&saved.tokenizer)).collect();
        let streams = self.batch == 1;
        if streams {
            output::results(&prompt)?;
        }
        for _ in 0..self.tokens {
            for (text, token) in texts.iter_mut().zip(generator.next_tokens()?) {
                let piece = text.push(token)?;
                if streams {
                    output::results(piece)?;
                }
            }
            if texts.iter().all(|text| text.ended) {
                break;
            }
        }
        for (i, text) in texts.into_iter().enumerate() {
            let Text { mut made, decoder, .. } = text;
            let rest = decoder.finish()?;
            made.push_str(&rest);
            match streams {
                true => output::results(format!("{rest}\n"))?,
                false => output::results(format!("--- {}\n{prompt}{made}\n", i + 1))?,
            }
        }
        Ok(Verdict::Good)
    }

    fn prompt(&self) -> Result<String> {
        match &self.prompt {
            Some(prompt) => Ok(prompt.clone()),
            None if io::stdin().is_terminal() => Ok(String::new()),
            None => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map_err(Error::Stdin)?;
                Ok(text)
            }
        }
    }
}

/// The tokens of a prompt; the end of a document before where there is no text, since something must come first.
fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode(prompt)?;
    // An encoded document ends; a prompt does not.
    if tokens.last() == tokenizer.end().as_ref() {
        tokens.pop();
    }
    if tokens.is_empty() {
        tokens.push(tokenizer.end().unwrap_or(0));
    }
    Ok(tokens)
}

/// A text in the making.
struct Text<'a> {
    decoder: Decoder<'a>,
    end: Option<u32>,
    made: String,
    ended: bool,
}

impl<'a> Text<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Text { decoder: tokenizer.decoder(), end: tokenizer.end(), made: String::new(), ended: false }
    }

    /// What a token adds; nothing after the end of the document.
    fn push(&mut self, token: u32) -> Result<String> {
        self.ended |= Some(token) == self.end;
        if self.ended {
            return Ok(String::new());
        }
        let piece = self.decoder.push(token)?;
        self.made.push_str(&piece);
        Ok(piece)
    }
}
