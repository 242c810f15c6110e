//! The norm of gradients: sums of squares of parts, and the factor that clips.

use std::rc::Rc;

use packscan_kernels::grad_norm::{self as norm, Clip, Forward};
use packscan_runtime::{Buffer, Dtype, Result as Ran};
use packscan_verify::{Rows, Tensor};

use super::adamw::gradients;
use super::data::Data;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

struct GradNorm {
    bench: Rc<Bench>,
    variant: Forward,
    /// `(n)` io
    g: Rc<Buffer>,
    /// `(ceil(n / part))` f32
    parts: Rc<Buffer>,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    Ok(Box::new(GradNorm {
        g: bench.input(&gradients(p, variant.io), 0)?,
        parts: bench.room("norm_parts", 0, Dtype::F32, norm::parts(&variant, p.parameters))?,
        bench: bench.clone(),
        variant,
    }))
}

impl Workload for GradNorm {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        norm::forward(self.bench.one(), &self.variant, self.g.view(), self.parts.view()).map(drop)
    }

    /// The first part.
    fn check(&mut self) -> Result<f64> {
        self.run()?;
        let (bench, p) = (&self.bench, self.bench.problem());
        let first: Vec<usize> = (0..(self.variant.part as usize).min(p.parameters)).collect();
        let inputs = [bench.rows_of(&gradients(p, self.variant.io), "g", Rows::Shared(first.len()), &first)];
        let sum = bench.rows_from(self.parts.view(), "parts", Rows::Shared(1), &[0])?;
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &[Some(sum)])
    }

    /// Gradients read, a product each.
    fn floor(&self) -> Floor {
        let n = self.bench.problem().parameters as f64;
        Floor { bytes: self.variant.io.bytes() as f64 * n, operations: n, special_results: 0.0 }
    }
}

struct GradNormClip {
    bench: Rc<Bench>,
    variant: Clip,
    /// `(P)`, `(1)`, `(3)` f32
    parts: Rc<Buffer>,
    limit: Rc<Buffer>,
    result: Rc<Buffer>,
}

/// As many as the gradients have with the hand-picked variant.
fn parts(p: &Problem) -> Data {
    let count = norm::parts(&norm::default_variant(Dtype::F32), p.parameters);
    Data::new("clip_parts", Dtype::F32, (count, 1), |r| r.between(0.0, 4.0))
}

fn limit() -> Data {
    Data::new("limit", Dtype::F32, (1, 1), |_| 1.0)
}

pub(super) fn clip(bench: &Rc<Bench>, variant: Clip) -> Result<Box<dyn Workload>> {
    bench.device().check(&variant)?;
    Ok(Box::new(GradNormClip {
        parts: bench.input(&parts(bench.problem()), 0)?,
        limit: bench.input(&limit(), 0)?,
        result: bench.room("clip_result", 0, Dtype::F32, 3)?,
        bench: bench.clone(),
        variant,
    }))
}

impl Workload for GradNormClip {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        let [parts, limit, result] = [&self.parts, &self.limit, &self.result].map(|buffer| buffer.view());
        norm::clip(self.bench.one(), &self.variant, parts, limit, result).map(drop)
    }

    fn check(&mut self) -> Result<f64> {
        self.run()?;
        let (bench, data) = (&self.bench, parts(self.bench.problem()));
        let all: Vec<usize> = (0..data.rows).collect();
        let inputs = [
            bench.rows_of(&data, "parts", Rows::Shared(all.len()), &all),
            bench.rows_of(&limit(), "max_norm", Rows::Shared(1), &[0]),
        ];
        let shape = Tensor::shaped("result", Dtype::F32, Rows::Shared(3), 1);
        let result = Tensor { values: self.result.to_f32()?, ..shape };
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &[Some(result)])
    }

    /// Sums read.
    fn floor(&self) -> Floor {
        let n = self.parts.len() as f64;
        Floor { bytes: 4.0 * n, operations: n, special_results: 0.0 }
    }
}
