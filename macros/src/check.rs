//! From what was written to what it means: every name is resolved, every number read, and every mistake reported, all
//! at once, each where it stands and with its cure.

use proc_macro2::Span;
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, LitInt};

use crate::hint::{did_you_mean, list};
use crate::parse;
use crate::shape::{self, Letters};
use crate::spec::{Access, Derived, Dim, Docs, Domain, Dtype, Element, Launch, Parameter, Rule, Source, Spec, Tensor};
use crate::{cuda, names};

/// The meaning of a declaration.
///
/// # Errors
/// Every mistake in it, combined.
pub fn check(declaration: parse::Declaration) -> syn::Result<Spec> {
    let mut checker = Checker::new(&declaration);
    let spec = checker.declaration(declaration);
    match checker.errors {
        None => Ok(spec.expect("what is not understood is reported")),
        Some(errors) => Err(errors),
    }
}

/// What is known while checking, and what was found wrong so far.
struct Checker {
    errors: Option<Error>,
    letters: Letters,
    parameters: Vec<String>,
    flags: Vec<String>,
    dtypes: Vec<String>,
}

impl Checker {
    fn new(declaration: &parse::Declaration) -> Self {
        let named = |wanted: fn(&parse::Domain) -> bool| {
            let found = declaration.parameters.iter().filter(|p| wanted(&p.domain));
            found.map(|p| p.ident.to_string()).collect()
        };
        Self {
            errors: None,
            letters: Letters::new(declaration),
            parameters: named(|_| true),
            flags: named(|domain| matches!(domain, parse::Domain::Flag { .. })),
            dtypes: named(|domain| matches!(domain, parse::Domain::Dtype { .. })),
        }
    }

    fn report(&mut self, span: Span, message: impl std::fmt::Display) {
        let error = Error::new(span, message);
        match &mut self.errors {
            Some(errors) => errors.combine(error),
            none => *none = Some(error),
        }
    }

    /// `None` only after a report.
    fn declaration(&mut self, from: parse::Declaration) -> Option<Spec> {
        self.head(&from);
        for (span, message) in names::faults(&from) {
            self.report(span, message);
        }
        let launch = self.launch(from.launch, from.ident.span());
        let parameters: Vec<_> = from.parameters.into_iter().map(|parameter| self.parameter(parameter)).collect();
        let dims: Vec<_> = from.dims.into_iter().map(|dim| self.dim(dim)).collect();
        let tensors: Vec<_> = from.tensors.into_iter().map(|tensor| self.tensor(tensor)).collect();
        let rules = from.rules.into_iter().map(|rule| self.rule(rule)).collect();
        let folder = from.folder.value();
        Some(Spec {
            docs: Docs(from.docs),
            vis: from.vis,
            args: format_ident!("{}Args", from.ident),
            variant: from.ident,
            name: from.name.value(),
            sources: from
                .files
                .into_iter()
                .map(|include| Source { path: format!("{folder}/{}", include.value()), include })
                .collect(),
            parameters: parameters.into_iter().collect::<Option<_>>()?,
            derived: from.derived.into_iter().map(|d| Derived { ident: d.ident, expr: d.expr }).collect(),
            rules,
            dims: dims.into_iter().collect::<Option<_>>()?,
            tensors: tensors.into_iter().collect::<Option<_>>()?,
            launch: launch?,
        })
    }

    fn head(&mut self, from: &parse::Declaration) {
        self.docs(&from.docs, &from.ident, "what it computes");
        if let Some(fault) = cuda::identifier_fault(&from.name.value()) {
            self.report(from.name.span(), fault);
        }
        if from.files.is_empty() {
            self.report(from.folder.span(), "no CUDA file: name at least one, `from [\"forward.cuh\"]`");
        }
        if from.tensors.is_empty() {
            self.report(from.ident.span(), "no tensors: a kernel without any has no effect; add `tensors { .. }`");
        }
    }

    fn parameter(&mut self, from: parse::Parameter) -> Option<Parameter> {
        self.docs(&from.docs, &from.ident, "what it means, and in which unit");
        let (tag, domain) = match from.domain {
            parse::Domain::Range { tag, low, high } => {
                let (first, last) = (self.number(&low), self.number(&high));
                let (first, last) = (first?, last?);
                if first > last {
                    self.report(low.span(), format!("the range {first}..={last} is empty: write {last}..={first}"));
                }
                (tag.value(), Domain::Range(first, last))
            }
            parse::Domain::OneOf { tag, values, span } => {
                let numbers: Vec<_> = values.iter().map(|value| self.number(value)).collect();
                let numbers: Vec<u32> = numbers.into_iter().collect::<Option<_>>()?;
                self.choices(span, &values, &numbers);
                (tag.value(), Domain::OneOf(numbers))
            }
            parse::Domain::Dtype { types, span } => {
                let dtypes: Vec<_> = types.iter().map(|name| self.dtype(name)).collect();
                let dtypes: Vec<Dtype> = dtypes.into_iter().collect::<Option<_>>()?;
                self.choices(span, &types, &dtypes);
                (String::new(), Domain::Dtype(dtypes))
            }
            parse::Domain::Flag { tag } => (tag.value(), Domain::Flag),
        };
        Some(Parameter { docs: Docs(from.docs), ident: from.ident, tag, domain })
    }

    fn choices<T: PartialEq>(&mut self, span: Span, written: &[impl ToTokens], values: &[T]) {
        if values.is_empty() {
            self.report(span, "no value to choose: list at least one");
        }
        for (i, value) in values.iter().enumerate() {
            if values[..i].contains(value) {
                self.report(written[i].span(), format!("{} is listed twice", written[i].to_token_stream()));
            }
        }
    }

