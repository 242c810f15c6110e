//! [`Learner`]: a model, and everything that a step of its training needs, allocated once.

use std::ops::Range;
use std::rc::Rc;

use packscan_kernels::{cast, sum_rows};
use packscan_runtime::collective::{Alone, Collective};
use packscan_runtime::{Buffer, Download, Dtype, Timestamp, View};

use crate::activations::Tensor::Losses;
use crate::activations::{Activations, Recompute, Sizes};
use crate::parameters::Layout;
use crate::{Carry, DevicePack, Edges, Error, Gradients, Memory, Model, ModelConfig, Optimiser, Rates, Result};

/// A model that learns.
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
    /// What the host will look at of the step under way: what the optimiser says, and the losses.
    outcome: [Download; 2],
    /// The step under way.
    started: Option<Started>,
    /// Whether gradients flow from a pack to the one before it, where a document was cut between them.
    flow: bool,
    /// What the packs of a chain leave to each other; the first is what the chain before left.
    memories: Vec<Memory>,
    /// Whether the pack before left something.
    left: bool,
    /// The gradients of two of them, in turns.
    memory_gradients: Vec<Memory>,
    /// The other ranks of the run.
    ranks: Rc<dyn Collective>,
    /// The end of the step that was reported last.
    ended: Timestamp,
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

/// A step that was launched.
#[derive(Debug)]
struct Started {
    /// Predicted tokens, on all ranks.
    predicted: f64,
    /// Of each pack of this rank.
    of_packs: Vec<usize>,
    /// When the device is done with it.
    ended: Timestamp,
}

/// Floats from the sum of one pack to that of the next: a tensor starts at a multiple of 16 bytes.
const APART: usize = 4;
/// Elements that a rank's share of the matrices is a multiple of: 16 bytes of the smallest type.
const SHARE_MULTIPLE: usize = 8;

/// The matrices whose moments a rank keeps: all, or with `shard` as many as every other.
fn share(layout: &Layout, ranks: &dyn Collective, shard: bool) -> Result<Range<usize>> {
    if !shard {
        return Ok(0..layout.products);
    }
    let shares = ranks.size();
    let len = layout.products / shares;
    if len * shares != layout.products || !len.is_multiple_of(SHARE_MULTIPLE) {
        let rule = "parameters can be shared out among 1 to 10, 12, 14, 15, 18, 20 or 21 ranks and more such numbers; \
                    take another, or leave out --shard";
        return Err(Error::Config { field: "ranks", got: shares.to_string(), rule: rule.to_owned() });
    }
    Ok(len * ranks.rank()..len * (ranks.rank() + 1))
}

