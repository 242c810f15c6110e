//! Activations in the memory that gradients will have later.
//!
//! The backward pass goes through the blocks from the last to the first. Of each it reads what that block keeps, makes the gradients of its
//! matrices, and never comes back. So the gradients of a block's matrices can lie where activations of later blocks were; a step that starts
//! with its first pack has nothing there yet. Of a model of 2.8 billion parameters that is 10 GB which need not be had twice.
//!
//! What a block keeps is placed before the gradients of its own matrices, the last block's first, from the end to the start. The embedding's gradients
//! come with the loss, and those of vectors lie side by side for all blocks: nothing is placed there. Where a step has several packs, the
//! gradients of one are there while the next goes forward, and nothing is placed at all.

use packscan_runtime::{Buffer, Dtype};

use super::Sizes;
use crate::parameters::Layout;

impl Sizes {
    /// For each block, and for each room of its own in the order of `Sizes::own`: the byte of the flat buffer of gradients at which it starts, if it
    /// lies there.
    pub(super) fn places(&self) -> Vec<Vec<Option<usize>>> {
        let layout = Layout::of(&self.config);
        let byte = |element| element * Dtype::F32.bytes();
        let matrices = |l| byte(layout.matrices(l).start);
        let first = matrices(0);
        let mut end = byte(layout.products);
        let mut places: Vec<Vec<Option<usize>>> = Vec::new();
        for (l, &recompute) in self.recompute.iter().enumerate().rev() {
            end = end.min(matrices(l));
            let place = |room: &super::Room| {
                let start = end.checked_sub(room.bytes())? / Buffer::ALIGNMENT_BYTES * Buffer::ALIGNMENT_BYTES;
                (start >= first).then(|| {
                    end = start;
                    start
                })
            };
            places.push(self.own(recompute).iter().map(place).collect());
        }
        places.reverse();
        places
    }

    /// Bytes of activations that lie in the memory of gradients, where they may.
    pub fn lent_bytes(&self) -> usize {
        let of_block = |(recompute, places): (&_, Vec<Option<usize>>)| -> usize {
            std::iter::zip(self.own(*recompute), places)
                .filter(|(_, place)| place.is_some())
                .map(|(room, _)| room.bytes())
                .sum()
        };
        std::iter::zip(&self.recompute, self.places()).map(of_block).sum()
    }
}
