//! Token ids, checked once, on a device; and the tokens grouped by their id.

use packscan_runtime::{Buffer, Device, Dtype, Error, Result, View};

/// The ids of a pack's tokens, `[T]`, each below the size of the vocabulary.
#[derive(Debug)]
pub struct Ids {
    host: Vec<u32>,
    buffer: Buffer,
    vocabulary: usize,
}

impl Ids {
    /// Checks the ids of all tokens and copies them to a device.
    ///
    /// # Errors
    /// [`Error::Tensor`] with the first token whose id is not below `vocabulary`; [`Error::Cuda`] where the device has no room.
    pub fn new(device: &Device, ids: &[u32], vocabulary: usize) -> Result<Ids> {
        let mut placed = Ids::with_room(device, ids.len(), vocabulary)?;
        placed.set(ids)?;
        Ok(placed)
    }

    /// Room for the ids of packs of up to `tokens` tokens that come one after the other; none are there yet.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn with_room(device: &Device, tokens: usize, vocabulary: usize) -> Result<Ids> {
        let mut buffer = Buffer::unwritten(device, Dtype::U32, tokens)?;
        buffer.refill::<u32>(&[])?;
        Ok(Ids { host: Vec::new(), buffer, vocabulary })
    }

    /// Takes the ids of another pack, after everything launched before; nothing is allocated.
    ///
    /// # Errors
    /// As [`Ids::new`], and [`Error::Buffer`] for more tokens than there is room for; the ids are then those that were there.
    pub fn set(&mut self, ids: &[u32]) -> Result<()> {
        let vocabulary = self.vocabulary;
        if let Some(t) = ids.iter().position(|&id| id as usize >= vocabulary) {
            return Err(Error::Tensor {
                id: "embedding".to_owned(),
                tensor: "ids",
                shape: "[T]",
                got: format!("token {t} has id {}", ids[t]),
                rule: format!(
                    "ids are below the size of the vocabulary, {vocabulary}; tokenise with the vocabulary of the model"
                ),
            });
        }
        self.buffer.refill(ids)?;
        self.host.clear();
        self.host.extend(ids);
        Ok(())
    }

    /// Entries of the vocabulary, V.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The ids, `[T]`, on the device.
    pub fn view(&self) -> View<'_> {
        self.buffer.view()
    }

    /// The tokens grouped by id, on the same device: what the backward pass needs.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn by_id(&self) -> Result<ById> {
        let mut grouped = ById::with_room(self.buffer.device(), self.host.len(), self.vocabulary)?;
        grouped.set(self)?;
        Ok(grouped)
    }
}

/// The tokens of a pack grouped by their id.
#[derive(Debug)]
pub struct ById {
    vocabulary: usize,
    ids: Buffer,
    starts: Buffer,
    order: Buffer,
}

impl ById {
    /// Room for the tokens of packs of up to `tokens` tokens that come one after the other; none are there yet.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn with_room(device: &Device, tokens: usize, vocabulary: usize) -> Result<ById> {
        let room = |len| Buffer::unwritten(device, Dtype::U32, len);
        let distinct = tokens.min(vocabulary);
        let mut grouped = ById { vocabulary, ids: room(distinct)?, starts: room(distinct + 1)?, order: room(tokens)? };
        grouped.refill(&Groups::of(&[]))?;
        Ok(grouped)
    }

    /// Takes the tokens of another pack, after everything launched before; nothing is allocated.
    ///
    /// # Errors
    /// [`Error::Buffer`] for more tokens than there is room for, or of a larger vocabulary.
    pub fn set(&mut self, ids: &Ids) -> Result<()> {
        self.refill(&Groups::of(&ids.host))?;
        self.vocabulary = ids.vocabulary;
        Ok(())
    }

    fn refill(&mut self, Groups { ids, starts, order }: &Groups) -> Result<()> {
        self.ids.refill(ids)?;
        self.starts.refill(starts)?;
        self.order.refill(order)
    }

    /// Bytes on the device of ids and groups for packs of up to `tokens`.
    pub fn bytes(tokens: usize, vocabulary: usize) -> usize {
        Dtype::U32.bytes() * (2 * tokens + 2 * tokens.min(vocabulary) + 1)
    }

    /// Entries of the vocabulary, V.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// How many ids occur, U.
    pub fn distinct(&self) -> usize {
        self.ids.len()
    }

    /// The ids that occur, `[U]`.
    pub(super) fn distinct_ids(&self) -> View<'_> {
        self.ids.view()
    }

    /// Where the tokens of each begin in the order, `[U + 1]`.
    pub(super) fn starts(&self) -> View<'_> {
        self.starts.view()
    }

    /// The tokens, those of one id side by side and in order, `[T]`.
    pub(super) fn order(&self) -> View<'_> {
        self.order.view()
    }
}

/// The same on the host.
#[derive(Debug, PartialEq, Eq)]
struct Groups {
    ids: Vec<u32>,
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl Groups {
    /// The most frequent id first, so that its block, which takes longest, does not start last; equally frequent ones by their number.
    fn of(ids: &[u32]) -> Groups {
        let mut by_id: Vec<u32> = (0..ids.len() as u32).collect();
        // Stable: the tokens of an id stay in order.
        by_id.sort_by_key(|&t| ids[t as usize]);
        let mut runs: Vec<&[u32]> = by_id.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.len()));

        let mut groups = Groups { ids: Vec::new(), starts: vec![0], order: Vec::with_capacity(ids.len()) };
        for run in runs {
            groups.ids.push(ids[run[0] as usize]);
            groups.order.extend(run);
            groups.starts.push(groups.order.len() as u32);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_grouped_in_order_the_largest_group_first() {
        let groups = Groups::of(&[7, 2, 9, 2, 7, 2]);
        assert_eq!(groups, Groups { ids: vec![2, 7, 9], starts: vec![0, 3, 5, 6], order: vec![1, 3, 5, 0, 4, 2] });
        assert_eq!(Groups::of(&[]), Groups { ids: vec![], starts: vec![0], order: vec![] });
    }

    #[test]
    fn packs_take_turns_in_one_room() {
        let device = Device::emulator(1);
        let (mut ids, mut grouped) =
            (Ids::with_room(&device, 5, 10).unwrap(), ById::with_room(&device, 5, 10).unwrap());
        assert_eq!(device.allocated_bytes(), ById::bytes(5, 10));
        for tokens in [&[7, 2, 7][..], &[], &[1, 2, 3, 4, 5], &[9]] {
            ids.set(tokens).unwrap();
            grouped.set(&ids).unwrap();
            let read = |view: View<'_>| view.to_vec::<u32>().unwrap();
            let got = Groups {
                ids: read(grouped.distinct_ids()),
                starts: read(grouped.starts()),
                order: read(grouped.order()),
            };
            assert_eq!((read(ids.view()).as_slice(), got), (tokens, Groups::of(tokens)));
        }
        assert!(ids.set(&[10]).is_err() && ids.set(&[0; 6]).is_err());
        assert_eq!(
            (ids.view().to_vec::<u32>().unwrap(), &ids.host),
            (vec![9], &vec![9]),
            "what is refused changes nothing"
        );
        assert_eq!(device.allocations(), 4);
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_refused_with_its_place() {
        let error = Ids::new(&Device::Cpu, &[3, 0, 5, 9], 5).unwrap_err().to_string();
        assert!(error.contains("token 2 has id 5") && error.contains("the vocabulary, 5"), "{error}");
        assert!(Ids::new(&Device::Cpu, &[3, 0, 4], 5).is_ok());
    }
}
