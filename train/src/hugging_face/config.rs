//! `config.json` in both layouts: what is read, what is refused, what is written.

use std::path::Path;

use packscan_runtime::Dtype;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, ModelConfig, Result, files};

use super::{Names, SAME};

/// A rank of delta, or the word for ceil(M / 16).
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Rank {
    Of(usize),
    Auto(String),
}

impl Rank {
    /// 0 for a rank that is open.
    fn number(&self) -> Option<usize> {
        match self {
            Rank::Of(rank) => Some(*rank),
            Rank::Auto(word) => (word == "auto").then_some(0),
        }
    }
}

/// What `transformers` calls the ids that begin, end and fill up a text.
const IDS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// These ids, as they are written: without them `transformers` takes 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids(Map<String, Value>);

impl Ids {
    /// All of them the token that ends a document, if there is one.
    pub fn of_end(end: Option<u32>) -> Ids {
        Ids(IDS.iter().map(|name| ((*name).to_owned(), json!(end))).collect())
    }
}

/// That of `transformers`, `MambaConfig`, with its defaults. What only matters to its own code is left out.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct HuggingFace {
    vocab_size: usize,
    hidden_size: usize,
    state_size: usize,
    num_hidden_layers: usize,
    layer_norm_epsilon: f32,
    expand: usize,
    intermediate_size: Option<usize>,
    conv_kernel: usize,
    time_step_rank: Rank,
    use_bias: bool,
    use_conv_bias: bool,
    hidden_act: String,
    tie_word_embeddings: bool,
}

impl Default for HuggingFace {
    fn default() -> HuggingFace {
        HuggingFace {
            vocab_size: 50_280,
            hidden_size: 768,
            state_size: 16,
            num_hidden_layers: 32,
            layer_norm_epsilon: 1e-5,
            expand: 2,
            intermediate_size: None,
            conv_kernel: 4,
            time_step_rank: Rank::Auto("auto".to_owned()),
            use_bias: false,
            use_conv_bias: true,
            hidden_act: "silu".to_owned(),
            tie_word_embeddings: true,
        }
    }
}

/// That of `mamba_ssm`, `MambaConfig`, with its defaults.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Original {
    d_model: usize,
    n_layer: usize,
    vocab_size: usize,
    ssm_cfg: Ssm,
    rms_norm: bool,
    pad_vocab_size_multiple: usize,
    tie_embeddings: bool,
    d_intermediate: usize,
    attn_layer_idx: Vec<usize>,
}

impl Default for Original {
    fn default() -> Original {
        Original {
            d_model: 2560,
            n_layer: 64,
            vocab_size: 50_277,
            ssm_cfg: Ssm::default(),
            rms_norm: true,
            pad_vocab_size_multiple: 8,
            tie_embeddings: true,
            d_intermediate: 0,
            attn_layer_idx: Vec::new(),
        }
    }
}

/// The arguments of `mamba_ssm`'s `Mamba`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Ssm {
    layer: String,
    d_state: usize,
    d_conv: usize,
    expand: usize,
    dt_rank: Rank,
    conv_bias: bool,
    bias: bool,
}

impl Default for Ssm {
    fn default() -> Ssm {
        Ssm {
            layer: "Mamba1".to_owned(),
            d_state: 16,
            d_conv: 4,
            expand: 2,
            dt_rank: Rank::Auto("auto".to_owned()),
            conv_bias: true,
            bias: false,
        }
    }
}

/// What `mamba_ssm` adds to the mean square, whatever its configuration says.
const EPSILON_OF_ORIGINAL: f32 = 1e-5;

