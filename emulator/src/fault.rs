//! What can be wrong with a module, and what a launch can be caught doing.

use std::fmt;

use thiserror::Error;

/// Why PTX could not be made ready to run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX, or ends too early.
    #[error("PTX line {line}: {what}")]
    Syntax {
        /// Line of the PTX, from 1.
        line: u32,
        /// What was found and what was expected.
        what: String,
    },
    /// An instruction, modifier or operand that the emulator does not know. It is never skipped.
    #[error(
        "PTX line {line} ({place}): `{instruction}`: {what}. The emulator runs nothing that it does not know; add the instruction to packscan-emulator"
    )]
    Unknown {
        /// Line of the PTX, from 1.
        line: u32,
        /// `file:line` of the source.
        place: String,
        /// The instruction's text.
        instruction: String,
        /// What is not known.
        what: String,
    },
    /// No kernel of that name in the module.
    #[error("the module has no kernel `{name}`; it has: {present}")]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The names that exist.
        present: String,
    },
}

/// Where and by whom: the common part of every fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The kernel's name.
    pub kernel: String,
    /// Source file and line, from `.loc`; empty without line information.
    pub source: String,
    /// Line of the PTX, from 1.
    pub ptx_line: u32,
    /// The instruction's text.
    pub instruction: String,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Site { kernel, source, ptx_line, instruction, block, thread } = self;
        let source = if source.is_empty() { "no source line" } else { source };
        write!(f, "kernel `{kernel}`, {source}, PTX line {ptx_line} `{instruction}`, block {block:?} thread {thread:?}")
    }
}

/// A launch stopped: the kernel, or the call, is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The launch itself makes no sense.
    #[error("kernel `{kernel}` cannot be launched: {reason}")]
    BadLaunch {
        /// The kernel's name.
        kernel: String,
        /// What is wrong, and the cure.
        reason: String,
    },
    /// An access outside of every allocation, shared array, local array or the parameters.
    #[error("out of bounds: {access} of {bytes} bytes at {address}. {site}")]
    OutOfBounds {
        /// Where.
        site: Box<Site>,
        /// `read`, `write` or `atomic`.
        access: &'static str,
        /// Bytes a thread accesses.
        bytes: usize,
        /// The address, in words.
        address: String,
    },
    /// An access inside an allocation that the declared views do not permit.
    #[error("not permitted by the views: {access} of {bytes} bytes at {address}. {site}")]
    NotPermitted {
        /// Where.
        site: Box<Site>,
        /// `read`, `write` or `atomic`.
        access: &'static str,
        /// Bytes a thread accesses.
        bytes: usize,
        /// The address, in words: the nearest view, its row and byte.
        address: String,
    },
    /// An address that is no multiple of the access's width.
    #[error("misaligned: {access} of {bytes} bytes at {address}. {site}")]
    Misaligned {
        /// Where.
        site: Box<Site>,
        /// `read`, `write` or `atomic`.
        access: &'static str,
        /// Bytes a thread accesses.
        bytes: usize,
        /// The address, in words.
        address: String,
    },
    /// An access to memory that was freed.
    #[error("use after free: {access} of {bytes} bytes at {address}. {site}")]
    Freed {
        /// Where.
        site: Box<Site>,
        /// `read`, `write` or `atomic`.
        access: &'static str,
        /// Bytes a thread accesses.
        bytes: usize,
        /// The address, in words.
        address: String,
    },
    /// A read of memory that nobody has written.
    #[error("read of unwritten memory at {address}. {site}")]
    UnwrittenMemory {
        /// Where.
        site: Box<Site>,
        /// The first unwritten byte, in words.
        address: String,
    },
    /// A read of a register that this thread has never written.
    #[error("register `{register}` was never written. {site}")]
    UnwrittenRegister {
        /// Where.
        site: Box<Site>,
        /// The register's name.
        register: String,
    },
    /// Two threads, one byte, at least one write, and nothing that orders them.
    #[error(
        "data race at {address}: this {access} is not ordered against an earlier {other_access} by block {other_block:?} thread {other_thread:?} at {other}. {site}"
    )]
    Race {
        /// The later access.
        site: Box<Site>,
        /// `read`, `write` or `atomic`.
        access: &'static str,
        /// The byte, in words.
        address: String,
        /// The earlier access: source and PTX line, instruction.
        other: String,
        /// `read`, `write` or `atomic`.
        other_access: &'static str,
        /// Block of the earlier access.
        other_block: [u32; 3],
        /// Thread of the earlier access.
        other_thread: [u32; 3],
    },
    /// A barrier, shuffle or vote that not all of its threads reach.
    #[error("divergent: {reason}. {site}")]
    Divergent {
        /// The threads that wait.
        site: Box<Site>,
        /// Who does not arrive, and where they are.
        reason: String,
    },
    /// Control, an address or a predicate of a memory access depends on data that has owners.
    #[error("data-dependent {what}: depends on data of {owners}. {site}")]
    DataDependent {
        /// Where.
        site: Box<Site>,
        /// `branch`, `address`, ...
        what: &'static str,
        /// The owners, in words.
        owners: String,
    },
    /// A byte of an output that the launch did not write.
    #[error("unwritten output: kernel `{kernel}` left view `{view}` row {row} byte {byte} unwritten")]
    UnwrittenOutput {
        /// The kernel's name.
        kernel: String,
        /// The view's name.
        view: String,
        /// The row.
        row: usize,
        /// Byte in the row.
        byte: usize,
    },
    /// An output that carries another owner's data.
    #[error(
        "leak: kernel `{kernel}`, view `{view}` row {row} byte {byte} belongs to owner {owner}, but data of {origin} reached it"
    )]
    Leak {
        /// The kernel's name.
        kernel: String,
        /// The view's name.
        view: String,
        /// The row.
        row: usize,
        /// Byte in the row.
        byte: usize,
        /// Owner of the row.
        owner: u32,
        /// The owners found, in words.
        origin: String,
    },
    /// More instructions than the launch allows: an endless loop, most likely.
    #[error("the limit of {limit} warp instructions is used up: an endless loop, or raise the limit. {site}")]
    InstructionLimit {
        /// Where the launch stood.
        site: Box<Site>,
        /// The limit.
        limit: u64,
    },
    /// `trap`.
    #[error("the kernel trapped. {site}")]
    Trap {
        /// Where.
        site: Box<Site>,
    },
    /// More distinct sets of owners than the emulator can name.
    #[error("kernel `{kernel}` mixes owners in more than 65,000 different sets: launch it with fewer owners")]
    TooManyOrigins {
        /// The kernel's name.
        kernel: String,
    },
}
