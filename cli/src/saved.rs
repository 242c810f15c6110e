//! A model that was saved, and its tokenizer.

use std::path::{Path, PathBuf};

use packscan_data::Tokenizer;
use packscan_train::checkpoint::{self, ModelFolder, Skipped};
use packscan_train::hugging_face::Pretrained;
use packscan_train::run::Settings;

use crate::error::Result;
use crate::output;

/// What a folder with a model holds.
pub struct Saved {
    /// The model.
    pub pretrained: Pretrained,
    /// The tokenizer that was named, or that of its run, or the one beside it, or bytes.
    pub tokenizer: Tokenizer,
    /// Its file; none for bytes.
    pub tokenizer_file: Option<PathBuf>,
}

impl Saved {
    /// Opens a run, a checkpoint or a Hugging Face model.
    pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Saved> {
        let ModelFolder { folder, run, skipped } = checkpoint::model_folder(path)?;
        say_skipped(&skipped);
        let settings = run.as_deref().map(Settings::read).transpose()?;
        let beside = Some(folder.join("tokenizer.json")).filter(|path| path.is_file());
        let of_run: Option<PathBuf> = settings.and_then(|settings| settings.text.tokenizer);
        let tokenizer_file = tokenizer.map(Path::to_owned).or(of_run).or(beside);
        let tokenizer = Tokenizer::open(tokenizer_file.as_deref())?;
        let mut pretrained = Pretrained::open(&folder)?;
        pretrained.config = pretrained.config.for_vocabulary(tokenizer.vocabulary())?;
        Ok(Saved { pretrained, tokenizer, tokenizer_file })
    }
}

/// Says which checkpoints are not whole, so that an older one is taken.
pub fn say_skipped(skipped: &[Skipped]) {
    skipped.iter().for_each(|skipped| output::note(&skipped.to_string()));
}
