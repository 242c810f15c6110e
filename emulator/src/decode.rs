//! Syntax tree to [`Kernel`]: names become indices, immediates become constant registers. What an instruction means is told in
//! `translate`; this file knows registers, variables and labels.

use std::collections::HashMap;
use std::sync::Arc;

use crate::counts::Pipe;
use crate::fault::Error;
use crate::ir::{Address, Guard, Instr, Kernel, Line, MODULE_BASE, NONE, Op, Reg, Special};
use crate::scalar::{Ty, low_mask};
use crate::tree::{Entry, Instruction, Operand, Place, Statement, Tree, Variable};

/// What all kernels of a module share.
pub(crate) struct Shared<'a> {
    tree: &'a Tree<'a>,
    text: Arc<str>,
    files: Arc<[String]>,
    image: Arc<[u8]>,
    /// Address of each `.global` and `.const` variable.
    globals: HashMap<&'a str, u64>,
}

impl<'a> Shared<'a> {
    /// Lays out the module's variables.
    pub fn new(text: &str, tree: &'a Tree<'a>) -> Self {
        let count = tree.files.iter().map(|(number, _)| *number as usize + 1).max().unwrap_or(0).min(1 << 16);
        let mut files = vec![String::new(); count];
        for (number, name) in &tree.files {
            if let Some(slot) = files.get_mut(*number as usize) {
                slot.clone_from(name);
            }
        }
        let (mut image, mut globals) = (Vec::new(), HashMap::new());
        for variable in tree.variables.iter().filter(|variable| variable.space != ".shared") {
            image.resize(image.len().next_multiple_of(variable.align.max(1)), 0);
            globals.insert(variable.name, MODULE_BASE + image.len() as u64);
            let end = image.len() + variable.bytes;
            for value in &variable.values {
                image.extend_from_slice(&value.to_le_bytes()[..variable.ty.bytes()]);
            }
            image.resize(end, 0);
        }
        Shared { tree, text: text.into(), files: files.into(), image: image.into(), globals }
    }

    /// Decodes one kernel.
    pub fn kernel(&self, entry: &'a Entry<'a>) -> Result<Kernel, Error> {
        let mut decoder = Decoder::new(self, entry);
        decoder.layout(entry)?;
        for statement in &entry.body {
            decoder.statement(statement)?;
        }
        decoder.finish()
    }
}

#[derive(Clone, Copy)]
enum Symbol {
    Register(Reg, Ty),
    /// The first of so many registers `name0..`.
    Range(Reg, u64, Ty),
    Address(u64),
}

/// A register as an operand, and its declared type.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub reg: Reg,
    pub ty: Ty,
}