/// A model's sizes from its `config.json`, and the layout that this file belongs to.
pub(super) fn read(path: &Path) -> Result<(ModelConfig, Names, Ids)> {
    let json: Map<String, Value> = files::read_json(path)?;
    let ids = IDS.iter().filter_map(|name| Some(((*name).to_owned(), json.get(*name)?.clone()))).collect();
    let original = json.contains_key("d_model");
    if let Some(kind) = json.get("model_type").filter(|&kind| kind != "mamba") {
        let rule = format!("model_type is {kind}; packscan has the model of type \"mamba\" alone");
        return Err(Error::saved(path, rule));
    }
    let names = if original { Names::Original } else { Names::HuggingFace };
    let config = match names {
        Names::HuggingFace => parsed::<HuggingFace>(path, json)?.model(path)?,
        Names::Original => parsed::<Original>(path, json)?.model(path)?,
    };
    let config = config.for_vocabulary(0).map_err(|error| Error::saved(path, error.to_string()))?;
    Ok((config, names, Ids(ids)))
}

/// The fields of a layout, each of which has a default; the error names the first whose value has another type.
fn parsed<T: DeserializeOwned>(path: &Path, json: Map<String, Value>) -> Result<T> {
    let alone = |(name, value): (&String, &Value)| {
        let error = T::deserialize(json!({ name: value })).err()?;
        Some(format!("{name} is {value}: {error}; {SAME}"))
    };
    T::deserialize(Value::Object(json.clone()))
        .map_err(|error| Error::saved(path, json.iter().find_map(alone).unwrap_or_else(|| error.to_string())))
}

/// Refuses the first of these fields that a model here cannot have: `(whether it is refused, field, its value, what is needed)`.
fn refuse(path: &Path, rules: &[(bool, &str, String, &str)]) -> Result<()> {
    match rules.iter().find(|rule| rule.0) {
        Some((_, field, got, need)) => {
            Err(Error::saved(path, format!("{field} is {got}, but packscan's model {need}")))
        }
        None => Ok(()),
    }
}

const NEEDS_RANK: &str = "takes a number or \"auto\"";
const NEEDS_BIAS: &str = "has no bias in its linear layers";
const NEEDS_CONV_BIAS: &str = "has a bias in its convolution";

impl HuggingFace {
    fn model(self, path: &Path) -> Result<ModelConfig> {
        let channels = self.expand.saturating_mul(self.hidden_size);
        let inner = self.intermediate_size.unwrap_or(channels);
        let rank = self.time_step_rank.number();
        let needs_channels = format!("has expand * hidden_size channels, {channels}");
        refuse(
            path,
            &[
                (self.use_bias, "use_bias", "true".to_owned(), NEEDS_BIAS),
                (!self.use_conv_bias, "use_conv_bias", "false".to_owned(), NEEDS_CONV_BIAS),
                (!["silu", "swish"].contains(&&*self.hidden_act), "hidden_act", self.hidden_act.clone(), "has silu"),
                (inner != channels, "intermediate_size", inner.to_string(), &needs_channels),
                (rank.is_none(), "time_step_rank", format!("{:?}", self.time_step_rank), NEEDS_RANK),
                (self.vocab_size == 0, "vocab_size", "0".to_owned(), "has a vocabulary"),
            ],
        )?;
        Ok(ModelConfig {
            width: self.hidden_size,
            layers: self.num_hidden_layers,
            state: self.state_size,
            expand: self.expand,
            taps: self.conv_kernel,
            rank: rank.unwrap_or(0),
            vocabulary: self.vocab_size,
            tied: self.tie_word_embeddings,
            epsilon: self.layer_norm_epsilon,
        })
    }
}

impl Original {
    fn model(self, path: &Path) -> Result<ModelConfig> {
        let ssm = &self.ssm_cfg;
        let rank = ssm.dt_rank.number();
        refuse(
            path,
            &[
                (!self.rms_norm, "rms_norm", "false".to_owned(), "norms by the root of the mean square"),
                (ssm.layer != "Mamba1", "ssm_cfg.layer", ssm.layer.clone(), "is \"Mamba1\""),
                (ssm.bias, "ssm_cfg.bias", "true".to_owned(), NEEDS_BIAS),
                (!ssm.conv_bias, "ssm_cfg.conv_bias", "false".to_owned(), NEEDS_CONV_BIAS),
                (rank.is_none(), "ssm_cfg.dt_rank", format!("{:?}", ssm.dt_rank), NEEDS_RANK),
                (self.d_intermediate != 0, "d_intermediate", self.d_intermediate.to_string(), "has no layers between"),
                (
                    !self.attn_layer_idx.is_empty(),
                    "attn_layer_idx",
                    format!("{:?}", self.attn_layer_idx),
                    "has no attention",
                ),
                (self.vocab_size == 0, "vocab_size", "0".to_owned(), "has a vocabulary"),
            ],
        )?;
        Ok(ModelConfig {
            width: self.d_model,
            layers: self.n_layer,
            state: ssm.d_state,
            expand: ssm.expand,
            taps: ssm.d_conv,
            rank: rank.unwrap_or(0),
            vocabulary: self.vocab_size.next_multiple_of(self.pad_vocab_size_multiple.max(1)),
            tied: self.tie_embeddings,
            epsilon: EPSILON_OF_ORIGINAL,
        })
    }
}

