//! What the suite must know of the causal convolution.

use packscan_kernels::causal_conv1d::{self as conv, Forward, Mapping, Problem, default_variant};
use packscan_reference::Bounded;
use packscan_reference::causal_conv1d as book;
use packscan_runtime::{Dtype, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Model, Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

mod backward;

pub(super) use backward::BACKWARD;

/// The forward pass and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "causal-conv1d",
    name: "forward",
    kernel: "causal_conv1d_fwd",
    pick: |model| checked(&default_variant(&of_model(model))),
    jobs,
    job: suite_of::<CausalConv1d>,
    faults: conv::forward_faults,
};

/// The convolution of a Mamba block: four taps, bias, silu.
fn of_model(model: &Model) -> Problem {
    problem(4, model.io, model.width, 0b0011)
}

/// The causal convolution, forward.
#[derive(Debug)]
struct CausalConv1d;

impl Operator for CausalConv1d {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        let Forward { run, ahead, ways, packets, vec, resident, .. } = *v;
        sizes(Mapping { run, ahead, ways, packets, vec, resident }, elements)
    }

    fn continues(v: &Forward) -> bool {
        v.initial
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let Forward { width, io, bias, initial, .. } = *v;
        random_inputs(&Options { width, io, bias, initial }, packed, case)
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device, d) = (call.variant, call.packed.packed(), call.packed.device(), call.channels);
        let mut shapes = vec![Tensor::shaped("out", v.io, Rows::Tokens, d)];
        if v.last {
            shapes.push(Tensor::shaped("history_out", v.io, Rows::Sequences, past(v.width) * d));
        }
        let arguments = Arguments::new(device, packed, inputs, shapes, padding(call.padding, v.vec))?;
        let outputs = conv::Outputs { out: arguments.view("out"), history: arguments.get("history_out") };
        for _ in 0..call.rounds {
            conv::forward(call.packed, v, &conv_inputs(&arguments), &outputs)?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Forward, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let values = BookInputs::new(inputs);
        let lengths = packed.lengths();
        let book = book::forward(&values.pack(packed, &lengths), &values.inputs(v.width, v.silu));
        let mut out = vec![stored(&book.out, v.io)];
        if v.last {
            out.push(book.history);
        }
        out
    }
}

/// Rows of a history.
fn past(width: u32) -> usize {
    width as usize - 1
}

/// What random cases look like: the chunk is the tile of tokens of a block.
fn sizes(mapping: Mapping, elements: usize) -> Sizes {
    let Mapping { run, ways, packets, vec, .. } = mapping;
    Sizes {
        chunk: (ways * run).max(2) as usize,
        tile: (packets * vec) as usize,
        multiple: vec as usize,
        state: 1,
        elements,
    }
}

/// What decides which inputs a pass has.
struct Options {
    width: u32,
    io: Dtype,
    bias: bool,
    initial: bool,
}

fn random_inputs(options: &Options, packed: &Packed, case: &Case) -> Vec<Tensor> {
    let Options { width, io, bias, initial } = *options;
    let (d, k) = (case.channels, width as usize);
    let all = [
        (true, "x", io, Rows::Tokens, d, 2.0),
        (true, "w", Dtype::F32, Rows::Shared(d), k, 1.0),
        (bias, "b", Dtype::F32, Rows::Shared(1), d, 1.0),
        (initial, "history", io, Rows::Sequences, past(width) * d, 2.0),
    ];
    let wanted = all.into_iter().filter(|input| input.0);
    let random = |(_, name, dtype, rows, cols, most): (bool, &'static str, Dtype, Rows, usize, f32)| {
        let any = |r: &mut Random| r.between(-most, most);
        Tensor::random(Tensor::shaped(name, dtype, rows, cols), packed, case.seed, any)
    };
    wanted.map(random).collect()
}

/// How many unused columns lie on each side of a tensor's rows, in elements.
fn padding(loads: usize, vec: u32) -> impl Fn(&str) -> usize {
    move |name| if matches!(name, "x" | "out" | "g" | "dx") { loads * vec as usize } else { 0 }
}

fn conv_inputs(arguments: &Arguments) -> conv::Inputs<'_> {
    conv::Inputs {
        x: arguments.view("x"),
        w: arguments.view("w"),
        b: arguments.get("b"),
        history: arguments.get("history"),
    }
}

/// The inputs as the book takes them.
struct BookInputs {
    channels: usize,
    x: Vec<Bounded>,
    w: Vec<Bounded>,
    b: Option<Vec<Bounded>>,
    history: Option<Vec<Bounded>>,
}

impl BookInputs {
    fn new(inputs: &[Tensor]) -> Self {
        let required = |name| exact(inputs, name).unwrap_or_default();
        BookInputs {
            channels: inputs[0].cols,
            x: required("x"),
            w: required("w"),
            b: exact(inputs, "b"),
            history: exact(inputs, "history"),
        }
    }

    fn inputs(&self, width: u32, silu: bool) -> book::Inputs<'_, Bounded> {
        let b = self.b.as_deref();
        book::Inputs { channels: self.channels, width: width as usize, x: &self.x, w: &self.w, b, silu }
    }

    fn pack<'a>(&'a self, packed: &'a Packed, lengths: &'a [usize]) -> book::Pack<'a, Bounded> {
        match &self.history {
            Some(history) => book::Pack { lengths, continued: packed.continued(), history },
            None => book::Pack::fresh(lengths),
        }
    }
}

/// The bits of a number as options; 0 is none of them.
fn problem(width: u32, io: Dtype, channels: usize, bits: usize) -> Problem {
    let [silu, bias, initial, last] = std::array::from_fn(|i| bits >> i & 1 != 0);
    Problem { channels, width: width as usize, io, silu, bias, initial, last }
}

/// For each type the hand-picked mapping with every option; each width in a small one, with types and options in turn.
fn problems(plan: &Plan) -> Vec<(Problem, Option<Mapping>)> {
    let large = plan.dtypes.iter().map(|&io| (problem(4, io, 24, 15), None));
    let small = (2..=8).zip(plan.dtypes.iter().cycle()).map(|(width, &io)| {
        // Runs of one group and of two, loads in one go and in several, one warp and three.
        let ahead = if width <= 4 { 4 } else { 8 };
        let mapping = match width % 3 {
            0 => Mapping { run: ahead, ahead, ways: 8, packets: 4, vec: 1, resident: 1 },
            1 => Mapping { run: 2 * ahead, ahead, ways: 24, packets: 4, vec: 2, resident: 2 },
            _ => Mapping { run: 8, ahead: 8, ways: 4, packets: 8, vec: 1, resident: 1 },
        };
        (problem(width, io, 23, 13 * width as usize + 5), Some(mapping))
    });
    large.chain(small).collect()
}

fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let variant = |(problem, mapping): (Problem, Option<Mapping>)| {
        mapping.map_or_else(|| default_variant(&problem), |mapping| problem.forward(mapping))
    };
    problems(plan).into_iter().map(|p| Box::new(Suite::<CausalConv1d>::new(variant(p))) as Box<dyn Job>).collect()
}
