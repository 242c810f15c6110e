//! What the suite must know of the sums of rows.

use packscan_kernels::sum_rows::{self as sums, Forward, Several, Sizes as Shape, Sum, Tokens};
use packscan_reference::sum_rows as book;
use packscan_reference::{Bounded, Number};
use packscan_runtime::{Dtype, Edit, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Model, Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// Sums of what belongs to nobody, and their faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "sum-rows",
    name: "forward",
    kernel: "sum_rows",
    pick: |model| checked(&sums::default_variant(&parts_of(model, 1), Dtype::F32, true)),
    jobs,
    job: suite_of::<SumRows>,
    faults,
};

/// Sums of rows of tokens, and their faults.
pub(super) const TOKENS: Pass = Pass {
    operator: "sum-rows",
    name: "tokens",
    kernel: "sum_rows_tokens",
    pick: |model| checked(&sums::default_token_variant(model.state as usize, 4, model.io)),
    jobs: token_jobs,
    job: suite_of::<SumTokens>,
    faults: || faults_of("sum_rows_tokens"),
};

/// Several sums in one launch, and their faults.
pub(super) const SEVERAL: Pass = Pass {
    operator: "sum-rows",
    name: "several",
    kernel: "sum_rows_several",
    pick: |_| checked(&Several { block: 256, vec: 4, add: false }),
    jobs: several_jobs,
    job: suite_of::<SumSeveral>,
    faults: || faults_of("sum_rows_several"),
};

/// As many rows as the backward passes leave of a large pack, or of each of its tokens.
fn parts_of(model: &Model, groups: usize) -> Shape {
    Shape { groups, rows: 256, columns: model.width }
}

fn faults() -> Vec<Edit> {
    faults_of("sum_rows")
}

fn faults_of(kernel: &str) -> Vec<Edit> {
    sums::faults().into_iter().filter(|fault| fault.kernel == kernel).collect()
}

/// Sums of what belongs to nobody.
#[derive(Debug)]
struct SumRows;

/// Sums of rows of tokens.
#[derive(Debug)]
struct SumTokens;

/// Several sums in one launch.
#[derive(Debug)]
struct SumSeveral;

/// Groups of a run; the rows of each are as many as the case has tokens.
const GROUPS: usize = 2;

impl SumRows {
    fn shape(parts: &Tensor) -> Shape {
        let Rows::Shared(rows) = parts.rows else { unreachable!("parts belong to nobody") };
        Shape { groups: GROUPS, rows: rows / GROUPS, columns: parts.cols }
    }
}

impl SumTokens {
    /// Rows of a token: more than there are ways, and no multiple of them but for one or two.
    fn rows(v: &Tokens) -> usize {
        v.ways as usize + 3
    }
}

impl Operator for SumRows {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        let vec = v.vec as usize;
        Sizes { chunk: 2 * v.ways as usize, tile: 8 * vec, multiple: vec, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(_: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let rows = Rows::Shared(GROUPS * case.tokens());
        let shape = Tensor::shaped("parts", Dtype::F32, rows, case.channels);
        vec![Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(-2.0, 2.0))]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, device) = (call.variant, call.packed.device());
        let shape = Self::shape(&inputs[0]);
        let out =
            Tensor { accumulated: v.add, ..Tensor::shaped("out", v.io, Rows::Shared(shape.groups), shape.columns) };
        let arguments = Arguments::new(device, call.packed.packed(), inputs, vec![out], |_| 0)?;
        for _ in 0..call.rounds {
            sums::forward(call.packed, v, &shape, arguments.view("parts"), arguments.view("out"))?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let Shape { groups, rows, columns } = Self::shape(&inputs[0]);
        let parts = exact(inputs, "parts").unwrap_or_default();
        let zeros = vec![Bounded::constant(0.0); groups * columns];
        let old = v.add.then_some(zeros.as_slice());
        vec![stored(&book::forward(&book::Inputs { groups, rows, columns, parts: &parts, old }), v.io)]
    }
}

impl Operator for SumTokens {
    type Variant = Tokens;

    fn sizes(v: &Tokens, elements: usize) -> Sizes {
        // Two packets of a block's tokens are a chunk and a tile, so that runs of several show how the grid grows.
        let (vec, chunk) = (v.vec as usize, (v.packets / 2).max(8) as usize);
        Sizes { chunk, tile: 2 * vec, multiple: vec, state: Self::rows(v), elements }
    }

    fn continues(_: &Tokens) -> bool {
        false
    }

    fn inputs(v: &Tokens, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let columns = Self::rows(v) * case.channels;
        let parts = |name, seed| {
            let shape = Tensor::shaped(name, Dtype::F32, Rows::Tokens, columns);
            Tensor::random(shape, packed, seed, |r: &mut Random| r.between(-2.0, 2.0))
        };
        vec![parts("first_parts", case.seed), parts("second_parts", case.seed ^ 1)]
    }

