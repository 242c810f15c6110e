//! [`Segments`]: the sequences of a pack cut along time.

use super::{DevicePacked, Packed};
use crate::{Buffer, Device, Dtype, Error, Result};

/// The segments of a pack's sequences, on a device.
#[derive(Debug)]
pub struct Segments {
    whole: Packed,
    pack: DevicePacked,
    firsts: Buffer,
    sequence_of: Buffer,
}

impl Segments {
    /// Cuts each sequence of `packed` into segments of `tokens`; see [`Packed::segments`].
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn new(packed: &Packed, tokens: usize, device: &Device) -> Result<Segments> {
        let (segments, _) = packed.segments(tokens);
        let pack = DevicePacked::without_groups(device, segments.sequences())?;
        let mut made = Segments::around(pack, segments.sequences())?;
        made.set(packed, tokens)?;
        Ok(made)
    }

    /// Room for up to `segments` segments of packs that come one after the other, [`set`](Self::set) in turn, as
    /// [`DevicePacked::with_room`]. Until the first there are none.
    ///
    /// # Errors
    /// Whatever allocating there fails with.
    pub fn with_room(device: &Device, segments: usize) -> Result<Segments> {
        Segments::around(DevicePacked::with_room(device, segments)?, segments)
    }

    /// Bytes of that room on the device.
    pub const fn bytes(segments: usize) -> usize {
        DevicePacked::bytes(segments) + Dtype::U32.bytes() * (2 * segments + 1)
    }

    fn around(pack: DevicePacked, segments: usize) -> Result<Segments> {
        let room = |len| Buffer::unwritten(pack.device(), Dtype::U32, len);
        Ok(Segments { whole: pack.packed.clone(), firsts: room(segments + 1)?, sequence_of: room(segments)?, pack })
    }

    /// Takes the place of the segments that were there, after everything launched before: those of `packed`, of `tokens` each.
    ///
    /// # Errors
    /// [`Error::Packed`] for more segments than there is room for; [`Error::Cuda`] if an earlier launch failed.
    pub fn set(&mut self, packed: &Packed, tokens: usize) -> Result<()> {
        let (segments, firsts) = packed.segments(tokens);
        self.pack.set(&segments)?;
        let sequence_of: Vec<u32> = std::iter::zip(0.., firsts.windows(2))
            .flat_map(|(s, pair)| std::iter::repeat_n(s, (pair[1] - pair[0]) as usize))
            .collect();
        self.firsts.refill(&firsts)?;
        self.sequence_of.refill(&sequence_of)?;
        self.pack.owners = Some(sequence_of);
        self.whole.clone_from(packed);
        Ok(())
    }

    /// The segments as a pack of their own, in which each but the first of a sequence is continued. Data may pass between those of one sequence,
    /// and the emulator sees to it that they pass to no other.
    pub fn pack(&self) -> &DevicePacked {
        &self.pack
    }

    /// First segment of each sequence, `[sequences + 1]` u32.
    pub fn firsts(&self) -> &Buffer {
        &self.firsts
    }

    /// The sequence of each segment, `[segments]` u32.
    pub fn sequence_of(&self) -> &Buffer {
        &self.sequence_of
    }

    /// Checks that these are segments of `packed`.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are another pack's.
    pub fn check(&self, packed: &DevicePacked) -> Result<()> {
        if self.whole == *packed.packed() {
            return Ok(());
        }
        Err(Error::Argument {
            argument: "segments",
            got: format!("made for {:?}", self.whole),
            rule: format!("make them for the pack of this call, {:?}", packed.packed()),
        })
    }
}

impl Packed {
    /// Cuts every sequence into segments of `segment` tokens, counted from its own start; the last may be shorter, and an empty sequence is one
    /// empty segment. Returns the segments as a pack of their own, in which each but the first of a sequence is continued, and the first
    /// segment of each sequence, `[S + 1]`. No tokens count as one.
    pub fn segments(&self, segment: usize) -> (Packed, Vec<u32>) {
        let mut segments = Packed { cu_seqlens: vec![0], continued: Vec::new() };
        let mut firsts = vec![0];
        for s in 0..self.sequences() {
            let tokens = self.range(s);
            for start in (tokens.start..tokens.end.max(tokens.start + 1)).step_by(segment.max(1)) {
                segments.cu_seqlens.push(start.saturating_add(segment.max(1)).min(tokens.end) as u32);
                segments.continued.push(start > tokens.start || self.continued[s]);
            }
            firsts.push(segments.sequences() as u32);
        }
        (segments, firsts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_come_one_after_the_other_in_one_allocation() {
        let device = Device::emulator(0);
        let before = device.allocated_bytes();
        let mut room = Segments::with_room(&device, 5).unwrap();
        assert_eq!(device.allocated_bytes() - before, Segments::bytes(5));
        assert_eq!(
            (
                room.pack().packed().sequences(),
                room.check(&Packed::from_lengths(&[3]).unwrap().on(&device).unwrap()).is_ok()
            ),
            (0, false)
        );
        let made = device.allocations();
        for (lengths, tokens) in [(&[7, 0, 4][..], 3), (&[1, 1], 3), (&[9], 2)] {
            let packed = Packed::from_lengths(lengths).unwrap();
            // The first has six.
            let fits = packed.segments(tokens).0.sequences() <= 5;
            let set = room.set(&packed, tokens);
            assert_eq!(set.is_ok(), fits, "{lengths:?}");
            if fits {
                let alone = Segments::new(&packed, tokens, &Device::Cpu).unwrap();
                assert_eq!(room.pack().packed(), alone.pack().packed());
                for (got, want) in [(room.firsts(), alone.firsts()), (room.sequence_of(), alone.sequence_of())] {
                    assert_eq!(got.to_vec::<u32>().unwrap(), want.to_vec::<u32>().unwrap());
                }
                assert_eq!(room.pack().owner(room.pack().packed().sequences() - 1), lengths.len() as u32 - 1);
            } else {
                assert!(set.unwrap_err().to_string().contains("there is room for 5"));
            }
        }
        assert_eq!(device.allocations(), made);
    }
}
