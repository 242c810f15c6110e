//! A module as written: what `parse` makes of the text and `decode` takes.

use crate::scalar::Ty;

/// A module as written.
#[derive(Default)]
pub(crate) struct Tree<'a> {
    /// Variables at module level: `.global`, `.const`, `.shared`.
    pub variables: Vec<Variable<'a>>,
    pub kernels: Vec<Entry<'a>>,
    /// `.file` numbers and names.
    pub files: Vec<(u64, String)>,
}

/// A variable of a state space.
pub(crate) struct Variable<'a> {
    pub space: &'a str,
    pub name: &'a str,
    pub ty: Ty,
    pub align: usize,
    pub bytes: usize,
    /// `[]`: the dynamic shared array, whose size the launch gives.
    pub open: bool,
    pub values: Vec<u64>,
    pub line: u32,
}

/// A `.entry`.
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    pub params: Vec<Variable<'a>>,
    /// `.reqntid` or `.maxntid`, and whether it is exact.
    pub threads: Option<([u32; 3], bool)>,
    pub body: Vec<Statement<'a>>,
}

/// A line of source: file number and line.
pub(crate) type Place = (u64, u32);

pub(crate) enum Statement<'a> {
    /// `.reg`: type, base name, and how many (`None`: the name itself).
    Registers {
        ty: Ty,
        name: &'a str,
        count: Option<u64>,
        line: u32,
    },
    Variable(Variable<'a>),
    Label(&'a str),
    /// `name: .branchtargets a, b;`
    Targets(&'a str, Vec<&'a str>),
    Open,
    Close,
    Instruction(Instruction<'a>),
}

/// An instruction as written.
pub(crate) struct Instruction<'a> {
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub line: u32,
    /// Byte range of its text.
    pub text: (u32, u32),
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    Word(&'a str),
    /// `!p`
    Not(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    /// `[base + offset]`, or `base + offset` outside of brackets. `None`: an absolute address.
    Address(Option<&'a str>, i64),
    Vector(Vec<Operand<'a>>),
    /// `d|p`
    Pair(&'a str, &'a str),
}
