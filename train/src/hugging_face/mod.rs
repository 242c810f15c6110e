//! Models as folders of `config.json` and safetensors, in the layout of Hugging Face's `MambaForCausalLM` or in the original one of
//! `mamba_ssm`.
//!
//! The two differ in `config.json`, in the name of the embedding, and in that the original stores a tied head too. Everything passes
//! through the host a tensor at a time.

mod config;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use packscan_data::Tokenizer;
use packscan_runtime::{Device, Dtype};
use serde::Deserialize;
use serde_json::json;

pub(crate) use self::config::Ids;
use crate::parameters::{Layout, Parameter};
use crate::tensors::{self, Checksums, Entry, Sink, TensorFile};
use crate::{Error, Model, ModelConfig, Result, files};

const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const EMBEDDING: &str = "backbone.embeddings.weight";
const HEAD: &str = "lm_head.weight";
/// The cure where the two say different things.
const SAME: &str = "take config.json and weights of the same model";
/// What belongs to a model's text, not to its numbers: [`convert`] copies it.
const OF_TEXT: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    Tokenizer::FILE,
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Whose names a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Those of `transformers`.
    HuggingFace,
    /// Those of `mamba_ssm`, in which the Mamba paper's models were published.
    Original,
}

impl Names {
    fn of(self, name: &str) -> &str {
        if self == Names::Original && name == EMBEDDING { "backbone.embedding.weight" } else { name }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Names::HuggingFace => "hf",
            Names::Original => "original",
        })
    }
}

/// How a model is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// In whose layout.
    pub names: Names,
    /// Type of its numbers: f32, f16 or bf16.
    pub dtype: Dtype,
    /// The most bytes of tensors in one file; a tensor that is larger has a file of its own.
    pub max_shard_bytes: usize,
}

impl Default for Format {
    /// Everything as it is, in one file.
    fn default() -> Format {
        Format { names: Names::HuggingFace, dtype: Dtype::F32, max_shard_bytes: usize::MAX }
    }
}

/// An open folder with a whole model of sizes that packscan has.
#[derive(Debug)]
pub struct Pretrained {
    /// Its sizes.
    pub config: ModelConfig,
    /// Its layout.
    pub names: Names,
    ids: Ids,
    folder: PathBuf,
    files: Vec<TensorFile>,
    /// Tensor to file.
    place: BTreeMap<String, usize>,
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Pretrained {
    /// Opens a folder and checks the name, shape and type of every tensor; no values are read yet.
    ///
    /// # Errors
    /// [`Error::Saved`], [`Error::Shape`] and [`Error::File`], for what is missing, cut short, or of a model that packscan has not.
    pub fn open(folder: &Path) -> Result<Pretrained> {
        if !folder.join(CONFIG).is_file() {
            let what = match (folder.is_dir(), folder.exists()) {
                (true, _) => format!("it has no {CONFIG}"),
                (_, true) => "it is no folder".to_owned(),
                _ => "it is not there".to_owned(),
            };
            let rule = "name a run, a checkpoint of one, or a Hugging Face folder with";
            return Err(Error::saved(folder, format!("{what}; {rule} {CONFIG} and {WEIGHTS}")));
        }
        let (config, names, ids) = config::read(&folder.join(CONFIG))?;
        let files = weight_files(folder)?.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(first) = place.insert(name.clone(), i) {
                    let rule =
                        format!("{name} is also in {}; one of the two does not belong here", file.path.display());
                    return Err(Error::saved(&files[first].path, rule));
                }
            }
        }
        let pretrained = Pretrained { config, names, ids, folder: folder.to_owned(), files, place };
        pretrained.check()?;
        Ok(pretrained)
    }

    fn check(&self) -> Result<()> {
        let layout = Layout::of(&self.config);
        for parameter in &layout.table {
            let name = self.names.of(&parameter.name);
            self.file(name)?.check(name, &parameter.shape, "the model of config.json")?;
        }
        let mut known: HashSet<&str> = layout.table.iter().map(|p| self.names.of(&p.name)).collect();
        // A tied head may be stored all the same.
        if self.config.tied && self.place.contains_key(HEAD) {
            known.insert(HEAD);
            self.check_head()?;
        }
        match self.place.iter().find(|(name, _)| !known.contains(name.as_str())) {
            Some((name, &file)) => {
                let rule = format!(
                    "{name} belongs to no model of the sizes in {CONFIG}, in the layout {}; {SAME}",
                    self.names
                );
                Err(Error::saved(&self.files[file].path, rule))
            }
            None => Ok(()),
        }
    }

    /// Whether the stored head is the embedding that it is tied to.
    fn check_head(&self) -> Result<()> {
        let (head, embedding) = (self.file(HEAD)?, self.names.of(EMBEDDING));
        head.check(HEAD, &[self.config.vocabulary, self.config.width], "the embedding that it is tied to")?;
        let same = head.values(HEAD)?.into_iter().map(f32::to_bits);
        if same.eq(self.file(embedding)?.values(embedding)?.into_iter().map(f32::to_bits)) {
            return Ok(());
        }
        let rule = format!(
            "{HEAD} differs from {embedding}, to which {CONFIG} ties it; say there that it is not tied, or leave it out"
        );
        Err(Error::saved(&head.path, rule))
    }

    fn file(&self, name: &str) -> Result<&TensorFile> {
        let Some(&file) = self.place.get(name) else {
            let rule = format!(
                "no file of it has {name}, which the model of {CONFIG} has in the layout {}; {SAME}",
                self.names
            );
            return Err(Error::saved(&self.folder, rule));
        };
        Ok(&self.files[file])
    }

    /// The type of its embedding, and so usually of all of it.
    pub fn dtype(&self) -> Dtype {
        let name = self.names.of(EMBEDDING);
        self.file(name).and_then(|file| file.dtype(name)).expect("its type was checked")
    }

    /// The values of a parameter, widened to f32.
    ///
    /// # Errors
    /// [`Error::Saved`] for a parameter that a model of these sizes has not.
    pub fn values_of(&self, parameter: &Parameter) -> Result<Vec<f32>> {
        let name = self.names.of(&parameter.name);
        self.file(name)?.values(name)
    }

    /// The model on a device, its parameters in f32 there, its activations of type `io`.
    ///
    /// # Errors
    /// As [`Model::read`].
    pub fn model(&self, device: &Device, io: Dtype) -> Result<Model> {
        Model::read(device, io, &self.config, |parameter| self.values_of(parameter))
    }
}

