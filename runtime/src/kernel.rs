//! What a `kernel!` declaration becomes: a [`Spec`] of data, a [`Variant`] that fills it with numbers, and the
//! specialised CUDA text made from both.
//!
//! The macro in `packscan-macros` emits only data and the expressions that its author wrote; every rule about ids,
//! text and checks is here, once, in plain Rust.

use std::fmt::{self, Write as _};

use crate::nvrtc::Arch;
use crate::{Dtype, Error, Result, View};

/// A kernel as its declaration states it.
#[derive(Debug)]
pub struct Spec {
    /// Operator and pass, `selective_scan_fwd`: the first part of every id and the name of the device function.
    pub name: &'static str,
    /// What it computes: the first lines of the declaration's documentation.
    pub doc: &'static str,
    /// The CUDA bodies in the order in which they are compiled, after the prelude.
    pub sources: &'static [Source],
    /// The parameters of a variant, in the order of its id.
    pub parameters: &'static [Parameter],
    /// The tensors, in the order of the CUDA `Args` struct.
    pub tensors: &'static [Tensor],
    /// Sizes that a call adds to `T` and `S`, as `unsigned` fields that follow the tensors in `Args`.
    pub dims: &'static [&'static str],
}

/// A CUDA file, known to the compiler by the path given here.
#[derive(Debug)]
pub struct Source {
    /// Path from the repository's root, for `#line`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// One number of a variant.
#[derive(Debug)]
pub struct Parameter {
    /// Field and, in capitals, CUDA constant: `state`, `STATE`.
    pub name: &'static str,
    /// What stands before the number in an id: `n` of `n16`; for a flag, the whole word.
    pub tag: &'static str,
    /// What it means, with its unit.
    pub doc: &'static str,
    /// The values that it may take.
    pub domain: Domain,
}

/// The values that a parameter may take.
#[derive(Debug)]
pub enum Domain {
    /// Both ends belong to it.
    Range(u32, u32),
    /// Just these.
    OneOf(&'static [u32]),
    /// A type among these; named `<parameter>_t` in CUDA.
    Dtype(&'static [Dtype]),
    /// An option that is on or off.
    Flag,
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Of a range or a choice.
    Int(u32),
    /// Of a type.
    Dtype(Dtype),
    /// Of a flag.
    Flag(bool),
}

/// One tensor argument, as declared.
#[derive(Debug)]
pub struct Tensor {
    /// Field of the argument struct, in Rust and in CUDA.
    pub name: &'static str,
    /// What it holds.
    pub doc: &'static str,
    /// Its shape as written: `[T, D]`.
    pub shape: &'static str,
    /// What the kernel does with it.
    pub access: Access,
    /// Its element type, fixed or that of a parameter.
    pub element: ElementOf,
    /// Whether rows may lie further apart than they are long; CUDA then gets `<name>_stride`, in elements.
    pub strided: bool,
}

/// What a kernel does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads data of the sequences or parameters.
    In,
    /// Writes every element.
    Out,
    /// Reads and adds.
    InOut,
    /// Reads how the pack is laid out: boundaries, never data, so branches may depend on it.
    Structure,
}

/// Where a tensor's element type comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementOf {
    /// The same in every variant.
    Fixed(Dtype),
    /// That of the named parameter.
    Parameter(&'static str),
}

/// Whose data a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's: parameters, or sums over sequences.
    Nobody,
    /// Row `r` belongs to the sequence of token `r * n`: `[T, ..]` has `n = 1`, `[T / chunk, ..]` has `n = chunk`.
    TokenEvery(usize),
    /// Row `r` belongs to sequence `r`: `[S, ..]`.
    Sequence,
}

/// A tensor of one call: what was given, and what it must be.
#[derive(Debug)]
pub struct Bound<'a> {
    /// Its declaration.
    pub tensor: &'static Tensor,
    /// What the caller gave; `None` only for an option that is off.
    pub view: Option<View<'a>>,
    /// Whether the variant's options call for it.
    pub wanted: bool,
    /// The element type that it must have.
    pub dtype: Dtype,
    /// The first extent of its shape.
    pub rows: usize,
    /// The product of the other extents, 1 for a vector.
    pub cols: usize,
    /// Start, stride and columns must be multiples of this many elements.
    pub multiple: usize,
    /// Whose data its rows hold.
    pub owner: Owner,
}

/// The extents of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents<'a> {
    /// Tokens, `T`.
    pub tokens: usize,
    /// Sequences, `S`.
    pub sequences: usize,
    /// The values of [`Spec::dims`].
    pub dims: &'a [usize],
}

/// Grid, block and shared memory of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
}

/// A rule that a variant breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The field to change.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// The rule, as a sentence without a full stop.
    pub rule: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, but {}; {}", self.field, self.value, self.rule, self.cure)
    }
}

