//! [`ModelConfig`]: the sizes of a model, by name or from a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The sizes of a Mamba language model; the letters are those of the README.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Model width, M.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// State size, N.
    #[serde(default = "defaults::state")]
    pub state: usize,
    /// Channels over width, D / M.
    #[serde(default = "defaults::expand")]
    pub expand: usize,
    /// Width of the convolution, K.
    #[serde(default = "defaults::taps")]
    pub taps: usize,
    /// Rank of delta, R; ceil(M / 16) where a file leaves it out.
    #[serde(default)]
    pub rank: usize,
    /// Entries of the vocabulary, V; of the tokenizer, padded to a multiple of 8, where a file leaves it out.
    #[serde(default)]
    pub vocabulary: usize,
    /// Whether the head is the embedding, transposed.
    #[serde(default = "defaults::tied")]
    pub tied: bool,
    /// What the norms add to the mean square.
    #[serde(default = "defaults::epsilon")]
    pub epsilon: f32,
}

mod defaults {
    pub(super) fn state() -> usize {
        16
    }
    pub(super) fn expand() -> usize {
        2
    }
    pub(super) fn taps() -> usize {
        4
    }
    pub(super) fn tied() -> bool {
        true
    }
    pub(super) fn epsilon() -> f32 {
        1e-5
    }
}

/// Name, width and blocks of the presets: `tiny`, for a look at packscan on any machine, and the sizes of the Mamba paper (arXiv
/// 2312.00752, table 12).
const PRESETS: [(&str, usize, usize); 6] = [
    ("tiny", 64, 4),
    ("130m", 768, 24),
    ("370m", 1024, 48),
    ("790m", 1536, 48),
    ("1.4b", 2048, 48),
    ("2.8b", 2560, 64),
];

