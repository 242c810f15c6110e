//! The table of activations: what a pass over a pack keeps, and what it only passes through.
//!
//! Everything is allocated once, for the most tokens that a pack can have. What the backward pass needs of a block is either the
//! block's own, or shared by all blocks and computed again before it is needed ([`Recompute`]). Of what there is once, tensors that never
//! hold anything at the same time lie in one room: `TURNS` says which, and `lives.rs` shows that they may.

mod lent;
#[cfg(test)]
mod lives;

use std::fmt;
use std::str::FromStr;

use packscan_runtime::{Buffer, Device, Dtype, View};
use serde::{Deserialize, Serialize};

use crate::cutting::{self, Cutting};
use crate::{Error, Model, ModelConfig, Result};

/// What a block computes again in its backward pass instead of keeping it. Results do not change by a bit, if the variants of the scan that
/// saves states and of the one that does not share a channel among as many lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    None,
    /// The norm, the convolution and delta, as `mamba_ssm` does.
    Cheap,
    /// Also the scan: everything but the residual stream, the input projection and `x_dbl`.
    Scan,
    /// Everything but the residual stream and `x_dbl`, a product over many columns for few.
    Full,
}

impl Recompute {
    /// All, the one that keeps most first.
    pub const ALL: [Recompute; 4] = [Recompute::None, Recompute::Cheap, Recompute::Scan, Recompute::Full];
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Recompute::None => "none",
            Recompute::Cheap => "cheap",
            Recompute::Scan => "scan",
            Recompute::Full => "full",
        })
    }
}

impl FromStr for Recompute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Recompute> {
        Recompute::ALL.into_iter().find(|r| r.to_string() == text).ok_or_else(|| Error::Config {
            field: "recompute",
            got: text.to_owned(),
            rule: "it must be none, cheap, scan or full".to_owned(),
        })
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tensor {
    /// `(T, M)` f32: the residual stream that a block norms.
    Residual,
    /// `(T)` f32: the reciprocal of its root mean square.
    Rstd,
    /// `(T, M)` io: the norm.
    Normed,
    /// `(T, 2D)` io: x before the convolution, and the gate z.
    Xz,
    /// `(T, D)` io: x after it.
    U,
    /// `(T, R + 2N)` io: dt, B and C.
    XDbl,
    /// `(T, D)` io: delta before bias and softplus.
    Delta,
    /// `(T / L, D, N)` f32: states of the scan.
    Checkpoints,
    /// `(Q, D, N)` f32: states that enter the segments of sequences that the scan cuts along time.
    Entering,
    /// `(T, D)` io: what the scan makes.
    Out,
    /// `(T, M)` io: what a block adds to the residual stream; afterwards the gradient of that.
    Hidden,
    /// `(T, M)` f32: the residual stream that the last norm norms.
    LastResidual,
    /// `(T)` f32: the reciprocal of its root mean square.
    LastRstd,
    /// `(T, M)` io: the last norm.
    LastNormed,
    /// `(T)` f32: the loss of each token.
    Losses,
    /// `(tokens at a time, V)` io: logits, afterwards their gradients.
    Logits,
    /// `(T, M)` f32: gradient of the residual stream, on every second block.
    DResidual,
    /// `(T, M)` f32: the same on the others.
    DResidual2,
    /// `(T, M)` io: gradient of the norm.
    DNormed,
    /// `(T, 2D)` io: of xz.
    DXz,
    /// `(T, D)` io: of u.
    DU,
    /// `(T, R + 2N)` io: of `x_dbl`.
    DXDbl,
    /// `(T, D)` io: of delta.
    DDelta,
    /// `(T, D)` io: of out.
    DOut,
}

use Tensor::*;

/// What every block has, its own or shared.
const OF_BLOCKS: [Tensor; 10] = [Residual, Rstd, Normed, Xz, U, XDbl, Delta, Checkpoints, Entering, Out];
/// What there is once: the last norm's, and what is only passed through.
const ONCE: [Tensor; 14] = [
    Hidden,
    LastResidual,
    LastRstd,
    LastNormed,
    Losses,
    Logits,
    DResidual,
    DResidual2,
    DNormed,
    DXz,
    DU,
    DXDbl,
    DDelta,
    DOut,
];
/// Tensors that take turns in one room; those of blocks only where they are not the block's own.
const TURNS: [&[Tensor]; 5] =
    [&[DXz, Logits], &[DOut, DNormed], &[DDelta, Out, LastNormed], &[DU, Hidden], &[LastResidual, Checkpoints]];

/// Bytes of logits that exist at a time, at most.
const LOGITS_BYTES: usize = 256 << 20;
/// Rows of a tile of a matrix product.
const TILE: usize = 128;

/// What decides the sizes of all activations.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The model.
    pub config: ModelConfig,
    /// Type of the activations.
    pub io: Dtype,
    /// The most tokens of a pack.
    pub tokens: usize,
    /// Tokens between saved states.
    pub distance: usize,
    /// Of each block.
    pub recompute: Vec<Recompute>,
}

