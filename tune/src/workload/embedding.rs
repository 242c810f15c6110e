//! The embedding, both ways, with ids that are as unequally frequent as words.

use std::rc::Rc;

use packscan_kernels::embedding::{self as embed, Backward, ById, Forward, Ids};
use packscan_runtime::{Buffer, Dtype, Packed, Result as Ran};
use packscan_verify::{Random, Rows, Tensor};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

/// Entries of the vocabulary of the book's operator in `verify`: as many ids are compared, at most.
const COMPARED: usize = 11;

fn table(p: &Problem) -> Data {
    Data::new("table", p.io, (p.vocabulary, p.width), |r| r.between(-2.0, 2.0))
}

fn dout(p: &Problem) -> Data {
    Data::new("dembedded", p.io, (p.tokens(), p.width), |r| r.between(-2.0, 2.0))
}

/// Random ids as unequally frequent as words: that of rank k has a frequency of about 1/k (Zipf), the most frequent one holds a tenth.
pub fn natural_ids(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed, "ids");
    // Uniform in the logarithm of the rank is a frequency of 1/rank.
    let most = (vocabulary as f32).ln();
    (0..count).map(|_| (random.between(0.0, most).exp() as u32).clamp(1, vocabulary as u32) - 1).collect()
}

fn ids(p: &Problem) -> Vec<u32> {
    natural_ids(p.tokens(), p.vocabulary, 0)
}

/// The numbers of which the book's operator makes ids below [`COMPARED`]: their bits.
fn seeds(ids: impl Iterator<Item = usize>) -> Tensor {
    let values: Vec<f32> = ids.map(|id| f32::from_bits(id as u32)).collect();
    Tensor { values, ..Tensor::shaped("ids", Dtype::F32, Rows::Tokens, 1) }
}

struct EmbeddingForward {
    bench: Rc<Bench>,
    variant: Forward,
    host_ids: Vec<u32>,
    ids: Ids,
    distinct: usize,
    /// `(V, M)` io, and `(T, M)` io of each turn
    table: Rc<Buffer>,
    rows: Vec<Rc<Buffer>>,
    next: usize,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let host_ids = ids(p);
    let ids = Ids::new(bench.device(), &host_ids, p.vocabulary)?;
    let rows = |turn| bench.room("embedded", turn, p.io, dout(p).len());
    Ok(Box::new(EmbeddingForward {
        distinct: ids.by_id()?.distinct(),
        table: bench.input(&table(p), 0)?,
        rows: (0..bench.turns(dout(p).bytes())).map(rows).collect::<Result<_>>()?,
        bench: bench.clone(),
        host_ids,
        variant,
        ids,
        next: 0,
    }))
}

impl EmbeddingForward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let (table, out) = (self.table.rows(p.vocabulary)?, self.rows[turn].rows(p.tokens())?);
        embed::forward(bench.packed(), &self.variant, table, &self.ids, out).map(drop)
    }
}

impl Workload for EmbeddingForward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.rows.len())
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, p) = (&self.bench, self.bench.problem());
        let tokens = some(p.tokens());
        let mut rows: Vec<usize> = tokens.iter().map(|&t| self.host_ids[t] as usize).collect();
        let compared = tokens.len();
        rows.resize(COMPARED, 0);
        let inputs = [bench.rows_of(&table(p), "table", Rows::Shared(COMPARED), &rows), seeds(0..compared)];
        let out = bench.rows_from(self.rows[0].rows(p.tokens())?, "out", Rows::Tokens, &tokens)?;
        bench.agrees(&self.id(), &Packed::from_lengths(&[compared])?, &inputs, &[Some(out)])
    }

    /// Each row of a token written, each row of an id that occurs read once.
    fn floor(&self) -> Floor {
        let p = self.bench.problem();
        let rows = (p.tokens() + self.distinct) as f64;
        Floor { bytes: (p.width * p.io.bytes()) as f64 * rows, ..Floor::default() }
    }
}

struct EmbeddingBackward {
    bench: Rc<Bench>,
    variant: Backward,
    host_ids: Vec<u32>,
    by_id: ById,
    /// `(T, M)` io of each turn, and `(V, M)` f32
    dout: Vec<Rc<Buffer>>,
    dtable: Rc<Buffer>,
    next: usize,
}

pub(super) fn backward(bench: &Rc<Bench>, variant: Backward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let host_ids = ids(p);
    Ok(Box::new(EmbeddingBackward {
        by_id: Ids::new(bench.device(), &host_ids, p.vocabulary)?.by_id()?,
        dout: (0..bench.turns(dout(p).bytes())).map(|turn| bench.input(&dout(p), turn)).collect::<Result<_>>()?,
        dtable: bench.sums("dtable", 0, table(p).len())?,
        bench: bench.clone(),
        host_ids,
        variant,
        next: 0,
    }))
}

impl EmbeddingBackward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let (dout, dtable) = (self.dout[turn].rows(p.tokens())?, self.dtable.rows(p.vocabulary)?);
        embed::backward(bench.packed(), &self.variant, dout, &self.by_id, dtable).map(drop)
    }
}

impl Workload for EmbeddingBackward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.dout.len())
    }

    /// A few ids, all of their tokens.
    fn check(&mut self) -> Result<f64> {
        self.dtable.zero()?;
        self.launch(0)?;
        let (bench, p) = (&self.bench, self.bench.problem());
        let mut compared: Vec<u32> = some(p.tokens()).iter().map(|&t| self.host_ids[t]).collect();
        compared.sort_unstable();
        compared.dedup();
        let place = |id: u32| compared.binary_search(&id).ok();
        let tokens: Vec<usize> = (0..p.tokens()).filter(|&t| place(self.host_ids[t]).is_some()).collect();
        let inputs = [
            bench.rows_of(&dout(p), "dout", Rows::Tokens, &tokens),
            seeds(tokens.iter().filter_map(|&t| place(self.host_ids[t]))),
        ];
        let mut rows: Vec<usize> = compared.iter().map(|&id| id as usize).collect();
        // What no token of the slice has is zero; so is the row of an id that never occurs, if there is one.
        let (found, shape) = (rows.len(), Rows::Shared(COMPARED));
        rows.truncate(COMPARED);
        let mut got = bench.rows_from(self.dtable.rows(p.vocabulary)?, "dtable", shape, &rows)?;
        got.values.resize(COMPARED * p.width, 0.0);
        debug_assert!(found <= COMPARED);
        bench.agrees(&self.id(), &Packed::from_lengths(&[tokens.len()])?, &inputs, &[Some(got)])
    }

    /// Each row of a token read, each row of an id that occurs read and written.
    fn floor(&self) -> Floor {
        let p = self.bench.problem();
        let tm = (p.tokens() * p.width) as f64;
        let bytes = p.io.bytes() as f64 * tm + (8 * p.width * self.by_id.distinct()) as f64;
        Floor { bytes, operations: tm, special_results: 0.0 }
    }
}
