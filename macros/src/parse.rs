//! Tokens to a [`Declaration`]: what was written, in the order in which it was written, and nothing about meaning.
//!
//! The first token that fits no grammar ends the parse; everything that can be said about a declaration that parses is
//! left to [`crate::check`], which says all of it at once.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::token::Brace;
use syn::{Attribute, Error, Expr, Ident, LitInt, LitStr, Result, Token, Visibility, braced, bracketed};

use crate::hint::{did_you_mean, list};

/// `/// docs` `pub kernel Forward = "name" in "folder" from ["file"] { sections }`.
pub struct Declaration {
    pub docs: Vec<Attribute>,
    pub vis: Visibility,
    pub ident: Ident,
    pub name: LitStr,
    pub folder: LitStr,
    pub files: Vec<LitStr>,
    pub parameters: Vec<Parameter>,
    pub derived: Vec<Derived>,
    pub rules: Vec<Rule>,
    pub dims: Vec<Dim>,
    pub tensors: Vec<Tensor>,
    pub launch: Option<Launch>,
}

/// A line of `variant`: `state: "n" in 1..=1024`.
pub struct Parameter {
    pub docs: Vec<Attribute>,
    pub ident: Ident,
    pub domain: Domain,
}

/// What follows the colon in a line of `variant`.
pub enum Domain {
    /// `"n" in 1..=1024`
    Range { tag: LitStr, low: LitInt, high: LitInt },
    /// `"s" in [1, 2, 4]`
    OneOf { tag: LitStr, values: Vec<LitInt>, span: Span },
    /// `dtype in [F32, Bf16]`
    Dtype { types: Vec<Ident>, span: Span },
    /// `flag "gate"`
    Flag { tag: LitStr },
}

/// A line of `derived`: `threads = channels * lanes`.
pub struct Derived {
    pub ident: Ident,
    pub expr: Expr,
}

/// A line of `rules`: `condition, field: "rule", "cure";`, each string with its arguments behind it.
pub struct Rule {
    pub condition: Expr,
    pub field: Ident,
    pub rule: Message,
    pub cure: Message,
}

/// A format string and its arguments: `"take {}", chunk.next_multiple_of(lanes)`.
pub struct Message {
    pub text: LitStr,
    pub args: Vec<Expr>,
}

/// A line of `dims`: `d: "D"`.
pub struct Dim {
    pub docs: Vec<Attribute>,
    pub ident: Ident,
    pub letter: LitStr,
}

/// A line of `tensors`: `u: in io [T, D] strided by vec if gate`.
pub struct Tensor {
    pub docs: Vec<Attribute>,
    pub ident: Ident,
    pub access: Ident,
    pub element: Ident,
    pub shape: Vec<Expr>,
    pub shape_span: Span,
    pub strided: Option<Strided>,
    pub flag: Option<Flag>,
}

/// `gate` or `!gate`.
pub struct Flag {
    pub ident: Ident,
    /// Whether it is asked to be on.
    pub on: bool,
}

/// `strided` or `strided by vec`.
pub struct Strided {
    pub by: Option<Expr>,
}

/// `launch { grid: [x, y, z], threads: expr, shared: expr, resident: expr }`.
pub struct Launch {
    pub span: Span,
    pub grid: Option<Vec<Expr>>,
    pub grid_span: Span,
    pub threads: Option<Expr>,
    pub shared: Option<Expr>,
    pub resident: Option<Expr>,
}

const SECTIONS: [&str; 6] = ["variant", "derived", "rules", "dims", "tensors", "launch"];
const LAUNCH_KEYS: [&str; 4] = ["grid", "threads", "shared", "resident"];

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let docs = docs(input)?;
        let vis = input.parse()?;
        word(input, "kernel")?;
        let ident = input.parse()?;
        input.parse::<Token![=]>()?;
        let name = input.parse()?;
        input.parse::<Token![in]>()?;
        let folder = input.parse()?;
        word(input, "from")?;
        let (files, _) = bracketed_list(input)?;
        let mut declaration = Declaration {
            docs,
            vis,
            ident,
            name,
            folder,
            files,
            parameters: Vec::new(),
            derived: Vec::new(),
            rules: Vec::new(),
            dims: Vec::new(),
            tensors: Vec::new(),
            launch: None,
        };
        let sections;
        braced!(sections in input);
        let mut seen = Vec::new();
        while !sections.is_empty() {
            let section: Ident = sections.call(Ident::parse_any)?;
            let known = known_once(&section, "section", &SECTIONS, &mut seen)?;
            let lines;
            let brace = braced!(lines in sections);
            match known {
                "variant" => declaration.parameters = comma_separated(&lines)?,
                "derived" => declaration.derived = comma_separated(&lines)?,
                "rules" => {
                    declaration.rules = Punctuated::<Rule, Token![;]>::parse_terminated(&lines)?.into_iter().collect();
                }
                "dims" => declaration.dims = comma_separated(&lines)?,
                "tensors" => declaration.tensors = comma_separated(&lines)?,
                _ => declaration.launch = Some(Launch::parse(&lines, brace)?),
            }
        }
        Ok(declaration)
    }
}

impl Parse for Parameter {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let docs = docs(input)?;
        let ident = input.parse()?;
        input.parse::<Token![:]>()?;
        Ok(Self { docs, ident, domain: input.parse()? })
    }
}

