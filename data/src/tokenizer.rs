//! Text to ids and back: bytes, or a Hugging Face `tokenizer.json`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// How text becomes ids.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// Ids 0 to 255 are bytes, 256 ends a document.
    Bytes,
    /// A Hugging Face tokenizer.
    Hf(Box<Hf>),
}

/// A Hugging Face tokenizer, read from a `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct Hf {
    inner: tokenizers::Tokenizer,
    /// As they were read: itself, and what says of its end.
    files: Vec<(&'static str, Arc<[u8]>)>,
    vocabulary: usize,
    end: Option<u32>,
    digest: [u8; 32],
}

/// What tokenizers call the token that ends a document, where no `tokenizer_config.json` says it.
const ENDS: [&str; 7] =
    ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|endofdocument|>", "<|eot_id|>", "[SEP]"];

/// What says more of a Hugging Face tokenizer.
const CONFIG: &str = "tokenizer_config.json";
/// Bytes as a Hugging Face tokenizer, with the same ids. To that, the text `<|endoftext|>` is the end of a document.
const BYTES: [(&str, &[u8]); 2] = [
    (Tokenizer::FILE, include_bytes!("bytes/tokenizer.json")),
    (CONFIG, include_bytes!("bytes/tokenizer_config.json")),
];

impl Tokenizer {
    /// The file of a Hugging Face tokenizer.
    pub const FILE: &str = "tokenizer.json";

    /// The token that ends a document of bytes.
    pub const BYTES_END: u32 = 256;

    /// Reads a `tokenizer.json`, or takes bytes where none is named. The token that ends a document is the `eos_token` of
    /// a `tokenizer_config.json` beside it, else a special token with a name known for that, else there is none. What
    /// [`Tokenizer::files`] says of bytes is bytes again.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn open(path: Option<&Path>) -> Result<Tokenizer> {
        let Some(path) = path else { return Ok(Tokenizer::Bytes) };
        let broken = |what: String| Error::Tokenizer { path: path.to_owned(), what };
        let text = fs::read(path).map_err(|source| broken(format!("it cannot be read: {source}")))?;
        if text == BYTES[0].1 {
            return Ok(Tokenizer::Bytes);
        }
        let mut inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|error| broken(error.to_string()))?;
        // Made for the fixed inputs of a model that classifies; here they would drop text or invent some.
        inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
        inner.with_padding(None);
        // Ids may have gaps: the model needs a row for the largest.
        let vocabulary = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if vocabulary == 0 {
            return Err(broken("it has no tokens".to_owned()));
        }
        let config = fs::read(path.with_file_name(CONFIG)).ok();
        let named = config.as_deref().and_then(configured_end);
        let mut names = named.as_deref().into_iter().chain(ENDS);
        let end = names.find_map(|name| inner.token_to_id(name));
        let digest = Sha256::new().chain_update(&text).chain_update(format!("{end:?}")).finalize().into();
        let files = [(Tokenizer::FILE, Some(text)), (CONFIG, config)].into_iter();
        let files = files.filter_map(|(name, bytes)| Some((name, bytes?.into()))).collect();
        Ok(Tokenizer::Hf(Box::new(Hf { inner, files, vocabulary, end, digest })))
    }

    /// The files beside a Hugging Face model that has this tokenizer: their names and what is in them.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        match self {
            Tokenizer::Bytes => BYTES.to_vec(),
            Tokenizer::Hf(hf) => hf.files.iter().map(|(name, bytes)| (*name, &**bytes)).collect(),
        }
    }

    /// Ids lie below this.
    pub fn vocabulary(&self) -> usize {
        match self {
            Tokenizer::Bytes => Tokenizer::BYTES_END as usize + 1,
            Tokenizer::Hf(hf) => hf.vocabulary,
        }
    }

    /// The token that ends a document, if there is one.
    pub fn end(&self) -> Option<u32> {
        match self {
            Tokenizer::Bytes => Some(Tokenizer::BYTES_END),
            Tokenizer::Hf(hf) => hf.end,
        }
    }

    /// The ids of a text, without the end.
    ///
    /// # Errors
    /// [`Error::Encode`] for what a Hugging Face tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Tokenizer::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Tokenizer::Hf(hf) => {
                let encoded = hf.inner.encode_fast(text, false);
                Ok(encoded.map_err(|error| Error::Encode { what: error.to_string() })?.get_ids().to_vec())
            }
        }
    }

    /// The text of ids; special tokens are left out, and bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Id`] for an id that the tokenizer does not have.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let unknown = |id: u32| Error::Id { id, vocabulary: self.vocabulary() };
        match self {
            Tokenizer::Bytes => {
                let mut bytes = Vec::with_capacity(ids.len());
                for id in ids.iter().copied().filter(|id| *id != Tokenizer::BYTES_END) {
                    bytes.push(u8::try_from(id).map_err(|_| unknown(id))?);
                }
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Tokenizer::Hf(hf) => {
                if let Some(id) = ids.iter().find(|id| hf.inner.id_to_token(**id).is_none()) {
                    return Err(unknown(*id));
                }
                hf.inner.decode(ids, true).map_err(|error| Error::Encode { what: error.to_string() })
            }
        }
    }

    /// Decodes ids one after another, as they are generated.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, ids: Vec::new(), shown: 0 }
    }

    /// What decides the ids of a text.
    pub fn digest(&self) -> [u8; 32] {
        match self {
            Tokenizer::Bytes => Sha256::digest("bytes").into(),
            Tokenizer::Hf(hf) => hf.digest,
        }
    }
}

/// The `eos_token` of a `tokenizer_config.json`: a string, or an object with its `content`.
fn configured_end(config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let end = config.get("eos_token")?;
    Some(end.as_str().or_else(|| end.get("content")?.as_str())?.to_owned())
}

/// Holds back what is not yet whole: the first bytes of a character whose others are still to come.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids since the last text but one. Those before `shown` are only there because a tokenizer may join words in
    /// another way where nothing precedes them.
    ids: Vec<u32>,
    shown: usize,
}

impl Decoder<'_> {
    /// Ids after which bytes that make no character are given up on; a character has at most 4.
    const PATIENCE: usize = 16;

    /// The text that is whole with this id and was not before; often nothing.
    ///
    /// # Errors
    /// [`Error::Id`] for an id that the tokenizer does not have; it is left out.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.tokenizer.decode(&[id])?;
        self.ids.push(id);
        let new = self.new_text()?;
        let broken = new.ends_with(char::REPLACEMENT_CHARACTER);
        if new.is_empty() || broken && self.ids.len() - self.shown < Decoder::PATIENCE {
            return Ok(String::new());
        }
        self.ids.drain(..if broken { self.ids.len() } else { self.shown });
        self.shown = self.ids.len();
        Ok(new)
    }

    /// What is still held back; bytes that never became a character are U+FFFD.
    ///
    /// # Errors
    /// None for ids that [`Decoder::push`] took.
    pub fn finish(self) -> Result<String> {
        self.new_text()
    }

    fn new_text(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown])?;
        let all = self.tokenizer.decode(&self.ids)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}
