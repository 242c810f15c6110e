//! [`Packed`]: where the sequences of a pack begin and end, checked once.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use crate::{Buffer, Device, Dtype, Error, Result};

mod groups;
mod segments;
mod slots;

pub use groups::Groups;
use groups::MOST_GROUPS;
pub use segments::Segments;
pub use slots::Slots;

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

    /// The pack with its boundaries on a device, ready for operators.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn on(&self, device: &Device) -> Result<DevicePacked> {
        let mut placed = DevicePacked::without_groups(device, self.sequences())?;
        placed.set(self)?;
        Ok(placed)
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
    groups: RefCell<Vec<Known>>,
    /// What [`balanced_groups`](Self::balanced_groups) said, by tiles and slots.
    balanced: RefCell<Vec<((usize, Slots), usize)>>,
}

/// [`Groups`] on a device.
#[derive(Debug)]
pub struct DeviceGroups {
    /// First run of each group, `[G + 1]` u32.
    pub starts: Buffer,
    /// First sequence of each run and the one after its last, `[2 R]` u32.
    pub runs: Buffer,
}

impl DeviceGroups {
    fn refill(&mut self, groups: &Groups) -> Result<()> {
        self.starts.refill(&groups.starts)?;
        self.runs.refill(groups.runs.as_flattened())
    }
}

/// The groups that a launch asked for.
#[derive(Debug)]
struct Known {
    groups: Rc<DeviceGroups>,
    /// Whether they are of the pack that is there now.
    current: bool,
}

/// Such lists: forward passes that keep states for the backward pass, what sequences leave, both or neither, and the backward pass, may each have another
/// number of groups.
const GROUP_LISTS: usize = 6;

impl DevicePacked {
    /// Room for packs of up to `sequences` sequences that come one after the other, [`set`](Self::set) in turn, and for the lists of
    /// their groups, which kernels that walk them make. Until the first it is a pack of no sequences and no tokens.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn with_room(device: &Device, sequences: usize) -> Result<DevicePacked> {
        let mut placed = DevicePacked::without_groups(device, sequences)?;
        let room = |len| Buffer::unwritten(device, Dtype::U32, len);
        for _ in 0..GROUP_LISTS {
            let groups = DeviceGroups { starts: room(MOST_GROUPS + 1)?, runs: room(2 * sequences)? };
            placed.groups.get_mut().push(Known { groups: Rc::new(groups), current: false });
        }
        Ok(placed)
    }

    /// A pack of no sequences and no tokens: what operators are called with that work on parameters, to name their device.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn empty(device: &Device) -> Result<DevicePacked> {
        DevicePacked::without_groups(device, 0)
    }

    fn without_groups(device: &Device, sequences: usize) -> Result<DevicePacked> {
        let room = |len| Buffer::unwritten(device, Dtype::U32, len);
        let mut placed = DevicePacked {
            packed: Packed { cu_seqlens: vec![0], continued: Vec::new() },
            cu_seqlens: room(sequences + 1)?,
            continued: room(sequences)?,
            owners: None,
            groups: RefCell::default(),
            balanced: RefCell::default(),
        };
        placed.set(&placed.packed.clone())?;
        Ok(placed)
    }

    /// Bytes of that room on the device.
    pub const fn bytes(sequences: usize) -> usize {
        Dtype::U32.bytes() * (2 * sequences + 1 + GROUP_LISTS * (MOST_GROUPS + 1 + 2 * sequences))
    }

    /// Takes the place of the pack that was there, after everything launched before.
    ///
    /// # Errors
    /// [`Error::Packed`] for more sequences than there is room for; [`Error::Cuda`] if an earlier launch failed.
    pub fn set(&mut self, packed: &Packed) -> Result<()> {
        if packed.sequences() > self.continued.room() {
            let rule = format!("there is room for {}; make more, or split the pack", self.continued.room());
            return Err(wrong("sequences", packed.sequences().to_string(), rule));
        }
        let continued: Vec<u32> = packed.continued.iter().map(|&c| c.into()).collect();
        self.cu_seqlens.refill(&packed.cu_seqlens)?;
        self.continued.refill(&continued)?;
        self.packed.clone_from(packed);
        self.groups.get_mut().iter_mut().for_each(|groups| groups.current = false);
        self.balanced.get_mut().clear();
        Ok(())
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

    /// [`Packed::balanced_groups`], found once a pack.
    pub fn balanced_groups(&self, tiles: usize, slots: Slots) -> usize {
        let mut known = self.balanced.borrow_mut();
        if let Some(&(_, groups)) = known.iter().find(|&&(key, _)| key == (tiles, slots)) {
            return groups;
        }
        let groups = self.packed.balanced_groups(tiles, slots);
        known.push(((tiles, slots), groups));
        groups
    }

    /// [`Packed::groups`] on the device; made once a pack.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn groups(&self, groups: usize) -> Result<Rc<DeviceGroups>> {
        let mut kept = self.groups.borrow_mut();
        let groups = groups.max(1);
        if let Some(known) = kept.iter().find(|known| known.current && known.groups.starts.len() == groups + 1) {
            return Ok(known.groups.clone());
        }
        let made = self.packed.groups(groups);
        // Room of an earlier pack's that nobody holds any more becomes this one's.
        for old in kept.iter_mut().filter(|old| !old.current) {
            let has_room =
                |old: &&mut DeviceGroups| old.starts.room() > groups && old.runs.room() >= 2 * made.runs.len();
            if let Some(room) = Rc::get_mut(&mut old.groups).filter(has_room) {
                room.refill(&made)?;
                old.current = true;
                return Ok(old.groups.clone());
            }
        }
        let list = |values: &[u32]| Buffer::from_slice(self.device(), values);
        let placed = Rc::new(DeviceGroups { starts: list(&made.starts)?, runs: list(made.runs.as_flattened())? });
        kept.push(Known { groups: placed.clone(), current: true });
        Ok(placed)
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