/// One specialisation of a kernel: a struct of numbers, generated by `kernel!`.
pub trait Variant: Clone + fmt::Debug + fmt::Display + PartialEq + Send + Sync + 'static {
    /// The declaration.
    const SPEC: &'static Spec;

    /// The typed arguments of a call.
    type Args<'a>;

    /// The values of [`Spec::parameters`], in order.
    fn values(&self) -> Vec<Value>;

    /// The variant with these values, which fit [`Spec::parameters`] in number and kind.
    fn from_values(values: &[Value]) -> Self;

    /// Names and values that follow from the parameters, for CUDA constants in capitals.
    fn derived(&self) -> Vec<(&'static str, usize)>;

    /// The rules between parameters that this variant breaks; domains are checked before these are asked.
    fn broken_rules(&self) -> Vec<Broken>;

    /// Threads of a block.
    fn threads(&self) -> usize;

    /// Dynamic shared memory of a block, in bytes.
    fn shared_bytes(&self) -> usize;

    /// Blocks that one multiprocessor shall hold at least: the compiler leaves registers for as many.
    fn resident(&self) -> usize;

    /// Blocks of a call.
    fn grid(&self, extents: Extents<'_>) -> [usize; 3];

    /// The sizes that a call adds, in the order of [`Spec::dims`].
    fn dims(args: &Self::Args<'_>) -> Vec<usize>;

    /// The tensors of a call, in the order of [`Spec::tensors`].
    fn bind<'a>(&self, args: &Self::Args<'a>, extents: Extents<'_>) -> Vec<Bound<'a>>;
}

/// The most threads that a block can have, on every NVIDIA GPU so far.
pub const MAX_THREADS: usize = 1024;

/// Every rule that the variant breaks: domains first, and only if they hold the rules between parameters.
pub fn broken<V: Variant>(variant: &V) -> Vec<Broken> {
    let out: Vec<Broken> = std::iter::zip(V::SPEC.parameters, variant.values())
        .filter_map(|(parameter, value)| parameter.broken_by(value))
        .collect();
    if !out.is_empty() {
        return out;
    }
    variant.broken_rules()
}

/// Checks a variant against its declaration and against what a block may use on an architecture.
///
/// # Errors
/// [`Error::Variant`] with every broken rule.
pub fn check<V: Variant>(variant: &V, arch: Arch) -> Result<()> {
    let mut rules = broken(variant);
    if rules.is_empty() {
        rules.extend(unknown_types(variant, arch));
        let (threads, shared_bytes) = (variant.threads(), variant.shared_bytes());
        if threads > MAX_THREADS || !threads.is_multiple_of(32) {
            rules.push(Broken {
                field: "threads",
                value: threads.to_string(),
                rule: format!("a block has whole warps of 32 and at most {MAX_THREADS} threads"),
                cure: "take a smaller block of whole warps".to_owned(),
            });
        }
        let most = arch.max_shared_bytes();
        if shared_bytes > most {
            rules.push(Broken {
                field: "shared memory",
                value: format!("{shared_bytes} bytes"),
                rule: format!("a block on {arch} has at most {most}"),
                cure: "take parameters that stage less at a time, a shorter chunk or a smaller block".to_owned(),
            });
        }
    }
    if rules.is_empty() { Ok(()) } else { Err(Error::Variant { id: variant.to_string(), rules }) }
}

/// The parameters whose type an architecture cannot convert.
fn unknown_types<V: Variant>(variant: &V, arch: Arch) -> Vec<Broken> {
    let values = std::iter::zip(V::SPEC.parameters, variant.values());
    let unknown = values.filter(|(_, value)| *value == Value::Dtype(Dtype::Bf16) && arch.number() < 80);
    let broken = |(parameter, _): (&Parameter, Value)| Broken {
        field: parameter.name,
        value: Dtype::Bf16.to_string(),
        rule: format!("{arch} does not know this type, sm_80 and later do"),
        cure: "take f16 or f32".to_owned(),
    };
    unknown.map(broken).collect()
}

impl Parameter {
    fn broken_by(&self, value: Value) -> Option<Broken> {
        let (value, rule, cure) = match (&self.domain, value) {
            (Domain::Range(low, high), Value::Int(v)) if !(*low..=*high).contains(&v) => {
                (v.to_string(), format!("it must be from {low} to {high}"), format!("take {}", v.clamp(*low, *high)))
            }
            (Domain::OneOf(list), Value::Int(v)) if !list.contains(&v) => {
                let nearest = list.iter().min_by_key(|x| x.abs_diff(v)).copied().unwrap_or_default();
                (v.to_string(), format!("it must be one of {list:?}"), format!("take {nearest}"))
            }
            (Domain::Dtype(list), Value::Dtype(v)) if !list.contains(&v) => {
                let names: Vec<String> = list.iter().map(Dtype::to_string).collect();
                (v.to_string(), format!("it must be one of {}", names.join(", ")), format!("take {}", names[0]))
            }
            _ => return None,
        };
        Some(Broken { field: self.name, value, rule, cure })
    }
}

/// The id of a variant: name, then each parameter as tag and number, flags only where they are on.
pub fn id(spec: &Spec, values: &[Value]) -> String {
    let mut out = spec.name.to_owned();
    for (parameter, value) in std::iter::zip(spec.parameters, values) {
        match value {
            Value::Int(v) => write!(out, "-{}{v}", parameter.tag),
            Value::Dtype(v) => write!(out, "-{v}"),
            Value::Flag(true) => write!(out, "-{}", parameter.tag),
            Value::Flag(false) => Ok(()),
        }
        .expect("writing to a String cannot fail");
    }
    out
}

/// The values that an id states: the inverse of [`id`].
///
/// # Errors
/// [`Error::Id`] with the part that does not fit.
pub fn parse_id(spec: &Spec, text: &str) -> Result<Vec<Value>> {
    let wrong = |expected: String| Error::Id { id: text.to_owned(), expected };
    let mut parts = text.split('-').peekable();
    if parts.next() != Some(spec.name) {
        return Err(wrong(format!("it must start with {}", spec.name)));
    }
    let mut values = Vec::new();
    for parameter in spec.parameters {
        let part = parts.peek().copied().unwrap_or_default();
        let value = match &parameter.domain {
            Domain::Range(..) | Domain::OneOf(_) => part
                .strip_prefix(parameter.tag)
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'))
                .and_then(|digits| digits.parse().ok())
                .map(Value::Int),
            Domain::Dtype(_) => part.parse().ok().map(Value::Dtype),
            Domain::Flag => Some(Value::Flag(part == parameter.tag)),
        };
        let value = value
            .ok_or_else(|| wrong(format!("{part:?} stands where {} ({}) belongs", parameter.name, parameter.tag)))?;
        if value != Value::Flag(false) {
            parts.next();
        }
        values.push(value);
    }
    match parts.next() {
        None => Ok(values),
        Some(part) => Err(wrong(format!("nothing is known as {part:?} there"))),
    }
}

/// The name of the kernel's entry in the compiled module.
pub fn symbol(id: &str) -> String {
    id.replace('-', "_")
}

/// The prelude: the few types and intrinsics that generated CUDA uses, since no toolkit header is needed.
pub const PRELUDE: Source = Source { path: "runtime/src/prelude.cuh", text: include_str!("prelude.cuh") };

/// Where the bodies of a kernel begin in its text: after the prelude, and the constants of the variant before its arguments.
pub(crate) const BODIES: &str = "struct Args {\n";

/// The specialised CUDA text: prelude, constants and types, the `Args` struct, the bodies, the entry.
pub fn source<V: Variant>(variant: &V) -> String {
    let spec = V::SPEC;
    let id = variant.to_string();
    let mut out = format!("// {id}: generated by packscan.\n");
    push_file(&mut out, &PRELUDE);
    out.push_str("#line 1 \"constants of the variant\"\n");
    for (parameter, value) in std::iter::zip(spec.parameters, variant.values()) {
        out.push_str(&constant(parameter.name, value));
    }
    for (name, value) in variant.derived() {
        let _ = writeln!(out, "constexpr unsigned {} = {value};", name.to_uppercase());
    }
    out.push_str(&arguments(spec));
    for file in spec.sources {
        push_file(&mut out, file);
    }
    let _ = write!(
        out,
        "#line 1 \"entry of the variant\"\n\
         extern \"C\" __global__ void __launch_bounds__({threads}{resident}) {symbol}(const __grid_constant__ Args args) {{\n    \
         {name}(args);\n}}\n",
        threads = variant.threads(),
        // To ask for one block is no wish, but the compiler would take it for leave to spend registers.
        resident = if variant.resident() > 1 { format!(", {}", variant.resident()) } else { String::new() },
        symbol = symbol(&id),
        name = spec.name,
    );
    out
}

fn push_file(out: &mut String, file: &Source) {
    let _ = write!(out, "#line 1 \"{}\"\n{}\n", file.path, file.text.trim_end());
}

fn constant(name: &str, value: Value) -> String {
    match value {
        Value::Int(v) => format!("constexpr unsigned {} = {v};\n", name.to_uppercase()),
        Value::Flag(v) => format!("constexpr bool {} = {v};\n", name.to_uppercase()),
        Value::Dtype(v) => format!("using {name}_t = {};\n", v.cuda()),
    }
}

/// The argument struct in CUDA; [`crate::launch`] lays the same fields out in the same order.
fn arguments(spec: &Spec) -> String {
    let mut out = BODIES.to_owned();
    for tensor in spec.tensors {
        let element = match tensor.element {
            ElementOf::Fixed(dtype) => dtype.cuda().to_owned(),
            ElementOf::Parameter(name) => format!("{name}_t"),
        };
        let qualifier = match tensor.access {
            Access::In | Access::Structure => "const ",
            Access::Out | Access::InOut => "",
        };
        let _ = writeln!(out, "    {qualifier}{element}* {}; // {}", tensor.name, tensor.shape);
        if tensor.strided {
            let _ = writeln!(out, "    long long {}_stride;", tensor.name);
        }
    }
    out.push_str("    unsigned tokens, sequences;\n");
    for dim in spec.dims {
        let _ = writeln!(out, "    unsigned {dim};");
    }
    out.push_str("};\n");
    out
}
