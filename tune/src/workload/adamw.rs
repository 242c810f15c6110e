//! A step of the optimiser over one range of parameters.

use std::rc::Rc;

use packscan_kernels::adamw::halves::{join, split};
use packscan_kernels::adamw::{self as optimiser, Forward, Range, Step};
use packscan_runtime::{Buffer, Dtype, Result as Ran, View};
use packscan_verify::{Random, Rows, Tensor};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

/// What `grad_norm` found: the factor, the norm, and that it is finite.
const CLIPPED: [f32; 3] = [0.5, 2.0, 0.0];

fn of_parameters(p: &Problem, name: &'static str, dtype: Dtype, value: fn(&mut Random) -> f32) -> Data {
    Data::new(name, dtype, (p.parameters, 1), value)
}

/// Parameters, first and second moments: what a step updates.
fn state(p: &Problem) -> [Data; 3] {
    [
        of_parameters(p, "p", Dtype::F32, |r| r.between(-1.0, 1.0)),
        of_parameters(p, "m", Dtype::F32, |r| r.between(-0.1, 0.1)),
        of_parameters(p, "v", Dtype::F32, |r| r.between(0.0, 0.02)),
    ]
}

pub(super) fn gradients(p: &Problem, dtype: Dtype) -> Data {
    of_parameters(p, "gradients", dtype, |r| r.between(-0.3, 0.3))
}

struct AdamW {
    bench: Rc<Bench>,
    variant: Forward,
    /// `(n)` f32, or bf16 for parameters in halves; f32, f32
    state: [Rc<Buffer>; 3],
    /// `(n / 2, rounded up)` u32: the other halves
    rests: Option<Rc<Buffer>>,
    /// `(n)` grad, io
    g: Rc<Buffer>,
    copy: Option<Rc<Buffer>>,
    /// `(8)`, `(3)` f32
    host_scalars: [f32; 8],
    scalars: Buffer,
    clip: Buffer,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    let host_scalars = Step::default().scalars()?;
    let [mut params, m, v] = state(p);
    let mut rests = None;
    if variant.split {
        params = of_parameters(p, "rounded", Dtype::Bf16, params.value);
        // Every word is the lower half of some parameter, so any will do.
        let words = bench.room("rests", 0, Dtype::U32, p.parameters.div_ceil(2))?;
        words.zero()?;
        rests = Some(words);
    }
    Ok(Box::new(AdamW {
        state: [bench.input(&params, 0)?, bench.input(&m, 0)?, bench.input(&v, 0)?],
        rests,
        g: bench.input(&gradients(p, variant.grad), 0)?,
        copy: variant.copy.then(|| bench.room("copy", 0, variant.io, p.parameters)).transpose()?,
        scalars: Buffer::from_slice(bench.device(), &host_scalars)?,
        clip: Buffer::from_slice(bench.device(), &CLIPPED)?,
        bench: bench.clone(),
        host_scalars,
        variant,
    }))
}

impl Workload for AdamW {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    /// One set: a model's parameters are always larger than the L2.
    fn run(&mut self) -> Ran<()> {
        let [p, m, v] = &self.state;
        let range = Range {
            p: p.view(),
            m: m.view(),
            v: v.view(),
            g: self.g.view(),
            scalars: self.scalars.view(),
            clip: self.variant.clip.then(|| self.clip.view()),
            copy: self.copy.as_ref().map(|copy| copy.view()),
            rests: self.rests.as_ref().map(|rests| rests.view()),
        };
        optimiser::forward(self.bench.one(), &self.variant, &range).map(drop)
    }

    /// Earlier runs have updated the state: what is compared is written anew.
    fn check(&mut self) -> Result<f64> {
        let bench = self.bench.clone();
        let p = bench.problem();
        let picked = some(p.parameters);
        let rows = Rows::Shared(picked.len());
        let mut inputs = Vec::new();
        for (data, buffer) in state(p).iter().zip(&self.state) {
            let fresh = bench.rows_of(data, data.name, rows, &picked);
            for (&place, value) in picked.iter().zip(&fresh.values) {
                match (&self.rests, data.name) {
                    (Some(rests), "p") => write_halves(buffer, rests, place, *value)?,
                    _ => buffer.part(place, 1, 1)?.write(&[*value])?,
                }
            }
            inputs.push(fresh);
        }
        inputs.push(bench.rows_of(&gradients(p, self.variant.grad), "g", rows, &picked));
        let numbers = |name, values: &[f32]| {
            let shape = Tensor::shaped(name, Dtype::F32, Rows::Shared(values.len()), 1);
            Tensor { values: values.to_vec(), ..shape }
        };
        inputs.push(numbers("scalars", &self.host_scalars));
        inputs.extend(self.variant.clip.then(|| numbers("clip_by", &CLIPPED)));
        self.run()?;
        let mut outputs = Vec::new();
        let names = ["p", "m", "v", "copy_to"];
        let rounded = self.rests.as_ref().map(|_| &self.state[0]);
        for (name, buffer) in names.into_iter().zip(self.state.iter().chain(self.copy.as_ref().or(rounded))) {
            outputs.push(Some(bench.rows_from(buffer.view(), name, rows, &picked)?));
        }
        if let Some(rests) = &self.rests {
            let joined = picked.iter().map(|&place| read_halves(&self.state[0], rests, place));
            let p = Tensor::shaped("p", Dtype::F32, rows, 1);
            outputs[0] = Some(Tensor { values: joined.collect::<Ran<_>>()?, ..p });
        }
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &outputs)
    }

    /// Parameters and both moments read and written, gradients read, copies written. In halves a parameter is its copy and has as many bytes. Some fifteen operations, a root and a quotient.
    fn floor(&self) -> Floor {
        let (n, v) = (self.bench.problem().parameters as f64, &self.variant);
        let copy = if v.copy { v.io.bytes() } else { 0 };
        Floor { bytes: n * (24 + v.grad.bytes() + copy) as f64, operations: 15.0 * n, special_results: 2.0 * n }
    }
}

/// The word that has the rest of the parameter at `place`, and bits before it there.
fn rest_at(rests: &Buffer, place: usize) -> Ran<(View<'_>, u32, usize)> {
    let word = rests.part(place / 2, 1, 1)?;
    Ok((word, word.to_vec::<u32>()?[0], place % 2 * 16))
}

fn write_halves(rounded: &Buffer, rests: &Buffer, place: usize, value: f32) -> Ran<()> {
    let (first, rest) = split(value);
    let (word, before, shift) = rest_at(rests, place)?;
    word.write(&[before & !(0xffff << shift) | u32::from(rest) << shift])?;
    rounded.part(place, 1, 1)?.write(&[first])
}

fn read_halves(rounded: &Buffer, rests: &Buffer, place: usize) -> Ran<f32> {
    let (_, word, shift) = rest_at(rests, place)?;
    Ok(join(rounded.part(place, 1, 1)?.to_vec()?[0], (word >> shift) as u16))
}
