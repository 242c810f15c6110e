//! Files to records: the bytes of one document each, not yet looked at.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use crate::files::{Format, Source};
use crate::lines::text_of;
use crate::{Error, Result};

/// The bytes of one document.
pub struct Record {
    /// Which file, by its place among the sources.
    pub file: u32,
    /// Which line or row of it, from 1; 1 for a text file.
    pub number: u64,
    /// What it is.
    pub content: Content,
}

/// What a record is before anybody looked at it.
pub enum Content {
    /// A file of text, perhaps.
    Text(Vec<u8>),
    /// A file in a folder that begins as no text does: the first byte at fault, from 0.
    Binary(u64),
    /// A file in a folder whose records are of something else: what is wrong with them.
    Other(String),
    /// A line of JSON, perhaps.
    Json(Vec<u8>),
    /// A value of a column; `None` is null.
    Value(Option<ByteArray>),
}

impl Content {
    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Content::Text(bytes) | Content::Json(bytes) => bytes.len(),
            Content::Value(Some(value)) => value.len(),
            Content::Binary(_) | Content::Other(_) | Content::Value(None) => 0,
        }
    }
}

/// How much of a file in a folder is looked at to tell whether it is binary. Git looks at as many bytes.
const HEAD_BYTES: u64 = 8000;

/// What the reader of Parquet says of a compression that is left out of it.
const WITHOUT: &str = "Disabled feature at compile time: ";

/// What some editors put before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Rows of a column that are decoded together.
const ROWS: usize = 1024;

/// Records of a file in a folder of which one must have the text, or the file is of something else. One that was named is what the user
/// says it is.
const LOOKED_AT: usize = 1000;

/// Gives each record of a file to `sink`.
pub fn read(file: u32, source: &Source, field: &str, sink: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
    match source.format() {
        Format::Text => sink(Record { file, number: 1, content: text(source)? }),
        Format::Jsonl => jsonl(file, source, field, sink),
        Format::Parquet => parquet(file, source, field, sink),
    }
}

fn text(source: &Source) -> Result<Content> {
    if let Some(ending) = source.unread().filter(|_| source.named) {
        let rule = format!("packscan does not read .{ending}; unpack it");
        return Err(Error::File { path: source.path.clone(), rule });
    }
    let mut reader = source.open()?;
    let mut bytes = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).map_err(|error| source.failed(error))?;
    if !source.named
        && let Some(offset) = binary(&bytes)
    {
        return Ok(Content::Binary(offset));
    }
    reader.read_to_end(&mut bytes).map_err(|error| source.failed(error))?;
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    Ok(Content::Text(bytes))
}

/// The first byte of a file's head that no text has, if the file is not meant as text: with a NUL in it, or with bytes that are not UTF-8
/// beside control characters that no encoding of text uses. Text in another encoding has none, and is text that must be converted.
fn binary(head: &[u8]) -> Option<u64> {
    let invalid = match std::str::from_utf8(head) {
        // The head may end within a character.
        Err(error) if error.error_len().is_some() => Some(error.valid_up_to()),
        _ => None,
    };
    let nul = head.iter().position(|&byte| byte == 0);
    let control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, 0x07..=0x0d | 0x1b);
    match (nul, invalid) {
        (Some(nul), invalid) => Some(invalid.map_or(nul, |invalid| invalid.min(nul)) as u64),
        (None, Some(invalid)) if head.iter().any(control) => Some(invalid as u64),
        _ => None,
    }
}

fn jsonl(file: u32, source: &Source, field: &str, sink: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
    let mut lines = lines(source)?;
    let record = |(number, line)| Record { file, number, content: Content::Json(line) };
    if !source.named {
        let (mut first, mut wrong) = (Vec::new(), None);
        for line in lines.by_ref().take(LOOKED_AT) {
            let line = line?;
            let rule = text_of(&line.1, field).err();
            first.push(line);
            if rule.is_none() {
                wrong = None;
                break;
            }
            wrong = wrong.or(rule);
        }
        if let Some(rule) = wrong {
            return sink(Record { file, number: 1, content: Content::Other(rule) });
        }
        first.into_iter().map(record).try_for_each(&mut *sink)?;
    }
    lines.try_for_each(|line| sink(record(line?)))
}

