//! The loss and the backward pass over a pack: the mirror of `forward.rs`, an operator a line.

use std::ops::Range;

use packscan_kernels::selective_scan::{State, split};
use packscan_kernels::sum_rows::{self, Sum};
use packscan_kernels::{causal_conv1d, cross_entropy, embedding, rms_norm, selective_scan};
use packscan_runtime::{Buffer, Packed, View};

use crate::activations::Activations;
use crate::activations::Tensor::{self, *};
use crate::forward::{Carry, Pass};
use crate::memory::{End, Memory};
use crate::model::Workspaces;
use crate::parameters::{Slot, part};
use crate::{DevicePack, Model, Result, linear};

/// Where gradients go.
#[derive(Debug)]
pub struct Gradients {
    /// `[layout.elements]` f32; after a backward pass what lies between parameters is 0.
    pub flat: Buffer,
    /// Whether the next pack's are added to what is there. If not, they are written over it, whatever it is.
    pub add: bool,
    workspaces: Workspaces,
}

impl Model {
    /// Room for gradients of passes over packs of up to `tokens`; the first pack's are written over what is there.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn gradients(&self, tokens: usize) -> Result<Gradients> {
        let flat = Buffer::unwritten(&self.device, packscan_runtime::Dtype::F32, self.layout.elements)?;
        flat.zero()?;
        Ok(Gradients { flat, add: false, workspaces: self.workspaces(tokens)? })
    }

    /// The logits of a pack's tokens after [`Model::forward`], `(T, V)`, on the host.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn logits(&self, pack: &DevicePack, activations: &Activations) -> Result<Vec<f32>> {
        let pass = Pass::new(self, pack, activations, Carry::default());
        let (last, tokens) = (self.config.layers, pack.tokens());
        let normed = pass.get(last, Normed)?;
        let chunk = activations.sizes().logits_rows();
        let mut all = Vec::with_capacity(tokens * self.config.vocabulary);
        for start in (0..tokens).step_by(chunk) {
            let rows = chunk.min(tokens - start);
            let logits = pass.get(last, Logits)?.rows_at(0, rows)?;
            linear::forward(&self.gemm, normed.rows_at(start, rows)?, self.weights.io(self.layout.head)?, logits)?;
            all.extend(logits.to_f32()?);
        }
        Ok(all)
    }

    /// The losses of a pack's tokens after [`Model::forward`], into [`Losses`]. With gradients also those of the head, and that of the
    /// last norm into [`DNormed`]; `scale (1)` f32 is the gradient of the whole with respect to each token's loss.
    ///
    /// The logits of a few thousand tokens exist at a time.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn loss(
        &self,
        pack: &DevicePack,
        activations: &Activations,
        scale: View<'_>,
        gradients: Option<&Gradients>,
    ) -> Result<()> {
        activations.check_accumulation(gradients.is_some_and(|gradients| gradients.add))?;
        let pass = Pass::new(self, pack, activations, Carry::default());
        let (last, tokens) = (self.config.layers, pack.tokens());
        let (normed, dnormed, losses) = (pass.get(last, Normed)?, pass.get(last, DNormed)?, pass.get(last, Losses)?);
        let head = self.weights.io(self.layout.head)?;
        let chunk = activations.sizes().logits_rows();
        // To the loss, tokens are rows, of whatever sequence.
        let mut piece = self.rows.borrow_mut();
        if let Some(gradients) = gradients.filter(|gradients| tokens == 0 && !gradients.add) {
            part(&gradients.flat, self.layout.head)?.zero()?;
        }
        for start in (0..tokens).step_by(chunk) {
            let rows = chunk.min(tokens - start);
            if piece.packed().tokens() != rows {
                piece.set(&Packed::from_lengths(&[rows])?)?;
            }
            let logits = pass.get(last, Logits)?.rows_at(0, rows)?;
            let normed = normed.rows_at(start, rows)?;
            linear::forward(&self.gemm, normed, head, logits)?;
            let tensors = cross_entropy::Tensors {
                logits,
                targets: pack.targets.view().rows_at(start, rows)?,
                scale,
                loss: losses.rows_at(start, rows)?,
            };
            cross_entropy::forward(&piece, &self.variants.loss, &tensors)?;
            if let Some(gradients) = gradients {
                linear::backward_input(&self.gemm, logits, head, dnormed.rows_at(start, rows)?, false)?;
                let (dhead, add) = (part(&gradients.flat, self.layout.head)?, gradients.add || start > 0);
                linear::backward_weight(&self.gemm, logits, normed, dhead, add)?;
            }
        }
        Ok(())
    }

    /// Makes the gradients of every parameter, after [`Model::loss`]; those of the next pack add to them. Those of A are where those of
    /// A_log belong: what makes them that is done once a step. `done` is called with each range of the flat buffer to which nothing more will be added.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn backward(
        &self,
        pack: &DevicePack,
        activations: &Activations,
        gradients: &mut Gradients,
        edges: Edges<'_>,
        done: &mut dyn FnMut(View<'_>) -> Result<()>,
    ) -> Result<()> {
        let Gradients { flat, add, workspaces } = gradients;
        activations.check_accumulation(*add)?;
        let carry = Carry { from: edges.from, to: None };
        let pass = Backward { pass: Pass::new(self, pack, activations, carry), flat, add: *add, edges };
        sum_rows::all(&pack.packed, &[pass.norm(self.config.layers, workspaces)?], *add)?;
        for l in (0..self.config.layers).rev() {
            pass.pass.recompute(l)?;
            pass.out_proj(l)?;
            let mut sums = pass.scan(l, workspaces)?;
            pass.projections(l)?;
            sums.extend(pass.conv(l, workspaces)?);
            pass.in_proj(l)?;
            sums.push(pass.norm(l, workspaces)?);
            sum_rows::all(&pack.packed, &sums, *add)?;
            if activations.are_lent() {
                for gap in self.layout.gaps(l) {
                    range(flat, gap)?.zero()?;
                }
            }
            done(range(flat, self.layout.matrices(l))?)?;
        }
        let table = part(flat, self.layout.embedding)?;
        // Rows of ids that do not occur stay as they are. Where the head is the same table, the loss has written all of it.
        if !*add && !self.config.tied {
            table.zero()?;
        }
        embedding::backward(&pack.packed, &self.variants.embedding_bwd, pass.pass.get(0, Hidden)?, &pack.by_id, table)?;
        done(range(flat, 0..self.layout.matrices(0).start)?)?;
        *add = true;
        done(range(flat, self.layout.products..self.layout.elements)?)
    }
}

