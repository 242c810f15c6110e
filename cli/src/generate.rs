//! `packscan gen`: one variant, as text or machine code.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use packscan::Dtype;
use packscan::kernels::selective_scan as scan;
use packscan::runtime::kernel::{self, Variant};
use packscan::runtime::nvrtc::{Arch, Compile, Emit as Output, compile_cached};
use packscan::runtime::predict::Gpu;
use packscan_verify::{Job, cost, operators};

use crate::error::{Error, Result};
use crate::parse::{self, Options};
use crate::{Verdict, output, stats};

/// Which variant, in what form, where to.
#[derive(Debug, Args)]
pub struct Gen {
    /// Operator.
    #[arg(long, default_value = "selective-scan", value_parser = parse::operator)]
    op: String,
    /// Pass of the operator: forward, backward, or one of those that its error lists.
    #[arg(long, default_value = "forward")]
    pass: String,
    #[command(flatten)]
    shape: Shape,
    /// The whole variant of any kernel by its id, instead of by its numbers.
    #[arg(long, value_name = "ID", conflicts_with = "Shape")]
    id: Option<String>,
    /// What to show.
    #[arg(long, value_enum, default_value = "cuda")]
    emit: Emit,
    /// GPU architecture [default: that of the GPU].
    #[arg(long)]
    arch: Option<Arch>,
    /// GPU whose time the stats predict: h200, a100 or rtx4090.
    #[arg(long, default_value = "h200", value_parser = Gpu::named, conflicts_with = "arch")]
    gpu: &'static Gpu,
    /// Tokens of the call whose time the stats predict.
    #[arg(long, value_name = "T", default_value_t = 65_536, value_parser = parse::size)]
    tokens: usize,
    /// Channels of the model, D, or the length of the operator's rows, for which the numbers not given are picked and the time is predicted.
    #[arg(long, value_name = "D", default_value_t = 4096, value_parser = parse::size)]
    width: usize,
    /// Write DIR/<id> with the ending of its kind, and print that path.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// The numbers of a variant; those not given are picked by hand-made rules. All but the type are the scan's.
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
    /// all, none, or some of softplus, bias, skip, gate, initial, final, checkpoints with commas between them [default:
    /// softplus,bias,skip,gate,checkpoints].
    #[arg(long, value_parser = parse::options)]
    options: Option<Options>,
}

fn scan_forward(shape: &Shape, width: usize, arch: Arch) -> Result<String> {
    let picked = scan::default_variant(&shape.problem(width));
    let (lanes, channels, vec) = shape.mapping(picked.lanes, picked.channels, picked.vec);
    // Registers are asked for where the block is the one that was picked for them.
    let resident = if (lanes, channels) == (picked.lanes, picked.channels) { picked.resident } else { 1 };
    let chunk = shape.chunk.unwrap_or(picked.chunk);
    // States where they were picked, if the chunk is a whole number of their distance.
    let picked_fits = picked.checkpoints && chunk.is_multiple_of(picked.distance);
    let distance = if picked_fits { picked.distance } else { chunk };
    checked(&scan::Forward { chunk, distance, lanes, channels, resident, vec, ..picked }, arch)
}

fn scan_backward(shape: &Shape, width: usize, arch: Arch) -> Result<String> {
    let picked = scan::default_backward(&shape.problem(width));
    let (lanes, channels, vec) = shape.mapping(picked.lanes, picked.channels, picked.vec);
    let chunk = shape.chunk.unwrap_or(picked.chunk);
    // As many states at a time as the chunk is a multiple of.
    let kept = picked.kept.min(1 << chunk.trailing_zeros().clamp(1, 6));
    checked(&scan::Backward { chunk, kept, lanes, channels, ..picked }.with_vec(vec), arch)
}

/// The id of a variant. An id states no number that is out of its range, so that is told before there is one.
fn checked<V: Variant>(variant: &V, arch: Arch) -> Result<String> {
    kernel::check(variant, arch)?;
    Ok(variant.to_string())
}

impl Shape {
    fn problem(&self, width: usize) -> scan::Problem {
        let usual = |tag| !matches!(tag, "initial" | "final");
        let on = |tag| self.options.as_ref().map_or_else(|| usual(tag), |options| options.has(tag));
        scan::Problem {
            channels: width,
            state: self.state as usize,
            io: self.dtype,
            softplus: on("softplus"),
            bias: on("bias"),
            skip: on("skip"),
            gate: on("gate"),
            initial: on("initial"),
            last: on("final"),
            checkpoints: on("checkpoints"),
        }
    }

    /// The hand-picked variant of a pass that has no such numbers of its own.
    fn pick(&self, pass: &operators::Pass, width: usize) -> Result<String> {
        let given = [
            ("--chunk", self.chunk.is_some()),
            ("--lanes", self.lanes.is_some()),
            ("--channels", self.channels.is_some()),
            ("--vec", self.vec.is_some()),
            ("--options", self.options.is_some()),
        ];
        if let Some((argument, _)) = given.into_iter().find(|number| number.1) {
            return Err(Error::NotOfTheScan { argument, operator: pass.operator });
        }
        Ok(pass.pick(&operators::Model { width, state: self.state, io: self.dtype })?)
    }

    /// Lanes, channels and vec: those that are given, else those that were picked. With other lanes the block keeps its threads.
    fn mapping(&self, lanes: u32, channels: u32, vec: u32) -> (u32, u32, u32) {
        let threads = channels * lanes;
        let (lanes, vec) = (self.lanes.unwrap_or(lanes), self.vec.unwrap_or(vec));
        let channels = threads.checked_div(lanes).unwrap_or(channels).max(vec);
        (lanes, self.channels.unwrap_or(channels), vec)
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
    /// Registers, occupancy, what the emulator counts, and the time that this predicts
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
        let arch = self.arch.unwrap_or(self.gpu.arch);
        let job = operators::job(&self.id(arch)?)?;
        job.check(arch)?;
        if self.emit == Emit::Cubin && self.output.is_none() && io::stdout().is_terminal() {
            return Err(Error::BinaryOnTerminal);
        }
        let bytes = self.bytes(&*job, arch)?;
        match &self.output {
            None => output::results(bytes)?,
            Some(folder) => {
                let path = folder.join(format!("{}.{}", job.id(), self.emit.extension()));
                write(folder, &path, &bytes)?;
                output::results(format!("{}\n", path.display()))?;
            }
        }
        Ok(Verdict::Good)
    }

    /// The id of the variant.
    fn id(&self, arch: Arch) -> Result<String> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let pass = operators::pass(&self.op, &self.pass)?;
        match pass.kernel {
            "selective_scan_fwd" => scan_forward(&self.shape, self.width, arch),
            "selective_scan_bwd" => scan_backward(&self.shape, self.width, arch),
            _ => self.shape.pick(pass, self.width),
        }
    }

    fn bytes(&self, job: &dyn Job, arch: Arch) -> Result<Vec<u8>> {
        let (name, source) = (job.id(), job.source());
        let compiled = |emit| compile_cached(&Compile { name: &name, source: &source, arch, emit, options: &[] });
        let problem = || cost::natural(self.tokens, self.width);
        Ok(match self.emit {
            Emit::Cuda => source.into_bytes(),
            Emit::Ptx => compiled(Output::Ptx)?.bytes,
            Emit::Cubin => compiled(Output::Cubin)?.bytes,
            Emit::Stats => stats::table(job, arch, &compiled(Output::Cubin)?, self.gpu, &problem()?)?.into_bytes(),
        })
    }
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, option: "-o", source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    fs::write(path, bytes).map_err(failed(path))
}
