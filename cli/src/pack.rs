//! `packscan pack`: what packing makes of a corpus, by each strategy and by the two baselines.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use packscan::runtime::cache;
use packscan_data::{Corpus, CorpusOptions, PackOptions, Plans, Scheme, Strategy, Tokenizer};
use packscan_train::report::number::{counted, fixed, nearest_rank};
use packscan_train::report::plot::Size;
use packscan_train::report::{left_out, lengths_plot, open_corpus};

use crate::error::{Error, Result};
use crate::output::thousands;
use crate::{Verdict, output, parse};

/// Which text, and how to pack it.
#[derive(Debug, Args)]
pub struct Pack {
    /// Text, JSONL and Parquet files, text and JSONL also as .gz or .zst, or folders with such files.
    files: Vec<PathBuf>,
    /// Tokens that a pack has at most.
    #[arg(long, value_name = "T", default_value_t = 4096, value_parser = parse::whole::<usize>)]
    tokens: usize,
    /// A Hugging Face tokenizer.json [default: bytes].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Strategies and baselines to compare, with commas between them.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    strategy: Vec<Choice>,
    /// Documents among which best-fit-decreasing chooses [default: 16384].
    #[arg(long, value_name = "DOCUMENTS", value_parser = parse::whole::<usize>)]
    window: Option<usize>,
    /// Rows of a padded batch [default: 8].
    #[arg(long, value_name = "ROWS", value_parser = parse::whole::<usize>)]
    batch: Option<usize>,
    /// Field of a JSONL record, or column of a Parquet file, that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Leave out files, lines and rows that give no text, and name them, instead of ending with an error.
    #[arg(long)]
    skip_bad: bool,
    /// Decides the order of the documents.
    #[arg(long, default_value_t = 0, value_parser = parse::whole::<u64>)]
    seed: u64,
    /// Draw how long the documents are.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Of the picture, in pixels.
const PICTURE: Size = Size { width: 860, height: 360 };

/// A strategy or a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Choice {
    /// All of them
    All,
    /// In the order of the documents; what does not fit opens the next pack
    Sequential,
    /// Each into the first pack with room
    FirstFit,
    /// The longest first, each into the pack that it fills best
    BestFitDecreasing,
    /// Every pack is full; what does not fit goes on in the next
    Split,
    /// Baseline: one sequence at a time
    Single,
    /// Baseline: batches padded to their longest row
    Padded,
}

impl Choice {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What came of one strategy.
struct Row {
    name: String,
    packs: usize,
    sequences: usize,
    real: usize,
    cost: usize,
    time: Duration,
}

impl Pack {
    /// Prints the table, and draws the lengths if asked.
    pub fn run(self) -> Result<Verdict> {
        if self.files.is_empty() {
            return Err(Error::NoFiles);
        }
        let choices = self.choices();
        for (argument, given, choice, needs) in [
            ("--window", self.window, Choice::BestFitDecreasing, "--strategy best-fit-decreasing"),
            ("--batch", self.batch, Choice::Padded, "--strategy padded"),
        ] {
            if given.is_some() && !choices.contains(&choice) {
                return Err(Error::Idle { argument, needs });
            }
        }
        let tokenizer = Tokenizer::open(self.tokenizer.as_deref())?;
        let options = CorpusOptions {
            paths: self.files.clone(),
            text_field: self.text_field.clone(),
            skip_bad: self.skip_bad,
            cache: cache::default_folder()?,
        };
        let corpus = open_corpus(&options, &tokenizer, true)?;
        let rows = choices.into_iter().map(|choice| self.measure(choice, corpus.lengths()));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        output::results(self.report(&corpus, &tokenizer, &rows))?;
        if let Some(path) = &self.svg {
            let lengths: Vec<(u64, u64)> = corpus.lengths().iter().map(|&length| (length.into(), 1)).collect();
            let svg = lengths_plot(&lengths).standalone(PICTURE);
            let failed = |source| Error::Write { path: path.clone(), option: "--svg", source };
            fs::write(path, svg).map_err(failed)?;
            output::note(&format!("drawn: {}", path.display()));
        }
        Ok(Verdict::Good)
    }

