//! The forward pass over a pack, an operator a line. Shapes are those of the table in `activations.rs`.

use packscan_kernels::selective_scan::State;
use packscan_kernels::selective_scan::split::{self, Split};
use packscan_kernels::{causal_conv1d, embedding, rms_norm, selective_scan};
use packscan_runtime::{Segments, View};

use crate::activations::Tensor::*;
use crate::activations::{Activations, Recompute};
use crate::memory::{End, Memory};
use crate::{DevicePack, Model, Result, linear};

impl Model {
    /// Runs every block and the last norm, from the memory that continued sequences bring to the memory that all leave; what the backward pass needs is then in `activations`, and the norm of each token's last
    /// residual in [`Normed`] of the block after the last.
    ///
    /// # Errors
    /// For a pack of more tokens than there is room for, and whatever launching fails with.
    pub fn forward(&self, pack: &DevicePack, activations: &Activations, carry: Carry<'_>) -> Result<()> {
        activations.cutting().take(self, pack.packed.packed())?;
        let pass = Pass::new(self, pack, activations, carry);
        let table = self.weights.io(self.layout.embedding)?;
        embedding::forward(&pack.packed, &self.variants.embedding, table, &pack.ids, pass.get(0, Hidden)?)?;
        for l in 0..self.config.layers {
            pass.norm(l)?;
            pass.xz(l)?;
            pass.conv(l)?;
            pass.x_dbl(l)?;
            pass.delta(l)?;
            pass.scan(l, activations.sizes().recompute[l] < Recompute::Scan)?;
            linear::forward(
                &self.gemm,
                pass.get(l, Out)?,
                self.weights.io(self.layout.blocks[l].out_proj)?,
                pass.get(0, Hidden)?,
            )?;
        }
        pass.norm(self.config.layers)
    }
}

/// What a pass takes from the packs before and leaves to those after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carry<'a> {
    /// What continued sequences go on from.
    pub from: Option<&'a Memory>,
    /// What sequences leave.
    pub to: Option<&'a Memory>,
}

/// One pack on its way through a model.
pub(crate) struct Pass<'a> {
    pub model: &'a Model,
    pub pack: &'a DevicePack,
    pub activations: &'a Activations,
    pub carry: Carry<'a>,
    /// Which convolution and which scan run.
    conv: causal_conv1d::Forward,
    scan: selective_scan::Forward,
    scan_alone: selective_scan::Forward,
}

impl<'a> Pass<'a> {
    pub fn new(model: &'a Model, pack: &'a DevicePack, activations: &'a Activations, carry: Carry<'a>) -> Self {
        let (initial, last) = (carry.from.is_some(), carry.to.is_some());
        let conv = causal_conv1d::Forward { initial, last, ..model.variants.conv };
        let scan = |variant| selective_scan::Forward { initial, last, ..variant };
        let (scan, scan_alone) = (scan(model.variants.scan), scan(model.variants.scan_alone));
        Pass { model, pack, activations, carry, conv, scan, scan_alone }
    }

    /// Sequences, S.
    pub fn sequences(&self) -> usize {
        self.pack.packed.packed().sequences()
    }