pub(crate) struct Decoder<'a> {
    shared: &'a Shared<'a>,
    kernel: Kernel,
    scopes: Vec<HashMap<&'a str, Symbol>>,
    constants: HashMap<u64, Reg>,
    labels: HashMap<&'a str, u32>,
    tables: HashMap<&'a str, &'a [&'a str]>,
    /// Branches to patch: instruction, labels, and where they stand.
    patches: Vec<(usize, Vec<&'a str>, &'a Instruction<'a>)>,
    dynamic: Vec<(&'a str, usize)>,
    guard: Option<Guard>,
    started: bool,
}

impl<'a> Decoder<'a> {
    fn new(shared: &'a Shared<'a>, entry: &'a Entry<'a>) -> Self {
        let kernel = Kernel {
            name: entry.name.to_owned(),
            code: Vec::new(),
            lines: Vec::new(),
            files: shared.files.clone(),
            text: shared.text.clone(),
            registers: Vec::new(),
            constants: Vec::new(),
            specials: Vec::new(),
            param_bytes: 0,
            static_shared_bytes: 0,
            local_bytes: 0,
            threads: entry.threads,
            image: shared.image.clone(),
        };
        Decoder {
            shared,
            kernel,
            scopes: vec![HashMap::new()],
            constants: HashMap::new(),
            labels: HashMap::new(),
            tables: HashMap::new(),
            patches: Vec::new(),
            dynamic: Vec::new(),
            guard: None,
            started: false,
        }
    }

    /// Gives every variable its address. Dynamic shared memory comes last, so all static variables are placed first.
    fn layout(&mut self, entry: &'a Entry<'a>) -> Result<(), Error> {
        for (name, address) in &self.shared.globals {
            self.scopes[0].insert(name, Symbol::Address(*address));
        }
        for param in &entry.params {
            let offset = self.kernel.param_bytes.next_multiple_of(param.align.max(1));
            self.scopes[0].insert(param.name, Symbol::Address(offset as u64));
            self.kernel.param_bytes = offset + param.bytes;
        }
        let inside = entry.body.iter().filter_map(|statement| match statement {
            Statement::Variable(variable) => Some(variable),
            Statement::Targets(name, labels) => {
                self.tables.insert(name, labels);
                None
            }
            _ => None,
        });
        let variables: Vec<&Variable> =
            self.shared.tree.variables.iter().filter(|variable| variable.space == ".shared").chain(inside).collect();
        for variable in variables {
            self.place(variable)?;
        }
        let end = self.kernel.static_shared_bytes;
        let align = self.dynamic.iter().map(|(_, align)| *align).max().unwrap_or(1).max(16);
        let start = end.next_multiple_of(align);
        if !self.dynamic.is_empty() {
            self.kernel.static_shared_bytes = start;
        }
        for (name, _) in &self.dynamic {
            self.scopes[0].insert(name, Symbol::Address(start as u64));
        }
        Ok(())
    }

    fn place(&mut self, variable: &Variable<'a>) -> Result<(), Error> {
        let used = match variable.space {
            ".shared" if variable.open || variable.bytes == 0 => {
                self.dynamic.push((variable.name, variable.align));
                return Ok(());
            }
            ".shared" => &mut self.kernel.static_shared_bytes,
            ".local" => &mut self.kernel.local_bytes,
            other => {
                let what = format!("a `{other}` variable inside a kernel is not known to the emulator");
                return Err(Error::Syntax { line: variable.line, what });
            }
        };
        let offset = used.next_multiple_of(variable.align.max(1));
        *used = offset + variable.bytes;
        if *used > 1 << 24 {
            return Err(Error::Syntax {
                line: variable.line,
                what: format!("`{}` is larger than 16 MiB", variable.name),
            });
        }
        self.scopes[0].insert(variable.name, Symbol::Address(offset as u64));
        Ok(())
    }

    fn statement(&mut self, statement: &'a Statement<'a>) -> Result<(), Error> {
        match statement {
            Statement::Registers { ty, name, count, line } => self.declare(*ty, name, *count, *line)?,
            Statement::Variable(_) | Statement::Targets(..) => {}
            Statement::Label(name) => {
                self.labels.insert(name, self.kernel.code.len() as u32);
            }
            Statement::Open => self.scopes.push(HashMap::new()),
            Statement::Close => {
                self.scopes.pop();
            }
            Statement::Instruction(instruction) => {
                self.guard = None;
                self.started = false;
                self.kernel.lines.push(Line {
                    ptx_line: instruction.line,
                    text: instruction.text,
                    file: instruction.place.0.min(u32::MAX.into()) as u32,
                    line: instruction.place.1,
                });
                if let Some((name, negate)) = instruction.guard {
                    let pred = self.register(instruction, name)?.reg;
                    self.guard = Some(Guard { pred, negate });
                }
                self.translate(instruction)?;
            }
        }
        Ok(())
    }

    fn declare(&mut self, ty: Ty, name: &'a str, count: Option<u64>, line: u32) -> Result<(), Error> {
        let first = self.kernel.registers.len() as Reg;
        if count.unwrap_or(1) > 1 << 20 {
            return Err(Error::Syntax { line, what: format!("`{name}` declares more than a million registers") });
        }
        let symbol = match count {
            Some(count) => {
                self.kernel.registers.extend((0..count).map(|i| format!("{name}{i}")));
                Symbol::Range(first, count, ty)
            }
            None => {
                self.kernel.registers.push(name.to_owned());
                Symbol::Register(first, ty)
            }
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, symbol);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Kernel, Error> {
        self.kernel.lines.push(Line { ptx_line: 0, text: (0, 0), file: 0, line: 0 });
        self.guard = None;
        self.emit(Op::Exit, Pipe::Control);
        for (at, names, instruction) in std::mem::take(&mut self.patches) {
            let mut targets = Vec::new();
            for name in names {
                let target = self.labels.get(name);
                targets.push(
                    *target.ok_or_else(|| self.unknown(instruction, format!("no label `{name}` in this kernel")))?,
                );
            }
            match &mut self.kernel.code[at].op {
                Op::BranchTable { targets: slot, .. } => *slot = targets.into(),
                op => *op = Op::Branch(targets[0]),
            }
        }
        Ok(self.kernel)
    }

    /// Appends a part of the instruction under way.
    pub fn emit(&mut self, op: Op, pipe: Pipe) {
        let line = self.kernel.lines.len() as u32 - 1;
        self.kernel.code.push(Instr { op, guard: self.guard, pipe, part: self.started, line });
        self.started = true;
    }

    /// Appends a branch to labels that are looked up at the end; `index` is a table's.
    pub fn branch(&mut self, index: Option<Reg>, labels: Vec<&'a str>, instruction: &'a Instruction<'a>) {
        self.patches.push((self.kernel.code.len(), labels, instruction));
        match index {
            Some(index) => self.emit(Op::BranchTable { index, targets: Arc::new([]) }, Pipe::Control),
            None => self.emit(Op::Branch(0), Pipe::Control),
        }
    }

    /// The labels of a `.branchtargets` table.
    pub fn table(&self, instruction: &Instruction, name: &str) -> Result<Vec<&'a str>, Error> {
        let table =
            self.tables.get(name).ok_or_else(|| self.unknown(instruction, format!("no branch table `{name}`")))?;
        Ok(table.to_vec())
    }

    /// The error for something in `instruction` that is not known.
    pub fn unknown(&self, instruction: &Instruction, what: impl Into<String>) -> Error {
        let (start, end) = instruction.text;
        Error::Unknown {
            line: instruction.line,
            place: self.place_name(instruction.place),
            instruction: self.shared.text[start as usize..end as usize].trim().to_owned(),
            what: what.into(),
        }
    }

    fn place_name(&self, (file, line): Place) -> String {
        match self.shared.files.get(file as usize) {
            Some(name) if !name.is_empty() => format!("{name}:{line}"),
            _ => "no source line".to_owned(),
        }
    }

    /// A register of the decoder's own.
    pub fn temporary(&mut self) -> Reg {
        self.kernel.registers.push("(temporary)".to_owned());
        self.kernel.registers.len() as Reg - 1
    }

    /// The register that holds `bits` in every lane.
    pub fn constant(&mut self, bits: u64) -> Reg {
        if let Some(&reg) = self.constants.get(&bits) {
            return reg;
        }
        let reg = self.temporary();
        self.constants.insert(bits, reg);
        self.kernel.constants.push((reg, bits));
        reg
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(symbol) = scope.get(name) {
                return Some(*symbol).filter(|symbol| !matches!(symbol, Symbol::Range(..)));
            }
            let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let index: u64 = name[base.len()..].parse().ok()?;
            match scope.get(base) {
                Some(Symbol::Range(first, count, ty)) if index < *count => {
                    Some(Symbol::Register(first + index as Reg, *ty))
                }
                _ => None,
            }
        })
    }

    /// A declared register by name.
    pub fn register(&self, instruction: &Instruction, name: &str) -> Result<Found, Error> {
        match self.symbol(name) {
            Some(Symbol::Register(reg, ty)) => Ok(Found { reg, ty }),
            _ => Err(self.unknown(instruction, format!("no register `{name}` is declared"))),
        }
    }

    /// A register to write to; `_` gives one that nobody reads.
    pub fn target(&mut self, instruction: &Instruction, operand: &Operand) -> Result<Found, Error> {
        match operand {
            Operand::Word("_") => Ok(Found { reg: self.temporary(), ty: Ty::B64 }),
            Operand::Word(name) => self.register(instruction, name),
            _ => Err(self.unknown(instruction, "a register should stand first")),
        }
    }

    /// A register, special register, immediate or variable's address to read, for an operation in `ty`.
    pub fn source(&mut self, instruction: &Instruction, operand: &Operand, ty: Ty) -> Result<Reg, Error> {
        Ok(match operand {
            Operand::Word(name) | Operand::Address(Some(name), _) => {
                let offset = if let Operand::Address(_, offset) = operand { *offset } else { 0 };
                match self.symbol(name) {
                    Some(Symbol::Register(reg, _)) if offset == 0 => reg,
                    Some(Symbol::Address(address)) => self.constant(address.wrapping_add_signed(offset)),
                    _ => self.special(instruction, name)?,
                }
            }
            Operand::Int(value) => self.constant(match ty {
                Ty::F32 => (*value as i64 as f32).to_bits().into(),
                Ty::F64 => (*value as i64 as f64).to_bits(),
                Ty::Pred => (*value != 0) as u64,
                _ => value & low_mask(ty.bytes()),
            }),
            Operand::F32(bits) => self.constant((*bits).into()),
            Operand::F64(bits) if ty.bytes() == 4 => self.constant((f64::from_bits(*bits) as f32).to_bits().into()),
            Operand::F64(bits) => self.constant(*bits),
            Operand::Not(name) => {
                let (src, dst) = (self.register(instruction, name)?.reg, self.temporary());
                self.emit(
                    Op::Compute { f: crate::select::one!(|a: bool| !a), dst, src: [src, NONE, NONE, NONE] },
                    Pipe::Integer,
                );
                dst
            }
            _ => return Err(self.unknown(instruction, "an operand of this form is not known")),
        })
    }

    fn special(&mut self, instruction: &Instruction, name: &str) -> Result<Reg, Error> {
        let axis = |kind: fn(usize) -> Special| {
            let axis = ["x", "y", "z"].iter().position(|axis| name.ends_with(axis));
            axis.map(kind)
        };
        let special = match name.trim_end_matches(['x', 'y', 'z']) {
            "WARP_SZ" => return Ok(self.constant(32)),
            "%tid." => axis(Special::Tid),
            "%ntid." => axis(Special::Ntid),
            "%ctaid." => axis(Special::Ctaid),
            "%nctaid." => axis(Special::Nctaid),
            "%laneid" => Some(Special::Lane),
            "%warpid" => Some(Special::Warp),
            "%nwarpid" => Some(Special::Warps),
            "%lanemask_eq" => Some(Special::MaskEq),
            "%lanemask_lt" => Some(Special::MaskLt),
            "%lanemask_le" => Some(Special::MaskLe),
            "%lanemask_gt" => Some(Special::MaskGt),
            "%lanemask_ge" => Some(Special::MaskGe),
            "%dynamic_smem_size" => Some(Special::DynamicShared),
            "%total_smem_size" => Some(Special::TotalShared),
            _ => None,
        };
        let special =
            special.ok_or_else(|| self.unknown(instruction, format!("nothing called `{name}` is declared")))?;
        if let Some((reg, _)) = self.kernel.specials.iter().find(|(_, known)| *known == special) {
            return Ok(*reg);
        }
        self.kernel.registers.push(name.to_owned());
        let reg = self.kernel.registers.len() as Reg - 1;
        self.kernel.specials.push((reg, special));
        Ok(reg)
    }

    /// The address operand `[..]` of an access to `space`.
    pub fn address(&mut self, instruction: &Instruction, operand: &Operand) -> Result<Address, Error> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.unknown(instruction, "an address in brackets should stand here"));
        };
        let Some(name) = base else {
            let base = self.constant(0);
            return Ok(Address { base, offset: *offset });
        };
        match self.symbol(name) {
            Some(Symbol::Register(base, _)) => Ok(Address { base, offset: *offset }),
            Some(Symbol::Address(address)) => {
                let base = self.constant(0);
                Ok(Address { base, offset: address as i64 + offset })
            }
            _ => Err(self.unknown(instruction, format!("nothing called `{name}` is declared"))),
        }
    }

    /// The register that guards the instruction under way.
    pub fn guard(&self) -> Option<Reg> {
        self.guard.map(|guard| guard.pred)
    }
}