    fn choices(&self) -> BTreeSet<Choice> {
        let all = Choice::value_variants().iter().skip(1);
        match self.strategy.contains(&Choice::All) {
            true => all.copied().collect(),
            false => self.strategy.iter().copied().collect(),
        }
    }

    fn options(&self, choice: Choice) -> PackOptions {
        let batch = self.batch.unwrap_or(8);
        let scheme = match choice {
            Choice::Sequential => Scheme::Packed(Strategy::Sequential),
            Choice::FirstFit => Scheme::Packed(Strategy::FirstFit),
            Choice::All | Choice::BestFitDecreasing => {
                Scheme::Packed(Strategy::BestFitDecreasing { window: self.window.unwrap_or(Strategy::WINDOW) })
            }
            Choice::Split => Scheme::Packed(Strategy::Split),
            Choice::Single => Scheme::Single,
            Choice::Padded => Scheme::Padded { batch },
        };
        // A row of a batch may be as long as a pack, so that every strategy has the same sequences.
        let tokens = if choice == Choice::Padded { self.tokens.saturating_mul(batch) } else { self.tokens };
        PackOptions { seed: Some(self.seed), epochs: Some(1), ..PackOptions::new(tokens, scheme) }
    }

    fn measure(&self, choice: Choice, lengths: &[u32]) -> Result<Row> {
        let options = self.options(choice);
        let start = Instant::now();
        let plans = Plans::new(lengths, options.clone())?;
        let mut row = Row { name: choice.name(), packs: 0, sequences: 0, real: 0, cost: 0, time: Duration::ZERO };
        for plan in plans {
            row.packs += 1;
            row.sequences += plan.pieces.len();
            row.real += plan.real();
            row.cost += plan.cost(&options);
        }
        row.time = start.elapsed();
        Ok(row)
    }

    fn report(&self, corpus: &Corpus, tokenizer: &Tokenizer, rows: &[Row]) -> String {
        let mut lengths = corpus.lengths().to_vec();
        lengths.sort_unstable();
        let at = |percent: usize| thousands(lengths[nearest_rank(lengths.len(), percent)] as usize);
        let total = corpus.total_tokens();
        let mut out = format!(
            "{}, {} out of {}; packs of at most {}\n",
            counted(corpus.documents() as u64, "document"),
            counted(total, "token"),
            thousands(tokenizer.vocabulary()),
            thousands(self.tokens)
        );
        out += &format!(
            "lengths: {} shortest, {} median, {} mean, {} in 95 of 100 at most, {} longest\n",
            at(0),
            at(50),
            fixed(total as f64 / lengths.len() as f64, 0),
            at(95),
            at(100)
        );
        let cut = lengths.iter().filter(|length| **length as usize > self.tokens).count();
        if cut > 0 {
            out += &format!(
                "cut: {} longer than a pack; only split carries the state on\n",
                counted(cut as u64, "document")
            );
        }
        left_out(corpus).iter().for_each(|line| out += &format!("{line}\n"));
        if tokenizer.end().is_none() {
            out += "the tokenizer names no token that ends a document: none is added\n";
        }
        format!("{out}\n{}\n", table(rows))
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["strategy", "padding", "packs", "sequences a pack", "time", "sequences/s"]);
    for row in rows {
        let padding = 100.0 * (row.cost - row.real) as f64 / row.cost as f64;
        let seconds = row.time.as_secs_f64();
        table.add_row([
            row.name.clone(),
            format!("{padding:.3} %"),
            thousands(row.packs),
            format!("{:.1}", row.sequences as f64 / row.packs as f64),
            format!("{:.2} ms", seconds * 1e3),
            thousands((row.sequences as f64 / seconds) as usize),
        ]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