    fn run(call: &Call<'_, Tokens>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, device) = (call.variant, call.packed.device());
        let columns = call.channels;
        let outputs = ["first", "second"].map(|name| Tensor::shaped(name, v.io, Rows::Tokens, columns)).to_vec();
        let padding = |name: &str| if name.ends_with("parts") { 0 } else { call.padding * v.vec as usize };
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, padding)?;
        let parts = ["first_parts", "second_parts"].map(|name| arguments.view(name));
        let out = ["first", "second"].map(|name| arguments.view(name));
        for _ in 0..call.rounds {
            sums::tokens(call.packed, v, Self::rows(v), columns, parts, out)?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Tokens, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let (groups, rows) = (packed.tokens(), Self::rows(v));
        let columns = inputs[0].cols / rows;
        let sums = |name| {
            let parts = exact(inputs, name).unwrap_or_default();
            stored(&book::forward(&book::Inputs { groups, rows, columns, parts: &parts, old: None }), v.io)
        };
        vec![sums("first_parts"), sums("second_parts")]
    }
}

/// What each sum adds up and makes, how many rows more than the case has tokens, and how many times its channels.
const SUMS: [(&str, &str, usize, usize); 6] = [
    ("parts0", "out0", 0, 2),
    ("parts1", "out1", 40, 1),
    ("parts2", "out2", 130, 1),
    ("parts3", "out3", 3, 3),
    ("parts4", "out4", 1, 1),
    ("parts5", "out5", 9, 5),
];

impl Operator for SumSeveral {
    type Variant = Several;

    fn sizes(v: &Several, elements: usize) -> Sizes {
        let vec = v.vec as usize;
        Sizes { chunk: 16, tile: 8 * vec, multiple: vec, state: 1, elements }
    }

    fn continues(_: &Several) -> bool {
        false
    }

    fn inputs(_: &Several, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let parts = |&(parts, _, more, times): &(_, _, usize, usize)| {
            let rows = Rows::Shared(case.tokens() + more);
            let shape = Tensor::shaped(parts, Dtype::F32, rows, times * case.channels);
            Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(-2.0, 2.0))
        };
        SUMS.iter().map(parts).collect()
    }

    fn run(call: &Call<'_, Several>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, device) = (call.variant, call.packed.device());
        let out = |(parts, &(_, out, ..)): (&Tensor, &(_, &'static str, usize, usize))| Tensor {
            accumulated: v.add,
            ..Tensor::shaped(out, Dtype::F32, Rows::Shared(1), parts.cols)
        };
        let outputs = std::iter::zip(inputs, &SUMS).map(out).collect();
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, |_| 0)?;
        let sum = |&(parts, out, ..): &(&str, &str, usize, usize)| {
            let (parts, out) = (arguments.view(parts), arguments.view(out));
            Sum { name: "out", parts, rows: parts.shape().0, columns: out.len(), out }
        };
        let all: Vec<Sum<'_>> = SUMS.iter().map(sum).collect();
        for _ in 0..call.rounds {
            sums::several(call.packed, v, &all)?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Several, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let sum = |tensor: &Tensor| {
            let (Rows::Shared(rows), columns) = (tensor.rows, tensor.cols) else {
                unreachable!("parts belong to nobody")
            };
            let parts = exact(inputs, tensor.name).unwrap_or_default();
            let zeros = vec![Bounded::constant(0.0); columns];
            let old = v.add.then_some(zeros.as_slice());
            stored(&book::forward(&book::Inputs { groups: 1, rows, columns, parts: &parts, old }), Dtype::F32)
        };
        inputs.iter().map(sum).collect()
    }
}

/// For each type: narrow and wide loads, few and many ways; where the type allows, one that adds, and then also one that does not.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        let add = io == Dtype::F32;
        for (ways, packets, vec) in [(1, 32, 1), (4, 8, 4), (32, 2, 2)] {
            jobs.push(Box::new(Suite::<SumRows>::new(Forward { ways, packets, vec, io, add })));
        }
        if add {
            jobs.push(Box::new(Suite::<SumRows>::new(Forward { ways: 4, packets: 8, vec: 4, io, add: false })));
        }
    }
    jobs
}

fn token_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        for (ways, packets, vec) in [(1, 64, 1), (8, 4, 2)] {
            jobs.push(Box::new(Suite::<SumTokens>::new(Tokens { ways, packets, vec, io })));
        }
    }
    jobs
}

/// Narrow and wide loads, small and large blocks, sums that are added and that are written.
fn several_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    if plan.dtypes.contains(&Dtype::F32) {
        for (block, vec, add) in [(32, 1, true), (64, 4, false), (256, 2, true)] {
            jobs.push(Box::new(Suite::<SumSeveral>::new(Several { block, vec, add })));
        }
    }
    jobs
}
