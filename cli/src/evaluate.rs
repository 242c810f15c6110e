//! `packscan eval`: what a model makes of text.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use packscan_data::{CorpusOptions, PackOptions, Packs, Plans, Scheme, Strategy};
use packscan_train::Evaluator;
use packscan_train::report::{left_out, open_corpus};

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::saved::Saved;
use crate::{Verdict, output, parse};

/// Which model, on which text.
#[derive(Debug, Args)]
pub struct Eval {
    /// A run, a checkpoint of one, or a Hugging Face model.
    model: PathBuf,
    /// Files and folders of plain text, JSONL or Parquet.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Most tokens of a pack; longer documents are cut, and go on from what the cut left.
    #[arg(long, value_name = "T", default_value_t = 4096, value_parser = parse::whole::<usize>)]
    tokens: usize,
    /// The field of JSONL records and the column of Parquet files that hold the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Leave out files, lines and rows that give no text, and name them, instead of ending with an error.
    #[arg(long)]
    skip_bad: bool,
    /// A tokenizer.json [default: the one beside the model, else bytes].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

impl Eval {
    /// Prints mean loss and perplexity.
    pub fn run(&self) -> Result<Verdict> {
        let saved = Saved::open(&self.model, self.tokenizer.as_deref())?;
        let mut options = CorpusOptions::new(self.files.clone(), packscan::runtime::cache::default_folder()?);
        options.text_field.clone_from(&self.text_field);
        options.skip_bad = self.skip_bad;
        let corpus = open_corpus(&options, &saved.tokenizer, true)?;
        left_out(&corpus).iter().for_each(|line| output::note(line));

        let device = self.machine.device(None)?;
        let model = saved.pretrained.model(&device, self.machine.dtype(&device))?;
        let options = PackOptions {
            seed: None,
            epochs: Some(1),
            ..PackOptions::new(self.tokens, Scheme::Packed(Strategy::Split))
        };
        let mut evaluator = Evaluator::new(&model, self.tokens)?;
        let count = Plans::new(corpus.lengths(), options.clone())?.count();
        let bar = ProgressBar::new(count as u64);
        bar.set_style(
            ProgressStyle::with_template("evaluating {bar:30} {pos} of {len} packs, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let began = Instant::now();
        for pack in Packs::new(&corpus, options)? {
            evaluator.add(&pack)?;
            if !evaluator.loss.is_finite() {
                let first = pack.documents.first().map_or_else(String::new, |&first| corpus.name(first as usize));
                let (model, dtype) = (self.model.clone(), model.io.to_string());
                return Err(Error::LossNotFinite { model, loss: evaluator.loss, first, dtype });
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if evaluator.predicted == 0 {
            return Err(Error::NothingPredicted { documents: corpus.documents() });
        }
        let mean = evaluator.loss / evaluator.predicted as f64;
        let seconds = began.elapsed().as_secs_f64();
        output::results(format!(
            "loss        {mean:.4} nats a token\nperplexity  {:.3}\npredicted   {} of {} in {}\nspeed       {} tokens/s\n",
            mean.exp(),
            output::counted(evaluator.predicted, "token"),
            output::thousands(corpus.total_tokens() as usize),
            output::counted(corpus.documents(), "document"),
            output::thousands((corpus.total_tokens() as f64 / seconds) as usize),
        ))?;
        Ok(Verdict::Good)
    }
}