    /// A tensor of a block.
    pub fn get(&self, block: usize, tensor: crate::activations::Tensor) -> Result<View<'a>> {
        self.activations.view(block, tensor, self.pack.tokens())
    }

    /// The weight of a block's norm, or of the last.
    pub fn norm_weight(&self, l: usize) -> Result<View<'a>> {
        let Model { layout, weights, .. } = self.model;
        weights.f32(layout.blocks.get(l).map_or(layout.norm_f, |block| block.norm))
    }

    /// `residual = residual + hidden; normed = norm(residual)`
    fn norm(&self, l: usize) -> Result<()> {
        let Model { variants, epsilon, .. } = self.model;
        let inputs = rms_norm::Inputs {
            x: Some(self.get(0, Hidden)?),
            residual: (l > 0).then(|| self.get(l - 1, Residual)).transpose()?,
            weight: self.norm_weight(l)?,
            epsilon: epsilon.view(),
        };
        let outputs = rms_norm::Outputs {
            y: self.get(l, Normed)?,
            residual: Some(self.get(l, Residual)?),
            rstd: Some(self.get(l, Rstd)?),
        };
        let variant = if l > 0 { &variants.norm } else { &variants.first_norm };
        rms_norm::forward(&self.pack.packed, variant, &inputs, &outputs)?;
        Ok(())
    }

    /// `normed = norm(residual)`, bit for bit what it was.
    fn norm_again(&self, l: usize) -> Result<()> {
        let Model { variants, epsilon, .. } = self.model;
        let inputs = rms_norm::Inputs {
            x: None,
            residual: Some(self.get(l, Residual)?),
            weight: self.norm_weight(l)?,
            epsilon: epsilon.view(),
        };
        let outputs = rms_norm::Outputs { y: self.get(l, Normed)?, residual: None, rstd: None };
        rms_norm::forward(&self.pack.packed, &variants.norm_again, &inputs, &outputs)?;
        Ok(())
    }

    /// `xz = normed * in_proj^T`
    fn xz(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, .. } = self.model;
        linear::forward(gemm, self.get(l, Normed)?, weights.io(layout.blocks[l].in_proj)?, self.get(l, Xz)?)
    }

    /// What both passes of the convolution read: the first half of xz, in place.
    pub fn conv_inputs(&self, l: usize) -> Result<causal_conv1d::Inputs<'a>> {
        let Model { layout, weights, config, .. } = self.model;
        let (block, sequences) = (&layout.blocks[l], self.sequences());
        if let Some(from) = self.carry.from {
            from.recall_history(self.model, l, sequences, End::First)?;
        }
        Ok(causal_conv1d::Inputs {
            x: self.get(l, Xz)?.columns(0, config.channels())?,
            w: weights.f32(block.conv)?,
            b: Some(weights.f32(block.conv_bias)?),
            history: self.carry.from.map(|from| from.histories(l, sequences)).transpose()?,
        })
    }

    /// `u = silu(conv(x))`
    fn conv(&self, l: usize) -> Result<()> {
        let sequences = self.sequences();
        let history = self.carry.to.map(|to| to.histories(l, sequences)).transpose()?;
        let outputs = causal_conv1d::Outputs { out: self.get(l, U)?, history };
        causal_conv1d::forward(&self.pack.packed, &self.conv, &self.conv_inputs(l)?, &outputs)?;
        self.carry.to.map_or(Ok(()), |to| to.keep_history(self.model, l, sequences, End::Last))
    }

    /// `x_dbl = u * x_proj^T`
    fn x_dbl(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, .. } = self.model;
        linear::forward(gemm, self.get(l, U)?, weights.io(layout.blocks[l].x_proj)?, self.get(l, XDbl)?)
    }

    /// `delta = dt * dt_proj^T`; the bias and softplus are the scan's.
    fn delta(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, config, .. } = self.model;
        let dt = self.get(l, XDbl)?.columns(0, config.rank)?;
        linear::forward(gemm, dt, weights.io(layout.blocks[l].dt_proj)?, self.get(l, Delta)?)
    }

    /// What both passes of the scan read: B, C and z in place.
    pub fn scan_inputs(&self, l: usize) -> Result<selective_scan::Inputs<'a>> {
        let Model { layout, weights, config, .. } = self.model;
        let (block, d, n, r) = (&layout.blocks[l], config.channels(), config.state, config.rank);
        let (x_dbl, sequences) = (self.get(l, XDbl)?, self.sequences());
        if let Some(from) = self.carry.from {
            from.recall_state(self.model, l, sequences, End::First)?;
        }
        Ok(selective_scan::Inputs {
            u: self.get(l, U)?,
            delta: self.get(l, Delta)?,
            a: self.model.a(l)?,
            b: x_dbl.columns(r, n)?,
            c: x_dbl.columns(r + n, n)?,
            d_skip: Some(weights.f32(block.d_skip)?),
            delta_bias: Some(weights.f32(block.dt_bias)?),
            z: Some(self.get(l, Xz)?.columns(d, d)?),
            initial_state: self.carry.from.map(|from| from.states(l, sequences)).transpose()?,
        })
    }

    /// `out = scan(u, delta, A, B, C) * silu(z)`. Checkpoints are for a backward pass that comes before the next block's.
    fn scan(&self, l: usize, checkpoints: bool) -> Result<()> {
        let sequences = self.sequences();
        let outputs = selective_scan::Outputs {
            out: self.get(l, Out)?,
            final_state: self.carry.to.map(|to| to.states(l, sequences)).transpose()?,
            checkpoints: checkpoints.then(|| self.get(l, Checkpoints)).transpose()?,
        };
        let variant = if checkpoints { &self.scan } else { &self.scan_alone };
        let (packed, inputs) = (&self.pack.packed, self.scan_inputs(l)?);
        match &self.activations.cutting().segments() {
            Some(segments) => {
                let state = State::for_forward(&self.scan, self.model.config.channels());
                split::forward(packed, variant, None, &inputs, &outputs, &self.split(l, segments, state)?)?
            }
            None => selective_scan::forward(packed, variant, None, &inputs, &outputs)?,
        };
        self.carry.to.map_or(Ok(()), |to| to.keep_state(self.model, l, sequences, End::Last))
    }

    /// How the scan of a block passes states between segments.
    pub fn split<'s>(&'s self, l: usize, segments: &'s Segments, state: State) -> Result<Split<'s>> {
        let entering = self.activations.entering(l, segments.pack().packed().sequences())?;
        let (join, scratch) = (selective_scan::default_join(state.state), &self.activations.cutting().scratch);
        Ok(Split { segments, state, join, entering, scratch })
    }

    /// Computes again what a block did not keep. Of the last one, what other blocks shared with it is still there, but for what the scan made.
    pub fn recompute(&self, l: usize) -> Result<()> {
        let kind = self.activations.sizes().recompute[l];
        if kind > Recompute::None && l + 1 < self.model.config.layers {
            self.norm_again(l)?;
            if kind == Recompute::Full {
                self.xz(l)?;
            }
            self.conv(l)?;
            self.delta(l)?;
        }
        if kind >= Recompute::Scan {
            self.scan(l, true)?;
        }
        Ok(())
    }
}
