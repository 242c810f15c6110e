//! A kernel declaration in, specialised CUDA text and a typed launcher out.
//!
//! One macro, [`kernel!`], reads as a small compiler: `parse` turns tokens into the declaration as written; `check` (with
//! `names`, `shape` and `cuda`) turns that into a `spec` in which every name is resolved, or reports every mistake at once;
//! `variant` and `launch` write the Rust. They write data and the author's own expressions: rules about ids, CUDA text
//! and calls are plain Rust in `packscan_runtime::kernel`.
#![doc = include_str!("../README.md")]

mod check;
mod cuda;
mod hint;
mod launch;
mod names;
mod parse;
mod scope;
mod shape;
mod spec;
#[cfg(test)]
mod tests;
mod variant;

use proc_macro2::TokenStream;
use quote::quote;

/// Declares a kernel: its variants, its calls and its CUDA files.
///
/// The declaration language is described field by field in the [documentation of the crate](crate). This is all of a
/// declaration; `scale.cuh` beside it defines `__device__ void scale(const Args& args)`.
///
/// ```ignore
/// packscan_macros::kernel! {
///     /// Multiplies every row by the weight of its sequence.
///     pub kernel Scale = "scale" in "kernels/src/scale" from ["scale.cuh"] {
///         variant {
///             /// Channels of a block.
///             channels: "c" in 32..=1024,
///             /// Neighbouring elements that one load moves.
///             vec: "v" in [1, 2, 4],
///             /// Type of the activations.
///             io: dtype in [F32, Bf16],
///             /// Add a bias to each channel.
///             bias: flag "bias",
///         }
///         derived { threads = channels / vec }
///         rules {
///             channels.is_multiple_of(32 * vec), channels: "a block has whole warps, each thread {vec} channels",
///                 "take {}", channels.next_multiple_of(32 * vec);
///         }
///         dims {
///             /// Channels.
///             d: "D",
///         }
///         tensors {
///             /// Input.
///             x: in io [T, D] strided by vec,
///             /// Weight of each sequence.
///             weight: in f32 [S],
///             /// Bias of each channel.
///             bias_of: in f32 [D] if bias,
///             /// Boundaries of the sequences.
///             cu_seqlens: structure u32 [S + 1],
///             /// Result.
///             out: out io [T, D] strided by vec,
///         }
///         launch { grid: [D.div_ceil(channels), T], threads: threads }
///     }
/// }
///
/// let variant: Scale = "scale-c256-v4-bf16-bias".parse()?;
/// variant.check(&device)?;
/// variant.launch(&packed, &ScaleArgs { d: 1536, x, weight, bias_of: Some(bias), cu_seqlens, out })?;
/// ```
#[proc_macro]
pub fn kernel(declaration: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(declaration.into()).unwrap_or_else(|errors| errors.into_compile_error()).into()
}

fn expand(tokens: TokenStream) -> syn::Result<TokenStream> {
    let spec = check::check(syn::parse2(tokens)?)?;
    let (variant, launch) = (variant::expand(&spec), launch::expand(&spec));
    Ok(quote!(#variant #launch))
}