    fn number(&mut self, literal: &LitInt) -> Option<u32> {
        let value = literal.base10_parse().ok();
        if value == Some(0) {
            self.report(literal.span(), "0 cannot be read back from an id, where no number starts with 0: start at 1");
        } else if value.is_none() {
            self.report(literal.span(), format!("{literal} does not fit u32: take at most {}", u32::MAX));
        }
        value
    }

    fn dtype(&mut self, ident: &Ident) -> Option<Dtype> {
        let text = ident.to_string();
        let found = Dtype::ALL.iter().find(|dtype| dtype.1 == text).map(|dtype| dtype.0);
        if found.is_none() {
            let known = Dtype::ALL.map(|dtype| dtype.1);
            let hint = did_you_mean(&text, &known);
            self.report(ident.span(), format!("unknown type `{text}`{hint}: there are {}", list(&known)));
        }
        found
    }

    fn dim(&mut self, from: parse::Dim) -> Option<Dim> {
        self.docs(&from.docs, &from.ident, "what it counts");
        let letter = from.letter.value();
        if !letter.starts_with(|c: char| c.is_ascii_uppercase()) {
            self.report(from.letter.span(), format!("`{letter}` is no shape letter: take a capital, like `D`"));
            return None;
        }
        let letter = from.letter.parse().map_err(|_| {
            self.report(from.letter.span(), format!("`{letter}` is no identifier: take a capital, like `D`"));
        });
        Some(Dim { docs: Docs(from.docs), ident: from.ident, letter: letter.ok()? })
    }

    fn rule(&mut self, from: parse::Rule) -> Rule {
        self.known(&from.field, "parameter", &self.parameters.clone());
        Rule { condition: from.condition, field: from.field, rule: from.rule, cure: from.cure }
    }

    fn launch(&mut self, from: Option<parse::Launch>, kernel: Span) -> Option<Launch> {
        let Some(from) = from else {
            self.report(kernel, "no `launch`: add `launch { grid: [..], threads: .., shared: .. }`");
            return None;
        };
        if from.threads.is_none() {
            self.report(from.span, "missing `threads`: how many has a block?");
        }
        match &from.grid {
            None => self.report(from.span, "missing `grid`: how many blocks along x, y and z? `grid: [D, S]`"),
            Some(grid) if grid.is_empty() || grid.len() > 3 => {
                self.report(from.grid_span, format!("a grid has one to three extents, not {}", grid.len()));
            }
            Some(_) => {}
        }
        Some(Launch { grid: from.grid?, threads: from.threads?, shared: from.shared, resident: from.resident })
    }

    fn tensor(&mut self, from: parse::Tensor) -> Option<Tensor> {
        self.docs(&from.docs, &from.ident, "what it holds");
        let access = self.access(&from.access);
        let element = self.element(&from.element);
        if let Some(flag) = &from.flag {
            self.known(&flag.ident, "flag", &self.flags.clone());
        }
        for (span, message) in self.letters.faults(&from.shape) {
            self.report(span, message);
        }
        if from.shape.is_empty() {
            self.report(from.shape_span, "an empty shape: a scalar is `[1]`");
        }
        let shape = shape::text(&from.shape);
        let mut extents = from.shape.into_iter();
        Some(Tensor {
            docs: Docs(from.docs),
            ident: from.ident,
            access: access?,
            element: element?,
            shape,
            rows: extents.next().map(shape::rows)?,
            others: extents.collect(),
            strided: from.strided.is_some(),
            multiple: from.strided.and_then(|strided| strided.by),
            flag: from.flag,
        })
    }

    fn access(&mut self, ident: &Ident) -> Option<Access> {
        let text = ident.to_string();
        let found = Access::ALL.iter().find(|access| access.1 == text).map(|access| access.0);
        if found.is_none() {
            let known = Access::ALL.map(|access| access.1);
            let hint = did_you_mean(&text, &known);
            self.report(ident.span(), format!("unknown access `{text}`{hint}: accesses are {}", list(&known)));
        }
        found
    }

    fn element(&mut self, ident: &Ident) -> Option<Element> {
        let text = ident.to_string();
        if let Some(dtype) = Dtype::ALL.iter().find(|dtype| dtype.2 == text) {
            return Some(Element::Fixed(dtype.0));
        }
        if self.dtypes.contains(&text) {
            return Some(Element::Parameter(ident.clone()));
        }
        let mut known = self.dtypes.clone();
        known.extend(Dtype::ALL.map(|dtype| dtype.2.to_owned()));
        let hint = did_you_mean(&text, &known);
        let message = format!("no type parameter is named `{text}`{hint}: elements are {}", list(&known));
        self.report(ident.span(), message);
        None
    }

    fn known(&mut self, ident: &Ident, what: &str, all: &[String]) {
        let text = ident.to_string();
        if all.contains(&text) {
            return;
        }
        let known =
            if all.is_empty() { "none is declared".to_owned() } else { format!("the declaration has {}", list(all)) };
        self.report(ident.span(), format!("no {what} is named `{text}`{}: {known}", did_you_mean(&text, all)));
    }

    fn docs(&mut self, docs: &[Attribute], ident: &Ident, what: &str) {
        if docs.is_empty() {
            self.report(
                ident.span(),
                format!("`{ident}` has no documentation: write a `///` line above it that says {what}"),
            );
        }
    }
}
