//! The names that an author's expressions may use, and the `let`s that bind just those that they do use.

use std::collections::HashSet;

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};

use crate::spec::{Domain, Spec};

/// The `let`s for expressions over a variant: its parameters (numbers as `usize`) and derived numbers.
pub fn variant(spec: &Spec, expressions: impl IntoIterator<Item = TokenStream>) -> TokenStream {
    let mut used = used(expressions.into_iter().collect());
    let mut derived = Vec::new();
    for line in spec.derived.iter().rev() {
        if used.contains(&line.ident.to_string()) {
            used.extend(self::used(line.expr.to_token_stream()));
            let (ident, expr) = (&line.ident, &line.expr);
            derived.push(quote!(let #ident: usize = #expr;));
        }
    }
    derived.reverse();
    let parameters = spec.parameters.iter().filter(|parameter| used.contains(&parameter.ident.to_string()));
    let parameters = parameters.map(|parameter| {
        let ident = &parameter.ident;
        let cast = match parameter.domain {
            Domain::Range(..) | Domain::OneOf(_) => quote!(as usize),
            Domain::Dtype(_) | Domain::Flag => TokenStream::new(),
        };
        quote!(let #ident = self.#ident #cast;)
    });
    quote!(#(#parameters)* #(#derived)*)
}

/// The `let`s for expressions over a call: also `T`, `S` and the dims, by name and by letter, from `extents`.
pub fn call(spec: &Spec, extents: &Ident, expressions: impl IntoIterator<Item = TokenStream>) -> TokenStream {
    let expressions: TokenStream = expressions.into_iter().collect();
    let used = used(expressions.clone());
    let mut lets = TokenStream::new();
    let mut bind = |name: &dyn ToTokens, value: TokenStream| {
        if used.contains(&name.to_token_stream().to_string()) {
            lets.extend(quote!(let #name = #value;));
        }
    };
    bind(&quote!(T), quote!(#extents.tokens));
    bind(&quote!(S), quote!(#extents.sequences));
    for (i, dim) in spec.dims.iter().enumerate() {
        bind(&dim.ident, quote!(#extents.dims[#i]));
        bind(&dim.letter, quote!(#extents.dims[#i]));
    }
    let variant = variant(spec, [expressions]);
    quote!(#lets #variant)
}

/// The identifiers that may be variables: those that follow no single `.`.
pub fn identifiers(tokens: TokenStream) -> Vec<Ident> {
    let mut found = Vec::new();
    let mut dots = 0;
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '.' => {
                dots += 1;
                continue;
            }
            TokenTree::Ident(ident) if dots != 1 => found.push(ident),
            TokenTree::Group(group) => found.extend(identifiers(group.stream())),
            _ => {}
        }
        dots = 0;
    }
    found
}

/// The names of variables, including those that format strings capture.
fn used(tokens: TokenStream) -> HashSet<String> {
    let mut names: HashSet<String> = identifiers(tokens.clone()).iter().map(Ident::to_string).collect();
    captured(tokens, &mut names);
    names
}

fn captured(tokens: TokenStream, names: &mut HashSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => captured(group.stream(), names),
            TokenTree::Literal(literal) => {
                let text = literal.to_string().replace("{{", "");
                let holes = text.split('{').skip(1).filter_map(|rest| rest.split(['}', ':']).next());
                names.extend(holes.map(|name| name.trim().to_owned()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let mut names: Vec<String> = used(text.parse().expect("tokens")).into_iter().collect();
        names.sort();
        names
    }

    #[test]
    fn variables_are_told_from_fields_and_methods() {
        assert_eq!(names("state.div_ceil(lanes) + self.chunk"), ["lanes", "self", "state"]);
        assert_eq!(names("(0..chunk).chain(0..=state)"), ["chunk", "state"]);
    }

    #[test]
    fn captures_of_format_strings_count() {
        assert_eq!(names(r#"format!("{lanes} of {state:>4}, {{chunk}}")"#), ["format", "lanes", "state"]);
    }
}
