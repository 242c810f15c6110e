//! [`Packed`]: where the sequences of a pack begin and end, checked once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::{Buffer, Device, Error, Result};

mod segments;

pub use segments::Segments;

/// The most tokens of one pack: token indices and the ends of chunks stay within 32 bits.
pub const MAX_TOKENS: usize = (1 << 31) - 1;

/// A pack: `S` sequences laid end to end in `T` tokens.
///
/// No operator can be called without it. Empty sequences are legal. A sequence may be *continued* from an earlier pack: it
/// then starts from a state given to the operator instead of from nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed {
    /// `[S + 1]`, from 0 to `T`, never decreasing.
    cu_seqlens: Vec<u32>,
    /// `[S]`
    continued: Vec<bool>,
}

impl Packed {
    /// A pack of sequences with these lengths, in tokens.
    ///
    /// # Errors
    /// [`Error::Packed`] if there is no sequence or the lengths add up to more than [`MAX_TOKENS`].
    pub fn from_lengths(lengths: &[usize]) -> Result<Packed> {
        if lengths.is_empty() {
            return Err(nothing("lengths"));
        }
        let mut end = 0usize;
        let mut cu_seqlens = vec![0];
        for (s, &length) in lengths.iter().enumerate() {
            end = end.saturating_add(length);
            if end > MAX_TOKENS {
                return Err(wrong("lengths", format!("sequence {s} ends at token {end}"), too_long()));
            }
            cu_seqlens.push(end as u32);
        }
        Packed::from_cu_seqlens(&cu_seqlens, end)
    }

