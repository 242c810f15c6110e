//! The struct of a variant, its declaration as data, and its rules.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::Ident;

use crate::launch;
use crate::parse::Message;
use crate::scope;
use crate::spec::{Domain, Element, Parameter, Rule, Spec, Tensor};

/// The struct with `Variant`, `Display` and `FromStr`.
pub fn expand(spec: &Spec) -> TokenStream {
    let Spec { docs, vis, variant, .. } = spec;
    let fields = spec.parameters.iter().map(|Parameter { docs, ident, domain, .. }| {
        let kind = match domain {
            Domain::Range(..) | Domain::OneOf(_) => quote!(u32),
            Domain::Dtype(_) => quote!(::packscan_runtime::Dtype),
            Domain::Flag => quote!(bool),
        };
        quote!(#docs pub #ident: #kind)
    });
    let details = details(spec);
    let implementation = implementation(spec);
    let text = text(variant);
    quote! {
        #docs
        #[doc = ""]
        #(#[doc = #details])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #vis struct #variant { #(#fields,)* }

        #implementation
        #text
    }
}

/// What the documentation of the struct says besides the author's words.
fn details(spec: &Spec) -> Vec<String> {
    let mut id = spec.name.clone();
    for Parameter { ident, tag, domain, .. } in &spec.parameters {
        id += &match domain {
            Domain::Range(..) | Domain::OneOf(_) => format!("-{tag}<{ident}>"),
            Domain::Dtype(_) => format!("-<{ident}>"),
            Domain::Flag => format!("[-{tag}]"),
        };
    }
    let mut lines = vec![format!(" Id: `{id}`.")];
    if !spec.derived.is_empty() {
        lines.push(String::new());
        lines.push(" What follows from the fields:".to_owned());
        lines.push(String::new());
        lines.extend(spec.derived.iter().map(|d| format!(" - `{} = {}`", d.ident, d.expr.to_token_stream())));
    }
    lines
}

fn implementation(spec: &Spec) -> TokenStream {
    let Spec { variant, args, .. } = spec;
    let data = data(spec);
    let values = values(spec);
    let derived = derived(spec);
    let rules = rules(spec);
    let launch = launch::methods(spec);
    quote! {
        impl ::packscan_runtime::kernel::Variant for #variant {
            const SPEC: &'static ::packscan_runtime::kernel::Spec = #data;
            type Args<'a> = #args<'a>;
            #values
            #derived
            #rules
            #launch
        }
    }
}

