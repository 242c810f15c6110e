//! The struct of a call's arguments, what a call must satisfy, and the launch.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Expr, Ident};

use crate::scope;
use crate::spec::{Access, Dim, Element, Flag, Rows, Spec, Tensor};

/// The argument struct and the methods that check, print and launch a variant.
pub fn expand(spec: &Spec) -> TokenStream {
    let Spec { variant, args, .. } = spec;
    let arguments = arguments(spec);
    quote! {
        #arguments

        impl #variant {
            /// Checks this variant's parameters against their domains and rules and against what a block may use.
            ///
            /// # Errors
            /// [`Error::Variant`](::packscan_runtime::Error::Variant) with every broken rule.
            pub fn check(&self, device: &::packscan_runtime::Device) -> ::packscan_runtime::Result<()> {
                device.check(self)
            }

            /// The specialised CUDA text.
            pub fn source(&self) -> ::std::string::String {
                ::packscan_runtime::kernel::source(self)
            }

            /// Checks the arguments, compiles this variant where it is not yet, and launches it on the device of the pack.
            ///
            /// # Errors
            /// What [`launch`](::packscan_runtime::launch::launch) reports: broken rules, arguments that do not fit, a
            /// failed compilation or launch.
            pub fn launch(
                &self,
                packed: &::packscan_runtime::DevicePacked,
                args: &#args<'_>,
            ) -> ::packscan_runtime::Result<::packscan_runtime::launch::Launched> {
                ::packscan_runtime::launch::launch(self, packed, args)
            }
        }
    }
}