    /// A pack whose sequence `s` is tokens `cu_seqlens[s]` to `cu_seqlens[s + 1]` of `tokens`.
    ///
    /// # Errors
    /// [`Error::Packed`] unless `cu_seqlens` starts at 0, never decreases and ends at `tokens`.
    pub fn from_cu_seqlens(cu_seqlens: &[u32], tokens: usize) -> Result<Packed> {
        let field = "cu_seqlens";
        let [first, .., last] = cu_seqlens else {
            return Err(wrong(
                field,
                format!("it has {} entries", cu_seqlens.len()),
                "a pack of S sequences has S + 1 boundaries and at least one sequence; give [0, T] for a single one"
                    .into(),
            ));
        };
        if *first != 0 {
            let cure = "the first sequence starts at token 0; prepend 0 or subtract the first entry from all".into();
            return Err(wrong(field, format!("it starts at {first}"), cure));
        }
        if let Some(s) = cu_seqlens.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(wrong(
                field,
                format!("it decreases from {} to {} at entry {}", cu_seqlens[s], cu_seqlens[s + 1], s + 1),
                "each entry is the running sum of the lengths before it; repeat an entry for an empty sequence".into(),
            ));
        }
        if *last as usize != tokens {
            return Err(wrong(
                field,
                format!("it ends at {last}, but the pack has {tokens} tokens"),
                "the last entry is the number of tokens; add a sequence for the rest, or cut the tensors".into(),
            ));
        }
        if tokens > MAX_TOKENS {
            return Err(wrong(field, format!("it ends at {last}"), too_long()));
        }
        Ok(Packed { continued: vec![false; cu_seqlens.len() - 1], cu_seqlens: cu_seqlens.to_vec() })
    }

    /// A pack given by each token's place in its own sequence, `[T]`: a 0 starts a sequence.
    ///
    /// # Errors
    /// [`Error::Packed`] unless each entry is 0 or one more than the entry before it.
    pub fn from_position_indices(positions: &[u32]) -> Result<Packed> {
        if positions.is_empty() {
            return Err(nothing("position_indices"));
        }
        let mut lengths = Vec::new();
        for (t, &position) in positions.iter().enumerate() {
            match (position, lengths.last_mut()) {
                (0, _) => lengths.push(1),
                (p, Some(length)) if p as usize == *length => *length += 1,
                (p, previous) => {
                    let expected = previous.map_or("0".to_owned(), |length| format!("0 or {length}"));
                    return Err(wrong(
                        "position_indices",
                        format!("token {t} has position {p}"),
                        format!("{expected} was expected; positions count 0, 1, 2, .. within each sequence"),
                    ));
                }
            }
        }
        Packed::from_lengths(&lengths)
    }

    /// A pack given by the sequence of each token, `[T]`; numbers that are left out are empty sequences, at most T at a time.
    ///
    /// # Errors
    /// [`Error::Packed`] if it is empty, an entry is smaller than the one before it, or it leaves out more numbers than it has tokens.
    pub fn from_seq_idx(seq_idx: &[u32]) -> Result<Packed> {
        if seq_idx.is_empty() {
            return Err(nothing("seq_idx"));
        }
        let mut lengths = Vec::new();
        for (t, &s) in seq_idx.iter().enumerate() {
            let s = s as usize;
            if s + 1 < lengths.len() || s > seq_idx.len() + lengths.len() {
                return Err(wrong(
                    "seq_idx",
                    format!("token {t} belongs to sequence {s}"),
                    "sequences are numbered 0, 1, 2, .. in the order of their tokens; renumber them".into(),
                ));
            }
            lengths.resize(lengths.len().max(s + 1), 0);
            lengths[s] += 1;
        }
        Packed::from_lengths(&lengths)
    }

    /// The same pack with the sequences marked whose state comes from an earlier pack, `[S]`.
    ///
    /// # Errors
    /// [`Error::Packed`] unless there is one mark for each sequence.
    pub fn with_continued(mut self, continued: &[bool]) -> Result<Packed> {
        if continued.len() != self.sequences() {
            return Err(wrong(
                "continued",
                format!("it has {} entries", continued.len()),
                format!("the pack has {} sequences; give one mark for each", self.sequences()),
            ));
        }
        self.continued = continued.to_vec();
        Ok(self)
    }

    /// One token of each of `continued.len()` sequences: a step of generation, whose sequences go on from the states of the step before,
    /// but for those not marked, which start with this token.
    ///
    /// # Errors
    /// [`Error::Packed`] if there is no sequence or there are more than [`MAX_TOKENS`].
    pub fn one_token_each(continued: &[bool]) -> Result<Packed> {
        Packed::from_lengths(&vec![1; continued.len()])?.with_continued(continued)
    }

    /// Tokens, `T`.
    pub fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&end| end as usize)
    }

    /// Sequences, `S`, empty ones included.
    pub fn sequences(&self) -> usize {
        self.continued.len()
    }

    /// The boundaries, `[S + 1]`.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// Which sequences are continued, `[S]`.
    pub fn continued(&self) -> &[bool] {
        &self.continued
    }

    /// The tokens of sequence `s`.
    pub fn range(&self, s: usize) -> Range<usize> {
        self.cu_seqlens[s] as usize..self.cu_seqlens[s + 1] as usize
    }

    /// The lengths of the sequences in tokens, `[S]`.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.sequences()).map(|s| self.range(s).len()).collect()
    }

    /// The sequence of each token, `[T]`.
    pub fn seq_idx(&self) -> Vec<u32> {
        (0..self.sequences()).flat_map(|s| std::iter::repeat_n(s as u32, self.range(s).len())).collect()
    }

    /// Cuts the pack between sequences into `groups` runs of which the longest has as few tokens as the sequences allow: run `g`
    /// is sequences `starts[g]` to `starts[g + 1]`, `[groups + 1]`. A run may be empty. No groups count as one.
    pub fn group_starts(&self, groups: usize) -> Vec<u32> {
        let (mut too_few, mut enough) = (0, self.tokens() as u32);
        while enough - too_few > 1 {
            let most = too_few + (enough - too_few) / 2;
            if self.runs_of(most, groups).last() == Some(&(self.sequences() as u32)) {
                enough = most;
            } else {
                too_few = most;
            }
        }
        self.runs_of(enough, groups)
    }

    /// Runs of as many whole sequences as fit `most` tokens, the first `groups` of them.
    fn runs_of(&self, most: u32, groups: usize) -> Vec<u32> {
        let mut starts = vec![0];
        for _ in 0..groups.max(1) {
            let first = starts[starts.len() - 1] as usize;
            let end = self.cu_seqlens[first].saturating_add(most);
            starts.push(self.cu_seqlens.partition_point(|&start| start <= end) as u32 - 1);
        }
        starts
    }

    /// The pack with its boundaries on a device, ready for operators.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn on(&self, device: &Device) -> Result<DevicePacked> {
        let continued: Vec<u32> = self.continued.iter().map(|&c| c.into()).collect();
        Ok(DevicePacked {
            cu_seqlens: Buffer::from_slice(device, &self.cu_seqlens)?,
            continued: Buffer::from_slice(device, &continued)?,
            packed: self.clone(),
            owners: None,
            groups: RefCell::default(),
        })
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed(")?;
        for s in 0..self.sequences() {
            let mark = if self.continued[s] { "+" } else { "" };
            write!(f, "{}{mark}{}", if s > 0 { " " } else { "" }, self.range(s).len())?;
        }
        write!(f, ")")
    }
}

