//! The declaration after [`crate::check`]: every name resolved, every number read, nothing left that could be wrong.
//!
//! What generates code ([`crate::variant`], [`crate::launch`]) sees only this.

pub use crate::parse::Flag;
use crate::parse::Message;
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Visibility};

/// A kernel, its variants and its calls.
pub struct Spec {
    pub docs: Docs,
    pub vis: Visibility,
    /// The struct of a variant, `Forward`.
    pub variant: Ident,
    /// The struct of a call's arguments, `ForwardArgs`.
    pub args: Ident,
    /// `selective_scan_fwd`
    pub name: String,
    pub sources: Vec<Source>,
    pub parameters: Vec<Parameter>,
    pub derived: Vec<Derived>,
    pub rules: Vec<Rule>,
    pub dims: Vec<Dim>,
    pub tensors: Vec<Tensor>,
    pub launch: Launch,
}

/// Documentation comments, as attributes to repeat and as text.
pub struct Docs(pub Vec<Attribute>);

/// A CUDA file.
pub struct Source {
    /// From the repository's root.
    pub path: String,
    /// From the declaring file, for `include_str!`.
    pub include: LitStr,
}

/// A field of the variant.
pub struct Parameter {
    pub docs: Docs,
    pub ident: Ident,
    /// Empty for a type, which an id gives by its own name.
    pub tag: String,
    pub domain: Domain,
}

/// The values that a parameter may take.
pub enum Domain {
    Range(u32, u32),
    OneOf(Vec<u32>),
    Dtype(Vec<Dtype>),
    Flag,
}

/// The element types of the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    U32,
}

/// A number that follows from the parameters and from the derived numbers before it.
pub struct Derived {
    pub ident: Ident,
    pub expr: Expr,
}

/// A condition between parameters, and what to say where it does not hold.
pub struct Rule {
    pub condition: Expr,
    pub field: Ident,
    pub rule: Message,
    pub cure: Message,
}

/// A size that a call adds to `T` and `S`.
pub struct Dim {
    pub docs: Docs,
    pub ident: Ident,
    /// Its name in shapes.
    pub letter: Ident,
}

/// A field of the arguments.
pub struct Tensor {
    pub docs: Docs,
    pub ident: Ident,
    pub access: Access,
    pub element: Element,
    /// As written, `[T / chunk, D]`.
    pub shape: String,
    /// The first extent.
    pub rows: Rows,
    /// The other extents.
    pub others: Vec<Expr>,
    pub strided: bool,
    /// What start, stride and columns must be multiples of.
    pub multiple: Option<Expr>,
    /// The flag that calls for it; `None` where every call needs it.
    pub flag: Option<Flag>,
}

/// What a kernel does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    In,
    Out,
    InOut,
    Structure,
}

/// Where a tensor's element type comes from.
pub enum Element {
    Fixed(Dtype),
    Parameter(Ident),
}

/// What the first extent counts.
pub enum Rows {
    /// `T`, or `T / n` with its `n`: as many as begin `n` tokens, the last of them perhaps fewer.
    Tokens(Option<Expr>),
    /// `S`
    Sequences,
    /// Anything else.
    Count(Expr),
}

/// Grid, block and shared memory.
pub struct Launch {
    pub grid: Vec<Expr>,
    pub threads: Expr,
    pub shared: Option<Expr>,
    /// Blocks that one multiprocessor shall hold.
    pub resident: Option<Expr>,
}

impl Docs {
    /// The first paragraph on one line.
    pub fn summary(&self) -> String {
        let lines = self.0.iter().filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) => match &pair.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl ToTokens for Docs {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        for attribute in &self.0 {
            attribute.to_tokens(tokens);
        }
    }
}

impl Dtype {
    /// Every type, as `Dtype` spells it in Rust and as elements and ids spell it.
    pub const ALL: [(Self, &'static str, &'static str); 4] =
        [(Self::F32, "F32", "f32"), (Self::F16, "F16", "f16"), (Self::Bf16, "Bf16", "bf16"), (Self::U32, "U32", "u32")];

    /// `bf16`
    pub fn lower(self) -> &'static str {
        Self::ALL[self as usize].2
    }
}

impl ToTokens for Dtype {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let variant = match self {
            Self::F32 => quote!(F32),
            Self::F16 => quote!(F16),
            Self::Bf16 => quote!(Bf16),
            Self::U32 => quote!(U32),
        };
        tokens.extend(quote!(::packscan_runtime::Dtype::#variant));
    }
}

impl Access {
    /// Every access, as declarations spell it.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::In, "in"), (Self::Out, "out"), (Self::InOut, "inout"), (Self::Structure, "structure")];

    /// What the documentation says.
    pub fn verb(self) -> &'static str {
        match self {
            Self::In => "Read",
            Self::Out => "Written",
            Self::InOut => "Added to",
            Self::Structure => "Read for the layout of the pack",
        }
    }
}

impl ToTokens for Access {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let variant = match self {
            Self::In => quote!(In),
            Self::Out => quote!(Out),
            Self::InOut => quote!(InOut),
            Self::Structure => quote!(Structure),
        };
        tokens.extend(quote!(::packscan_runtime::kernel::Access::#variant));
    }
}
