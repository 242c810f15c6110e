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

fn token_parts(p: &Problem, name: &'static str) -> Data {
    let Sizes { groups, rows, columns } = p.token_sums();
    Data::new(name, Dtype::F32, (groups, rows * columns), |r| r.between(-2.0, 2.0))
}

struct SumTokens {
    bench: Rc<Bench>,
    variant: Tokens,
    /// `(T, R, C)` f32 and `(T, C)` io, of each turn
    parts: Vec<[Rc<Buffer>; 2]>,
    out: Vec<[Rc<Buffer>; 2]>,
    next: usize,
}

/// The partial sums of both tensors, and what they are called on the device.
const PAIR: [(&str, &str); 2] = [("first_parts", "first_sums"), ("second_parts", "second_sums")];

pub(super) fn tokens(bench: &Rc<Bench>, variant: Tokens) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let (mut parts, mut out) = (Vec::new(), Vec::new());
    for turn in 0..bench.turns(2 * token_parts(p, PAIR[0].0).bytes()) {
        let [first, second] = PAIR.map(|(parts, _)| bench.input(&token_parts(p, parts), turn));
        parts.push([first?, second?]);
        let [first, second] = PAIR.map(|(_, sums)| bench.room(sums, turn, p.io, p.tokens() * p.state));
        out.push([first?, second?]);
    }
    Ok(Box::new(SumTokens { bench: bench.clone(), variant, parts, out, next: 0 }))
}

impl Workload for SumTokens {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        let (p, turn) = (self.bench.problem(), self.next % self.parts.len());
        let Sizes { groups, rows, columns } = p.token_sums();
        let ([first_parts, second_parts], [first, second]) = (&self.parts[turn], &self.out[turn]);
        let parts = [first_parts.rows(groups)?, second_parts.rows(groups)?];
        let out = [first.rows(groups)?, second.rows(groups)?];
        sums::tokens(self.bench.packed(), &self.variant, rows, columns, parts, out).map(drop)
    }

    /// The first rows of all that there are, as a pack of few tokens with the rows that the book's operator has.
    fn check(&mut self) -> Result<f64> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let columns = p.state;
        let rows = self.variant.ways as usize + 3;
        let len = token_parts(p, PAIR[0].0).len();
        let count = (len / (rows * columns)).clamp(1, 8).min(p.tokens());
        let flat: Vec<usize> = (0..count * rows * columns).collect();
        let inputs = PAIR.map(|(name, _)| {
            let one_column = Data { rows: len, cols: 1, ..token_parts(p, name) };
            let values = bench.rows_of(&one_column, name, Rows::Shared(flat.len()), &flat).values;
            Tensor { values, ..Tensor::shaped(name, Dtype::F32, Rows::Tokens, rows * columns) }
        });
        let packed = Packed::from_lengths(&[count])?;
        let ([first_parts, second_parts], [first, second]) = (&self.parts[0], &self.out[0]);
        let parts = [first_parts.part(0, count, rows * columns)?, second_parts.part(0, count, rows * columns)?];
        let out = [first.part(0, count, columns)?, second.part(0, count, columns)?];
        sums::tokens(&packed.on(bench.device())?, &self.variant, rows, columns, parts, out)?;
        let tokens: Vec<usize> = (0..count).collect();
        let got =
            ["first", "second"].iter().zip(out).map(|(name, out)| bench.rows_from(out, name, Rows::Tokens, &tokens));
        let got = got.map(|sums| sums.map(Some)).collect::<Result<Vec<_>>>()?;
        bench.agrees(&self.id(), &packed, &inputs, &got)
    }

    /// Parts read, sums written.
    fn floor(&self) -> Floor {
        let p = self.bench.problem();
        let data = token_parts(p, PAIR[0].0);
        let sums = p.tokens() * p.state * p.io.bytes();
        Floor { bytes: 2.0 * (data.bytes() + sums) as f64, operations: 2.0 * data.len() as f64, special_results: 0.0 }
    }
}
