//! A pack on a device: tokens, targets and boundaries, checked.

use packscan_kernels::cross_entropy::{NO_TARGET, check_targets};
use packscan_kernels::embedding::{ById, Ids};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed};

use crate::Result;

/// A pack that a model can run on.
#[derive(Debug)]
pub struct DevicePack {
    /// The boundaries.
    pub packed: DevicePacked,
    /// `(T)`: the tokens.
    pub ids: Ids,
    /// The tokens, grouped for the gradient of the embedding.
    pub by_id: ById,
    /// `(T)` u32: the targets.
    pub targets: Buffer,
    /// Tokens that have a target.
    pub predicted: usize,
    /// Whether the last sequence goes on in the next pack.
    pub continues: bool,
}

impl DevicePack {
    /// Checks the tokens and targets of a pack against a vocabulary and copies them to a device.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Tensor`] and [`packscan_runtime::Error::Argument`] for a token or target outside the vocabulary, by its
    /// place, or for numbers of tokens and targets that differ.
    pub fn new(device: &Device, packed: &Packed, tokens: &[u32], targets: &[u32], vocabulary: usize) -> Result<Self> {
        let ids = Ids::new(device, tokens, vocabulary)?;
        Ok(DevicePack {
            predicted: check_targets(targets, vocabulary)?,
            packed: packed.on(device)?,
            by_id: ids.by_id()?,
            ids,
            targets: Buffer::from_slice(device, targets)?,
            continues: false,
        })
    }

    /// Room for packs of up to `tokens` tokens, none of whose sequences is empty, that come one after the other. What steps run on: with it
    /// they allocate nothing. There is no token in it yet.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn with_room(device: &Device, tokens: usize, vocabulary: usize) -> Result<Self> {
        Ok(DevicePack {
            packed: DevicePacked::with_room(device, tokens)?,
            ids: Ids::with_room(device, tokens, vocabulary)?,
            by_id: ById::with_room(device, tokens, vocabulary)?,
            targets: Buffer::unwritten(device, Dtype::U32, tokens)?,
            predicted: 0,
            continues: false,
        })
    }

    /// Bytes of that room on the device.
    pub fn bytes(tokens: usize, vocabulary: usize) -> usize {
        DevicePacked::bytes(tokens) + ById::bytes(tokens, vocabulary) + Dtype::U32.bytes() * tokens
    }

    /// Takes another pack, after everything launched before: steps that are under way are not disturbed, and the host does not wait for them.
    ///
    /// # Errors
    /// As [`DevicePack::new`], and for more tokens or sequences than there is room for.
    pub fn set(&mut self, packed: &Packed, tokens: &[u32], targets: &[u32]) -> Result<()> {
        self.predicted = check_targets(targets, self.ids.vocabulary())?;
        self.ids.set(tokens)?;
        self.by_id.set(&self.ids)?;
        self.packed.set(packed)?;
        self.targets.refill(targets)?;
        self.continues = false;
        Ok(())
    }

    /// A pack whose sequences predict each their own next token; the last of a sequence has no target.
    ///
    /// # Errors
    /// As [`DevicePack::new`].
    pub fn next_token(device: &Device, sequences: &[&[u32]], vocabulary: usize) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let targets: Vec<u32> =
            sequences.iter().flat_map(|s| s.iter().skip(1).copied().chain(s.first().map(|_| NO_TARGET))).collect();
        DevicePack::new(device, &Packed::from_lengths(&lengths)?, &sequences.concat(), &targets, vocabulary)
    }

    /// Whether the first sequence goes on from the pack before.
    pub fn is_continued(&self) -> bool {
        self.packed.packed().continued().first().is_some_and(|&continued| continued)
    }

    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.packed.packed().tokens()
    }
}
