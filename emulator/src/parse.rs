//! Tokens to a syntax tree: variables, and kernels as lists of statements. Meaning is left to `decode`.

use crate::fault::Error;
use crate::lexer::{Kind, Token, tokens};
use crate::scalar::Ty;
use crate::tree::{Entry, Instruction, Operand, Place, Statement, Tree, Variable};

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<Tree<'_>, Error> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, at: 0, place: (0, 0) };
    parser.module()
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    place: Place,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Syntax { line: self.peek().line, what: what.into() }
    }

    /// An error that says what stands at the cursor and what should.
    fn expected(&self, what: &str) -> Error {
        let token = self.peek();
        match token.kind {
            Kind::End => self.error(format!("the text ends where {what} should stand")),
            _ => self.error(format!(
                "found `{}` where {what} should stand",
                &self.text[token.start as usize..token.end as usize]
            )),
        }
    }

    fn is(&self, mark: char) -> bool {
        self.peek().kind == Kind::Mark(mark)
    }

    fn accept(&mut self, mark: char) -> bool {
        let found = self.is(mark);
        if found {
            self.take();
        }
        found
    }

    fn mark(&mut self, mark: char) -> Result<(), Error> {
        if self.accept(mark) { Ok(()) } else { Err(self.expected(&format!("`{mark}`"))) }
    }

    fn word(&mut self, what: &str) -> Result<&'a str, Error> {
        match self.peek().kind {
            Kind::Word(word) => {
                self.take();
                Ok(word)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn accept_word(&mut self, wanted: &str) -> bool {
        let found = self.peek().kind == Kind::Word(wanted);
        if found {
            self.take();
        }
        found
    }

    fn int(&mut self, what: &str) -> Result<u64, Error> {
        let negative = self.accept('-');
        match self.peek().kind {
            Kind::Int(value) => {
                self.take();
                Ok(if negative { value.wrapping_neg() } else { value })
            }
            _ => Err(self.expected(what)),
        }
    }

    fn module(&mut self) -> Result<Tree<'a>, Error> {
        let mut tree = Tree::default();
        while self.peek().kind != Kind::End {
            match self.word("a directive")? {
                ".version" | ".target" | ".address_size" => self.skip_line(),
                ".file" => {
                    let file = self.file()?;
                    tree.files.push(file);
                }
                ".section" => {
                    self.word("a section's name")?;
                    self.skip_braces()?;
                }
                ".pragma" => self.skip_to_semicolon()?,
                ".visible" | ".weak" | ".extern" | ".common" if self.peek().kind != Kind::End => {}
                ".entry" => {
                    let entry = self.entry()?;
                    tree.kernels.push(entry);
                }
                ".func" | ".alias" => self.skip_function()?,
                space @ (".global" | ".const" | ".shared") => {
                    let variable = self.variable(space)?;
                    self.mark(';')?;
                    tree.variables.push(variable);
                }
                _ => {
                    self.at -= 1;
                    return Err(self.expected("a module directive"));
                }
            }
        }
        Ok(tree)
    }

    fn skip_line(&mut self) {
        let line = self.peek().line;
        while self.peek().line == line && self.peek().kind != Kind::End {
            self.take();
        }
    }

    fn skip_to_semicolon(&mut self) -> Result<(), Error> {
        while !self.accept(';') {
            if self.take().kind == Kind::End {
                return Err(self.expected("`;`"));
            }
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<(), Error> {
        self.mark('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.take().kind {
                Kind::Mark('{') => depth += 1,
                Kind::Mark('}') => depth -= 1,
                Kind::End => return Err(self.expected("`}`")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Device functions are never called by what this crate runs (`call` is an unknown instruction), so they are passed over.
    fn skip_function(&mut self) -> Result<(), Error> {
        while !self.is('{') && !self.is(';') {
            if self.take().kind == Kind::End {
                return Err(self.expected("a function's body"));
            }
        }
        if self.accept(';') { Ok(()) } else { self.skip_braces() }
    }

    fn file(&mut self) -> Result<(u64, String), Error> {
        let number = self.int("a file's number")?;
        let token = self.take();
        let name = self.text[token.start as usize..token.end as usize].trim_matches('"').to_owned();
        while self.accept(',') {
            self.int("a number")?;
        }
        Ok((number, name))
    }

    /// A variable after its space: `.align 4 .b8 name[72] = {..}`.
    fn variable(&mut self, space: &'a str) -> Result<Variable<'a>, Error> {
        let line = self.peek().line;
        let (mut align, mut ty, mut vector) = (0, None, 1);
        let name = loop {
            match self.word("a variable's name")? {
                ".align" if ty.is_some() && space == ".param" => {
                    self.int("an alignment")?;
                }
                ".align" => align = self.int("an alignment")? as usize,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                word if word.starts_with('.') => {
                    ty = Some(Ty::parse(&word[1..]).ok_or_else(|| self.error(format!("`{word}` is not a type")))?);
                }
                word => break word,
            }
        };
        let ty = ty.ok_or_else(|| self.error(format!("variable `{name}` has no type")))?;
        let (mut count, mut open) = (vector, false);
        while self.accept('[') {
            if self.accept(']') {
                open = true;
            } else {
                let length = self.int("a length")? as usize;
                count = usize::checked_mul(count, length).ok_or_else(|| self.error("the array is too long"))?;
                self.mark(']')?;
            }
        }
        let mut values = Vec::new();
        if self.accept('=') {
            self.initial_values(&mut values)?;
        }
        let bytes = count.checked_mul(ty.bytes()).ok_or_else(|| self.error("the array is too long"))?;
        Ok(Variable { space, name, ty, align: align.max(ty.bytes() * vector), bytes, open, values, line })
    }

    fn initial_values(&mut self, values: &mut Vec<u64>) -> Result<(), Error> {
        if self.accept('{') {
            while !self.accept('}') {
                self.initial_values(values)?;
                self.accept(',');
            }
            return Ok(());
        }
        match self.peek().kind {
            Kind::F32(bits) => {
                self.take();
                values.push(bits.into());
            }
            Kind::F64(bits) => {
                self.take();
                values.push(bits);
            }
            _ => values.push(self.int("a number")?),
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Entry<'a>, Error> {
        let name = self.word("a kernel's name")?;
        let mut params = Vec::new();
        if self.accept('(') {
            while !self.accept(')') {
                if !self.accept_word(".param") {
                    return Err(self.expected("`.param`"));
                }
                params.push(self.variable(".param")?);
                self.accept(',');
            }
        }
        let mut threads = None;
        while !self.is('{') {
            let directive = self.word("a kernel's directive or body")?;
            let mut values = [1u32; 3];
            let mut index = 0;
            while let Kind::Int(value) = self.peek().kind {
                self.take();
                values[index.min(2)] = value as u32;
                index += 1;
                self.accept(',');
            }
            match directive {
                ".reqntid" => threads = Some((values, true)),
                ".maxntid" => threads = Some((values, false)),
                ".minnctapersm" | ".maxnreg" | ".noreturn" => {}
                ".pragma" => self.skip_to_semicolon()?,
                _ => return Err(self.error(format!("`{directive}` is not a directive that a kernel may carry here"))),
            }
        }
        self.mark('{')?;
        let body = self.body()?;
        Ok(Entry { name, params, threads, body })
    }

    fn body(&mut self) -> Result<Vec<Statement<'a>>, Error> {
        let mut body = Vec::new();
        let mut depth = 1;
        loop {
            if self.accept('{') {
                depth += 1;
                body.push(Statement::Open);
            } else if self.accept('}') {
                depth -= 1;
                if depth == 0 {
                    return Ok(body);
                }
                body.push(Statement::Close);
            } else if !self.accept(';') {
                self.statement(&mut body)?;
            }
        }
    }

    fn statement(&mut self, body: &mut Vec<Statement<'a>>) -> Result<(), Error> {
        let token = self.peek();
        if self.is('@') {
            let instruction = self.instruction()?;
            body.push(instruction);
            return Ok(());
        }
        match self.word("a statement or `}`")? {
            ".loc" => self.loc()?,
            ".file" => {
                self.file()?;
            }
            ".pragma" => self.skip_to_semicolon()?,
            ".reg" => self.registers(body)?,
            space @ (".local" | ".shared" | ".param" | ".global" | ".const") => {
                let variable = self.variable(space)?;
                self.mark(';')?;
                body.push(Statement::Variable(variable));
            }
            name if self.is(':') => {
                self.take();
                if self.accept_word(".branchtargets") {
                    let mut labels = vec![self.word("a label")?];
                    while self.accept(',') {
                        labels.push(self.word("a label")?);
                    }
                    self.mark(';')?;
                    body.push(Statement::Targets(name, labels));
                } else {
                    body.push(Statement::Label(name));
                }
            }
            word if word.starts_with('.') => {
                return Err(Error::Syntax { line: token.line, what: format!("`{word}` is not a known directive") });
            }
            _ => {
                self.at -= 1;
                let instruction = self.instruction()?;
                body.push(instruction);
            }
        }
        Ok(())
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`
    fn loc(&mut self) -> Result<(), Error> {
        let file = self.int("a file's number")?;
        let line = self.int("a line")? as u32;
        self.int("a column")?;
        if line != 0 {
            self.place = (file, line);
        }
        while self.accept(',') {
            self.word("`function_name` or `inlined_at`")?;
            while matches!(self.peek().kind, Kind::Int(_) | Kind::Mark('+')) || self.is_label() {
                self.take();
            }
        }
        Ok(())
    }

    fn is_label(&self) -> bool {
        matches!(self.peek().kind, Kind::Word(word) if word.starts_with('$'))
            && self.tokens[self.at + 1].kind != Kind::Mark(':')
    }

    fn registers(&mut self, body: &mut Vec<Statement<'a>>) -> Result<(), Error> {
        let line = self.peek().line;
        let word = self.word("a type")?;
        let ty =
            Ty::parse(word.trim_start_matches('.')).ok_or_else(|| self.error(format!("`{word}` is not a type")))?;
        loop {
            let name = self.word("a register's name")?;
            let mut count = None;
            if self.accept('<') {
                count = Some(self.int("how many registers")?);
                self.mark('>')?;
            }
            body.push(Statement::Registers { ty, name, count, line });
            if !self.accept(',') {
                return self.mark(';');
            }
        }
    }

    fn instruction(&mut self) -> Result<Statement<'a>, Error> {
        let first = self.peek();
        let guard = if self.accept('@') {
            let negate = self.accept('!');
            Some((self.word("a predicate")?, negate))
        } else {
            None
        };
        let opcode = self.word("an instruction")?;
        let mut operands = Vec::new();
        while !self.is(';') {
            operands.push(self.operand()?);
            if !self.accept(',') {
                break;
            }
        }
        let end = self.peek().start;
        self.mark(';')?;
        let text = (first.start, end);
        Ok(Statement::Instruction(Instruction { guard, opcode, operands, line: first.line, text, place: self.place }))
    }

    fn operand(&mut self) -> Result<Operand<'a>, Error> {
        if self.accept('{') {
            let mut parts = Vec::new();
            while !self.accept('}') {
                parts.push(self.operand()?);
                self.accept(',');
            }
            return Ok(Operand::Vector(parts));
        }
        if self.accept('[') {
            let address = match self.peek().kind {
                Kind::Word(base) => {
                    self.take();
                    Operand::Address(Some(base), self.offset()?)
                }
                _ => Operand::Address(None, self.int("an address")? as i64),
            };
            self.mark(']')?;
            return Ok(address);
        }
        if self.accept('!') {
            return Ok(Operand::Not(self.word("a predicate")?));
        }
        let negative = self.accept('-');
        let token = self.take();
        Ok(match token.kind {
            Kind::Int(value) => Operand::Int(if negative { value.wrapping_neg() } else { value }),
            Kind::F32(bits) => Operand::F32(bits ^ ((negative as u32) << 31)),
            Kind::F64(bits) => Operand::F64(bits ^ ((negative as u64) << 63)),
            Kind::Word(first) if !negative => {
                if self.accept('|') {
                    Operand::Pair(first, self.word("the second half of a pair")?)
                } else {
                    match self.offset()? {
                        0 => Operand::Word(first),
                        offset => Operand::Address(Some(first), offset),
                    }
                }
            }
            _ => {
                self.at -= 1;
                return Err(self.expected("an operand"));
            }
        })
    }

    /// `+4`, `+-4`, `-4` or nothing.
    fn offset(&mut self) -> Result<i64, Error> {
        if self.accept('+') || self.is('-') { Ok(self.int("an offset")? as i64) } else { Ok(0) }
    }
}
