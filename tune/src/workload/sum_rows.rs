//! Sums of partial sums, as backward passes leave them: of a parameter, and of each token.

use std::rc::Rc;

use packscan_kernels::sum_rows::{self as sums, Forward, Sizes, Tokens};
use packscan_runtime::{Buffer, Dtype, Packed, Result as Ran};
use packscan_verify::{Rows, Tensor};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

fn parts(p: &Problem) -> Data {
    let Sizes { rows, columns, .. } = p.sums();
    Data::new("sum_parts", Dtype::F32, (rows, columns), |r| r.between(-2.0, 2.0))
}

struct SumRows {
    bench: Rc<Bench>,
    variant: Forward,
    /// `(R, C)` f32, of each turn
    parts: Vec<Rc<Buffer>>,
    /// `(C)` io
    out: Rc<Buffer>,
    next: usize,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    let turns = 0..bench.turns(parts(p).bytes());
    Ok(Box::new(SumRows {
        parts: turns.map(|turn| bench.input(&parts(p), turn)).collect::<Result<_>>()?,
        out: bench.room("sum_out", 0, variant.io, p.sums().columns)?,
        bench: bench.clone(),
        variant,
        next: 0,
    }))
}

impl SumRows {
    fn launch(&self, turn: usize) -> Ran<()> {
        let sizes = self.bench.problem().sums();
        sums::forward(self.bench.one(), &self.variant, &sizes, self.parts[turn].view(), self.out.view()).map(drop)
    }
}

impl Workload for SumRows {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.parts.len())
    }

    fn check(&mut self) -> Result<f64> {
        self.out.zero()?;
        self.launch(0)?;
        let (bench, data) = (&self.bench, parts(self.bench.problem()));
        let columns = some(data.cols);
        // The book's operator takes two groups of rows; here the second is the first.
        let twice =
            |tensor: Tensor, rows| Tensor { values: tensor.values.repeat(2), rows: Rows::Shared(rows), ..tensor };
        let inputs = bench.columns_of(&data, "parts", Rows::Shared(data.rows), &columns);
        let all = self.out.to_f32()?;
        let values = columns.iter().map(|&column| all[column]).collect();
        let got = Tensor { values, ..Tensor::shaped("out", self.variant.io, Rows::Shared(1), columns.len()) };
        let inputs = [twice(inputs, 2 * data.rows)];
        bench.agrees(&self.id(), bench.one().packed(), &inputs, &[Some(twice(got, 2))])
    }

    /// Parts read, sums read and written.
    fn floor(&self) -> Floor {
        let data = parts(self.bench.problem());
        let sums = data.cols * self.variant.io.bytes() * if self.variant.add { 2 } else { 1 };
        Floor { bytes: (data.bytes() + sums) as f64, operations: data.len() as f64, special_results: 0.0 }
    }
}

fn token_parts(p: &Problem) -> Data {
    let Sizes { groups, rows, columns } = p.token_sums();
    Data::new("token_parts", Dtype::F32, (groups, rows * columns), |r| r.between(-2.0, 2.0))
}

struct SumTokens {
    bench: Rc<Bench>,
    variant: Tokens,
    /// `(T, R, C)` f32 and `(T, C)` io, of each turn
    parts: Vec<Rc<Buffer>>,
    out: Vec<Rc<Buffer>>,
    next: usize,
}

pub(super) fn tokens(bench: &Rc<Bench>, variant: Tokens) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let turns = 0..bench.turns(token_parts(p).bytes());
    Ok(Box::new(SumTokens {
        parts: turns.clone().map(|turn| bench.input(&token_parts(p), turn)).collect::<Result<_>>()?,
        out: turns.map(|turn| bench.room("token_sums", turn, p.io, p.tokens() * p.state)).collect::<Result<_>>()?,
        bench: bench.clone(),
        variant,
        next: 0,
    }))
}

impl Workload for SumTokens {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        let (p, turn) = (self.bench.problem(), self.next % self.parts.len());
        let Sizes { groups, rows, columns } = p.token_sums();
        let (parts, out) = (self.parts[turn].rows(groups)?, self.out[turn].rows(groups)?);
        sums::tokens(self.bench.packed(), &self.variant, rows, columns, parts, out).map(drop)
    }

    /// The first rows of all that there are, as a pack of few tokens with the rows that the book's operator has.
    fn check(&mut self) -> Result<f64> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let (data, columns) = (token_parts(p), p.state);
        let rows = self.variant.ways as usize + 3;
        let count = (data.len() / (rows * columns)).clamp(1, 8).min(p.tokens());
        let flat: Vec<usize> = (0..count * rows * columns).collect();
        let one_column = Data { rows: data.len(), cols: 1, ..data };
        let values = bench.rows_of(&one_column, "parts", Rows::Shared(flat.len()), &flat).values;
        let inputs = [Tensor { values, ..Tensor::shaped("parts", Dtype::F32, Rows::Tokens, rows * columns) }];
        let packed = Packed::from_lengths(&[count])?;
        let parts = self.parts[0].part(0, count, rows * columns)?;
        let out = self.out[0].part(0, count, columns)?;
        sums::tokens(&packed.on(bench.device())?, &self.variant, rows, columns, parts, out)?;
        let tokens: Vec<usize> = (0..count).collect();
        let got = bench.rows_from(out, "out", Rows::Tokens, &tokens)?;
        bench.agrees(&self.id(), &packed, &inputs, &[Some(got)])
    }

    /// Parts read, sums written.
    fn floor(&self) -> Floor {
        let (p, data) = (self.bench.problem(), token_parts(self.bench.problem()));
        let sums = p.tokens() * p.state * p.io.bytes();
        Floor { bytes: (data.bytes() + sums) as f64, operations: data.len() as f64, special_results: 0.0 }
    }
}