impl Sizes {
    /// Those of a forward pass alone, which keeps nothing.
    pub fn of_forward(model: &Model, tokens: usize) -> Sizes {
        Sizes {
            config: model.config.clone(),
            io: model.io,
            tokens,
            distance: model.variants.scan.distance as usize,
            recompute: vec![Recompute::Full; model.config.layers],
        }
    }

    /// Tokens whose logits exist at a time: whole tiles of a matrix product, which also keeps what is cut by them aligned.
    pub fn logits_rows(&self) -> usize {
        let fit = LOGITS_BYTES / (self.config.vocabulary * self.io.bytes());
        (fit / TILE * TILE).max(TILE).min(self.tokens)
    }

    /// Elements of a row.
    fn cols(&self, tensor: Tensor) -> usize {
        let (m, d) = (self.config.width, self.config.channels());
        match tensor {
            Residual | Normed | LastResidual | LastNormed | Hidden | DResidual | DResidual2 | DNormed => m,
            Rstd | LastRstd | Losses => 1,
            Xz | DXz => 2 * d,
            U | Delta | Out | DU | DDelta | DOut => d,
            XDbl | DXDbl => self.config.dbl(),
            Checkpoints | Entering => d * self.config.state,
            Logits => self.config.vocabulary,
        }
    }

    /// Rows for a pack of `tokens`.
    fn rows(&self, tensor: Tensor, tokens: usize) -> usize {
        match tensor {
            Checkpoints => tokens.div_ceil(self.distance),
            Entering => cutting::most(&self.config, tokens),
            Logits => self.logits_rows().min(tokens),
            _ => tokens,
        }
    }

    fn dtype(&self, tensor: Tensor) -> Dtype {
        match tensor {
            Residual | Rstd | LastResidual | LastRstd | Checkpoints | Entering | Losses | DResidual | DResidual2 => {
                Dtype::F32
            }
            _ => self.io,
        }
    }

    fn elements(&self, tensor: Tensor) -> usize {
        self.rows(tensor, self.tokens) * self.cols(tensor)
    }

    /// What each block of a kind keeps.
    fn own(&self, recompute: Recompute) -> Vec<Room> {
        OF_BLOCKS.into_iter().filter(|&t| kept(t, recompute)).map(|t| self.room(&[t])).collect()
    }

    /// What there is once, each room as large as the largest of those who take turns in it.
    fn shared(&self) -> Vec<Room> {
        let of_blocks = OF_BLOCKS.into_iter().filter(|&t| self.recompute.iter().any(|&r| !kept(t, r)));
        let all: Vec<Tensor> = ONCE.into_iter().chain(of_blocks).collect();
        let alone = all.iter().filter(|&t| !TURNS.iter().any(|turns| turns.contains(t))).map(std::slice::from_ref);
        let in_turns = TURNS.iter().map(|turns| turns.iter().copied().filter(|t| all.contains(t)).collect::<Vec<_>>());
        in_turns.map(|turns| self.room(&turns)).chain(alone.map(|t| self.room(t))).collect()
    }

    fn room(&self, tensors: &[Tensor]) -> Room {
        let elements = tensors.iter().map(|&t| self.elements(t)).max().unwrap_or(0);
        Room { tensors: tensors.to_vec(), dtype: self.dtype(tensors[0]), elements }
    }

    /// Bytes that each block of a kind keeps.
    pub fn block_bytes(&self, recompute: Recompute) -> usize {
        self.own(recompute).iter().map(Room::bytes).sum()
    }

    /// Bytes that there are once.
    pub fn shared_bytes(&self) -> usize {
        self.shared().iter().map(Room::bytes).sum::<usize>() + Cutting::bytes(&self.config, self.tokens)
    }

    /// Bytes of all activations.
    pub fn total_bytes(&self) -> usize {
        self.shared_bytes() + self.recompute.iter().map(|&r| self.block_bytes(r)).sum::<usize>()
    }
}

/// Whether a block keeps a tensor of its own.
fn kept(tensor: Tensor, recompute: Recompute) -> bool {
    match tensor {
        Residual | Rstd | XDbl => true,
        Normed | U | Delta => recompute == Recompute::None,
        Xz => recompute < Recompute::Full,
        _ => recompute < Recompute::Scan,
    }
}

/// What the last norm has in the place of a block's.
fn of_last_norm(tensor: Tensor) -> Tensor {
    match tensor {
        Residual => LastResidual,
        Rstd => LastRstd,
        Normed => LastNormed,
        once => once,
    }
}

/// Where tensors lie, one at a time.
#[derive(Debug)]
struct Room {
    /// All of one type.
    tensors: Vec<Tensor>,
    dtype: Dtype,
    elements: usize,
}

impl Room {
    fn bytes(&self) -> usize {
        self.elements * self.dtype.bytes()
    }

    fn on(self, device: &Device) -> Result<(Vec<Tensor>, Buffer)> {
        Ok((self.tensors, Buffer::unwritten(device, self.dtype, self.elements)?))
    }