/// A model's sizes and its parameters as a flat buffer has them, `[layout.elements]`.
///
/// # Errors
/// As [`Pretrained::open`].
pub fn load(folder: &Path) -> Result<(ModelConfig, Vec<f32>)> {
    let pretrained = Pretrained::open(folder)?;
    let layout = Layout::of(&pretrained.config);
    let mut flat = vec![0.0; layout.elements];
    for parameter in &layout.table {
        flat[parameter.slot.range()].copy_from_slice(&pretrained.values_of(parameter)?);
    }
    Ok((pretrained.config, flat))
}

/// Writes a model as a new folder, whose parameters `values_of` gives one at a time.
///
/// # Errors
/// [`Error::Saved`] for a folder that is there already, [`Error::Config`] for what the format cannot say or a type cannot hold, those of
/// `values_of`, and [`Error::File`]; the folder is then not there.
pub fn save(
    folder: &Path,
    config: &ModelConfig,
    format: &Format,
    mut values_of: impl FnMut(&Parameter) -> Result<Vec<f32>>,
) -> Result<()> {
    check_new(folder)?;
    files::write_folder(folder, |folder| {
        write_into(folder, config, format, &Ids::default(), |p, sink| sink(&values_of(p)?)).map(drop)
    })
}

/// Writes the model of a folder as a new folder of another format, and copies the files of its tokenizer beside it.
///
/// # Errors
/// As [`save`].
pub fn convert(from: &Pretrained, target: &Path, format: &Format) -> Result<()> {
    check_new(target)?;
    files::write_folder(target, |folder| {
        write_into(folder, &from.config, format, &from.ids, |parameter, sink| sink(&from.values_of(parameter)?))?;
        let beside = OF_TEXT.iter().map(|name| (from.folder.join(name), name));
        beside.filter(|(path, _)| path.is_file()).try_for_each(|(path, name)| {
            fs::copy(&path, folder.join(name)).map(|_| ()).map_err(|source| Error::file("copy", &path, source))
        })
    })
}

fn check_new(folder: &Path) -> Result<()> {
    if folder.exists() {
        return Err(Error::saved(folder, "it is there already; name a new folder, or remove it"));
    }
    Ok(())
}

