//! Which pack has room: the two searches behind packing in a window, both far from looking at every pack.

/// The packs with each room, and the least room that is enough, in constant time: best fit.
///
/// Packs are listed by their room. A bit for each room says whether its list has any, and a bit for each 64 of those
/// bits whether any is set, so that a search looks at a handful of words for any capacity that a GPU can hold.
pub struct ByRoom {
    packs: Vec<Vec<u32>>,
    rooms: Vec<u64>,
    words: Vec<u64>,
}

impl ByRoom {
    /// For packs of `capacity` tokens.
    pub fn new(capacity: usize) -> ByRoom {
        let rooms = capacity / 64 + 1;
        ByRoom { packs: vec![Vec::new(); capacity + 1], rooms: vec![0; rooms], words: vec![0; rooms / 64 + 1] }
    }

    /// Notes a pack with this room.
    pub fn add(&mut self, room: usize, pack: u32) {
        self.packs[room].push(pack);
        self.rooms[room / 64] |= 1 << (room % 64);
        self.words[room / 4096] |= 1 << (room / 64 % 64);
    }

    /// Takes out a pack with the least room that is at least this, with its room.
    pub fn take(&mut self, least: usize) -> Option<(usize, u32)> {
        let word = match first_bit(&self.rooms, least, least / 64 + 1) {
            Some(room) => return self.pop(room),
            None => first_bit(&self.words, least / 64 + 1, self.words.len())?,
        };
        let room = first_bit(&self.rooms, word * 64, word + 1)?;
        self.pop(room)
    }

    fn pop(&mut self, room: usize) -> Option<(usize, u32)> {
        let pack = self.packs[room].pop()?;
        if self.packs[room].is_empty() {
            self.rooms[room / 64] &= !(1 << (room % 64));
            if self.rooms[room / 64] == 0 {
                self.words[room / 4096] &= !(1 << (room / 64 % 64));
            }
        }
        Some((room, pack))
    }
}

/// The first bit that is set, from bit `from` up to the end of word `words`, exclusive.
fn first_bit(bits: &[u64], from: usize, words: usize) -> Option<usize> {
    let first = from / 64;
    let mut mask = u64::MAX << (from % 64);
    for (word, bits) in bits.iter().enumerate().take(words).skip(first) {
        if bits & mask != 0 {
            return Some(word * 64 + (bits & mask).trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

/// The first pack with room for a piece, in the logarithm of their number: first fit.
///
/// A binary tree over the packs: each node knows the most room below it.
pub struct ByOrder {
    most: Vec<usize>,
    leaves: usize,
}

impl ByOrder {
    /// For at most so many packs, all of them with the whole capacity to give.
    pub fn new(packs: usize, capacity: usize) -> ByOrder {
        let leaves = packs.next_power_of_two();
        ByOrder { most: vec![capacity; 2 * leaves], leaves }
    }

    /// Takes `need` tokens of the first pack that has them, and says which. There must be one.
    pub fn take(&mut self, need: usize) -> usize {
        debug_assert!(self.most[1] >= need, "there is a pack for each piece");
        let mut node = 1;
        while node < self.leaves {
            node = 2 * node + usize::from(self.most[2 * node] < need);
        }
        let pack = node - self.leaves;
        self.most[node] -= need;
        while node > 1 {
            node /= 2;
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
        pack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_room_that_is_enough() {
        for capacity in [1, 63, 64, 4096, 70_000] {
            let mut rooms = ByRoom::new(capacity);
            assert_eq!(rooms.take(0), None);
            rooms.add(capacity, 7);
            assert_eq!(rooms.take(1), Some((capacity, 7)));
            assert_eq!(rooms.take(1), None, "it was taken out");
        }
        let mut rooms = ByRoom::new(70_000);
        for room in [70_000, 5000, 63, 64, 0] {
            rooms.add(room, room as u32);
        }
        let taken = [1, 64, 64, 65, 1].map(|least| rooms.take(least).map(|(room, _)| room));
        assert_eq!(taken, [Some(63), Some(64), Some(5000), Some(70_000), None]);
    }

    #[test]
    fn the_first_that_has_room() {
        let mut packs = ByOrder::new(3, 10);
        assert_eq!([6, 6, 4, 5, 4].map(|need| packs.take(need)), [0, 1, 0, 2, 1]);
    }
}
