//! `packscan gen`: one variant, as text or machine code.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use packscan::Dtype;
use packscan::kernels::selective_scan::{Forward, Problem, default_variant};
use packscan::runtime::kernel;
use packscan::runtime::nvrtc::{Arch, Compile, Emit as Output, compile_cached};

use crate::error::{Error, Result};
use crate::parse::{self, Options};
use crate::{Verdict, output, stats};

/// Which variant, in what form, where to.
#[derive(Debug, Args)]
pub struct Gen {
    /// Operator.
    #[arg(long, default_value = "selective-scan", value_parser = parse::operator)]
    op: String,
    /// Pass of the operator.
    #[arg(long, default_value = "forward", value_parser = parse::pass)]
    pass: String,
    #[command(flatten)]
    shape: Shape,
    /// The whole variant by its id, instead of by its numbers.
    #[arg(long, value_name = "ID", conflicts_with = "Shape")]
    id: Option<String>,
    /// What to show.
    #[arg(long, value_enum, default_value = "cuda")]
    emit: Emit,
    /// GPU architecture.
    #[arg(long, default_value_t)]
    arch: Arch,
    /// Write DIR/<id> with the ending of its kind, and print that path.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// The numbers of a variant; those not given are picked by hand-made rules.
#[derive(Debug, Args)]
struct Shape {
    /// State size, N.
    #[arg(long, value_name = "N", default_value_t = 16)]
    state: u32,
    /// Chunk length in tokens, L.
    #[arg(long, value_name = "L")]
    chunk: Option<u32>,
    /// Type of the activations: f32, f16 or bf16.
    #[arg(long, default_value = "bf16", value_parser = parse::dtype)]
    dtype: Dtype,
    /// Lanes of a warp that share a channel.
    #[arg(long)]
    lanes: Option<u32>,
    /// Channels of a block.
    #[arg(long)]
    channels: Option<u32>,
    /// Elements that one load moves.
    #[arg(long)]
    vec: Option<u32>,
    /// all, none, or some of softplus, bias, skip, gate, initial, final, checkpoints with commas between them.
    #[arg(long, default_value = "softplus,bias,skip,gate,checkpoints", value_parser = parse::options)]
    options: Options,
    /// Channels of the model, D, for which the numbers not given are picked.
    #[arg(long, value_name = "D", default_value_t = 4096)]
    width: usize,
}

impl Shape {
    fn variant(&self) -> Forward {
        let on = |tag| self.options.has(tag);
        let picked = default_variant(&Problem {
            channels: self.width,
            state: self.state as usize,
            io: self.dtype,
            softplus: on("softplus"),
            bias: on("bias"),
            skip: on("skip"),
            gate: on("gate"),
            initial: on("initial"),
            last: on("final"),
            checkpoints: on("checkpoints"),
        });
        let (lanes, vec) = (self.lanes.unwrap_or(picked.lanes), self.vec.unwrap_or(picked.vec));
        // With other lanes the block keeps its threads.
        let channels = (picked.channels * picked.lanes).checked_div(lanes).unwrap_or(picked.channels).max(vec);
        Forward {
            chunk: self.chunk.unwrap_or(picked.chunk),
            lanes,
            channels: self.channels.unwrap_or(channels),
            vec,
            ..picked
        }
    }
}

/// What to show of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// CUDA text
    Cuda,
    /// PTX
    Ptx,
    /// Machine code
    Cubin,
    /// Registers, occupancy, and what the emulator counts
    Stats,
}

impl Emit {
    fn extension(self) -> &'static str {
        match self {
            Emit::Cuda => "cu",
            Emit::Ptx => "ptx",
            Emit::Cubin => "cubin",
            Emit::Stats => "txt",
        }
    }
}

impl Gen {
    /// Writes the kernel.
    pub fn run(&self) -> Result<Verdict> {
        let variant = match &self.id {
            Some(id) => id.parse()?,
            None => self.shape.variant(),
        };
        kernel::check(&variant, self.arch)?;
        if self.emit == Emit::Cubin && self.output.is_none() && io::stdout().is_terminal() {
            return Err(Error::BinaryOnTerminal);
        }
        let bytes = self.bytes(&variant)?;
        match &self.output {
            None => output::results(bytes)?,
            Some(folder) => {
                let path = folder.join(format!("{variant}.{}", self.emit.extension()));
                write(folder, &path, &bytes)?;
                output::results(format!("{}\n", path.display()))?;
            }
        }
        Ok(Verdict::Good)
    }

    fn bytes(&self, variant: &Forward) -> Result<Vec<u8>> {
        let source = kernel::source(variant);
        let name = variant.to_string();
        let compiled =
            |emit| compile_cached(&Compile { name: &name, source: &source, arch: self.arch, emit, options: &[] });
        Ok(match self.emit {
            Emit::Cuda => source.into_bytes(),
            Emit::Ptx => compiled(Output::Ptx)?.bytes,
            Emit::Cubin => compiled(Output::Cubin)?.bytes,
            Emit::Stats => stats::table(variant, self.arch, &compiled(Output::Cubin)?)?.into_bytes(),
        })
    }
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    fs::write(path, bytes).map_err(failed(path))
}