impl ModelConfig {
    /// The names that [`ModelConfig::named`] knows.
    pub fn names() -> Vec<&'static str> {
        PRESETS.iter().map(|preset| preset.0).collect()
    }

    /// The preset of that name, or the TOML file at that path.
    ///
    /// # Errors
    /// [`Error::Model`] for a name that is neither; [`Error::Saved`], [`Error::File`] and [`Error::Toml`] for a file that cannot be used.
    pub fn named(name: &str) -> Result<ModelConfig> {
        if let Some(&(_, width, layers)) = PRESETS.iter().find(|preset| preset.0 == name) {
            return Ok(ModelConfig::of(width, layers));
        }
        let path = Path::new(name);
        if path.is_dir() {
            return Err(Error::saved(
                path,
                "it is a folder; name a TOML file, or start from the model in a folder with --init",
            ));
        }
        if !path.exists() {
            let known = ModelConfig::names().join(", ");
            // A name with an ending or a folder was meant as a file's.
            if path.extension().is_some_and(|ending| ending == "toml") || path.components().count() > 1 {
                return Err(Error::saved(
                    path,
                    format!("there is no such file; name one that is there, or one of {known}"),
                ));
            }
            return Err(Error::Model { name: name.to_owned(), known });
        }
        let text = std::fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
        toml::from_str(&text).map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })
    }

    /// The same with every open size settled, as [`ModelConfig::for_vocabulary`] does.
    ///
    /// # Errors
    /// As [`ModelConfig::named`], and [`Error::Saved`] for a file with a size that no model can have.
    pub fn open(name: &str, entries: usize) -> Result<ModelConfig> {
        let config = ModelConfig::named(name)?.for_vocabulary(entries);
        config.map_err(|error| Error::saved(Path::new(name), error.to_string()))
    }

    /// A model of this width and number of blocks, the rest as published. Its vocabulary is open.
    pub fn of(width: usize, layers: usize) -> ModelConfig {
        ModelConfig {
            width,
            layers,
            state: defaults::state(),
            expand: defaults::expand(),
            taps: defaults::taps(),
            rank: 0,
            vocabulary: 0,
            tied: defaults::tied(),
            epsilon: defaults::epsilon(),
        }
    }

    /// The same with every open size settled, for a tokenizer with so many entries.
    ///
    /// # Errors
    /// [`Error::Config`] for a size that no model can have, or a vocabulary smaller than the tokenizer's.
    pub fn for_vocabulary(mut self, entries: usize) -> Result<ModelConfig> {
        if self.rank == 0 {
            self.rank = self.width.div_ceil(16);
        }
        if self.vocabulary == 0 {
            self.vocabulary = entries.next_multiple_of(8);
        }
        let wrong = |field: &'static str, got: String, rule: &str| Error::Config { field, got, rule: rule.to_owned() };
        for (field, value, range) in [
            ("width", self.width, 1..=65_536),
            ("layers", self.layers, 1..=4096),
            ("state", self.state, 1..=1024),
            ("expand", self.expand, 1..=64),
            ("taps", self.taps, 2..=8),
            ("rank", self.rank, 1..=65_536),
            ("vocabulary", self.vocabulary, 1..=1 << 24),
        ] {
            if !range.contains(&value) {
                let rule = format!("it must be from {} to {}", range.start(), range.end());
                return Err(wrong(field, value.to_string(), &rule));
            }
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(wrong("epsilon", self.epsilon.to_string(), "it must be above 0 and below 1, usually 1e-5"));
        }
        if self.vocabulary < entries {
            let rule = format!(
                "the tokenizer has {entries} entries; give the model at least as many, or name the tokenizer that it was made for with --tokenizer"
            );
            return Err(wrong("vocabulary", self.vocabulary.to_string(), &rule));
        }
        Ok(self)
    }

    /// The sizes in which two models differ, as a file has them: those of this one and those of the other.
    pub(crate) fn differing(&self, other: &ModelConfig) -> [String; 2] {
        let [here, there] = [self, other].map(|config| toml::Table::try_from(config).expect("sizes become TOML"));
        let differ: Vec<&String> = here.keys().filter(|key| here.get(*key) != there.get(*key)).collect();
        [&here, &there].map(|of| {
            let sizes: Vec<String> = differ.iter().map(|key| format!("{key} = {}", of[*key])).collect();
            sizes.join(", ")
        })
    }

    /// Channels, D.
    pub fn channels(&self) -> usize {
        self.expand * self.width
    }

    /// Columns of `x_dbl`: dt, B and C of a token.
    pub fn dbl(&self) -> usize {
        self.rank + 2 * self.state
    }

    /// Floating-point operations that training needs for a token, matrix products alone: 2 for each weight and token forward, 4 backward.
    /// What is computed again to save memory does not count.
    pub fn flops_per_token(&self) -> f64 {
        let (m, d) = (self.width, self.channels());
        let block = m * 2 * d + d * self.dbl() + self.rank * d + d * m;
        6.0 * (self.layers * block + self.vocabulary * m) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_as_published() {
        let big = ModelConfig::named("2.8b").unwrap().for_vocabulary(50_277).unwrap();
        assert_eq!((big.width, big.layers, big.rank, big.vocabulary), (2560, 64, 160, 50_280));
        assert_eq!(big.channels(), 5120);
    }

    #[test]
    fn what_no_model_can_be_is_refused_by_name() {
        let error = ModelConfig::named("3b").unwrap_err().to_string();
        assert!(error.contains("3b") && error.contains("2.8b"), "{error}");
        let error = ModelConfig::named("no/such.toml").unwrap_err().to_string();
        assert!(error.starts_with("no/such.toml cannot be used: there is no such file; name one"), "{error}");
        let error = ModelConfig::named("src").unwrap_err().to_string();
        assert!(error.contains("it is a folder") && error.contains("--init"), "{error}");
        let wrong = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::of(64, 2);
            change(&mut config);
            config.for_vocabulary(257).unwrap_err().to_string()
        };
        assert!(wrong(|c| c.state = 2000).starts_with("state is 2000"));
        assert!(wrong(|c| c.epsilon = f32::NAN).starts_with("epsilon is NaN"));
        assert!(wrong(|c| c.vocabulary = 256).starts_with("vocabulary is 256"));
    }

    #[test]
    fn a_file_names_what_differs_from_the_published_sizes() {
        let config: ModelConfig = toml::from_str("width = 96\nlayers = 3\nstate = 24").unwrap();
        assert_eq!(config, ModelConfig { state: 24, ..ModelConfig::of(96, 3) });
        assert!(toml::from_str::<ModelConfig>("width = 96\nlayers = 3\nheads = 4").is_err());
    }
}