/// The `config.json` of a model.
///
/// # Errors
/// [`Error::Config`] for an epsilon that the original layout cannot say.
pub(super) fn write(path: &Path, config: &ModelConfig, names: Names, dtype: Dtype, ids: &Ids) -> Result<()> {
    match names {
        Names::HuggingFace => {
            let mut json = hugging_face(config, dtype);
            ids.0.iter().for_each(|(name, id)| json[name] = id.clone());
            files::write_json(path, &json)
        }
        Names::Original if config.epsilon == EPSILON_OF_ORIGINAL => files::write_json(path, &original(config)),
        Names::Original => Err(Error::Config {
            field: "epsilon",
            got: config.epsilon.to_string(),
            rule: format!("the original layout has {EPSILON_OF_ORIGINAL} in every model; take the layout hf"),
        }),
    }
}

fn hugging_face(config: &ModelConfig, dtype: Dtype) -> Value {
    let dtype = match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        Dtype::F32 | Dtype::U32 => "float32",
    };
    // The shortest decimal that is this f32.
    let epsilon: f64 = config.epsilon.to_string().parse().unwrap_or(config.epsilon.into());
    json!({
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "state_size": config.state,
        "num_hidden_layers": config.layers,
        "layer_norm_epsilon": epsilon,
        "expand": config.expand,
        "intermediate_size": config.channels(),
        "conv_kernel": config.taps,
        "time_step_rank": config.rank,
        "use_bias": false,
        "use_conv_bias": true,
        "hidden_act": "silu",
        "residual_in_fp32": true,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
    })
}

fn original(config: &ModelConfig) -> Value {
    json!({
        "d_model": config.width,
        "n_layer": config.layers,
        "vocab_size": config.vocabulary,
        "ssm_cfg": {
            "d_state": config.state,
            "d_conv": config.taps,
            "expand": config.expand,
            "dt_rank": config.rank,
        },
        "rms_norm": true,
        "residual_in_fp32": true,
        "fused_add_norm": true,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": config.tied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> ModelConfig {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        read(&folder.path().join("config.json")).unwrap().0
    }

    /// As `state-spaces/mamba-130m` and `state-spaces/mamba-130m-hf` were published.
    #[test]
    fn the_published_models_are_the_presets() {
        let preset = ModelConfig::named("130m").unwrap().for_vocabulary(50_277).unwrap();
        let original = r#"{"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": true,
                           "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8}"#;
        assert_eq!(of(original), preset);
        let hugging_face = r#"{"model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24,
                               "state_size": 16, "time_step_rank": 48, "layer_norm_epsilon": 1e-05, "expand": 2}"#;
        assert_eq!(of(hugging_face), preset);
        assert_eq!(of(&hugging_face.replace("48", "\"auto\"")), preset);
    }

    #[test]
    fn every_epsilon_is_read_as_it_was_written() {
        let config = ModelConfig::of(32, 1).for_vocabulary(8).unwrap();
        for i in 0..2000u32 {
            let config = ModelConfig { epsilon: f32::from_bits(0x3727_c5ac + 7919 * i), ..config.clone() };
            let text = hugging_face(&config, Dtype::F32).to_string();
            let json: HuggingFace = serde_json::from_str(&text).unwrap();
            assert_eq!(json.layer_norm_epsilon, config.epsilon);
        }
    }
}