impl Learner {
    /// Room for steps of up to `packs` packs of up to `tokens` tokens.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(model: Model, tokens: usize, packs: usize, recompute: &[Recompute]) -> Result<Learner> {
        Learner::among(Rc::new(Alone), false, model, tokens, packs, recompute)
    }

    /// A learner that is one of several ranks, whose packs make up a step together. All start from the parameters of rank 0. With `shard`
    /// each keeps the moments of its share of the matrices alone.
    ///
    /// # Errors
    /// Those of the ranks, [`Error::Config`] for matrices that so many cannot share, and where the device has no room.
    pub fn among(
        ranks: Rc<dyn Collective>,
        shard: bool,
        mut model: Model,
        tokens: usize,
        packs: usize,
        recompute: &[Recompute],
    ) -> Result<Learner> {
        let share = share(&model.layout, &*ranks, shard)?;
        model.weights.broadcast(&*ranks)?;
        ranks.wait()?;
        model.refresh_decays()?;
        model.variants = model.variants.computing_again(recompute);
        let sizes = Sizes {
            config: model.config.clone(),
            io: model.io,
            tokens,
            distance: model.variants.scan.distance as usize,
            recompute: recompute.to_vec(),
        };
        let device = model.device.clone();
        let optimiser = Optimiser::new(&model, share)?;
        let gradients = model.gradients(tokens)?;
        // Gradients of several packs add up, so those of the packs before are there on the way forward.
        let activations = match packs {
            1 => Activations::lent(&gradients.flat, sizes)?,
            _ => Activations::new(&device, sizes)?,
        };
        let losses = Buffer::unwritten(&device, Dtype::F32, APART * packs)?;
        Ok(Learner {
            outcome: [Download::of(optimiser.result.view())?, Download::of(losses.view())?],
            started: None,
            optimiser,
            activations,
            gradients,
            scale: Buffer::unwritten(&device, Dtype::F32, 1)?,
            losses,
            flow: false,
            memories: Vec::new(),
            left: false,
            memory_gradients: Vec::new(),
            ranks,
            ended: Timestamp::of(&device)?,
            model,
        })
    }

    /// One step: the gradients of the mean loss over all packs of all ranks, and the update of every parameter. Waits for the device at
    /// its end.
    ///
    /// # Errors
    /// For more or larger packs than there is room for, a lost rank, and whatever launching fails with.
    pub fn step(&mut self, packs: &[DevicePack], rates: &Rates, learning_rate: f32) -> Result<Report> {
        self.start(packs, rates, learning_rate)?;
        Ok(self.finish()?.expect("a step was started"))
    }

    /// Launches a step as [`Learner::step`] does, but does not wait for it: the host goes on to prepare the next one. Waits for the step
    /// before, if that was only started too, and reports it; by then the device has the gradients of this one to work on. What is
    /// computed does not depend on when a step is waited for.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn start(&mut self, packs: &[DevicePack], rates: &Rates, learning_rate: f32) -> Result<Option<Report>> {
        // Where ranks tell each other numbers, the host waits for the device anyway, and better now than between gradients and update.
        let early = if self.ranks.size() > 1 { self.finish()? } else { None };
        let predicted = self.gradients(packs)?;
        // How far the optimiser is depends on whether the step before counted.
        let before = early.or(self.finish()?);
        self.optimiser.step(&self.model, &self.gradients.flat, rates, learning_rate)?;
        if self.shares() {
            self.model.weights.gather(&self.model.layout, &*self.ranks)?;
            self.ranks.wait()?;
        }
        self.model.refresh_decays()?;
        let ended = Timestamp::of(&self.model.device)?;
        let [said, losses] = &mut self.outcome;
        said.start(self.optimiser.result.view())?;
        losses.start(self.losses.view())?;
        let of_packs = packs.iter().map(|pack| pack.predicted).collect();
        self.started = Some(Started { predicted, of_packs, ended });
        Ok(before)
    }

    /// Waits for the step that was started, if there is one, and says what it did.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn finish(&mut self) -> Result<Option<Report>> {
        let Some(Started { predicted, of_packs, ended }) = self.started.take() else { return Ok(None) };
        let [said, losses] = &self.outcome;
        let (gradient_norm, skipped) = self.optimiser.finish(&said.to_vec()?);
        self.ended = ended;
        let (loss, losses) = self.mean_losses(&losses.to_vec()?, &of_packs, predicted)?;
        Ok(Some(Report { loss, losses, gradient_norm, skipped }))
    }

    /// The end of the step that was reported last.
    pub fn ended(&self) -> &Timestamp {
        &self.ended
    }

    /// The end of a step that was started and not finished: what the optimiser counts then lags behind the parameters.
    pub(crate) fn under_way(&self) -> Option<&Timestamp> {
        self.started.as_ref().map(|started| &started.ended)
    }

    /// Makes the gradients of a step, and says of how many predicted tokens, on all ranks.
    fn gradients(&mut self, packs: &[DevicePack]) -> Result<f64> {
        let mut predicted = [packs.iter().map(|pack| pack.predicted as f64).sum()];
        self.ranks.all_reduce_f64(&mut predicted)?;
        // The first pack's are written over those of the step before, finite or not.
        self.gradients.add = false;
        if packs.is_empty() {
            self.gradients.flat.zero()?;
        }
        self.accumulate(packs, predicted[0])?;
        self.ranks.wait()?;
        self.model.decay_gradients(&self.gradients.flat)?;
        Ok(predicted[0])
    }

    /// Adds the gradients of packs, of the mean over `predicted` tokens. Those of A_log are still those of A.
    fn accumulate(&mut self, packs: &[DevicePack], predicted: f64) -> Result<()> {
        if APART * packs.len() > self.losses.len() {
            return Err(Error::Config {
                field: "packs",
                got: packs.len().to_string(),
                rule: format!("there is room for {} in a step", self.losses.len() / APART),
            });
        }
        self.scale.write(&[(1.0 / predicted.max(1.0)) as f32])?;
        let mut start = 0;
        while start < packs.len() {
            let goes_on = |pack: &&DevicePack| self.flow && pack.is_continued();
            let end = start + 1 + packs[start + 1..].iter().take_while(goes_on).count();
            self.accumulate_chain(&packs[start..end], start, end == packs.len())?;
            start = end;
        }
        Ok(())
    }

    /// Adds the gradients of packs between which gradients flow: forward through all but the last for what they leave, then from the last
    /// to the first, each forward again and backward. A single pack is run once. In the last chain of a step, gradients are summed over
    /// ranks as soon as they are whole.
    fn accumulate_chain(&mut self, packs: &[DevicePack], first: usize, last_chain: bool) -> Result<()> {
        self.reserve(packs)?;
        let Learner { model, activations, gradients, scale, losses, memories, memory_gradients, ranks, .. } = self;
        let last = packs.len() - 1;
        let from = |j: usize| packs[j].is_continued().then(|| &memories[j]);
        for (j, pack) in packs[..last].iter().enumerate() {
            model.forward(pack, activations, Carry { from: from(j), to: Some(&memories[j + 1]) })?;
        }
        for (j, pack) in packs.iter().enumerate().rev() {
            let to = (j == last && pack.continues).then(|| &memories[j + 1]);
            model.forward(pack, activations, Carry { from: from(j), to })?;
            model.loss(pack, activations, scale.view(), Some(gradients))?;
            let sizes = sum_rows::Sizes { groups: 1, rows: pack.tokens(), columns: 1 };
            let sum = sum_rows::default_variant(&sizes, Dtype::F32, false);
            let of_tokens = activations.view(0, Losses, pack.tokens())?;
            sum_rows::forward(&model.nobody, &sum, &sizes, of_tokens, losses.part(APART * (first + j), 1, 1)?)?;
            let edges = Edges {
                from: from(j),
                from_gradient: pack.is_continued().then(|| &memory_gradients[j % 2]),
                to_gradient: (j < last).then(|| &memory_gradients[(j + 1) % 2]),
            };
            let mut done = |range: View<'_>| match last_chain && j == 0 {
                true => Ok(ranks.all_reduce(range)?),
                false => Ok(()),
            };
            model.backward(pack, activations, gradients, edges, &mut done)?;
        }
        self.left = packs[last].continues;
        if self.left {
            let (first, rest) = memories.split_at_mut(1);
            first[0].exchange(&mut rest[last]);
        }
        Ok(())
    }

    /// Makes room for documents that are cut between packs, before the first that is. Packs of many more sequences than usual make it
    /// larger when they come.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn expect_cuts(&mut self) -> Result<()> {
        let chain = if self.flow { self.losses.len() / APART } else { 1 };
        self.make_room(chain, usual_sequences(self.activations.sizes().tokens))
    }

    /// Room for what crosses the edges of these packs.
    fn reserve(&mut self, packs: &[DevicePack]) -> Result<()> {
        if !packs.iter().any(|pack| pack.is_continued() || pack.continues) {
            return Ok(());
        }
        self.make_room(packs.len(), packs.iter().map(|pack| pack.packed.packed().sequences()).max().unwrap_or(0))
    }

    /// Room for what crosses the edges of a chain of packs of up to `sequences`.
    fn make_room(&mut self, chain: usize, sequences: usize) -> Result<()> {
        let (model, (memories, gradients)) = (&self.model, memories_of(chain));
        for (all, count) in [(&mut self.memories, memories), (&mut self.memory_gradients, gradients)] {
            while all.len() < count {
                all.push(Memory::of_one(model)?);
            }
            // Only neighbours are used at the same time.
            for j in 0..all.len() {
                let (before, from_here) = all.split_at_mut(j);
                match j.checked_sub(2) {
                    Some(i) => from_here[0].share_room(&before[i]),
                    None => from_here[0].reserve(model, sequences)?,
                }
            }
        }
        Ok(())
    }

    /// What the pack before left of a document that goes on.
    pub(crate) fn left(&self) -> Option<&Memory> {
        self.memories.first().filter(|_| self.left)
    }

    /// Takes up what a pack left: `values_of` gives state and history of each block.
    pub(crate) fn recall(&mut self, values_of: impl Fn(usize, &str) -> Result<Vec<f32>>) -> Result<()> {
        self.make_room(1, 1)?;
        for l in 0..self.model.config.layers {
            let (state, history) = self.memories[0].kept(l)?;
            state.write(&values_of(l, "state")?)?;
            history.write_f32(&values_of(l, "history")?)?;
        }
        self.left = true;
        Ok(())
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.ranks.rank()
    }

    /// Whether this rank keeps the moments of a share of the matrices only.
    fn shares(&self) -> bool {
        self.optimiser.share.len() < self.model.layout.products
    }

    /// Brings the exact weights of all ranks together, before they are read; nothing to do where each has all of them. Every rank calls it.
    ///
    /// # Errors
    /// A lost rank.
    pub fn gather_weights(&mut self) -> Result<()> {
        if self.shares() {
            self.model.weights.gather_beside(&self.model.layout, &*self.ranks)?;
            self.ranks.wait()?;
        }
        Ok(())
    }

    /// Brings the first (0) or second (1) moments of all ranks together where gradients are between steps; nothing to do where each has
    /// all of them.
    pub(crate) fn gather_moments(&mut self, kind: usize) -> Result<()> {
        if !self.shares() {
            return Ok(());
        }
        let Learner { model, optimiser, gradients, ranks, .. } = self;
        let moments = if kind == 0 { &optimiser.m } else { &optimiser.v };
        let Layout { products, elements, .. } = model.layout;
        for Range { start, end } in [optimiser.share.clone(), products..elements] {
            let n = end - start;
            let from = moments.part(optimiser.place(&model.layout, start), 1, n)?;
            let cast = cast::default_variant(n, Dtype::F32, Dtype::F32);
            cast::forward(&model.row, &cast, from, gradients.flat.part(start, 1, n)?)?;
        }
        ranks.all_gather(gradients.flat.part(0, products, 1)?)?;
        Ok(ranks.wait()?)
    }

    /// What [`Learner::gather_moments`] brought together last.
    pub(crate) fn gathered_moments(&self, kind: usize) -> &Buffer {
        match (self.shares(), kind) {
            (true, _) => &self.gradients.flat,
            (false, 0) => &self.optimiser.m,
            (false, _) => &self.optimiser.v,
        }
    }

    /// Lets gradients flow through the cuts between the packs of a step, or stops them there, which is how it starts.
    pub fn let_gradients_flow(&mut self, flow: bool) {
        self.flow = flow;
    }

    /// The mean loss over all packs of all ranks, of `predicted` tokens, and that of each of these packs, of whose losses these are the sums.
    fn mean_losses(&self, sums: &[f32], of_packs: &[usize], predicted: f64) -> Result<(f64, Vec<f64>)> {
        let sums: Vec<f64> = sums.iter().step_by(APART).take(of_packs.len()).map(|&sum| sum.into()).collect();
        let means = std::iter::zip(&sums, of_packs).map(|(sum, &predicted)| sum / predicted.max(1) as f64).collect();
        let mut all = [sums.iter().sum::<f64>()];
        self.ranks.all_reduce_f64(&mut all)?;
        Ok((all[0] / predicted.max(1.0), means))
    }

    /// The loss of each token of a pack, as [`Model::losses`], in the room that steps have.
    ///
    /// # Errors
    /// As [`Model::losses`].
    pub fn losses(&self, pack: &DevicePack) -> Result<Vec<f32>> {
        self.model.losses(pack, &self.activations, Carry::default())
    }

    /// The logits of each token of a pack, `(T, V)`, on the host.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn logits(&mut self, pack: &DevicePack) -> Result<Vec<f32>> {
        self.model.forward(pack, &self.activations, Carry::default())?;
        self.model.logits(pack, &self.activations)
    }

    /// The gradients of the mean loss over packs, without a step: `[layout.elements]`, on the host.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn gradients_of(&mut self, packs: &[DevicePack]) -> Result<(f64, Vec<f32>)> {
        let predicted = self.gradients(packs)?;
        let of_packs: Vec<usize> = packs.iter().map(|pack| pack.predicted).collect();
        let (loss, _) = self.mean_losses(&self.losses.to_vec()?, &of_packs, predicted)?;
        Ok((loss, self.gradients.flat.to_vec()?))
    }
}

