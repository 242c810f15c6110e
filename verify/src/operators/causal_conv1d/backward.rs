//! The backward pass.

use packscan_kernels::causal_conv1d::{self as conv, Backward, Mapping, Problem, Workspace, default_backward};
use packscan_reference::Bounded;
use packscan_reference::causal_conv1d as book;
use packscan_runtime::{Dtype, Packed, Result};

use super::{BookInputs, Options, conv_inputs, of_model, padding, past, problems, random_inputs, sizes};
use crate::operators::arguments::{Arguments, exact, stored};
use crate::operators::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The backward pass and its faults.
pub(in crate::operators) const BACKWARD: Pass = Pass {
    operator: "causal-conv1d",
    name: "backward",
    kernel: "causal_conv1d_bwd",
    pick: |model| checked(&default_backward(&of_model(model))),
    jobs,
    job: suite_of::<CausalConv1dBackward>,
    faults: conv::backward_faults,
};

/// The causal convolution, backward.
#[derive(Debug)]
struct CausalConv1dBackward;

impl Operator for CausalConv1dBackward {
    type Variant = Backward;

    const INCOMING: &'static [&'static str] = &["g", "d_history_out"];

    fn sizes(v: &Backward, elements: usize) -> Sizes {
        let Backward { run, ahead, ways, packets, vec, resident, .. } = *v;
        sizes(Mapping { run, ahead, ways, packets, vec, resident }, elements)
    }

    fn continues(v: &Backward) -> bool {
        v.initial
    }

    fn inputs(v: &Backward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let Backward { width, io, bias, initial, .. } = *v;
        let mut inputs = random_inputs(&Options { width, io, bias, initial }, packed, case);
        let mut upstream = |name, rows, cols| {
            let any = |r: &mut Random| r.between(-1.0, 1.0);
            inputs.push(Tensor::random(Tensor::shaped(name, io, rows, cols), packed, case.seed, any));
        };
        upstream("g", Rows::Tokens, case.channels);
        if v.last {
            upstream("d_history_out", Rows::Sequences, past(width) * case.channels);
        }
        inputs
    }

    fn run(call: &Call<'_, Backward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device, d) = (call.variant, call.packed.packed(), call.packed.device(), call.channels);
        let arguments = Arguments::new(device, packed, inputs, outputs(v, d), padding(call.padding, v.vec))?;
        let upstream = conv::Upstream { out: arguments.view("g"), history: arguments.get("d_history_out") };
        let gradients = conv::Gradients {
            x: arguments.view("dx"),
            w: arguments.view("dw"),
            b: arguments.get("db"),
            add: true,
            history: arguments.get("d_history"),
        };
        let mut workspace = Workspace::new(call.packed, v, d)?;
        for _ in 0..call.rounds {
            conv::backward(call.packed, v, &conv_inputs(&arguments), &upstream, &gradients, &mut workspace)?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Backward, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let values = BookInputs::new(inputs);
        let lengths = packed.lengths();
        let (g, kept) = (exact(inputs, "g").unwrap_or_default(), exact(inputs, "d_history_out"));
        let upstream = book::Upstream { out: &g, history: kept.as_deref() };
        let book = book::backward(&values.pack(packed, &lengths), &values.inputs(v.width, v.silu), &upstream);
        let mut out = vec![stored(&book.x, v.io), book.w];
        out.extend(book.b);
        if v.initial {
            out.push(stored(&book.history, v.io));
        }
        out
    }
}

/// The outputs of a variant, in the order of the book's.
fn outputs(v: &Backward, d: usize) -> Vec<Tensor> {
    let parameter =
        |name, rows, cols| Tensor { accumulated: true, ..Tensor::shaped(name, Dtype::F32, Rows::Shared(rows), cols) };
    let mut out = vec![Tensor::shaped("dx", v.io, Rows::Tokens, d), parameter("dw", d, v.width as usize)];
    if v.bias {
        out.push(parameter("db", 1, d));
    }
    if v.initial {
        out.push(Tensor::shaped("d_history", v.io, Rows::Sequences, past(v.width) * d));
    }
    out
}

fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let variant = |(problem, mapping): (Problem, Option<Mapping>)| {
        mapping.map_or_else(|| default_backward(&problem), |mapping| problem.backward(mapping))
    };
    let suite = |p| Box::new(Suite::<CausalConv1dBackward>::new(variant(p))) as Box<dyn Job>;
    problems(plan).into_iter().map(suite).collect()
}
