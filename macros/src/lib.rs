//! A kernel declaration in, specialised CUDA text and a typed launcher out.
//!
//! One macro, [`kernel!`], reads as a small compiler: `parse` turns tokens into the declaration as written, `check` (with
//! `names` and `cuda`) turns that into a `spec` in which every name is resolved, or reports every mistake at once, and
//! `variant` and `launch` write the Rust. It generates data and the author's own expressions; rules about ids, text and
//! checks are plain Rust in `packscan_runtime::kernel`.

mod check;
mod cuda;
mod hint;
mod launch;
mod names;
mod parse;
mod scope;
mod shape;
mod spec;
mod variant;

use proc_macro2::TokenStream;
use quote::quote;

/// Declares a kernel.
#[proc_macro]
pub fn kernel(declaration: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(declaration.into()).unwrap_or_else(|errors| errors.into_compile_error()).into()
}

fn expand(tokens: TokenStream) -> syn::Result<TokenStream> {
    let spec = check::check(syn::parse2(tokens)?)?;
    let (variant, launch) = (variant::expand(&spec), launch::expand(&spec));
    Ok(quote!(#variant #launch))
}
