//! [`Settings`]: everything that decides what a run computes. A run folder keeps it as `run.toml`, and `--resume` reads it back.

use std::path::{Path, PathBuf};

use packscan_data::{Scheme, Strategy};
use packscan_runtime::Dtype;
use serde::{Deserialize, Serialize};

use crate::activations::Recompute;
use crate::report::number::counted;
use crate::variants::{Ids, Variants};
use crate::{Error, ModelConfig, Rates, Result};

/// What happens to gradients where a document is cut at the end of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// They stop: the state is carried, its history is not.
    Stop,
    /// They flow back through the packs of the same step, at the cost of one more forward pass over those.
    Flow,
}

/// Which text, and how it becomes packs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// A `tokenizer.json`; bytes without one.
    pub tokenizer: Option<PathBuf>,
    /// The field of a JSONL record and the column of a Parquet file that hold the text.
    pub text_field: String,
    /// Count and leave out records without text, instead of ending the run.
    pub skip_bad: bool,
    /// Most tokens of a pack.
    pub tokens: usize,
    /// Packs of a step, on each rank.
    pub packs: usize,
    /// How packs are made.
    pub scheme: Scheme,
    /// What gradients do at a cut.
    pub cut: Cut,
    /// Share of the tokens that is held out; 0 for none.
    pub held_out: f64,
}

impl Text {
    /// Packs of a step between which gradients flow where a document is cut: one alone where they stop there, none where no document is.
    pub fn chain(&self) -> usize {
        match (self.scheme, self.cut) {
            (Scheme::Packed(Strategy::Split), Cut::Flow) => self.packs,
            (Scheme::Packed(Strategy::Split), Cut::Stop) => 1,
            _ => 0,
        }
    }
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the model was asked for as: a preset, a file, a checkpoint.
    pub name: String,
    /// Type of the activations: f32, f16 or bf16.
    pub dtype: String,
    /// Of the parameters and of the order of documents.
    pub seed: u64,
    /// What blocks compute again.
    pub recompute: Vec<Recompute>,
    /// Steps between evaluations of the text held out.
    pub eval_every: u32,
    /// Steps between checkpoints.
    pub save_every: u32,
    /// Checkpoints that are kept; 0 writes none, for a trial that nobody will go on with.
    pub keep: usize,
    /// Whether ranks share the state of the optimiser out among them.
    pub shard: bool,
    /// The model.
    pub model: ModelConfig,
    /// The text.
    pub text: Text,
    /// How fast it learns.
    pub rates: Rates,
    /// Which variant each launch runs: other ones round differently, so a run keeps those that it began with. Hand-picked where none is
    /// named.
    #[serde(default)]
    pub variants: Ids,
    /// By which of cuBLASLt's algorithms products are multiplied, by their kinds; kept for the same reason. cuBLASLt chooses for those that
    /// are not named, always the same on the same GPU.
    #[serde(default, skip_serializing_if = "Ids::is_empty")]
    pub products: Ids,
}

/// Packs of a step, at most: far more than any step needs, and few enough to be counted in bytes.
const MOST_PACKS: usize = 1 << 20;

/// The name of the file in a run folder.
pub const FILE: &str = "run.toml";

impl Settings {
    /// The type of the activations.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Unknown`] for a name that is none, [`Error::Config`] for one that no model computes in.
    pub fn io(&self) -> Result<Dtype> {
        let dtype: Dtype = self.dtype.parse()?;
        if dtype == Dtype::U32 {
            let rule = "activations are f32, f16 or bf16".to_owned();
            return Err(Error::Config { field: "dtype", got: self.dtype.clone(), rule });
        }
        Ok(dtype)
    }

    /// What the launches run.
    ///
    /// # Errors
    /// As [`Variants::of`], and as [`Settings::io`].
    pub fn variants(&self) -> Result<Variants> {
        Variants::of(&self.model, self.io()?, &self.variants)
    }

    /// Checks what is not checked where it is used.
    ///
    /// # Errors
    /// [`Error::Config`] by name.
    pub fn check(&self) -> Result<()> {
        self.variants()?;
        self.rates.check()?;
        let wrong = |field, got: String, rule: &str| Err(Error::Config { field, got, rule: rule.to_owned() });
        let Text { packs, tokens, held_out, .. } = self.text;
        if !(1..=MOST_PACKS).contains(&packs) {
            return wrong("packs", packs.to_string(), "a step has at least one pack, and at most 1048576");
        }
        if !(2..=packscan_runtime::MAX_TOKENS).contains(&tokens) {
            return wrong("tokens", tokens.to_string(), "a pack has from two tokens to 2^31; take some thousands");
        }
        if !(0.0..1.0).contains(&held_out) {
            return wrong("held_out", held_out.to_string(), "it is a share of the text from 0, for none, to below 1");
        }
        for (field, every) in [("eval_every", self.eval_every), ("save_every", self.save_every)] {
            if every == 0 {
                return wrong(field, "0".to_owned(), "take at least 1; the last step has one in any case");
            }
        }
        if self.recompute.len() != self.model.layers {
            let rule = format!("the model has {}; name a choice for each", counted(self.model.layers as u64, "block"));
            return wrong("recompute", counted(self.recompute.len() as u64, "choice"), &rule);
        }
        Ok(())
    }

    /// Tokens of a step on all ranks, at most.
    pub fn tokens_per_step(&self, ranks: usize) -> usize {
        self.text.tokens * self.text.packs * ranks
    }

    /// As TOML.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("settings are numbers and words")
    }

    /// Those of a run folder.
    ///
    /// # Errors
    /// [`Error::Saved`] for a folder without a run and for settings that are none, and [`Error::File`].
    pub fn read(folder: &Path) -> Result<Settings> {
        let path = folder.join(FILE);
        if !path.is_file() {
            let run = folder.parent().filter(|parent| parent.join(FILE).is_file());
            let cure = run.map_or_else(
                || "name the folder that a run wrote to".to_owned(),
                |run| format!("name that of the run, {}", run.display()),
            );
            return Err(Error::saved(folder, format!("it has no {FILE}, so it is no run; {cure}")));
        }
        let text = std::fs::read_to_string(&path).map_err(|source| Error::file("read", &path, source))?;
        toml::from_str(&text).map_err(|error| {
            let error = error.to_string();
            Error::saved(&path, format!("{}\nmend it there, or begin anew in another folder", error.trim_end()))
        })
    }
}