/// A [`Packed`] and its boundaries on one device.
#[derive(Debug)]
pub struct DevicePacked {
    packed: Packed,
    cu_seqlens: Buffer,
    continued: Buffer,
    /// Where the sequences are segments: whose, `[S]`.
    owners: Option<Vec<u32>>,
    groups: RefCell<HashMap<usize, Rc<Buffer>>>,
}

impl DevicePacked {
    /// A pack of no sequences and no tokens: what operators are called with that work on parameters, to name their device.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn empty(device: &Device) -> Result<DevicePacked> {
        Packed { cu_seqlens: vec![0], continued: Vec::new() }.on(device)
    }

    /// The pack with its boundaries on a device, where sequence `s` holds data of `owners[s]`.
    fn owned(packed: &Packed, device: &Device, owners: Vec<u32>) -> Result<DevicePacked> {
        Ok(DevicePacked { owners: Some(owners), ..packed.on(device)? })
    }

    /// The boundaries on the host.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Where the boundaries are.
    pub fn device(&self) -> &Device {
        self.cu_seqlens.device()
    }

    /// The boundaries, `[S + 1]` u32.
    pub fn cu_seqlens(&self) -> &Buffer {
        &self.cu_seqlens
    }

    /// 1 where a sequence is continued, `[S]` u32.
    pub fn continued(&self) -> &Buffer {
        &self.continued
    }

    /// Whose data sequence `s` holds: its own, or where it is a segment that of the sequence it was cut from.
    pub(crate) fn owner(&self, s: usize) -> u32 {
        self.owners.as_ref().map_or(s as u32, |owners| owners[s])
    }

    /// [`Packed::group_starts`] on the device, `[groups + 1]` u32; kept for the next call.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn group_starts(&self, groups: usize) -> Result<Rc<Buffer>> {
        let mut kept = self.groups.borrow_mut();
        if let Some(starts) = kept.get(&groups) {
            return Ok(starts.clone());
        }
        let starts = Rc::new(Buffer::from_slice(self.device(), &self.packed.group_starts(groups))?);
        kept.insert(groups, starts.clone());
        Ok(starts)
    }
}

fn wrong(field: &'static str, got: String, rule: String) -> Error {
    Error::Packed { field, got, rule }
}

fn nothing(field: &'static str) -> Error {
    wrong(
        field,
        "it is empty".into(),
        "a pack has at least one sequence; give one of no tokens for an empty pack".into(),
    )
}

fn too_long() -> String {
    format!("a pack has at most {MAX_TOKENS} tokens; split it into several")
}