/// Sequences of a pack of up to `tokens` for which there is room from the start, where documents are cut: those of documents of 32 tokens.
/// Room for as many as there can be, one for each token, would be a gigabyte and more of states.
fn usual_sequences(tokens: usize) -> usize {
    (tokens / 32).max(64)
}

/// Memories that a chain of packs needs, one at each of its edges, and gradients of them, in turns.
fn memories_of(chain: usize) -> (usize, usize) {
    (chain + 1, chain.min(2))
}

/// Bytes of the memories of chains of so many packs.
pub(crate) fn memory_bytes(config: &ModelConfig, io: Dtype, tokens: usize, chain: usize) -> usize {
    let (kept, room) = Memory::bytes(config, io, usual_sequences(tokens));
    let (memories, gradients) = memories_of(chain);
    (memories + gradients) * kept + (2 + gradients) * room
}

#[cfg(test)]
mod tests {
    use packscan_runtime::Device;

    use super::*;

    /// What the plan says of packs and of cuts is what they take.
    #[test]
    fn packs_and_cuts_take_what_is_planned() {
        let config = ModelConfig::of(8, 2).for_vocabulary(256).unwrap();
        let (tokens, packs) = (3000, 3);
        for (io, flow) in [(Dtype::F32, true), (Dtype::Bf16, false)] {
            let device = Device::emulator(1);
            let mut before = device.allocated_bytes();
            let mut taken = || {
                let now = device.allocated_bytes();
                now - std::mem::replace(&mut before, now)
            };
            let _pack = DevicePack::with_room(&device, tokens, config.vocabulary).unwrap();
            assert_eq!(taken(), DevicePack::bytes(tokens, config.vocabulary));
            let model = Model::new(&device, io, &config, &Layout::of(&config).fresh(0)).unwrap();
            let mut learner = Learner::new(model, tokens, packs, &[Recompute::Full; 2]).unwrap();
            learner.let_gradients_flow(flow);
            taken();
            learner.expect_cuts().unwrap();
            let chain = if flow { packs } else { 1 };
            assert_eq!(taken(), memory_bytes(&config, io, tokens, chain), "{io}, flow {flow}");
        }
    }
}