impl Parse for Domain {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(LitStr) {
            let tag = input.parse()?;
            input.parse::<Token![in]>()?;
            if input.peek(syn::token::Bracket) {
                let (values, span) = bracketed_list(input)?;
                return Ok(Self::OneOf { tag, values, span });
            }
            let low = input.parse()?;
            if input.peek(Token![..]) && !input.peek(Token![..=]) {
                return Err(input.error("a range is written `low..=high`: both ends belong to it"));
            }
            input.parse::<Token![..=]>()?;
            return Ok(Self::Range { tag, low, high: input.parse()? });
        }
        let kind: Ident = input.parse().map_err(|error| {
            Error::new(
                error.span(),
                "expected `\"tag\" in low..=high`, `\"tag\" in [..]`, `dtype in [..]` or `flag \"tag\"`",
            )
        })?;
        match known(&kind, "kind of parameter", &["dtype", "flag"])? {
            "dtype" => {
                input.parse::<Token![in]>()?;
                let (types, span) = bracketed_list(input)?;
                Ok(Self::Dtype { types, span })
            }
            _ => Ok(Self::Flag { tag: input.parse()? }),
        }
    }
}

impl Parse for Derived {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let ident = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok(Self { ident, expr: input.parse()? })
    }
}

impl Parse for Rule {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let condition = input.parse()?;
        input.parse::<Token![,]>()?;
        let field = input.parse()?;
        input.parse::<Token![:]>()?;
        let rule = input.parse()?;
        input.parse::<Token![,]>()?;
        Ok(Self { condition, field, rule, cure: input.parse()? })
    }
}

impl Parse for Message {
    /// Up to the next string, which begins another message.
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let text = input.parse()?;
        let mut args = Vec::new();
        while input.peek(Token![,]) && !input.peek2(LitStr) {
            input.parse::<Token![,]>()?;
            args.push(input.parse()?);
        }
        Ok(Self { text, args })
    }
}

impl Parse for Dim {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let docs = docs(input)?;
        let ident = input.parse()?;
        input.parse::<Token![:]>()?;
        Ok(Self { docs, ident, letter: input.parse()? })
    }
}

impl Parse for Tensor {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let docs = docs(input)?;
        let ident = input.parse()?;
        input.parse::<Token![:]>()?;
        let access = input.call(Ident::parse_any)?;
        let element = input.parse()?;
        let (shape, shape_span) = bracketed_list(input)?;
        let strided = is_word(input, "strided")
            .then(|| {
                word(input, "strided")?;
                let by = is_word(input, "by").then(|| word(input, "by").and_then(|()| input.parse())).transpose()?;
                Ok::<_, Error>(Strided { by })
            })
            .transpose()?;
        let flag = match input.parse::<Option<Token![if]>>()? {
            Some(_) => {
                let on = input.parse::<Option<Token![!]>>()?.is_none();
                Some(Flag { ident: input.parse()?, on })
            }
            None => None,
        };
        if !input.is_empty() && !input.peek(Token![,]) {
            return Err(input.error("expected `strided`, `strided by <elements>`, `if <flag>`, in this order, or `,`"));
        }
        Ok(Self { docs, ident, access, element, shape, shape_span, strided, flag })
    }
}

impl Launch {
    fn parse(input: ParseStream<'_>, brace: Brace) -> Result<Self> {
        let span = brace.span.join();
        let mut launch = Self { span, grid: None, grid_span: span, threads: None, shared: None, resident: None };
        let mut seen = Vec::new();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            let known = known_once(&key, "launch setting", &LAUNCH_KEYS, &mut seen)?;
            input.parse::<Token![:]>()?;
            match known {
                "grid" => {
                    let (grid, grid_span) = bracketed_list(input)?;
                    (launch.grid, launch.grid_span) = (Some(grid), grid_span);
                }
                "threads" => launch.threads = Some(input.parse()?),
                "shared" => launch.shared = Some(input.parse()?),
                _ => launch.resident = Some(input.parse()?),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(launch)
    }
}

/// Documentation comments; any other attribute is refused, since nothing would carry it.
fn docs(input: ParseStream<'_>) -> Result<Vec<Attribute>> {
    let attributes = input.call(Attribute::parse_outer)?;
    match attributes.iter().find(|attribute| !attribute.path().is_ident("doc")) {
        Some(other) => Err(Error::new_spanned(other, "only documentation comments (`///`) can stand here")),
        None => Ok(attributes),
    }
}

fn comma_separated<P: Parse>(input: ParseStream<'_>) -> Result<Vec<P>> {
    Ok(Punctuated::<P, Token![,]>::parse_terminated(input)?.into_iter().collect())
}

/// `[a, b]` and where it stands.
fn bracketed_list<P: Parse>(input: ParseStream<'_>) -> Result<(Vec<P>, Span)> {
    let items;
    let bracket = bracketed!(items in input);
    Ok((comma_separated(&items)?, bracket.span.join()))
}

fn is_word(input: ParseStream<'_>, expected: &str) -> bool {
    input.cursor().ident().is_some_and(|(ident, _)| ident == expected)
}

fn word(input: ParseStream<'_>, expected: &str) -> Result<()> {
    if !is_word(input, expected) {
        return Err(input.error(format!("expected `{expected}`")));
    }
    input.parse::<Ident>().map(drop)
}

fn known(found: &Ident, what: &str, all: &[&'static str]) -> Result<&'static str> {
    let text = found.to_string();
    all.iter().copied().find(|known| *known == text).ok_or_else(|| {
        Error::new(
            found.span(),
            format!("unknown {what} `{text}`{}: there are {}", did_you_mean(&text, all), list(all)),
        )
    })
}

fn known_once(found: &Ident, what: &str, all: &[&'static str], seen: &mut Vec<&'static str>) -> Result<&'static str> {
    let name = known(found, what, all)?;
    if seen.contains(&name) {
        return Err(Error::new(found.span(), format!("{what} `{name}` is given twice: put both into one")));
    }
    seen.push(name);
    Ok(name)
}
