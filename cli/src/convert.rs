//! `packscan convert`: a model in another layout, type or number of files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use packscan::Dtype;
use packscan_train::checkpoint;
use packscan_train::hugging_face::{self, Format, Names, Pretrained};
use packscan_train::parameters::Layout as Table;

use crate::error::Result;
use crate::saved::say_skipped;
use crate::{Verdict, output, parse};

/// Which model, where to, in what form.
#[derive(Debug, Args)]
pub struct Convert {
    /// A run, a checkpoint of one, or a folder with config.json and model.safetensors, in one file or several, in either layout.
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Folder to make.
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Type of the numbers: f32, f16 or bf16 [default: that of FROM].
    #[arg(long, value_parser = parse::dtype)]
    dtype: Option<Dtype>,
    /// Whose names and configuration.
    #[arg(long, value_enum, default_value = "hf")]
    layout: Layout,
    /// The most of one file, in bytes or with KB, MB or GB; a tensor is never cut.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse::bytes, allow_hyphen_values = true)]
    max_shard: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// That of Hugging Face `transformers`
    Hf,
    /// That of `mamba_ssm`
    Original,
}

impl Convert {
    /// Writes the folder.
    pub fn run(&self) -> Result<Verdict> {
        let from = checkpoint::model_folder(&self.from)?;
        say_skipped(&from.skipped);
        let model = Pretrained::open(&from.folder)?;
        let names = match self.layout {
            Layout::Hf => Names::HuggingFace,
            Layout::Original => Names::Original,
        };
        let dtype = self.dtype.unwrap_or(model.dtype());
        hugging_face::convert(&model, &self.to, &Format { names, dtype, max_shard_bytes: self.max_shard })?;
        let parameters = output::thousands(Table::of(&model.config).parameters());
        let (was, layout) = (model.dtype(), model.names);
        output::note(&format!("{parameters} parameters: {was} in the layout {layout} are now {dtype} in {names}"));
        output::results(format!("{}\n", self.to.display()))?;
        Ok(Verdict::Good)
    }
}
