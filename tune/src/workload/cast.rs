//! A copy of activations in another type.

use std::rc::Rc;

use packscan_kernels::cast::{self, Forward};
use packscan_runtime::{Buffer, Dtype, Packed, Result as Ran};
use packscan_verify::Rows;

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

fn x(p: &Problem, from: Dtype) -> Data {
    Data::new("cast_x", from, (p.tokens(), p.channels), |r| r.between(-3.0, 3.0))
}

struct Cast {
    bench: Rc<Bench>,
    variant: Forward,
    /// `(T, D)` from and to, of each turn
    x: Vec<Rc<Buffer>>,
    out: Vec<Rc<Buffer>>,
    next: usize,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let data = x(bench.problem(), variant.from);
    bench.device().check(&variant)?;
    let turns = 0..bench.turns(data.bytes());
    Ok(Box::new(Cast {
        x: turns.clone().map(|turn| bench.input(&data, turn)).collect::<Result<_>>()?,
        out: turns.map(|turn| bench.room("cast_out", turn, variant.to, data.len())).collect::<Result<_>>()?,
        bench: bench.clone(),
        variant,
        next: 0,
    }))
}

impl Cast {
    fn launch(&self, turn: usize) -> Ran<()> {
        let t = self.bench.problem().tokens();
        cast::forward(self.bench.packed(), &self.variant, self.x[turn].rows(t)?, self.out[turn].rows(t)?).map(drop)
    }
}

impl Workload for Cast {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.x.len())
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, p) = (&self.bench, self.bench.problem());
        let rows = some(p.tokens());
        let inputs = [bench.rows_of(&x(p, self.variant.from), "x", Rows::Tokens, &rows)];
        let out = bench.rows_from(self.out[0].rows(p.tokens())?, "out", Rows::Tokens, &rows)?;
        bench.agrees(&self.id(), &Packed::from_lengths(&[rows.len()])?, &inputs, &[Some(out)])
    }

    /// Read and written.
    fn floor(&self) -> Floor {
        let v = &self.variant;
        let elements = x(self.bench.problem(), v.from).len();
        Floor { bytes: (elements * (v.from.bytes() + v.to.bytes())) as f64, ..Floor::default() }
    }
}