    fn within(self, gradients: &Buffer, start: usize) -> Result<(Vec<Tensor>, Buffer)> {
        Ok((self.tensors, gradients.within(start, self.dtype, self.elements)?))
    }
}

/// The activations of one model.
#[derive(Debug)]
pub struct Activations {
    sizes: Sizes,
    /// What is each block's own.
    blocks: Vec<Vec<(Vec<Tensor>, Buffer)>>,
    /// What there is once.
    shared: Vec<(Vec<Tensor>, Buffer)>,
    cutting: Cutting,
    /// Whether some lie in the memory of gradients, which they overwrite.
    lent: bool,
}

impl Activations {
    /// Room for packs of up to `sizes.tokens`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &Device, sizes: Sizes) -> Result<Activations> {
        let block = |&recompute: &Recompute| sizes.own(recompute).into_iter().map(|room| room.on(device)).collect();
        let blocks = sizes.recompute.iter().map(block).collect::<Result<_>>()?;
        Activations::beside(blocks, device, sizes, false)
    }

    /// The same, as far as they find room in the memory of `gradients`, `[layout.elements]` f32, which a backward pass over these activations
    /// writes and nobody needs before.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn lent(gradients: &Buffer, sizes: Sizes) -> Result<Activations> {
        let device = gradients.device();
        let room = |(room, place): (Room, Option<usize>)| match place {
            Some(start) => room.within(gradients, start),
            None => room.on(device),
        };
        let block = |(&recompute, places): (&Recompute, Vec<Option<usize>>)| {
            std::iter::zip(sizes.own(recompute), places).map(room).collect()
        };
        let blocks = std::iter::zip(&sizes.recompute, sizes.places()).map(block).collect::<Result<_>>()?;
        Activations::beside(blocks, device, sizes, true)
    }

    /// With what there is once.
    fn beside(
        blocks: Vec<Vec<(Vec<Tensor>, Buffer)>>,
        device: &Device,
        sizes: Sizes,
        lent: bool,
    ) -> Result<Activations> {
        let shared = sizes.shared().into_iter().map(|room| room.on(device)).collect::<Result<_>>()?;
        let cutting = Cutting::new(device, &sizes.config, sizes.tokens)?;
        Ok(Activations { sizes, blocks, shared, cutting, lent })
    }

    /// Whether some lie in the memory of gradients.
    pub(crate) fn are_lent(&self) -> bool {
        self.lent
    }

    /// Refuses gradients that are to be added to others, where activations lie over those.
    pub(crate) fn check_accumulation(&self, add: bool) -> Result<()> {
        if add && self.lent {
            let rule =
                "they lie in the memory of gradients, which a pack before has made; make activations of their own";
            return Err(packscan_runtime::Error::Argument {
                argument: "activations",
                got: "they were lent".to_owned(),
                rule: rule.to_owned(),
            }
            .into());
        }
        Ok(())
    }

    /// What they were made for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Where a tensor of a block lies, or of the last norm, which counts as one more block.
    fn buffer(&self, block: usize, tensor: Tensor) -> &Buffer {
        let own = self.blocks.get(block);
        let tensor = if own.is_none() { of_last_norm(tensor) } else { tensor };
        let mut rooms = own.into_iter().flatten().chain(&self.shared);
        let (_, buffer) = rooms.find(|(tensors, _)| tensors.contains(&tensor)).expect("every tensor has a room");
        buffer
    }

    /// How the scan cuts sequences along time, and what it keeps for that.
    pub(crate) fn cutting(&self) -> &Cutting {
        &self.cutting
    }

    /// The states that enter so many segments, of a block.
    ///
    /// # Errors
    /// For more segments than there is room for.
    pub(crate) fn entering(&self, block: usize, segments: usize) -> Result<View<'_>> {
        Ok(self.buffer(block, Entering).part(0, segments, self.sizes.cols(Entering))?)
    }

    /// A tensor of a block, or of the last norm, which counts as one more block, for a pack of `tokens`.
    ///
    /// # Errors
    /// For more tokens than there is room for.
    pub fn view(&self, block: usize, tensor: Tensor, tokens: usize) -> Result<View<'_>> {
        let (rows, most) = (self.sizes.rows(tensor, tokens), self.sizes.rows(tensor, self.sizes.tokens));
        Ok(self.buffer(block, tensor).part(0, most, self.sizes.cols(tensor))?.rows_at(0, rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the plan says of activations is what they take, segments of cut sequences included.
    #[test]
    fn activations_take_what_is_planned() {
        let config = ModelConfig::of(8, 3).for_vocabulary(256).unwrap();
        for kinds in [[Recompute::None; 3], [Recompute::None, Recompute::Scan, Recompute::Full]] {
            let device = Device::emulator(1);
            let (config, recompute) = (config.clone(), kinds.to_vec());
            let sizes = Sizes { config, io: Dtype::Bf16, tokens: 300, distance: 16, recompute };
            let planned = sizes.total_bytes();
            let _activations = Activations::new(&device, sizes).unwrap();
            assert_eq!(device.allocated_bytes(), planned, "{kinds:?}");
        }
    }
}
