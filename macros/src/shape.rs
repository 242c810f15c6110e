//! Shapes: which letters they may use, and what their first extent says about whose data a row holds.

use proc_macro2::Span;
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{BinOp, Expr, ExprBinary, ExprPath};

use crate::hint::{did_you_mean, list};
use crate::parse::Declaration;
use crate::scope::identifiers;
use crate::spec::Rows;

/// What the shapes of a declaration may use.
pub struct Letters {
    /// `T`, `S` and the letters of the dims.
    letters: Vec<String>,
    /// Also the names of dims, parameters and derived numbers.
    names: Vec<String>,
}

impl Letters {
    pub fn new(declaration: &Declaration) -> Self {
        let dims = || declaration.dims.iter();
        let mut letters = vec!["T".to_owned(), "S".to_owned()];
        letters.extend(dims().map(|dim| dim.letter.value()));
        let mut names = letters.clone();
        names.extend(dims().map(|dim| dim.ident.to_string()));
        names.extend(declaration.parameters.iter().map(|line| line.ident.to_string()));
        names.extend(declaration.derived.iter().map(|line| line.ident.to_string()));
        Self { letters, names }
    }

    /// What is wrong with a shape, and where.
    ///
    /// A letter must be known wherever it stands, a name where it is a whole extent; the rest is left to rustc.
    pub fn faults(&self, shape: &[Expr]) -> Vec<(Span, String)> {
        let mut faults = Vec::new();
        for (i, extent) in shape.iter().enumerate() {
            if i > 0 && matches!(rows(extent.clone()), Rows::Tokens(_)) {
                let message = "`T` must be the first extent: tensors are token-major; move it to the front";
                faults.push((extent.span(), message.to_owned()));
            }
            for ident in identifiers(extent.to_token_stream()) {
                let name = ident.to_string();
                let letter = name.len() == 1 && name.starts_with(|c: char| c.is_ascii_uppercase());
                if (letter || is_name(extent, &name)) && !self.names.contains(&name) {
                    let hint = did_you_mean(&name, &self.names);
                    let letters = list(&self.letters);
                    let message = format!(
                        "unknown shape letter `{name}`{hint}: there are {letters}, and every parameter by its name"
                    );
                    faults.push((ident.span(), message));
                }
            }
        }
        faults
    }
}

/// What the first extent counts.
pub fn rows(first: Expr) -> Rows {
    if is_name(&first, "T") {
        return Rows::Tokens(None);
    }
    if is_name(&first, "S") {
        return Rows::Sequences;
    }
    match first {
        Expr::Binary(ExprBinary { left, op: BinOp::Div(_), right, .. }) if is_name(&left, "T") => {
            Rows::Tokens(Some(without_parentheses(*right)))
        }
        other => Rows::Count(other),
    }
}

/// The shape as messages and comments show it: `[T / chunk, D]`.
pub fn text(shape: &[Expr]) -> String {
    let extents = shape.iter().map(|extent| extent.to_token_stream().to_string());
    format!("[{}]", extents.collect::<Vec<_>>().join(", "))
}

fn is_name(extent: &Expr, name: &str) -> bool {
    matches!(extent, Expr::Path(ExprPath { path, .. }) if path.is_ident(name))
}

fn without_parentheses(expr: Expr) -> Expr {
    match expr {
        Expr::Paren(paren) => without_parentheses(*paren.expr),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(extent: &str) -> Rows {
        rows(syn::parse_str(extent).expect("an expression"))
    }

    #[test]
    fn the_first_extent_says_whose_the_rows_are() {
        assert!(matches!(rows_of("T"), Rows::Tokens(None)));
        assert!(matches!(rows_of("S"), Rows::Sequences));
        for other in ["S + 1", "D", "T * 2", "T / a / b", "chunk / T"] {
            assert!(matches!(rows_of(other), Rows::Count(_)), "{other}");
        }
    }

    #[test]
    fn a_divisor_of_tokens_loses_its_parentheses() {
        let Rows::Tokens(Some(every)) = rows_of("T / (chunk * 2)") else {
            panic!("T / n counts tokens");
        };
        assert_eq!(every.to_token_stream().to_string(), "chunk * 2");
    }

    #[test]
    fn letters_must_be_known_and_tokens_come_first() {
        let letters =
            Letters { letters: vec!["T".into(), "D".into()], names: vec!["T".into(), "D".into(), "state".into()] };
        let faults = |shape: &str| {
            let array: syn::ExprArray = syn::parse_str(shape).expect("an array");
            let shape: Vec<Expr> = array.elems.into_iter().collect();
            letters.faults(&shape).len()
        };
        assert_eq!(faults("[T, D, state]"), 0);
        assert_eq!(faults("[T, usize::max(state, LIMIT)]"), 0);
        assert_eq!(faults("[T, D * K, steat]"), 2);
        assert_eq!(faults("[D, T]"), 1);
        assert_eq!(faults("[D, T / state]"), 1);
    }
}
