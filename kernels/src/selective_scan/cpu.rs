//! The native CPU path: f32, threads over pieces of channels and sequences, for machines without a GPU.

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;
