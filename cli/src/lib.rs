//! Packed Mamba operators: CUDA generated for exactly your sizes, compiled at run time, and verified.
//!
//! This crate is the door to the others. [`Packed`] says where sequences begin and end, [`Device`] where things run, and an
//! operator such as [`selective_scan`] takes both. Nothing of CUDA is needed to build it, and the CPU path needs no GPU:
//!
//! ```
//! use packscan::selective_scan::{self, Inputs, Outputs, Problem, default_variant};
//! use packscan::{Buffer, Device, Dtype, Packed};
//!
//! # fn main() -> packscan::Result<()> {
//! let device = Device::Cpu; // or Device::cuda(0)?, or Device::emulator(0)
//! let packed = Packed::from_lengths(&[3, 0, 2])?.on(&device)?;
//! let (tokens, channels, state) = (5, 4, 2);
//!
//! let filled = |len: usize, value: f32| Buffer::from_slice(&device, &vec![value; len]);
//! let u = filled(tokens * channels, 1.0)?;
//! let delta = filled(tokens * channels, 0.5)?;
//! let a = filled(channels * state, -1.0)?;
//! let (b, c) = (filled(tokens * state, 1.0)?, filled(tokens * state, 1.0)?);
//! let out = Buffer::unwritten(&device, Dtype::F32, tokens * channels)?;
//!
//! let inputs = Inputs {
//!     u: u.rows(tokens)?,
//!     delta: delta.rows(tokens)?,
//!     a: a.rows(channels)?,
//!     b: b.rows(tokens)?,
//!     c: c.rows(tokens)?,
//!     d_skip: None,
//!     delta_bias: None,
//!     z: None,
//!     initial_state: None,
//! };
//! let outputs = Outputs { out: out.rows(tokens)?, final_state: None, checkpoints: None };
//! let softplus = false;
//! let variant = default_variant(&Problem::of(&inputs, &outputs, softplus));
//! selective_scan::forward(&packed, &variant, None, &inputs, &outputs)?;
//!
//! let out = out.to_vec::<f32>()?;
//! println!("{variant}\n{out:?}");
//! // The second sequence starts from nothing again: token 3 repeats token 0, bit for bit.
//! assert_eq!(out[3 * channels], out[0]);
//! assert_eq!(out[4 * channels], out[channels]);
//! assert!(out[2 * channels] > out[channels]);
//! # Ok(())
//! # }
//! ```

pub use packscan_kernels as kernels;
pub use packscan_kernels::selective_scan;
pub use packscan_runtime as runtime;
pub use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Error, Packed, Result, View};