/// The declaration as data.
fn data(spec: &Spec) -> TokenStream {
    let (name, doc) = (&spec.name, spec.docs.summary());
    let sources = spec.sources.iter().map(|source| {
        let (path, include) = (&source.path, &source.include);
        quote!(::packscan_runtime::kernel::Source { path: #path, text: ::std::include_str!(#include) })
    });
    let parameters = spec.parameters.iter().map(|Parameter { docs, ident, tag, domain }| {
        let (name, doc) = (ident.to_string(), docs.summary());
        let domain = match domain {
            Domain::Range(low, high) => quote!(Range(#low, #high)),
            Domain::OneOf(values) => quote!(OneOf(&[#(#values),*])),
            Domain::Dtype(types) => quote!(Dtype(&[#(#types),*])),
            Domain::Flag => quote!(Flag),
        };
        quote!(::packscan_runtime::kernel::Parameter {
            name: #name,
            tag: #tag,
            doc: #doc,
            domain: ::packscan_runtime::kernel::Domain::#domain,
        })
    });
    let tensors = spec.tensors.iter().map(|tensor| {
        let Tensor { access, shape, strided, .. } = tensor;
        let (name, doc) = (tensor.ident.to_string(), tensor.docs.summary());
        let element = match &tensor.element {
            Element::Fixed(dtype) => quote!(Fixed(#dtype)),
            Element::Parameter(ident) => {
                let name = ident.to_string();
                quote!(Parameter(#name))
            }
        };
        quote!(::packscan_runtime::kernel::Tensor {
            name: #name,
            doc: #doc,
            shape: #shape,
            access: #access,
            element: ::packscan_runtime::kernel::ElementOf::#element,
            strided: #strided,
        })
    });
    let dims = spec.dims.iter().map(|dim| dim.ident.to_string());
    quote! {
        &::packscan_runtime::kernel::Spec {
            name: #name,
            doc: #doc,
            sources: &[#(#sources),*],
            parameters: &[#(#parameters),*],
            tensors: &[#(#tensors),*],
            dims: &[#(#dims),*],
        }
    }
}

/// Fields to values and back.
fn values(spec: &Spec) -> TokenStream {
    let idents: Vec<&Ident> = spec.parameters.iter().map(|parameter| &parameter.ident).collect();
    let kinds: Vec<TokenStream> = spec
        .parameters
        .iter()
        .map(|parameter| match parameter.domain {
            Domain::Range(..) | Domain::OneOf(_) => quote!(::packscan_runtime::kernel::Value::Int),
            Domain::Dtype(_) => quote!(::packscan_runtime::kernel::Value::Dtype),
            Domain::Flag => quote!(::packscan_runtime::kernel::Value::Flag),
        })
        .collect();
    let wrong = format!("{{values:?}} are no values of {}", spec.name);
    quote! {
        fn values(&self) -> ::std::vec::Vec<::packscan_runtime::kernel::Value> {
            ::std::vec::Vec::from([#(#kinds(self.#idents)),*])
        }

        fn from_values(values: &[::packscan_runtime::kernel::Value]) -> Self {
            let [#(#kinds(#idents)),*] = *values else { ::std::panic!(#wrong) };
            Self { #(#idents),* }
        }
    }
}

fn derived(spec: &Spec) -> TokenStream {
    let idents: Vec<&Ident> = spec.derived.iter().map(|derived| &derived.ident).collect();
    let names = idents.iter().map(|ident| ident.to_string());
    let lets = scope::variant(spec, idents.iter().map(|ident| quote!(#ident ,)));
    quote! {
        fn derived(&self) -> ::std::vec::Vec<(&'static str, usize)> {
            #lets
            ::std::vec::Vec::from([#((#names, #idents)),*])
        }
    }
}

fn rules(spec: &Spec) -> TokenStream {
    let broken = format_ident!("broken", span = Span::mixed_site());
    let holds = format_ident!("holds", span = Span::mixed_site());
    let checks = spec.rules.iter().map(|line| {
        let Rule { condition, field, rule, cure } = line;
        let (name, rule, cure) = (field.to_string(), message(rule), message(cure));
        quote! {
            let #holds: bool = #condition;
            if !#holds {
                #broken.push(::packscan_runtime::kernel::Broken {
                    field: #name,
                    value: ::std::string::ToString::to_string(&self.#field),
                    rule: #rule,
                    cure: #cure,
                });
            }
        }
    });
    let expressions = spec.rules.iter().map(|Rule { condition, rule, cure, .. }| {
        let (rule, rule_args, cure, cure_args) = (&rule.text, &rule.args, &cure.text, &cure.args);
        quote!(#condition, #rule #(, #rule_args)*, #cure #(, #cure_args)*;)
    });
    let lets = scope::variant(spec, expressions);
    let body = if spec.rules.is_empty() {
        quote!(::std::vec::Vec::new())
    } else {
        quote!(#lets let mut #broken = ::std::vec::Vec::new(); #(#checks)* #broken)
    };
    quote! {
        fn broken_rules(&self) -> ::std::vec::Vec<::packscan_runtime::kernel::Broken> {
            #body
        }
    }
}

/// The text of a message; clippy would rather not see `format!` where nothing is formatted.
fn message(Message { text, args }: &Message) -> TokenStream {
    if args.is_empty() && !text.value().contains(['{', '}']) {
        return quote!(::std::borrow::ToOwned::to_owned(#text));
    }
    quote!(::std::format!(#text #(, #args)*))
}

/// Ids: `Display` and its inverse.
fn text(variant: &Ident) -> TokenStream {
    quote! {
        impl ::std::fmt::Display for #variant {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                use ::packscan_runtime::kernel::{Variant, id};
                f.pad(&id(Self::SPEC, &self.values()))
            }
        }

        impl ::std::str::FromStr for #variant {
            type Err = ::packscan_runtime::Error;

            fn from_str(text: &str) -> ::packscan_runtime::Result<Self> {
                use ::packscan_runtime::kernel::{Variant, parse_id};
                parse_id(Self::SPEC, text).map(|values| Self::from_values(&values))
            }
        }
    }
}
