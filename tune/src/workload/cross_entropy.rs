//! The loss and its gradient, in the place of a chunk's logits.

use std::rc::Rc;

use packscan_kernels::cross_entropy::{self as loss, Forward, Tensors};
use packscan_runtime::{Buffer, DevicePacked, Dtype, Packed, Result as Ran};
use packscan_verify::{Random, Rows, Tensor};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

fn logits(p: &Problem) -> Data {
    Data::new("logits", p.io, (p.logits_rows, p.vocabulary), |r| r.between(-8.0, 8.0))
}

fn scale() -> Data {
    Data::new("scale", Dtype::F32, (1, 1), |_| 1.0 / 8192.0)
}

struct CrossEntropy {
    bench: Rc<Bench>,
    variant: Forward,
    packed: DevicePacked,
    /// `(rows, V)` io of each turn
    logits: Vec<Rc<Buffer>>,
    /// `(rows)` u32
    host_targets: Vec<u32>,
    targets: Buffer,
    /// `(1)`, `(rows)` f32
    scale: Rc<Buffer>,
    loss: Rc<Buffer>,
    next: usize,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let mut random = Random::new(0, "targets");
    let host_targets: Vec<u32> = (0..p.logits_rows).map(|_| random.below(p.vocabulary) as u32).collect();
    let turns = 0..bench.turns(logits(p).bytes());
    Ok(Box::new(CrossEntropy {
        packed: Packed::from_lengths(&[p.logits_rows])?.on(bench.device())?,
        logits: turns.map(|turn| bench.input(&logits(p), turn)).collect::<Result<_>>()?,
        targets: Buffer::from_slice(bench.device(), &host_targets)?,
        scale: bench.input(&scale(), 0)?,
        loss: bench.room("loss", 0, Dtype::F32, p.logits_rows)?,
        bench: bench.clone(),
        host_targets,
        variant,
        next: 0,
    }))
}

impl CrossEntropy {
    fn launch(&self, turn: usize) -> Ran<()> {
        let tensors = Tensors {
            logits: self.logits[turn].rows(self.bench.problem().logits_rows)?,
            targets: self.targets.view(),
            scale: self.scale.view(),
            loss: self.loss.view(),
        };
        loss::forward(&self.packed, &self.variant, &tensors).map(drop)
    }
}

impl Workload for CrossEntropy {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.logits.len())
    }

    /// An earlier run has left gradients where the logits were: the rows that are compared are written anew.
    fn check(&mut self) -> Result<f64> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let (all, rows) = (self.logits[0].rows(p.logits_rows)?, some(p.logits_rows));
        let fresh = bench.rows_of(&logits(p), "logits", Rows::Tokens, &rows);
        for (i, &row) in rows.iter().enumerate() {
            all.rows_at(row, 1)?.write_f32(fresh.row(i))?;
        }
        self.launch(0)?;
        let targets = Tensor {
            values: rows.iter().map(|&row| self.host_targets[row] as f32).collect(),
            ..Tensor::shaped("targets", Dtype::U32, Rows::Tokens, 1)
        };
        let inputs = [fresh, targets, bench.rows_of(&scale(), "scale", Rows::Shared(1), &[0])];
        let outputs = [
            Some(bench.rows_from(self.loss.rows(p.logits_rows)?, "loss", Rows::Tokens, &rows)?),
            Some(bench.rows_from(all, "logits", Rows::Tokens, &rows)?),
        ];
        bench.agrees(&self.id(), &Packed::from_lengths(&[rows.len()])?, &inputs, &outputs)
    }

    /// Logits read and written. Of each an exponential and four operations: less the largest, the sum, the share, the scale.
    fn floor(&self) -> Floor {
        let p = self.bench.problem();
        let (tv, t) = (logits(p).len() as f64, p.logits_rows as f64);
        Floor { bytes: 2.0 * p.io.bytes() as f64 * tv + 8.0 * t, operations: 4.0 * tv, special_results: tv }
    }
}
