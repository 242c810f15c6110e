//! A model that was saved, and its tokenizer.

use std::path::{Path, PathBuf};

use packscan_data::Tokenizer;
use packscan_train::checkpoint::{self, ModelFolder, Skipped};
use packscan_train::hugging_face::Pretrained;

use crate::error::{Error, Result};
use crate::output;

/// What a folder with a model holds.
pub struct Saved {
    /// The model.
    pub pretrained: Pretrained,
    /// The tokenizer that was named, or the one beside it, or bytes.
    pub tokenizer: Tokenizer,
    /// Its file; none for bytes.
    pub tokenizer_file: Option<PathBuf>,
}

impl Saved {
    /// Opens a run, a checkpoint or a Hugging Face model.
    pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Saved> {
        let ModelFolder { folder, skipped } = checkpoint::model_folder(path)?;
        say_skipped(&skipped);
        let mut pretrained = Pretrained::open(&folder)?;
        let beside = || Some(folder.join(Tokenizer::FILE)).filter(|path| path.is_file());
        let file = tokenizer.map(Path::to_owned).or_else(beside);
        let is_named = tokenizer.is_some();
        let tokenizer = Tokenizer::open(file.as_deref()).map_err(|error| match error {
            packscan_data::Error::Tokenizer { path, what } if !is_named => Error::TokenizerBeside { path, what },
            error => error.into(),
        })?;
        let vocabulary = pretrained.config.vocabulary;
        if file.is_none() && vocabulary > tokenizer.vocabulary().next_multiple_of(8) {
            return Err(Error::NoTokenizer { folder, vocabulary });
        }
        let tokenizer_file = file.filter(|_| matches!(tokenizer, Tokenizer::Hf(_)));
        pretrained.config = pretrained.config.for_vocabulary(tokenizer.vocabulary())?;
        Ok(Saved { pretrained, tokenizer, tokenizer_file })
    }
}

/// Says which checkpoints are not whole, so that an older one is taken.
pub fn say_skipped(skipped: &[Skipped]) {
    skipped.iter().for_each(|skipped| output::note(&skipped.to_string()));
}
