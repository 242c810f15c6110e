//! PTX text to tokens. Every token knows its line and its byte offset, so that errors and faults can quote the source.

use crate::fault::Error;

/// One token of PTX.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind<'a> {
    /// A name: an opcode with its modifiers, a directive, a register, a label, a symbol.
    Word(&'a str),
    /// An integer literal, as 64 bits in two's complement.
    Int(u64),
    /// `0f` literal: the bits of an f32.
    F32(u32),
    /// `0d` literal or a decimal: the bits of an f64.
    F64(u64),
    /// The inside of a string literal.
    Text,
    /// Any other single character.
    Mark(char),
    /// The end of the text.
    End,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
    pub start: u32,
    pub end: u32,
}

/// Cuts `text` into tokens, the last of which is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut out = Vec::with_capacity(text.len() / 4);
    loop {
        let token = lexer.next()?;
        out.push(token);
        if token.kind == Kind::End {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Syntax { line: self.line, what: what.into() }
    }

    fn skip_blanks(&mut self) -> Result<(), Error> {
        while self.at < self.text.len() {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
                (b'/', b'*') => {
                    let length =
                        self.text[self.at..].find("*/").ok_or_else(|| self.error("a comment that does not end"))?;
                    self.line += self.text[self.at..self.at + length].matches('\n').count() as u32;
                    self.at += length + 2;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        self.skip_blanks()?;
        let (start, line) = (self.at, self.line);
        let kind = match self.byte(0) {
            _ if self.at >= self.text.len() => Kind::End,
            b'"' => {
                let rest = &self.text[self.at + 1..];
                let length = rest.find('"').ok_or_else(|| self.error("a string that does not end"))?;
                self.line += rest[..length].matches('\n').count() as u32;
                self.at += length + 2;
                Kind::Text
            }
            b'0'..=b'9' => self.number()?,
            byte if is_word(byte) => self.word(),
            _ => {
                let mark = self.text[self.at..].chars().next().unwrap_or('\0');
                self.at += mark.len_utf8();
                Kind::Mark(mark)
            }
        };
        Ok(Token { kind, line, start: start as u32, end: self.at as u32 })
    }

    fn word(&mut self) -> Kind<'a> {
        let start = self.at;
        loop {
            if is_word(self.byte(0)) {
                self.at += 1;
            } else if self.byte(0) == b':' && self.byte(1) == b':' && self.byte(2).is_ascii_alphanumeric() {
                self.at += 2;
            } else {
                return Kind::Word(&self.text[start..self.at]);
            }
        }
    }

    fn number(&mut self) -> Result<Kind<'a>, Error> {
        let start = self.at;
        while self.byte(0).is_ascii_alphanumeric()
            || self.byte(0) == b'.'
            || (matches!(self.byte(0), b'+' | b'-') && self.is_exponent(start))
        {
            self.at += 1;
        }
        let literal = &self.text[start..self.at];
        let bad = || self.error(format!("`{literal}` is not a number"));
        let digits = literal.trim_end_matches('U');
        let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).map(Kind::Int).map_err(|_| bad());
        match literal.as_bytes() {
            [b'0', b'f' | b'F', ..] => u32::from_str_radix(&literal[2..], 16).map(Kind::F32).map_err(|_| bad()),
            [b'0', b'd' | b'D', ..] => u64::from_str_radix(&literal[2..], 16).map(Kind::F64).map_err(|_| bad()),
            [b'0', b'x' | b'X', ..] => radix(&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => radix(&digits[2..], 2),
            _ if literal.contains(['.', 'e', 'E']) => {
                literal.parse::<f64>().map(|x| Kind::F64(x.to_bits())).map_err(|_| bad())
            }
            [b'0', b'0'..=b'9', ..] => radix(&digits[1..], 8),
            _ => radix(digits, 10),
        }
    }

    /// Whether the sign at the cursor belongs to the exponent of a decimal literal that began at `start`.
    fn is_exponent(&self, start: usize) -> bool {
        let before = &self.text[start..self.at];
        before.contains('.') && before.ends_with(['e', 'E'])
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}
