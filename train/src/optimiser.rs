//! The optimiser: norm, clipping and AdamW over the flat buffers, and the schedule of its learning rate.

use std::ops::Range;

use packscan_kernels::adamw::{self, Step};
use packscan_kernels::grad_norm;
use packscan_runtime::{Buffer, Dtype};
use serde::{Deserialize, Serialize};

use crate::parameters::{Layout, Updated};
use crate::report::number::counted;
use crate::{Error, Model, Result};

/// How fast a run learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Learning rate after warm-up.
    pub learning_rate: f32,
    /// That of the last step, as a share of it.
    pub final_share: f32,
    /// Steps over which it rises from 0.
    pub warmup: u32,
    /// Steps of the whole run: the rate falls along half a cosine.
    pub steps: u32,
    /// Decay rates of the moments.
    pub betas: (f32, f32),
    /// Keeps the step finite where a gradient was always 0.
    pub eps: f32,
    /// Weight decay of matrices.
    pub decay: f32,
    /// The largest norm of all gradients together; none clips nothing.
    pub clip: Option<f32>,
}

impl Default for Rates {
    /// What language models of these sizes are usually trained with, for a run of a thousand steps.
    fn default() -> Rates {
        Rates {
            learning_rate: 6e-4,
            final_share: 0.1,
            warmup: 50,
            steps: 1000,
            betas: (0.9, 0.95),
            eps: 1e-8,
            decay: 0.1,
            clip: Some(1.0),
        }
    }
}

impl Rates {
    /// The steps of warm-up where nobody names others: a tenth of all, at most 1000.
    pub fn usual_warmup(steps: u32) -> u32 {
        (steps / 10).min(1000)
    }

    /// The same for another number of steps. Warm-up stays as long as it was, so that the rate goes on from where it is; only one that was
    /// usual and no longer fits is the usual one of `steps`.
    pub fn until(&self, steps: u32) -> Rates {
        let keeps = self.warmup <= steps || self.warmup != Rates::usual_warmup(self.steps);
        let warmup = if keeps { self.warmup } else { Rates::usual_warmup(steps) };
        Rates { warmup, steps, ..self.clone() }
    }

    /// The rate of step `step`, from 1.
    pub fn at(&self, step: u32) -> f32 {
        if step <= self.warmup {
            return self.learning_rate * (step as f32 / self.warmup as f32);
        }
        let done = (step - self.warmup) as f32 / self.steps.saturating_sub(self.warmup).max(1) as f32;
        let cosine = 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos());
        self.learning_rate * (self.final_share + (1.0 - self.final_share) * cosine)
    }

    /// Checks what the numbers of each single step cannot show.
    ///
    /// # Errors
    /// [`Error::Config`] by name; [`packscan_runtime::Error::Argument`] for what no step of AdamW can use.
    pub fn check(&self) -> Result<()> {
        let wrong = |field, got: String, rule: &str| Err(Error::Config { field, got, rule: rule.to_owned() });
        if self.learning_rate.is_nan() || self.learning_rate <= 0.0 {
            return wrong("learning_rate", self.learning_rate.to_string(), "it must be above 0, usually 1e-4 to 3e-3");
        }
        if self.learning_rate > 1.0 {
            return wrong(
                "learning_rate",
                self.learning_rate.to_string(),
                "AdamW moves every weight by about that much a step; take at most 1, usually 1e-4 to 3e-3",
            );
        }
        if !(0.0..=1.0).contains(&self.final_share) {
            return wrong(
                "final_share",
                self.final_share.to_string(),
                "it is a share of the learning rate, from 0 to 1",
            );
        }
        if self.steps == 0 {
            return wrong("steps", "0".to_owned(), "a run has at least one step");
        }
        if self.warmup > self.steps {
            let rule = format!(
                "the run has {}, and the rate would never get there; take fewer",
                counted(self.steps.into(), "step")
            );
            return wrong("warmup", self.warmup.to_string(), &rule);
        }
        if let Some(clip) = self.clip.filter(|clip| grad_norm::limit(*clip).is_err()) {
            let rule =
                "it is the largest norm of the gradients, a finite number above 0, usually 1; --clip 0 clips nothing";
            return wrong("clip", clip.to_string(), rule);
        }
        self.numbers(1, self.learning_rate, self.decay).scalars()?;
        if self.learning_rate * self.decay >= 1.0 {
            let rule =
                "a step takes learning_rate times decay of every weight away, which must be below 1; take about 0.1";
            return wrong("decay", self.decay.to_string(), rule);
        }
        Ok(())
    }

    fn numbers(&self, step: u32, learning_rate: f32, decay: f32) -> Step {
        Step { step, learning_rate, beta1: self.betas.0, beta2: self.betas.1, eps: self.eps, decay, grad_scale: 1.0 }
    }
}

