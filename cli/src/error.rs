//! What ends a command before it could do its work.

use std::io;
use std::path::PathBuf;

use crate::output::counted;

/// The input or the machine is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Everything below the command line.
    #[error(transparent)]
    Packscan(#[from] packscan::Error),

    /// Training, and what is saved of it.
    #[error(transparent)]
    Train(#[from] packscan_train::Error),

    /// Timing kernels.
    #[error(transparent)]
    Tune(#[from] packscan_tune::Error),

    /// Tuning where there is no GPU.
    #[error(
        "tune needs an NVIDIA GPU, and {why}; `packscan doctor` shows what was found\n`gen --emit stats` predicts what a kernel costs, \
         without a GPU"
    )]
    TuneNeedsGpu {
        /// What is missing.
        why: String,
    },

    /// A command that cannot run itself again.
    #[error("the command cannot be run once more: {0}; run it again by hand, with --no-tune or --without ID")]
    Respawn(io::Error),

    /// Sequences without any token.
    #[error("{} has no token: its lengths are all 0, or there is none", path.display())]
    NoTokens {
        /// The file of lengths.
        path: PathBuf,
    },

    /// An operator that no training step launches by itself.
    #[error("{operator} has nothing to tune; name one of {known}")]
    NothingToTune {
        /// What was asked for.
        operator: String,
        /// What could be.
        known: String,
    },

    /// Timing kernels where there is no GPU.
    #[error(
        "bench needs an NVIDIA GPU, and {why}; `packscan doctor` shows what was found\n`bench --step --model tiny --cpu` times whole steps on the CPU; \
         `gen --emit stats` predicts what a kernel costs, without a GPU"
    )]
    BenchNeedsGpu {
        /// What is missing.
        why: String,
    },

    /// What finds the states of segments, where no sequence is cut.
    #[error(
        "{id} finds states between the segments of cut sequences, and nothing is cut; add --cut TOKENS or --cut auto"
    )]
    NothingCut {
        /// The variant.
        id: String,
    },

    /// A pass that none of the operators has.
    #[error("none of these operators has a pass {pass}; leave out --pass, or name another operator")]
    NothingToTime {
        /// The pass.
        pass: String,
    },

    /// A file that cannot be read.
    #[error("{} cannot be read: {source}; name another", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file of recorded times that is none.
    #[error("{} is no recorded bench: {source}; write one with `bench --json`", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// Text and packs.
    #[error(transparent)]
    Data(#[from] packscan_data::Error),

    /// A folder that has a run already.
    #[error("{0} has a run already; go on with it (--resume {0}), or name another folder", folder.display())]
    RunExists {
        /// The folder.
        folder: PathBuf,
    },

    /// A folder without a run, in which one has left something.
    #[error(
        "{} holds {} of another run, but no {}; name another folder, or remove them",
        folder.display(), left.join(", "), packscan_train::run::FILE
    )]
    LeftOver {
        /// The folder.
        folder: PathBuf,
        /// What is there, by name.
        left: Vec<String>,
    },

    /// A model without its tokenizer.
    #[error(
        "{} has no tokenizer.json, and with {vocabulary} entries its vocabulary is not that of bytes; put the one of the model there, or name \
         it with --tokenizer",
        folder.display()
    )]
    NoTokenizer {
        /// Where the model is.
        folder: PathBuf,
        /// Entries of its vocabulary.
        vocabulary: usize,
    },

    /// The tokenizer beside a model is none.
    #[error(
        "{} is no tokenizer: {what}; put the one of the model there again, or name it with --tokenizer",
        path.display()
    )]
    TokenizerBeside {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },

    /// Settings of a run that goes on, which no argument can change.
    #[error("{error}\nthe run goes on with the settings in {}: mend that one there, or name other --steps", file.display())]
    OfTheRun {
        /// What is wrong with them.
        error: Box<packscan_train::Error>,
        /// Where they are.
        file: PathBuf,
    },

    /// A run that has taken all its steps.
    #[error("steps is {steps}; the run in {} has taken {}, take more with --steps", folder.display(), counted(*taken as usize, "step"))]
    NothingLeft {
        /// The folder.
        folder: PathBuf,
        /// Steps that it has taken.
        taken: u32,
        /// Steps that it is to take.
        steps: u32,
    },

    /// A path from nowhere.
    #[error("{} cannot be made a whole path: {source}; name a whole one", path.display())]
    NoPath {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A text of which nothing is to be predicted.
    #[error("the text has {} of one token each, and nothing to predict; name longer ones", counted(*documents, "document"))]
    NothingPredicted {
        /// How many.
        documents: usize,
    },

    /// A loss that is no number.
    #[error(
        "the loss of {} is {loss} in the pack that begins with {first}: the model has diverged, or {dtype} cannot hold what it computes; take \
         an earlier checkpoint, or another --dtype",
        model.display()
    )]
    LossNotFinite {
        /// The model.
        model: PathBuf,
        /// The loss.
        loss: f64,
        /// Its first document.
        first: String,
        /// Type of the activations.
        dtype: String,
    },

    /// A run that never saved a checkpoint.
    #[error("the run in {} has no whole checkpoint to go on from; remove the folder, or begin anew in another", folder.display())]
    NothingToResume {
        /// The folder.
        folder: PathBuf,
    },

    /// A choice of what to compute again that does not fit.
    #[error("{plan}\nThat is more than the {} of memory for it; --recompute auto would fit", packscan_train::report::number::bytes(*budget as u64))]
    TooLittleMemory {
        /// What would be allocated.
        plan: String,
        /// What may be.
        budget: usize,
    },

    /// A signal that cannot be caught.
    #[error("Ctrl-C cannot be caught: {0}")]
    Signal(ctrlc::Error),

    /// Standard input that is no text.
    #[error("standard input cannot be read as text: {0}")]
    Stdin(io::Error),

    /// A command about text without any.
    #[error(
        "no files were named; name text, JSONL or Parquet files or folders with such files, as in `packscan pack docs/ corpus.jsonl.zst`"
    )]
    NoFiles,

    /// A result that cannot be stored.
    #[error("{} cannot be written: {source}; name another with {option}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// Standard output is closed or full.
    #[error("standard output cannot be written: {0}")]
    Stdout(io::Error),

    /// Machine code would garble a terminal.
    #[error("a cubin is machine code, which a terminal cannot show; write it with -o DIR or pipe it somewhere")]
    BinaryOnTerminal,

    /// An option that would do nothing beside the others.
    #[error("{argument} does nothing without {needs}; add that, or leave out {argument}")]
    Idle {
        /// The option.
        argument: &'static str,
        /// What it belongs to.
        needs: &'static str,
    },

    /// A number of the scan for another operator.
    #[error(
        "{argument} is a number of the selective scan; {operator} is picked for --width and --dtype, or named by --id"
    )]
    NotOfTheScan {
        /// What was given.
        argument: &'static str,
        /// The operator that was asked for.
        operator: &'static str,
    },

    /// A case that no machine runs.
    #[error(
        "case {case} has {values} values in one tensor, but at most {most} are verified; take fewer tokens or channels"
    )]
    CaseTooLarge {
        /// The case.
        case: String,
        /// Its size.
        values: u128,
        /// The largest.
        most: u128,
    },

    /// A suite that could say nothing.
    #[error("{id} could not be verified: {what}")]
    Suite {
        /// The variant.
        id: String,
        /// What kept it from running.
        what: String,
    },

    /// A fault in a kernel that is not asked for.
    #[error("fault {fault} is in {kernel}, of which {asked} verifies nothing; name --op {operator}, or none")]
    FaultElsewhere {
        /// The fault.
        fault: &'static str,
        /// The kernel that it is in.
        kernel: &'static str,
        /// The arguments that leave it out.
        asked: String,
        /// The operator that the kernel belongs to.
        operator: &'static str,
    },

    /// A plan with nothing in it.
    #[error("no variant fits {device}; name other states or types")]
    NothingToVerify {
        /// Where.
        device: String,
    },
}

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;
