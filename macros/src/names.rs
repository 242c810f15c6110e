//! What the names and tags of a declaration must satisfy so that Rust, CUDA and the reader of an id can tell them apart.

use std::collections::HashMap;

use proc_macro2::Span;
use syn::{Ident, LitStr};

use crate::cuda;
use crate::parse::{Declaration, Domain, Parameter};
use crate::spec::Dtype;

/// Every name or tag that cannot stand, where it stands.
pub fn faults(declaration: &Declaration) -> Vec<(Span, String)> {
    let mut faults = Vec::new();
    values(declaration, &mut faults);
    fields(declaration, &mut faults);
    tags(&declaration.parameters, &mut faults);
    faults
}

type Faults = Vec<(Span, String)>;

/// Names of one kind that must differ.
struct Unique {
    kind: &'static str,
    /// What each name is taken by.
    taken: HashMap<String, String>,
}

impl Unique {
    fn new(kind: &'static str, reserved: &[&str]) -> Self {
        let taken = reserved.iter().map(|name| ((*name).to_owned(), "the pack".to_owned())).collect();
        Self { kind, taken }
    }

    /// A fault where the name is taken.
    fn add(&mut self, name: String, by: &Ident, span: Span, faults: &mut Faults) {
        match self.taken.get(&name) {
            Some(other) if *other == format!("`{by}`") => {
                faults.push((span, format!("{} `{name}` is given twice: rename one of them", self.kind)));
            }
            Some(other) => {
                let message = format!("{} `{name}` of `{by}` is taken by {other}: rename one of them", self.kind);
                faults.push((span, message));
            }
            None => drop(self.taken.insert(name, format!("`{by}`"))),
        }
    }
}

/// What expressions use: parameters, derived numbers, dims and letters; the first two are constants or types of CUDA too.
fn values(declaration: &Declaration, faults: &mut Faults) {
    let mut names = Unique::new("the name", &["T", "S"]);
    let mut constants = Unique::new("the CUDA constant", &[]);
    let parameters = declaration.parameters.iter().map(|p| (&p.ident, matches!(p.domain, Domain::Dtype { .. })));
    for (ident, is_type) in parameters.chain(declaration.derived.iter().map(|derived| (&derived.ident, false))) {
        let name = ident.to_string();
        let fault = if is_type { cuda::type_fault(&name) } else { cuda::constant_fault(&name) };
        faults.extend(fault.map(|fault| (ident.span(), fault)));
        if Dtype::ALL.iter().any(|dtype| dtype.2 == name) {
            faults.push((ident.span(), format!("`{name}` is an element type: choose another name")));
        }
        let before = faults.len();
        names.add(name.clone(), ident, ident.span(), faults);
        if faults.len() == before && !is_type {
            constants.add(cuda::constant(&name), ident, ident.span(), faults);
        }
    }
    for dim in &declaration.dims {
        names.add(dim.ident.to_string(), &dim.ident, dim.ident.span(), faults);
        names.add(dim.letter.value(), &dim.ident, dim.letter.span(), faults);
    }
}

/// What `Args` holds: tensors, their strides, dims.
fn fields(declaration: &Declaration, faults: &mut Faults) {
    let mut fields = Unique::new("the field", &cuda::ARGS_FIELDS);
    let dims = declaration.dims.iter().map(|dim| (&dim.ident, false));
    for (ident, strided) in dims.chain(declaration.tensors.iter().map(|t| (&t.ident, t.strided.is_some()))) {
        let name = ident.to_string();
        faults.extend(cuda::identifier_fault(&name).map(|fault| (ident.span(), fault)));
        fields.add(name.clone(), ident, ident.span(), faults);
        if strided {
            fields.add(cuda::stride(&name), ident, ident.span(), faults);
        }
    }
}

/// Ids are split at `-`, and numbers end where digits end: a tag must let them be read back.
fn tags(parameters: &[Parameter], faults: &mut Faults) {
    let mut tags = Unique::new("the tag", &[]);
    for parameter in parameters {
        let (tag, is_int) = match &parameter.domain {
            Domain::Range { tag, .. } | Domain::OneOf { tag, .. } => (tag, true),
            Domain::Flag { tag } => (tag, false),
            Domain::Dtype { .. } => continue,
        };
        tags.add(tag.value(), &parameter.ident, tag.span(), faults);
        let read_as = if is_int { number_read_as(tag, parameters) } else { None };
        faults.extend(tag_fault(&tag.value()).or(read_as).map(|fault| (tag.span(), fault)));
    }
}

fn tag_fault(tag: &str) -> Option<String> {
    if tag.is_empty() {
        return Some("an empty tag: an id could not say which parameter is meant; use letters a to z".to_owned());
    }
    if Dtype::ALL.iter().any(|dtype| dtype.2 == tag) {
        return Some(format!("the tag `{tag}` reads as an element type in an id: choose another"));
    }
    let why = match tag.chars().find(|c| !(c.is_ascii_lowercase() || *c == '_'))? {
        '-' => "`-` separates the parts of an id",
        '0'..='9' => "digits belong to the number that follows a tag",
        'A'..='Z' => "ids are lower case",
        _ => "an id names a file and a CUDA symbol",
    };
    Some(format!("the tag `{tag}` makes ids ambiguous: {why}; use letters a to z and `_`"))
}

/// A number with this tag must not read as a type that stands in ids of the same kernel: `f` and 32 as `f32`.
fn number_read_as(tag: &LitStr, parameters: &[Parameter]) -> Option<String> {
    let types = parameters.iter().filter_map(|parameter| match &parameter.domain {
        Domain::Dtype { types, .. } => Some(types),
        _ => None,
    });
    let tag = tag.value();
    types.flatten().find_map(|name| {
        let dtype = Dtype::ALL.iter().find(|dtype| name == dtype.1)?.2;
        let digits = dtype.strip_prefix(tag.as_str())?;
        digits.parse::<u32>().ok()?;
        Some(format!("the tag `{tag}` with the number {digits} reads as the type `{dtype}`: choose another tag"))
    })
}
