//! The state matrices of all blocks from their logarithms, and the gradient of that.

use std::rc::Rc;

use packscan_kernels::neg_exp::{self, Backward, Forward};
use packscan_runtime::{Buffer, Dtype, Result as Ran};
use packscan_verify::Rows;

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

fn a_log(p: &Problem) -> Data {
    Data::new("a_log", Dtype::F32, (p.decays, 1), |r| r.between(-6.0, 6.0))
}

fn a(p: &Problem) -> Data {
    Data::new("decays", Dtype::F32, (p.decays, 1), |r| -r.between(0.1, 30.0))
}

fn g(p: &Problem) -> Data {
    Data::new("ddecays", Dtype::F32, (p.decays, 1), |r| r.between(0.1, 3.0))
}

struct NegExp {
    bench: Rc<Bench>,
    variant: Forward,
    /// `(n)` f32, of each turn
    a_log: Vec<Rc<Buffer>>,
    a: Vec<Rc<Buffer>>,
    next: usize,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    let turns = 0..bench.turns(2 * a_log(p).bytes());
    Ok(Box::new(NegExp {
        a_log: turns.clone().map(|turn| bench.input(&a_log(p), turn)).collect::<Result<_>>()?,
        a: turns.map(|turn| bench.room("decays_out", turn, Dtype::F32, p.decays)).collect::<Result<_>>()?,
        bench: bench.clone(),
        variant,
        next: 0,
    }))
}

impl NegExp {
    fn launch(&self, turn: usize) -> Ran<()> {
        neg_exp::forward(self.bench.one(), &self.variant, self.a_log[turn].view(), self.a[turn].view()).map(drop)
    }
}

impl Workload for NegExp {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.a.len())
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, p) = (&self.bench, self.bench.problem());
        let picked = some(p.decays);
        let rows = Rows::Shared(picked.len());
        let inputs = [bench.rows_of(&a_log(p), "a_log", rows, &picked)];
        let out = bench.rows_from(self.a[0].view(), "a", rows, &picked)?;
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &[Some(out)])
    }

    /// Read and written; an exponential each.
    fn floor(&self) -> Floor {
        let n = self.bench.problem().decays as f64;
        Floor { bytes: 8.0 * n, operations: n, special_results: n }
    }
}

struct NegExpBackward {
    bench: Rc<Bench>,
    variant: Backward,
    /// `(n)` f32, of each turn
    a: Vec<Rc<Buffer>>,
    g: Vec<Rc<Buffer>>,
    next: usize,
}

pub(super) fn backward(bench: &Rc<Bench>, variant: Backward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    let turns = 0..bench.turns(2 * a(p).bytes());
    Ok(Box::new(NegExpBackward {
        a: turns.clone().map(|turn| bench.input(&a(p), turn)).collect::<Result<_>>()?,
        g: turns.map(|turn| bench.input(&g(p), turn)).collect::<Result<_>>()?,
        bench: bench.clone(),
        variant,
        next: 0,
    }))
}

impl NegExpBackward {
    fn launch(&self, turn: usize) -> Ran<()> {
        neg_exp::backward(self.bench.one(), &self.variant, self.a[turn].view(), self.g[turn].view()).map(drop)
    }
}

impl Workload for NegExpBackward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.a.len())
    }

    /// Earlier runs have multiplied the gradients: what is compared is written anew.
    fn check(&mut self) -> Result<f64> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let picked = some(p.decays);
        let rows = Rows::Shared(picked.len());
        let inputs = [bench.rows_of(&a(p), "a", rows, &picked), bench.rows_of(&g(p), "g", rows, &picked)];
        for (&place, value) in picked.iter().zip(&inputs[1].values) {
            self.g[0].part(place, 1, 1)?.write(&[*value])?;
        }
        self.launch(0)?;
        let out = bench.rows_from(self.g[0].view(), "g", rows, &picked)?;
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &[Some(out)])
    }

    /// Both read, the gradient written; a product each.
    fn floor(&self) -> Floor {
        let n = self.bench.problem().decays as f64;
        Floor { bytes: 12.0 * n, operations: n, special_results: 0.0 }
    }
}
