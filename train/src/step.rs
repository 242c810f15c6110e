//! [`Learner`]: a model, and everything that a step of its training needs, allocated once.

use packscan_kernels::sum_rows;
use packscan_runtime::{Buffer, Dtype};

use crate::activations::Tensor::Losses;
use crate::activations::{Activations, Recompute, Sizes};
use crate::{DevicePack, Error, Gradients, Model, Optimiser, Rates, Result};

/// A model that learns.
#[derive(Debug)]
pub struct Learner {
    /// The model.
    pub model: Model,
    /// The state of its optimiser.
    pub optimiser: Optimiser,
    activations: Activations,
    gradients: Gradients,
    /// `(1)` f32: one over the predicted tokens of the step.
    scale: Buffer,
    /// Sums of the losses of each pack of the step, f32, four floats apart.
    losses: Buffer,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Mean loss of a predicted token, in nats.
    pub loss: f64,
    /// Mean loss of each pack.
    pub losses: Vec<f64>,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f32,
    /// Whether loss or gradients were not finite, and nothing was changed.
    pub skipped: bool,
}

/// Floats from the sum of one pack to that of the next: a tensor starts at a multiple of 16 bytes.
const APART: usize = 4;

impl Learner {
    /// Room for steps of up to `packs` packs of up to `tokens` tokens.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(model: Model, tokens: usize, packs: usize, recompute: &[Recompute]) -> Result<Learner> {
        let sizes = Sizes {
            config: model.config.clone(),
            io: model.io,
            tokens,
            chunk: model.variants.scan.chunk as usize,
            recompute: recompute.to_vec(),
        };
        let device = model.device.clone();
        Ok(Learner {
            optimiser: Optimiser::new(&model)?,
            activations: Activations::new(&device, sizes)?,
            gradients: model.gradients(tokens)?,
            scale: Buffer::unwritten(&device, Dtype::F32, 1)?,
            losses: Buffer::unwritten(&device, Dtype::F32, APART * packs)?,
            model,
        })
    }

    /// One step: the gradients of the mean loss over all packs, and the update of every parameter. Waits for the device at its end.
    ///
    /// # Errors
    /// For more or larger packs than there is room for, and whatever launching fails with.
    pub fn step(&mut self, packs: &[DevicePack], rates: &Rates, learning_rate: f32) -> Result<Report> {
        self.gradients.flat.zero()?;
        self.accumulate(packs, packs.iter().map(|pack| pack.predicted).sum())?;
        self.model.decay_gradients(&self.gradients.flat)?;
        let stepped = self.optimiser.step(&self.model, &self.gradients.flat, rates, learning_rate)?;
        let (loss, losses) = self.mean_losses(packs)?;
        Ok(Report { loss, losses, gradient_norm: stepped.gradient_norm, skipped: stepped.skipped })
    }

    /// Adds the gradients of packs, of the mean over `predicted` tokens. Those of A_log are still those of A.
    fn accumulate(&mut self, packs: &[DevicePack], predicted: usize) -> Result<()> {
        if APART * packs.len() > self.losses.len() {
            return Err(Error::Config {
                field: "packs",
                got: packs.len().to_string(),
                rule: format!("there is room for {} in a step", self.losses.len() / APART),
            });
        }
        self.scale.write(&[1.0 / predicted.max(1) as f32])?;
        let Learner { model, activations, gradients, scale, losses, .. } = self;
        for (i, pack) in packs.iter().enumerate() {
            model.forward(pack, activations)?;
            model.loss(pack, activations, scale.view(), Some(gradients))?;
            let sizes = sum_rows::Sizes { groups: 1, rows: pack.tokens(), columns: 1 };
            let sum = sum_rows::default_variant(&sizes, Dtype::F32, false);
            let of_tokens = activations.view(0, Losses, pack.tokens())?;
            sum_rows::forward(&model.nobody, &sum, &sizes, of_tokens, losses.part(APART * i, 1, 1)?)?;
            model.backward(pack, activations, gradients)?;
        }
        Ok(())
    }

    /// The mean loss over all packs and that of each.
    fn mean_losses(&self, packs: &[DevicePack]) -> Result<(f64, Vec<f64>)> {
        let sums = self.losses.to_vec::<f32>()?;
        let sums: Vec<f64> = sums.iter().step_by(APART).take(packs.len()).map(|&sum| sum.into()).collect();
        let means = std::iter::zip(&sums, packs).map(|(sum, pack)| sum / pack.predicted.max(1) as f64).collect();
        let predicted: usize = packs.iter().map(|pack| pack.predicted).sum();
        Ok((sums.iter().sum::<f64>() / predicted.max(1) as f64, means))
    }

    /// The loss of each token of a pack, 0 where there is no target, on the host; no gradients.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn token_losses(&mut self, pack: &DevicePack) -> Result<Vec<f32>> {
        self.scale.write(&[1.0f32])?;
        self.model.forward(pack, &self.activations)?;
        self.model.loss(pack, &self.activations, self.scale.view(), None)?;
        let losses = self.activations.all(Losses).to_vec::<f32>()?;
        Ok(losses[..pack.tokens()].to_vec())
    }

    /// The logits of each token of a pack, `(T, V)`, on the host.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn logits(&mut self, pack: &DevicePack) -> Result<Vec<f32>> {
        self.model.forward(pack, &self.activations)?;
        self.model.logits(pack, &self.activations)
    }

    /// The gradients of the mean loss over packs, without a step: `[layout.elements]`, on the host.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn gradients_of(&mut self, packs: &[DevicePack]) -> Result<(f64, Vec<f32>)> {
        self.gradients.flat.zero()?;
        self.accumulate(packs, packs.iter().map(|pack| pack.predicted).sum())?;
        self.model.decay_gradients(&self.gradients.flat)?;
        Ok((self.mean_losses(packs)?.0, self.gradients.flat.to_vec()?))
    }
}
