//! The one error type of the crate.

use std::io;
use std::path::PathBuf;

use crate::collective::Verdict;
use crate::kernel::Broken;

/// What can go wrong between a kernel declaration and its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pack that is none.
    #[error("{field}: {got}; {rule}")]
    Packed {
        /// What was given: `cu_seqlens`, `lengths`, ...
        field: &'static str,
        /// What is wrong with it.
        got: String,
        /// The rule and the cure.
        rule: String,
    },

    /// A variant that breaks rules.
    #[error("{id} cannot be built:{}", rules.iter().map(|r| format!("\n  {r}")).collect::<String>())]
    Variant {
        /// The variant.
        id: String,
        /// Every rule that it breaks.
        rules: Vec<Broken>,
    },

    /// A text that is no id of a variant.
    #[error("{id:?} names no variant: {expected}")]
    Id {
        /// The text.
        id: String,
        /// Where it goes wrong.
        expected: String,
    },

    /// A name that means nothing.
    #[error("unknown {what} {got:?}; known: {known}")]
    Unknown {
        /// What kind of thing was named.
        what: &'static str,
        /// The name.
        got: String,
        /// What could have been named.
        known: String,
    },

    /// A tensor that does not fit the kernel that it was given to.
    #[error("{tensor} {shape} of {id}: {got}; {rule}")]
    Tensor {
        /// The variant.
        id: String,
        /// The argument.
        tensor: &'static str,
        /// Its declared shape.
        shape: &'static str,
        /// What was given.
        got: String,
        /// The rule and the cure.
        rule: String,
    },

    /// A call that is too large for the hardware.
    #[error(
        "{size} of {id} is {value}, but at most {most} are possible; split the call, or take a variant with larger blocks"
    )]
    Size {
        /// The variant.
        id: String,
        /// What is too large.
        size: String,
        /// Its value.
        value: usize,
        /// The most there can be.
        most: usize,
    },

    /// A number that an operator cannot work with.
    #[error("{argument} is {got}; {rule}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// Its value, and where it stands.
        got: String,
        /// The rule and the cure.
        rule: String,
    },

    /// A buffer asked for something that it is not.
    #[error("buffer: {rule}")]
    Buffer {
        /// What it is and what was asked.
        rule: String,
    },

    /// No GPU to open.
    #[error(
        "GPU {ordinal} cannot be used: {why}; `packscan doctor` shows what was found, `--device emulator` needs no GPU"
    )]
    NoGpu {
        /// Its number.
        ordinal: usize,
        /// What the driver said.
        why: String,
    },

    /// The host has no room for a buffer.
    #[error(
        "the CPU has no memory for {} MB more; take a smaller model, fewer tokens at a time or a smaller batch",
        bytes.div_ceil(1_000_000)
    )]
    HostMemory {
        /// What was asked for.
        bytes: usize,
    },

    /// The driver refused something.
    #[error("CUDA failed while {doing}: {why}")]
    Cuda {
        /// What was being done.
        doing: String,
        /// The driver's words.
        why: String,
    },

    /// A compiled kernel was asked to run where none can.
    #[error("{id} is a CUDA kernel and the CPU runs none; call the operator's own function, or use the emulator")]
    NoKernelOnCpu {
        /// The variant.
        id: String,
    },

    /// PTX that the emulator cannot run.
    #[error("the emulator cannot run {id}: {source}")]
    Ptx {
        /// The variant.
        id: String,
        /// The line and what is unknown there.
        source: Box<packscan_emulator::Error>,
    },

    /// What the emulator saw a kernel do wrong.
    #[error("{id}: {fault}")]
    Emulated {
        /// The variant.
        id: String,
        /// What, where and by which thread.
        fault: Box<packscan_emulator::Fault>,
    },

    /// A fault whose passage is not in the kernel's text.
    #[error(
        "fault {fault:?} cannot be injected: the kernel's text has no passage {passage:?}; the kernel changed, so must the fault"
    )]
    FaultMissesText {
        /// The fault.
        fault: String,
        /// What was looked for.
        passage: String,
    },

    /// A fault for a device that compiles nothing.
    #[error("fault {fault:?} is injected into CUDA text, and the CPU path has none; use --device emulator or cuda")]
    FaultNeedsKernel {
        /// The fault.
        fault: String,
    },

    /// NVRTC refused the text of a kernel.
    #[error("{id} does not compile:\n{log}")]
    Compile {
        /// Id of the variant.
        id: String,
        /// What NVRTC said, line by line.
        log: String,
    },

    /// A variable names a place without the library that it is meant to name.
    #[error("{variable} is {}, but {why}; set it to the library file or to the folder that holds it, or unset it", value.display())]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: PathBuf,
        /// What is wrong with the place.
        why: String,
    },

    /// A library was found but cannot be used.
    #[error("{library} at {} cannot be used: {why}; remove it, or name another with {variable}", path.display())]
    Library {
        /// Which library.
        library: &'static str,
        /// Where it lies.
        path: PathBuf,
        /// What the loader said.
        why: String,
        /// The variable that names another.
        variable: &'static str,
    },

    /// NVRTC is nowhere, and it was not or could not be fetched.
    #[error(
        "NVRTC was not found, and {why}\nlooked in:\n  {}\nany one of these helps:\n  {}",
        looked.join("\n  "),
        cures.join("\n  ")
    )]
    NoNvrtc {
        /// Why it was not fetched, with the last lines of pip where pip failed.
        why: String,
        /// The places that were looked at.
        looked: Vec<String>,
        /// What to do, each a way of its own.
        cures: Vec<String>,
    },

    /// cuBLASLt is nowhere.
    #[error(
        "cuBLASLt was not found, and matrix products on a GPU need it\nlooked in:\n  {}\nany one of these helps:\n  \
         pip install nvidia-cublas\n  PACKSCAN_CUBLASLT=FILE, the library or its folder\n  --device cpu",
        looked.join("\n  ")
    )]
    NoCublasLt {
        /// The places that were looked at.
        looked: Vec<String>,
    },

    /// NCCL is nowhere.
    #[error(
        "NCCL was not found, and ranks on GPUs work together through it\nlooked in:\n  {}\nany one of these helps:\n  \
         pip install nvidia-nccl-cu13\n  PACKSCAN_NCCL=FILE, the library or its folder\n  \
         one process without torchrun, mpirun or srun",
        looked.join("\n  ")
    )]
    NoNccl {
        /// The places that were looked at.
        looked: Vec<String>,
    },

    /// A launcher's variables make no sense.
    #[error("environment of {launcher}: {got}; {rule}")]
    Launcher {
        /// The launcher whose variables they are.
        launcher: &'static str,
        /// The variables and their values.
        got: String,
        /// The rule and the cure.
        rule: String,
    },

    /// The ranks of a run did not find each other.
    #[error("rank {rank} of {size} could not meet the others at {place}: {why}")]
    Meeting {
        /// This rank.
        rank: usize,
        /// Ranks of the run.
        size: usize,
        /// The meeting place.
        place: String,
        /// What happened, and the cure.
        why: String,
    },

    /// A rank of the run is lost.
    #[error("{verdict}")]
    Rank {
        /// Which, and what became of it.
        verdict: Verdict,
    },

    /// Ranks that do not do the same, or NCCL's refusal.
    #[error("rank {rank} failed while {doing}: {why}")]
    Collective {
        /// This rank.
        rank: usize,
        /// What was being done.
        doing: String,
        /// What went wrong.
        why: String,
    },

    /// A downloaded file is not the pinned one.
    #[error(
        "the downloaded {file} was thrown away: its SHA-256 is {got}, expected {expected}; \
         check the package index that pip uses, or `pip install nvidia-cuda-nvrtc` from one that you trust"
    )]
    Checksum {
        /// Name of the file.
        file: String,
        /// The pinned SHA-256, in hex.
        expected: &'static str,
        /// That of the file.
        got: String,
    },

    /// The folder for compiled kernels and fetched libraries cannot be used.
    #[error("packscan's cache folder {} cannot be used: {source}; set PACKSCAN_CACHE to a folder that can be written", folder.display())]
    CacheFolder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
