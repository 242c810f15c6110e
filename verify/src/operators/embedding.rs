//! What the suite must know of the embedding.

use packscan_kernels::embedding::{self as embed, Backward, Forward, Ids, default_backward, default_variant};
use packscan_reference::embedding as book;
use packscan_reference::{Bounded, Number};
use packscan_runtime::{Device, Dtype, Edit, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The forward pass and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "embedding",
    name: "forward",
    kernel: "embedding_fwd",
    pick: |model| checked(&default_variant(model.width, model.io)),
    jobs: forward_jobs,
    job: suite_of::<EmbeddingForward>,
    faults: || faults_of("embedding_fwd"),
};

/// The backward pass and its faults.
pub(super) const BACKWARD: Pass = Pass {
    operator: "embedding",
    name: "backward",
    kernel: "embedding_bwd",
    pick: |model| checked(&default_backward(model.width, model.io)),
    jobs: backward_jobs,
    job: suite_of::<EmbeddingBackward>,
    faults: || faults_of("embedding_bwd"),
};

/// Entries of the vocabulary: few, so that tokens meet.
const VOCABULARY: usize = 11;

fn faults_of(kernel: &str) -> Vec<Edit> {
    embed::faults().into_iter().filter(|fault| fault.kernel == kernel).collect()
}

/// For each type: the hand-picked mapping for a width that allows wide loads, and one of single columns.
fn forward_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        for variant in [default_variant(24, io), Forward { lanes: 4, rows: 8, vec: 1, io }] {
            jobs.push(Box::new(Suite::<EmbeddingForward>::new(variant)));
        }
    }
    jobs
}

fn backward_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        for variant in [default_backward(24, io), Backward { packets: 32, vec: 1, io }] {
            jobs.push(Box::new(Suite::<EmbeddingBackward>::new(variant)));
        }
    }
    jobs
}

/// A tensor of numbers that ids are made of, so that whatever replaces them makes other ids of the vocabulary.
fn seeds(packed: &Packed, case: &Case) -> Tensor {
    let shape = Tensor::shaped("ids", Dtype::F32, Rows::Tokens, 1);
    Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(0.0, 1e4).trunc())
}

fn ids(inputs: &[Tensor]) -> Vec<usize> {
    let seeds = inputs.iter().find(|t| t.name == "ids").map_or(&[][..], |t| &t.values);
    seeds.iter().map(|seed| seed.to_bits() as usize % VOCABULARY).collect()
}

fn ids_on(device: &Device, inputs: &[Tensor]) -> Result<Ids> {
    let ids: Vec<u32> = ids(inputs).into_iter().map(|id| id as u32).collect();
    Ids::new(device, &ids, VOCABULARY)
}

/// The forward pass.
#[derive(Debug)]
struct EmbeddingForward;

impl Operator for EmbeddingForward {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        let (lanes, rows, vec) = (v.lanes as usize, v.rows as usize, v.vec as usize);
        Sizes { chunk: rows.clamp(2, 16), tile: lanes * vec, multiple: vec, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let table = Tensor::shaped("table", v.io, Rows::Shared(VOCABULARY), case.channels);
        vec![Tensor::random(table, packed, case.seed, |r: &mut Random| r.between(-2.0, 2.0)), seeds(packed, case)]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
        let outputs = vec![Tensor::shaped("out", v.io, Rows::Tokens, call.channels)];
        let run = Arguments::new(device, packed, &inputs[..1], outputs, |_| call.padding * v.vec as usize)?;
        let ids = ids_on(device, inputs)?;
        for _ in 0..call.rounds {
            embed::forward(call.packed, v, run.view("table"), &ids, run.view("out"))?;
        }
        device.synchronize()?;
        run.take()
    }

    fn book(_: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let table = exact(inputs, "table").unwrap_or_default();
        vec![book::forward(inputs[0].cols, &table, &ids(inputs))]
    }
}

/// The backward pass.
#[derive(Debug)]
struct EmbeddingBackward;

impl Operator for EmbeddingBackward {
    type Variant = Backward;

    const INCOMING: &'static [&'static str] = &["dout"];

    fn sizes(v: &Backward, elements: usize) -> Sizes {
        let vec = v.vec as usize;
        Sizes { chunk: 8, tile: v.packets as usize * vec, multiple: vec, state: 1, elements }
    }

    fn continues(_: &Backward) -> bool {
        false
    }

    fn inputs(v: &Backward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let dout = Tensor::shaped("dout", v.io, Rows::Tokens, case.channels);
        vec![Tensor::random(dout, packed, case.seed, |r: &mut Random| r.between(-2.0, 2.0)), seeds(packed, case)]
    }

    fn run(call: &Call<'_, Backward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
        let dtable = Tensor::shaped("dtable", Dtype::F32, Rows::Shared(VOCABULARY), call.channels);
        let outputs = vec![Tensor { accumulated: true, ..dtable }];
        let run = Arguments::new(device, packed, &inputs[..1], outputs, |_| call.padding * v.vec as usize)?;
        let by_id = ids_on(device, inputs)?.by_id()?;
        for _ in 0..call.rounds {
            embed::backward(call.packed, v, run.view("dout"), &by_id, run.view("dtable"))?;
        }
        device.synchronize()?;
        run.take()
    }

    fn book(_: &Backward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let dout = exact(inputs, "dout").unwrap_or_default();
        let sums = book::backward(inputs[0].cols, VOCABULARY, &dout, &ids(inputs));
        let zero = Bounded::constant(0.0);
        vec![stored(&sums.iter().map(|sum| zero.add(sum)).collect::<Vec<_>>(), Dtype::F32)]
    }
}