fn range(flat: &Buffer, range: Range<usize>) -> Result<View<'_>> {
    Ok(flat.part(range.start, range.len(), 1)?)
}

/// What crosses the edges of a pack on the way back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edges<'a> {
    /// What continued sequences went on from.
    pub from: Option<&'a Memory>,
    /// Where its gradient goes; given exactly if there is one.
    pub from_gradient: Option<&'a Memory>,
    /// The gradient of what sequences left, if any loss depends on it.
    pub to_gradient: Option<&'a Memory>,
}

/// A pass on its way back.
struct Backward<'a> {
    pass: Pass<'a>,
    flat: &'a Buffer,
    add: bool,
    edges: Edges<'a>,
}

impl<'a> Backward<'a> {
    fn get(&self, l: usize, tensor: Tensor) -> Result<View<'a>> {
        self.pass.get(l, tensor)
    }

    fn gradient(&self, slot: Slot) -> Result<View<'a>> {
        part(self.flat, slot)
    }

    /// The residual's gradient: what came along the stream plus what comes through the norm. Its copy in io goes to the block before, or
    /// to the embedding. Blocks take turns with two buffers.
    fn norm(&self, l: usize, workspaces: &'a Workspaces) -> Result<Sum<'a>> {
        let Model { variants, layout, config, .. } = self.pass.model;
        let (from, to) = if l.is_multiple_of(2) { (DResidual, DResidual2) } else { (DResidual2, DResidual) };
        let last = l == config.layers;
        let incoming = rms_norm::Incoming {
            dy: self.get(l, DNormed)?,
            r: self.get(l, Residual)?,
            rstd: self.get(l, Rstd)?,
            weight: self.pass.norm_weight(l)?,
            dr: (!last).then(|| self.get(l, from)).transpose()?,
        };
        let rows = (workspaces.norm.len() / config.width).min(self.pass.pack.tokens());
        let gradients = rms_norm::Gradients {
            residual: Some(self.get(l, to)?),
            x: Some(self.get(l, Hidden)?),
            weight: self.gradient(layout.blocks.get(l).map_or(layout.norm_f, |block| block.norm))?,
            add: self.add,
            parts: workspaces.norm.part(0, rows, config.width)?,
        };
        let variant = if last { &variants.last_norm_bwd } else { &variants.norm_bwd };
        Ok(rms_norm::backward_unsummed(&self.pass.pack.packed, variant, &incoming, &gradients)?.1)
    }

    /// Of `hidden = out * out_proj^T`
    fn out_proj(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, .. } = self.pass.model;
        let (slot, dhidden) = (layout.blocks[l].out_proj, self.get(l, Hidden)?);
        linear::backward_input(gemm, dhidden, weights.io(slot)?, self.get(l, DOut)?, false)?;
        linear::backward_weight(gemm, dhidden, self.get(l, Out)?, self.gradient(slot)?, self.add)
    }

    /// Of the scan: u, delta, and in place B, C in `dx_dbl` and z in `dxz`.
    fn scan(&self, l: usize, workspaces: &'a Workspaces) -> Result<Vec<Sum<'a>>> {
        let (model, sequences) = (self.pass.model, self.pass.sequences());
        let Model { layout, config, variants, .. } = model;
        let (block, d, n, r) = (&layout.blocks[l], config.channels(), config.state, config.rank);
        let dx_dbl = self.get(l, DXDbl)?;
        let Edges { from_gradient, to_gradient, .. } = self.edges;
        if let Some(to) = to_gradient {
            to.clear(l)?;
            to.recall_state(model, l, sequences, End::Last)?;
        }
        let upstream = selective_scan::Upstream {
            out: self.get(l, DOut)?,
            final_state: to_gradient.map(|to| to.states(l, sequences)).transpose()?,
            checkpoints: self.get(l, Checkpoints)?,
        };
        let gradients = selective_scan::Gradients {
            u: self.get(l, DU)?,
            delta: self.get(l, DDelta)?,
            a: self.gradient(block.a_log)?,
            b: dx_dbl.columns(r, n)?,
            c: dx_dbl.columns(r + n, n)?,
            d_skip: Some(self.gradient(block.d_skip)?),
            delta_bias: Some(self.gradient(block.dt_bias)?),
            add: self.add,
            z: Some(self.get(l, DXz)?.columns(d, d)?),
            initial_state: from_gradient.map(|from| from.states(l, sequences)).transpose()?,
        };
        let (initial, last) = (from_gradient.is_some(), to_gradient.is_some());
        let variant = selective_scan::Backward { initial, last, ..variants.scan_bwd };
        let (packed, inputs) = (&self.pass.pack.packed, self.pass.scan_inputs(l)?);
        let workspace = &workspaces.scan;
        let (_, sums) = match &self.pass.activations.cutting().segments() {
            Some(segments) => {
                let split = self.pass.split(l, segments, State::for_backward(&variant, d))?;
                split::backward_unsummed(packed, &variant, &inputs, &upstream, &gradients, workspace, &split)?
            }
            None => selective_scan::backward_unsummed(packed, &variant, &inputs, &upstream, &gradients, workspace)?,
        };
        from_gradient.map_or(Ok(()), |from| from.keep_state(model, l, sequences, End::First))?;
        Ok(sums)
    }

    /// Of `delta = dt * dt_proj^T` and `x_dbl = u * x_proj^T`
    fn projections(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, config, .. } = self.pass.model;
        let (block, ddelta, dx_dbl) = (&layout.blocks[l], self.get(l, DDelta)?, self.get(l, DXDbl)?);
        let (dt, ddt) = (self.get(l, XDbl)?.columns(0, config.rank)?, dx_dbl.columns(0, config.rank)?);
        linear::backward_input(gemm, ddelta, weights.io(block.dt_proj)?, ddt, false)?;
        linear::backward_weight(gemm, ddelta, dt, self.gradient(block.dt_proj)?, self.add)?;
        linear::backward_input(gemm, dx_dbl, weights.io(block.x_proj)?, self.get(l, DU)?, true)?;
        linear::backward_weight(gemm, dx_dbl, self.get(l, U)?, self.gradient(block.x_proj)?, self.add)
    }

    /// Of `u = silu(conv(x))`: x in the first half of `dxz`
    fn conv(&self, l: usize, workspaces: &'a Workspaces) -> Result<Vec<Sum<'a>>> {
        let (model, sequences) = (self.pass.model, self.pass.sequences());
        let Model { layout, config, variants, .. } = model;
        let block = &layout.blocks[l];
        let Edges { from_gradient, to_gradient, .. } = self.edges;
        if let Some(to) = to_gradient {
            to.recall_history(model, l, sequences, End::Last)?;
        }
        let history = to_gradient.map(|to| to.histories(l, sequences)).transpose()?;
        let upstream = causal_conv1d::Upstream { out: self.get(l, DU)?, history };
        let gradients = causal_conv1d::Gradients {
            x: self.get(l, DXz)?.columns(0, config.channels())?,
            w: self.gradient(block.conv)?,
            b: Some(self.gradient(block.conv_bias)?),
            add: self.add,
            history: from_gradient.map(|from| from.histories(l, sequences)).transpose()?,
        };
        let (initial, last) = (from_gradient.is_some(), to_gradient.is_some());
        let variant = causal_conv1d::Backward { initial, last, ..variants.conv_bwd };
        let (packed, inputs) = (&self.pass.pack.packed, self.pass.conv_inputs(l)?);
        let workspace = &workspaces.conv;
        let (_, sums) = causal_conv1d::backward_unsummed(packed, &variant, &inputs, &upstream, &gradients, workspace)?;
        from_gradient.map_or(Ok(()), |from| from.keep_history(model, l, sequences, End::First))?;
        Ok(sums)
    }

    /// Of `xz = normed * in_proj^T`
    fn in_proj(&self, l: usize) -> Result<()> {
        let Model { layout, weights, gemm, .. } = self.pass.model;
        let (slot, dxz) = (layout.blocks[l].in_proj, self.get(l, DXz)?);
        linear::backward_input(gemm, dxz, weights.io(slot)?, self.get(l, DNormed)?, false)?;
        linear::backward_weight(gemm, dxz, self.get(l, Normed)?, self.gradient(slot)?, self.add)
    }
}
