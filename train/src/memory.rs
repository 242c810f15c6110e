//! What sequences remember: the state of every block's scan and the last inputs of its convolution.
//!
//! A generated text goes on from it token by token, and a document that is cut at the end of a pack goes on in the next one.

use std::rc::Rc;

use packscan_kernels::cast;
use packscan_runtime::{Buffer, Dtype, View};

use crate::{Model, ModelConfig, Result};

/// States `(S, D, N)` f32 and histories `(S, K - 1, D)` io.
#[derive(Debug)]
struct Rows {
    states: Buffer,
    histories: Buffer,
}

/// The memory of sequences, for every block.
#[derive(Debug)]
pub struct Memory {
    /// Of each block. Where only one sequence is kept, blocks take turns with one, through which its rows pass to and from kernels.
    blocks: Vec<Rc<Rows>>,
    /// Where only one sequence of a pack is kept: its rows, of each block.
    kept: Vec<Rows>,
    io: Dtype,
    /// D * N and (K - 1) * D
    lengths: (usize, usize),
    /// K - 1
    taps: usize,
}

/// Which sequence of a pack a memory of one is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The first, which goes on from it.
    First,
    /// The last, which leaves it.
    Last,
}

impl Memory {
    fn rows(model: &Model, sequences: usize) -> Result<Rows> {
        let (d, n, taps) = (model.config.channels(), model.config.state, model.config.taps - 1);
        Ok(Rows {
            states: Buffer::unwritten(&model.device, Dtype::F32, sequences * d * n)?,
            histories: Buffer::unwritten(&model.device, model.io, sequences * taps * d)?,
        })
    }

    fn empty(model: &Model) -> Memory {
        let (d, n, taps) = (model.config.channels(), model.config.state, model.config.taps - 1);
        Memory { blocks: Vec::new(), kept: Vec::new(), io: model.io, lengths: (d * n, taps * d), taps }
    }

    /// Room for every sequence of packs of up to `sequences`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn of_all(model: &Model, sequences: usize) -> Result<Memory> {
        let rows = |_| Ok(Rc::new(Memory::rows(model, sequences)?));
        let blocks = (0..model.config.layers).map(rows).collect::<Result<_>>()?;
        Ok(Memory { blocks, ..Memory::empty(model) })
    }

    /// Room for one sequence of each pack, the one that crosses its edge.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn of_one(model: &Model) -> Result<Memory> {
        let kept = (0..model.config.layers).map(|_| Memory::rows(model, 1)).collect::<Result<_>>()?;
        Ok(Memory { kept, ..Memory::empty(model) })
    }

    /// Makes room for packs of `sequences`, of which one is kept. What was kept stays.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn reserve(&mut self, model: &Model, sequences: usize) -> Result<()> {
        let room = self.blocks.first().map_or(0, |rows| rows.states.len() / self.lengths.0);
        if room < sequences && !self.kept.is_empty() {
            let passing = Rc::new(Memory::rows(model, sequences.next_power_of_two())?);
            passing.states.zero()?;
            passing.histories.zero()?;
            self.blocks = (0..model.config.layers).map(|_| passing.clone()).collect();
        }
        Ok(())
    }

    /// Passes its rows to and from kernels through the same room as `other`, which is never used at the same time.
    pub(crate) fn share_room(&mut self, other: &Memory) {
        self.blocks.clone_from(&other.blocks);
    }

    /// Gives what it keeps to `other`, and takes what that kept.
    pub(crate) fn exchange(&mut self, other: &mut Memory) {
        std::mem::swap(&mut self.kept, &mut other.kept);
    }

    /// Bytes of a memory of one sequence, and of the room through which its rows pass for packs of up to `sequences`.
    pub(crate) fn bytes(config: &ModelConfig, io: Dtype, sequences: usize) -> (usize, usize) {
        let (d, n, taps) = (config.channels(), config.state, config.taps - 1);
        let row = d * n * Dtype::F32.bytes() + taps * d * io.bytes();
        (config.layers * row, sequences.next_power_of_two() * row)
    }

    /// The states of `sequences` sequences, `(S, D, N)`.
    pub(crate) fn states(&self, block: usize, sequences: usize) -> Result<View<'_>> {
        Ok(self.blocks[block].states.part(0, sequences, self.lengths.0)?)
    }

    /// The histories of `sequences` sequences, `(S, K - 1, D)`.
    pub(crate) fn histories(&self, block: usize, sequences: usize) -> Result<View<'_>> {
        Ok(self.blocks[block].histories.part(0, sequences * self.taps, self.lengths.1 / self.taps)?)
    }

    /// Puts the kept state of a block where kernels read it; nothing to do where all are kept.
    pub(crate) fn recall_state(&self, model: &Model, block: usize, sequences: usize, end: End) -> Result<()> {
        let Some(kept) = self.kept.get(block) else { return Ok(()) };
        copy(model, kept.states.part(0, 1, self.lengths.0)?, self.state_row(block, sequences, end)?, Dtype::F32)
    }

    /// Keeps the state that a kernel wrote.
    pub(crate) fn keep_state(&self, model: &Model, block: usize, sequences: usize, end: End) -> Result<()> {
        let Some(kept) = self.kept.get(block) else { return Ok(()) };
        copy(model, self.state_row(block, sequences, end)?, kept.states.part(0, 1, self.lengths.0)?, Dtype::F32)
    }

    /// As [`Memory::recall_state`], of the history.
    pub(crate) fn recall_history(&self, model: &Model, block: usize, sequences: usize, end: End) -> Result<()> {
        let Some(kept) = self.kept.get(block) else { return Ok(()) };
        copy(model, kept.histories.part(0, 1, self.lengths.1)?, self.history_row(block, sequences, end)?, self.io)
    }

    /// As [`Memory::keep_state`], of the history.
    pub(crate) fn keep_history(&self, model: &Model, block: usize, sequences: usize, end: End) -> Result<()> {
        let Some(kept) = self.kept.get(block) else { return Ok(()) };
        copy(model, self.history_row(block, sequences, end)?, kept.histories.part(0, 1, self.lengths.1)?, self.io)
    }

    /// What is kept of one sequence: its state and its history of a block.
    pub(crate) fn kept(&self, block: usize) -> Result<(View<'_>, View<'_>)> {
        let Rows { states, histories } = &self.kept[block];
        Ok((states.view(), histories.view()))
    }

    /// Zeros where kernels read, so that what is recalled next is all there is: a gradient that only one sequence has.
    pub(crate) fn clear(&self, block: usize) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        self.blocks[block].states.zero()?;
        Ok(self.blocks[block].histories.zero()?)
    }

    fn state_row(&self, block: usize, sequences: usize, end: End) -> Result<View<'_>> {
        let row = if end == End::First { 0 } else { sequences - 1 };
        Ok(self.blocks[block].states.part(row * self.lengths.0, 1, self.lengths.0)?)
    }

    fn history_row(&self, block: usize, sequences: usize, end: End) -> Result<View<'_>> {
        let row = if end == End::First { 0 } else { sequences - 1 };
        Ok(self.blocks[block].histories.part(row * self.lengths.1, 1, self.lengths.1)?)
    }
}

/// Copies one row.
fn copy(model: &Model, from: View<'_>, to: View<'_>, dtype: Dtype) -> Result<()> {
    cast::forward(&model.row, &cast::default_variant(from.shape().1, dtype, dtype), from, to)?;
    Ok(())
}