/// The moments of a model's parameters, and what a step needs beside them.
#[derive(Debug)]
pub struct Optimiser {
    /// `[share.len() + layout.elements - layout.products]` f32: first moments, of the share and of what is no matrix.
    pub m: Buffer,
    /// Second moments, likewise.
    pub v: Buffer,
    /// Of which matrices a step updates parameters and moments: of all, or of a rank's share. What is no matrix is little, and each rank
    /// updates all of it.
    pub share: Range<usize>,
    /// Steps that were taken; those whose gradients were not finite do not count.
    pub taken: u32,
    parts: Buffer,
    /// `(1)`, `(3)`, and `(8)` for what decays and what does not, f32
    limit: Buffer,
    /// Norm and what comes of it: see [`grad_norm::clip`].
    pub(crate) result: Buffer,
    scalars: [Buffer; 2],
}

impl Optimiser {
    /// Moments of zero, of all matrices or of a share of them, and of all other parameters.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(model: &Model, share: Range<usize>) -> Result<Optimiser> {
        let floats = |len| Buffer::unwritten(&model.device, Dtype::F32, len);
        let elements = model.layout.elements;
        let optimiser = Optimiser {
            m: floats(share.len() + elements - model.layout.products)?,
            v: floats(share.len() + elements - model.layout.products)?,
            share,
            taken: 0,
            parts: floats(grad_norm::parts(&model.variants.grad_norm, elements))?,
            limit: floats(1)?,
            result: floats(3)?,
            scalars: [floats(8)?, floats(8)?],
        };
        optimiser.m.zero()?;
        optimiser.v.zero()?;
        Ok(optimiser)
    }

    /// Updates the parameters of the share by `gradients`, `[layout.elements]` f32, at a learning rate.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn step(&mut self, model: &Model, gradients: &Buffer, rates: &Rates, learning_rate: f32) -> Result<()> {
        self.limit.write(&grad_norm::limit(rates.clip.unwrap_or(f32::MAX))?)?;
        grad_norm::forward(&model.nobody, &model.variants.grad_norm, gradients.view(), self.parts.view())?;
        grad_norm::clip(&model.nobody, &grad_norm::CLIP, self.parts.view(), self.limit.view(), self.result.view())?;

        let [decay, none] = &self.scalars;
        for (scalars, decay) in [(decay, rates.decay), (none, 0.0)] {
            scalars.write(&rates.numbers(self.taken + 1, learning_rate, decay).scalars()?)?;
        }
        let Layout { products, decaying, elements, .. } = model.layout;
        for (group, scalars) in [(self.share.clone(), decay), (products..decaying, decay), (decaying..elements, none)] {
            let (n, before) = (group.len(), self.place(&model.layout, group.start));
            let Updated { kept, p, copy, rests } = model.weights.updated(&group)?;
            let range = adamw::Range {
                p,
                m: self.m.part(before, n, 1)?,
                v: self.v.part(before, n, 1)?,
                g: gradients.part(group.start, n, 1)?,
                scalars: scalars.view(),
                clip: Some(self.result.view()),
                copy,
                rests,
            };
            adamw::forward(&model.nobody, &model.variants.adamw.keeping(kept), &range)?;
        }
        Ok(())
    }

    /// Where in `m` and `v` the moments of an element are, if they are there at all.
    pub(crate) fn place(&self, layout: &Layout, element: usize) -> usize {
        if element < layout.products {
            element - self.share.start
        } else {
            element - layout.products + self.share.len()
        }
    }

    /// Counts a step that is over, by its `result`: the norm of all gradients together, before clipping, and whether they were not finite
    /// and nothing was changed.
    pub(crate) fn finish(&mut self, result: &[f32]) -> (f32, bool) {
        let skipped = result[2] != 0.0;
        self.taken += u32::from(!skipped);
        (result[1], skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates {
            learning_rate: 1e-3,
            final_share: 0.1,
            warmup: 10,
            steps: 110,
            betas: (0.9, 0.95),
            eps: 1e-8,
            decay: 0.1,
            clip: Some(1.0),
        }
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates = rates();
        assert!((rates.at(1) - 1e-4).abs() < 1e-10 && rates.at(10) == 1e-3);
        assert!((rates.at(60) - 0.55e-3).abs() < 1e-9 && (rates.at(110) - 1e-4).abs() < 1e-9);
        assert!((11..110).all(|step| rates.at(step + 1) < rates.at(step)));
    }

    #[test]
    fn rates_that_make_no_sense_are_refused_by_name() {
        let wrong = |change: fn(&mut Rates)| {
            let mut rates = rates();
            change(&mut rates);
            rates.check().unwrap_err().to_string()
        };
        assert!(wrong(|r| r.learning_rate = f32::NAN).starts_with("learning_rate is NaN"));
        assert!(wrong(|r| r.learning_rate = 6.0).starts_with("learning_rate is 6"));
        assert!(wrong(|r| r.warmup = 111).starts_with("warmup is 111"));
        assert!(wrong(|r| r.clip = Some(0.0)).starts_with("clip is 0"));
        assert!(wrong(|r| r.betas.1 = 1.0).starts_with("beta2 is 1"));
        assert!(rates().check().is_ok());
    }
}