fn arguments(spec: &Spec) -> TokenStream {
    let Spec { vis, variant, args, .. } = spec;
    let doc = format!(" The arguments of a call of [`{variant}`].");
    let dims = spec.dims.iter().map(|Dim { docs, ident, .. }| quote!(#docs pub #ident: usize));
    let tensors = spec.tensors.iter().map(|tensor| {
        let Tensor { docs, ident, flag, .. } = tensor;
        let details = details(tensor);
        let kind = match flag {
            None => quote!(::packscan_runtime::View<'a>),
            Some(_) => quote!(::std::option::Option<::packscan_runtime::View<'a>>),
        };
        quote!(#docs #[doc = ""] #[doc = #details] pub #ident: #kind)
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug)]
        #vis struct #args<'a> { #(#dims,)* #(#tensors,)* }
    }
}

/// The line on a tensor's shape: `` Read: `io [T, D]`; rows may lie apart; given exactly when `gate` is on. ``
fn details(tensor: &Tensor) -> String {
    let access = tensor.access.verb();
    let element = match &tensor.element {
        Element::Fixed(dtype) => dtype.lower().to_owned(),
        Element::Parameter(ident) => ident.to_string(),
    };
    let mut text = format!(" {access}: `{element} {}`", tensor.shape);
    if tensor.strided {
        text += "; rows may lie apart";
    }
    if let Some(multiple) = &tensor.multiple {
        text += &format!(", start and stride in multiples of `{}` elements", multiple.to_token_stream());
    }
    if let Some(flag) = &tensor.flag {
        text += &format!("; given exactly when `{}` is {}", flag.ident, if flag.on { "on" } else { "off" });
    }
    text + "."
}

/// The methods of `Variant` that concern a call.
pub fn methods(spec: &Spec) -> TokenStream {
    let zero: Expr = syn::parse_quote!(0);
    let threads = number(spec, "threads", &spec.launch.threads);
    let shared = number(spec, "shared_bytes", spec.launch.shared.as_ref().unwrap_or(&zero));
    let one: Expr = syn::parse_quote!(1);
    let resident = number(spec, "resident", spec.launch.resident.as_ref().unwrap_or(&one));
    let grid = grid(spec);
    let dims = dims(spec);
    let bind = bind(spec);
    quote!(#threads #shared #resident #grid #dims #bind)
}

fn number(spec: &Spec, name: &str, expr: &Expr) -> TokenStream {
    let name = format_ident!("{name}");
    let lets = scope::variant(spec, [expr.to_token_stream()]);
    quote! {
        fn #name(&self) -> usize {
            #lets
            #expr
        }
    }
}

fn grid(spec: &Spec) -> TokenStream {
    let extents = format_ident!("extents", span = Span::mixed_site());
    let given = &spec.launch.grid;
    let lets = scope::call(spec, &extents, given.iter().map(|extent| quote!(#extent ,)));
    let parameter = used_or_not(&extents, &lets);
    let missing = std::iter::repeat_n(quote!(1), 3 - given.len());
    quote! {
        #[allow(non_snake_case)]
        fn grid(&self, #parameter: ::packscan_runtime::kernel::Extents<'_>) -> [usize; 3] {
            #lets
            [#(#given,)* #(#missing),*]
        }
    }
}

fn dims(spec: &Spec) -> TokenStream {
    let name = format_ident!("args", span = Span::mixed_site());
    let idents = spec.dims.iter().map(|dim| &dim.ident);
    let body = quote!(::std::vec::Vec::from([#(#name.#idents),*]));
    let parameter = used_or_not(&name, &body);
    quote! {
        fn dims(#parameter: &Self::Args<'_>) -> ::std::vec::Vec<usize> {
            #body
        }
    }
}

fn bind(spec: &Spec) -> TokenStream {
    let args = format_ident!("args", span = Span::mixed_site());
    let extents = format_ident!("extents", span = Span::mixed_site());
    let bound = spec.tensors.iter().enumerate().map(|(i, tensor)| bound(&args, i, tensor));
    let expressions = spec.tensors.iter().map(|tensor| {
        let (rows, others, multiple) = (rows(tensor), &tensor.others, &tensor.multiple);
        quote!(#rows, #(#others,)* #multiple,)
    });
    let lets = scope::call(spec, &extents, expressions);
    let parameter = used_or_not(&extents, &lets);
    quote! {
        #[allow(non_snake_case)]
        fn bind<'a>(
            &self,
            #args: &Self::Args<'a>,
            #parameter: ::packscan_runtime::kernel::Extents<'_>,
        ) -> ::std::vec::Vec<::packscan_runtime::kernel::Bound<'a>> {
            #lets
            ::std::vec::Vec::from([#(#bound),*])
        }
    }
}

/// The tensor with this index, bound to what the caller gave.
fn bound(args: &Ident, index: usize, tensor: &Tensor) -> TokenStream {
    let Tensor { ident, others, .. } = tensor;
    let (view, wanted) = match &tensor.flag {
        None => (quote!(::std::option::Option::Some(#args.#ident)), quote!(true)),
        Some(Flag { ident: flag, on: true }) => (quote!(#args.#ident), quote!(self.#flag)),
        Some(Flag { ident: flag, on: false }) => (quote!(#args.#ident), quote!(!self.#flag)),
    };
    let dtype = match &tensor.element {
        Element::Fixed(dtype) => dtype.to_token_stream(),
        Element::Parameter(ident) => quote!(self.#ident),
    };
    let cols = match others.as_slice() {
        [] => quote!(1),
        [only] => only.to_token_stream(),
        [head, tail @ ..] => {
            let (head, tail) = (factor(head), tail.iter().map(factor));
            quote!(#head #(* #tail)*)
        }
    };
    let multiple = tensor.multiple.as_ref().map_or(quote!(1), ToTokens::to_token_stream);
    let rows = rows(tensor);
    let owner = match (tensor.access, &tensor.rows) {
        (Access::Structure, _) | (_, Rows::Count(_)) => quote!(Nobody),
        (_, Rows::Sequences) => quote!(Sequence),
        (_, Rows::Tokens(None)) => quote!(TokenEvery(1)),
        (_, Rows::Tokens(Some(every))) => quote!(TokenEvery(#every)),
    };
    quote! {
        ::packscan_runtime::kernel::Bound {
            tensor: &<Self as ::packscan_runtime::kernel::Variant>::SPEC.tensors[#index],
            view: #view,
            wanted: #wanted,
            dtype: #dtype,
            rows: #rows,
            cols: #cols,
            multiple: #multiple,
            owner: ::packscan_runtime::kernel::Owner::#owner,
        }
    }
}

/// The first extent in Rust.
fn rows(tensor: &Tensor) -> TokenStream {
    match &tensor.rows {
        Rows::Tokens(None) => quote!(T),
        Rows::Tokens(Some(every)) => quote!(T.div_ceil(#every)),
        Rows::Sequences => quote!(S),
        Rows::Count(count) => count.to_token_stream(),
    }
}

/// An extent that can stand in a product.
fn factor(extent: &Expr) -> TokenStream {
    match extent {
        Expr::Path(_) | Expr::Lit(_) | Expr::Paren(_) | Expr::MethodCall(_) | Expr::Call(_) | Expr::Field(_) => {
            extent.to_token_stream()
        }
        _ => quote!((#extent)),
    }
}

/// The name of a parameter, or `_` where the body has no use for it.
fn used_or_not(name: &Ident, body: &TokenStream) -> TokenStream {
    let used = scope::identifiers(body.clone()).contains(name);
    if used { name.to_token_stream() } else { quote!(_) }
}