/// Writes a model's files into a folder, and says what is in those of tensors; `give` hands over the values of a parameter, as
/// [`tensors::write`] takes them.
pub(crate) fn write_into(
    folder: &Path,
    config: &ModelConfig,
    format: &Format,
    ids: &Ids,
    mut give: impl FnMut(&Parameter, &mut Sink<'_>) -> Result<()>,
) -> Result<BTreeMap<String, Checksums>> {
    if format.dtype == Dtype::U32 {
        let rule = "a model's numbers are f32, f16 or bf16".to_owned();
        return Err(Error::Config { field: "dtype", got: format.dtype.to_string(), rule });
    }
    config::write(&folder.join(CONFIG), config, format.names, format.dtype, ids)?;
    let layout = Layout::of(config);
    let mut sources: Vec<&Parameter> = layout.table.iter().collect();
    let mut entries: Vec<Entry> =
        sources.iter().map(|p| (format.names.of(&p.name).to_owned(), p.shape.clone())).collect();
    if config.tied && format.names == Names::Original {
        // `mamba_ssm` loads no model without it.
        let embedding = layout.find(EMBEDDING).expect("every model has an embedding");
        sources.push(embedding);
        entries.push((HEAD.to_owned(), embedding.shape.clone()));
    }
    let bytes: Vec<usize> = sources.iter().map(|p| p.slot.elements() * format.dtype.bytes()).collect();
    let shards = shards(&bytes, format.max_shard_bytes);
    let (mut weight_map, mut checksums) = (BTreeMap::new(), BTreeMap::new());
    for (i, shard) in shards.iter().enumerate() {
        let file = match shards.len() {
            1 => WEIGHTS.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let (entries, sources) = (&entries[shard.clone()], &sources[shard.clone()]);
        let written = tensors::write(&folder.join(&file), format.dtype, entries, |i, sink| give(sources[i], sink))?;
        weight_map.extend(entries.iter().map(|entry| (entry.0.clone(), file.clone())));
        checksums.insert(file, written);
    }
    if shards.len() > 1 {
        let total = bytes.iter().sum::<usize>();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files::write_json(&folder.join(INDEX), &index)?;
    }
    Ok(checksums)
}

/// Cuts a row of tensors into files.
fn shards(bytes: &[usize], most: usize) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut filled) = (Vec::new(), 0, 0usize);
    for (i, &bytes) in bytes.iter().enumerate() {
        if i > start && filled.saturating_add(bytes) > most {
            shards.push(start..i);
            (start, filled) = (i, 0);
        }
        filled += bytes;
    }
    shards.push(start..bytes.len());
    shards
}

/// The files that hold a model's tensors.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (one, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if one.is_file() {
        return Ok(vec![one]);
    }
    if index.is_file() {
        let Index { weight_map } = files::read_json(&index)?;
        let names: BTreeSet<String> = weight_map.into_values().collect();
        if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(OsStr::new(name))) {
            let rule = format!("it names {name}, which is no file of this folder; get the whole model again");
            return Err(Error::saved(&index, rule));
        }
        if let Some(missing) = names.iter().find(|name| !folder.join(name).is_file()) {
            let rule = format!("it names {missing}, which is not there; get that file too, or the whole model again");
            return Err(Error::saved(&index, rule));
        }
        return Ok(names.iter().map(|name| folder.join(name)).collect());
    }
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|name| folder.join(name).is_file());
    Err(Error::saved(
        folder,
        if pickled {
            "its weights are a pickle of PyTorch's, pytorch_model.bin, which runs code when it is read; convert it with Python: \
             import torch; from safetensors.torch import save_file; \
             weights = torch.load(\"pytorch_model.bin\", weights_only=True); \
             save_file({n: w.clone().contiguous() for n, w in weights.items()}, \"model.safetensors\")"
                .to_owned()
        } else {
            format!("it has neither {WEIGHTS} nor {INDEX}")
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::shards;

    #[test]
    fn a_file_holds_what_fits() {
        assert_eq!(shards(&[4, 4, 4], usize::MAX), vec![0..3]);
        assert_eq!(shards(&[4, 4, 4], 8), vec![0..2, 2..3]);
        assert_eq!(shards(&[4, 9, 4, 4], 8), vec![0..1, 1..2, 2..4]);
    }
}
