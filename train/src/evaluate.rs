//! Losses without gradients: what a model makes of text that it has not learnt from.

use packscan_runtime::Buffer;

use crate::activations::Activations;
use crate::activations::Tensor::Losses;
use crate::{Carry, DevicePack, Model, Result};

impl Model {
    /// The loss of each token of a pack in nats, `[T]`, 0 where there is no target, on the host.
    ///
    /// # Errors
    /// For a pack of more tokens than there is room for, and whatever launching fails with.
    pub fn losses(&self, pack: &DevicePack, activations: &Activations, carry: Carry<'_>) -> Result<Vec<f32>> {
        let scale = Buffer::from_slice(&self.device, &[1.0f32])?;
        self.forward(pack, activations, carry)?;
        self.loss(pack, activations, scale.view(), None)?;
        let mut losses = activations.all(Losses).to_vec::<f32>()?;
        losses.truncate(pack.tokens());
        Ok(losses)
    }
}
