//! A pack on a device: tokens, targets and boundaries, checked.

use std::cell::OnceCell;

use packscan_kernels::cross_entropy::{NO_TARGET, check_targets};
use packscan_kernels::embedding::{ById, Ids};
use packscan_kernels::selective_scan::{Backward, split};
use packscan_runtime::{Buffer, Device, DevicePacked, Packed, Segments};

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
    /// Its sequences cut along time, if the scan is done sooner so; chosen by the first scan.
    pub segments: OnceCell<Option<Segments>>,
}

impl DevicePack {
    /// Checks the tokens and targets of a pack against a vocabulary and copies them to a device.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Tensor`] and [`packscan_runtime::Error::Argument`] for a token or target outside the vocabulary, by its
    /// place, or for numbers of tokens and targets that differ.
    pub fn new(device: &Device, packed: &Packed, tokens: &[u32], targets: &[u32], vocabulary: usize) -> Result<Self> {
        let predicted = check_targets(targets, vocabulary)?;
        let ids = Ids::new(device, tokens, vocabulary)?;
        let by_id = ids.by_id()?;
        Ok(DevicePack {
            packed: packed.on(device)?,
            ids,
            by_id,
            targets: Buffer::from_slice(device, targets)?,
            predicted,
            continues: false,
            segments: OnceCell::new(),
        })
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

    /// The same with sequences cut along time for the scan, into segments of so many tokens, whether or not that is sooner.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn cut(self, segment: usize) -> Result<Self> {
        let segments = Segments::new(self.packed.packed(), segment, self.packed.device())?;
        Ok(DevicePack { segments: OnceCell::from(Some(segments)), ..self })
    }

    /// The segments that the scan walks, by a backward variant with `d` channels; none if it walks whole sequences.
    pub(crate) fn segments(&self, variant: &Backward, d: usize) -> Result<Option<&Segments>> {
        let choose = || -> Result<_> {
            let segment = split::segment_for(&self.packed, variant, d)?;
            let cut = segment.map(|segment| Segments::new(self.packed.packed(), segment, self.packed.device()));
            Ok(cut.transpose()?)
        };
        let chosen = match self.segments.get() {
            Some(chosen) => chosen,
            None => {
                let chosen = choose()?;
                self.segments.get_or_init(|| chosen)
            }
        };
        Ok(chosen.as_ref())
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
