//! What a corpus leaves out, counted and named.

use serde::{Deserialize, Serialize};

use crate::number::counted;

/// What was left out of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Files in folders that are binary: see [`Corpus`](crate::Corpus).
    pub binary_files: LeftOut,
    /// JSONL and Parquet files in folders that have nothing in the field that was asked for.
    pub other_files: LeftOut,
    /// Files, lines and rows that give no text, where those may be left out.
    pub bad_records: LeftOut,
    /// Files and records without a single token, nulls of a Parquet column among them.
    pub empty_documents: u64,
}

impl Skipped {
    /// Lines that say so, of each kind how many and which; none where nothing was left out.
    pub fn lines(&self) -> Vec<String> {
        let kinds = [
            (&self.binary_files, "binary file", " in folders"),
            (
                &self.other_files,
                "file",
                " in folders without a text in the field that was asked for; --text-field names another",
            ),
            (&self.bad_records, "bad record", ""),
        ];
        let mut lines = Vec::new();
        for (LeftOut { count, named }, one, what) in kinds.into_iter().filter(|(kind, ..)| kind.count > 0) {
            lines.push(format!("left out: {}{what}", counted(*count, one)));
            lines.extend(named.iter().map(|name| format!("  {name}")));
            match count - named.len() as u64 {
                0 => {}
                more => lines.push(format!("  and {more} more")),
            }
        }
        if self.empty_documents > 0 {
            lines.push(format!("left out: {} without a token", counted(self.empty_documents, "document")));
        }
        lines
    }
}

/// Things of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// The first [`LeftOut::NAMED`] of them, where they are and what is wrong with each.
    pub named: Vec<String>,
}

impl LeftOut {
    /// How many are named: enough to see what they are.
    pub const NAMED: usize = 3;

    pub(crate) fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < LeftOut::NAMED {
            self.named.push(name());
        }
    }
}