/// The lines of a file that are not blank, by their numbers from 1.
fn lines(source: &Source) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>)>>> {
    let mut reader = BufReader::with_capacity(1 << 18, source.open()?);
    let next = move |number| {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if number == 1 && line.starts_with(MARK) => Some(Ok((number, line.split_off(MARK.len())))),
            Ok(_) => Some(Ok((number, line))),
            Err(error) => Some(Err(source.failed(error))),
        }
    };
    let blank = |line: &Result<(u64, Vec<u8>)>| line.as_ref().is_ok_and(|(_, line)| line.trim_ascii().is_empty());
    Ok((1..).map_while(next).filter(move |line| !blank(line)))
}

fn parquet(file: u32, source: &Source, field: &str, sink: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
    let broken = |rule: String| Error::File { path: source.path.clone(), rule };
    let damaged = |error: ParquetError| {
        let text = error.to_string();
        broken(match text.split_once(WITHOUT) {
            Some((_, codec)) => {
                format!("it is compressed by {codec}, which packscan does not read; write it again with zstd")
            }
            None => format!("it is no whole Parquet file: {text}; write or download it again"),
        })
    };
    let opened = File::open(&source.path).map_err(|error| source.failed(error))?;
    let reader = SerializedFileReader::new(opened).map_err(damaged)?;
    let column = match text_column(reader.metadata().file_metadata().schema_descr(), field) {
        Ok(column) => column,
        Err(rule) if source.named => return Err(broken(rule)),
        Err(rule) => return sink(Record { file, number: 1, content: Content::Other(rule) }),
    };
    let mut number = 1;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let ColumnReader::ByteArrayColumnReader(mut column) = group.get_column_reader(column).map_err(damaged)? else {
            return Err(broken(format!("the column {field:?} holds no text")));
        };
        loop {
            let rows = rows(&mut column).map_err(damaged)?;
            if rows.is_empty() {
                break;
            }
            for value in rows {
                sink(Record { file, number, content: Content::Value(value) })?;
                number += 1;
            }
        }
    }
    Ok(())
}

/// The next rows of a column, nulls among them.
fn rows(column: &mut ColumnReaderImpl<ByteArrayType>) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (records, present, _) = column.read_records(ROWS, Some(&mut levels), None, &mut values)?;
    if present == records {
        return Ok(values.into_iter().map(Some).collect());
    }
    // A value is there where its level is the highest, and one of them is there for each such level.
    let highest = levels.iter().copied().max().unwrap_or(0);
    let highest = if present == 0 { highest + 1 } else { highest };
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|level| if level == highest { values.next() } else { None }).collect())
}

/// The index of the column of this name that has one text a row.
fn text_column(schema: &SchemaDescriptor, field: &str) -> Result<usize, String> {
    let is_text = |index: &usize| {
        let column = schema.column(*index);
        column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    };
    let name = |index: usize| schema.column(index).path().string();
    let texts: Vec<usize> = (0..schema.num_columns()).filter(is_text).collect();
    texts.iter().copied().find(|index| name(*index) == field).ok_or_else(|| {
        let known = texts.into_iter().map(name).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "no column with texts".to_owned() } else { format!("texts in {known}") };
        format!("it has no column {field:?} with texts; it has {known}: name one with --text-field")
    })
}

#[cfg(test)]
mod tests {
    use super::binary;

    #[test]
    fn binary_files_are_told_from_text_in_other_encodings() {
        assert_eq!(binary(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), Some(0));
        assert_eq!(binary(b"%PDF-1.5\n%\xd0\xd4\xc5\xd8\nstream\nx\xda\x01\x02"), Some(10));
        assert_eq!(binary(b"text until a NUL\0"), Some(16));
        for text in
            [b"caf\xe9, in Latin-1\n".as_slice(), b"\x1b[1mbold\x1b[0m\r\n\tcaf\xe9", "caf\u{e9} \u{1}".as_bytes()]
        {
            assert_eq!(binary(text), None, "{text:?}");
        }
        // A head that ends within a character.
        assert_eq!(binary(&"\u{1}\u{e9}".as_bytes()[..2]), None);
    }
}
