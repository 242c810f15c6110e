//! The decoded form of a kernel: registers, constants and branch targets are indices.

use std::sync::Arc;

use crate::counts::Pipe;
use crate::scalar::Lanes;

/// Index of a register of the warp. Constants and special registers (`%tid.x`) are registers that are never written.
pub(crate) type Reg = u32;

/// No register: the sink `_`, or an absent operand.
pub(crate) const NONE: Reg = Reg::MAX;

/// A function of whole registers, chosen at decode time for the operation and its type.
#[derive(Clone, Copy)]
pub(crate) enum Compute {
    One(fn(&Lanes, &mut Lanes)),
    Two(fn(&Lanes, &Lanes, &mut Lanes)),
    Three(fn(&Lanes, &Lanes, &Lanes, &mut Lanes)),
    Four(fn(&Lanes, &Lanes, &Lanes, &Lanes, &mut Lanes)),
}

impl Compute {
    /// Number of operands.
    pub fn arity(self) -> usize {
        match self {
            Compute::One(_) => 1,
            Compute::Two(_) => 2,
            Compute::Three(_) => 3,
            Compute::Four(_) => 4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Param,
    Generic,
}

/// `[register + offset]`
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub base: Reg,
    pub offset: i64,
}

/// A load or store of `count` elements of `bytes` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub space: Space,
    pub bytes: u8,
    pub count: u8,
    pub address: Address,
    /// Ordered by the memory model itself (`.relaxed`, `.acquire`, `.release`): not a race against its like.
    pub strong: bool,
    pub regs: [Reg; 4],
    /// Load: bits to which a signed element is extended; 0 for unsigned.
    pub extend: u8,
}

#[derive(Clone, Copy)]
pub(crate) struct Atomic {
    pub space: Space,
    pub bytes: u8,
    pub address: Address,
    /// The old value's register, or [`NONE`] for `red`.
    pub dst: Reg,
    pub operands: [Reg; 2],
    /// New value from (old, b, c).
    pub apply: fn(u64, u64, u64) -> u64,
}

#[derive(Clone, Copy)]
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u8,
    /// Bytes to read, the rest being zeros; or [`NONE`].
    pub source_bytes: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy)]
pub(crate) struct Shuffle {
    pub mode: ShuffleMode,
    pub dst: Reg,
    pub inside: Reg,
    pub value: Reg,
    pub lane: Reg,
    pub clamp: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
    MatchAny,
    MatchAll,
}

#[derive(Clone, Copy)]
pub(crate) struct Vote {
    pub mode: VoteMode,
    pub dst: Reg,
    /// `match.all` only: whether all agree.
    pub agree: Reg,
    pub value: Reg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Popc,
    And,
    Or,
}

#[derive(Clone, Copy)]
pub(crate) struct Barrier {
    pub id: Reg,
    /// Threads that take part, or [`NONE`] for the whole block.
    pub threads: Reg,
    /// `false`: `bar.arrive`.
    pub wait: bool,
    pub reduction: Option<(Reduction, Reg, Reg)>,
}

/// A rendezvous of the lanes that a mask names.
#[derive(Clone, Copy)]
pub(crate) enum Meeting {
    Shuffle(Shuffle),
    Vote(Vote),
    Barrier,
}

#[derive(Clone)]
pub(crate) enum Op {
    Compute {
        f: Compute,
        dst: Reg,
        src: [Reg; 4],
    },
    /// `dst = if pred { a } else { b }`
    Select {
        dst: Reg,
        a: Reg,
        b: Reg,
        pred: Reg,
    },
    Load(Access),
    Store(Access),
    Atomic(Atomic),
    CopyAsync(CopyAsync),
    Commit,
    /// Waits until at most this many groups of copies are under way.
    WaitCopies(u32),
    Meet {
        mask: Reg,
        meeting: Meeting,
    },
    ActiveMask(Reg),
    Barrier(Barrier),
    Branch(u32),
    BranchTable {
        index: Reg,
        targets: Arc<[u32]>,
    },
    Fence,
    Exit,
    Trap,
}

/// Runs an instruction only where a predicate holds (or does not).
#[derive(Clone, Copy)]
pub(crate) struct Guard {
    pub pred: Reg,
    pub negate: bool,
}

#[derive(Clone)]
pub(crate) struct Instr {
    pub op: Op,
    pub guard: Option<Guard>,
    pub pipe: Pipe,
    /// A part of a PTX instruction that is not its first: not counted.
    pub part: bool,
    /// Index into [`Kernel::lines`].
    pub line: u32,
}

/// Where an instruction stands in the PTX and in the source.
#[derive(Clone)]
pub(crate) struct Line {
    pub ptx_line: u32,
    pub text: (u32, u32),
    pub file: u32,
    pub line: u32,
}

/// A special register that the launch fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    TotalShared,
}

/// A decoded kernel.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Instr>,
    pub(crate) lines: Vec<Line>,
    pub(crate) files: Arc<[String]>,
    pub(crate) text: Arc<str>,
    /// Names of the registers, index for index.
    pub(crate) registers: Vec<String>,
    pub(crate) constants: Vec<(Reg, u64)>,
    pub(crate) specials: Vec<(Reg, Special)>,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared_bytes: usize,
    pub(crate) local_bytes: usize,
    pub(crate) threads: Option<([u32; 3], bool)>,
    /// The module's `.global` and `.const` variables, at [`MODULE_BASE`].
    pub(crate) image: Arc<[u8]>,
}

impl Kernel {
    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of parameters that a launch must give, laid out as the C struct of the arguments.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Bytes of shared memory that the kernel declares itself; the launch's dynamic bytes come after them.
    pub fn static_shared_bytes(&self) -> usize {
        self.static_shared_bytes
    }

    /// Number of decoded instructions.
    pub fn instructions(&self) -> usize {
        self.code.iter().filter(|instr| !instr.part).count()
    }
}

/// First generic address of shared memory.
pub(crate) const SHARED_BASE: u64 = 0x0100_0000_0000;
/// First generic address of local memory.
pub(crate) const LOCAL_BASE: u64 = 0x0200_0000_0000;
/// First generic address of the parameters.
pub(crate) const PARAM_BASE: u64 = 0x0300_0000_0000;
/// First address of the module's own variables.
pub(crate) const MODULE_BASE: u64 = 0x0400_0000_0000;
/// First address of global memory proper.
pub(crate) const GLOBAL_BASE: u64 = 0x7F00_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000;
