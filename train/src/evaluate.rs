//! Losses without gradients: what a model makes of text that it has not learnt from.

use packscan_data::Pack;

use crate::activations::Tensor::Losses;
use crate::activations::{Activations, Sizes};
use crate::run::place;
use crate::{Carry, DevicePack, Memory, Model, Result};

impl Model {
    /// The loss of each token of a pack in nats, `[T]`, 0 where there is no target, on the host.
    ///
    /// # Errors
    /// For a pack of more tokens than there is room for, and whatever launching fails with.
    pub fn losses(&self, pack: &DevicePack, activations: &Activations, carry: Carry<'_>) -> Result<Vec<f32>> {
        self.forward(pack, activations, carry)?;
        self.loss(pack, activations, self.unit.view(), None)?;
        Ok(activations.view(0, Losses, pack.tokens())?.to_vec()?)
    }
}

/// Sums of losses over the packs of a text, in which documents may go on from pack to pack.
#[derive(Debug)]
pub struct Evaluator<'a> {
    model: &'a Model,
    activations: Activations,
    /// What the pack before left, and room for what this one leaves.
    memories: [Memory; 2],
    room: DevicePack,
    /// Sum of the losses so far, in nats.
    pub loss: f64,
    /// Predicted tokens so far.
    pub predicted: usize,
}

impl<'a> Evaluator<'a> {
    /// Room for packs of up to `tokens`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(model: &'a Model, tokens: usize) -> Result<Evaluator<'a>> {
        let activations = Activations::new(&model.device, Sizes::of_forward(model, tokens))?;
        let memories = [Memory::of_one(model)?, Memory::of_one(model)?];
        let room = DevicePack::with_room(&model.device, tokens, model.config.vocabulary)?;
        Ok(Evaluator { model, activations, memories, room, loss: 0.0, predicted: 0 })
    }

    /// Adds the next pack of the text.
    ///
    /// # Errors
    /// As [`DevicePack::new`], and whatever launching fails with.
    pub fn add(&mut self, pack: &Pack) -> Result<()> {
        place(pack, &mut self.room)?;
        let pack = &self.room;
        let sequences = pack.packed.packed().sequences();
        self.memories.iter_mut().try_for_each(|memory| memory.reserve(self.model, sequences))?;
        let from = pack.is_continued().then_some(&self.memories[0]);
        let to = pack.continues.then_some(&self.memories[1]);
        let losses = self.model.losses(pack, &self.activations, Carry { from, to })?;
        self.loss += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.predicted += pack.predicted;
        self.memories.swap(0, 1);
        Ok(())
    }
}
