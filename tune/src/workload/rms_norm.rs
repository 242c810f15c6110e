//! The residual addition and norm between two blocks. The backward pass includes the sum of its parts.

use std::rc::Rc;

use packscan_kernels::rms_norm::{self as norm, Backward, Forward, Gradients, Incoming, Inputs, Outputs};
use packscan_runtime::{Buffer, Dtype, Packed, Result as Ran};
use packscan_verify::{Random, Rows};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

fn of_tokens(p: &Problem, name: &'static str, dtype: Dtype, value: fn(&mut Random) -> f32) -> Data {
    Data::new(name, dtype, (p.tokens(), p.width), value)
}

fn x(p: &Problem) -> Data {
    of_tokens(p, "hidden", p.io, |r| r.between(-2.0, 2.0))
}

fn residual(p: &Problem) -> Data {
    of_tokens(p, "residual", Dtype::F32, |r| r.between(-3.0, 3.0))
}

fn weight(p: &Problem) -> Data {
    Data::new("norm_weight", Dtype::F32, (1, p.width), |r| r.between(-1.0, 2.0))
}

fn epsilon() -> Data {
    Data::new("epsilon", Dtype::F32, (1, 1), |_| 1e-5)
}

fn dy(p: &Problem) -> Data {
    of_tokens(p, "dnormed", p.io, |r| r.between(-2.0, 2.0))
}

/// What forward normed. The formulas hold for any, and for any `rstd`.
fn r(p: &Problem) -> Data {
    of_tokens(p, "residual_out", Dtype::F32, |r| r.between(-3.0, 3.0))
}

fn rstd(p: &Problem) -> Data {
    Data::new("rstd_in", Dtype::F32, (p.tokens(), 1), |r| r.between(0.3, 2.0))
}

fn incoming(p: &Problem) -> Data {
    of_tokens(p, "dresidual_in", Dtype::F32, |r| r.between(-2.0, 2.0))
}

struct NormForward {
    bench: Rc<Bench>,
    variant: Forward,
    turns: Vec<Turn>,
    /// `(M)`, `(1)` f32
    weight: Rc<Buffer>,
    epsilon: Rc<Buffer>,
    /// `(T)` f32
    rstd: Rc<Buffer>,
    next: usize,
}

/// `(T, M)` io, f32, io, f32
struct Turn {
    x: Rc<Buffer>,
    residual: Rc<Buffer>,
    y: Rc<Buffer>,
    r: Rc<Buffer>,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "width", variant.width as usize, p.width)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let turn = |i| -> Result<Turn> {
        Ok(Turn {
            x: bench.input(&x(p), i)?,
            residual: bench.input(&residual(p), i)?,
            y: bench.room("normed", i, p.io, x(p).len())?,
            r: bench.room("residual_next", i, Dtype::F32, x(p).len())?,
        })
    };
    let turns = bench.turns(2 * (x(p).bytes() + residual(p).bytes()));
    Ok(Box::new(NormForward {
        variant,
        turns: (0..turns).map(turn).collect::<Result<_>>()?,
        weight: bench.input(&weight(p), 0)?,
        epsilon: bench.input(&epsilon(), 0)?,
        rstd: bench.room("rstd", 0, Dtype::F32, p.tokens())?,
        bench: bench.clone(),
        next: 0,
    }))
}

impl NormForward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let (t, v) = (self.bench.problem().tokens(), &self.variant);
        let Turn { x, residual, y, r } = &self.turns[turn];
        let inputs = Inputs {
            x: (!v.alone).then(|| x.rows(t)).transpose()?,
            residual: v.residual.then(|| residual.rows(t)).transpose()?,
            weight: self.weight.view(),
            epsilon: self.epsilon.view(),
        };
        let outputs = Outputs {
            y: y.rows(t)?,
            residual: v.sum.then(|| r.rows(t)).transpose()?,
            rstd: v.stats.then(|| self.rstd.view()),
        };
        norm::forward(self.bench.packed(), v, &inputs, &outputs).map(drop)
    }
}

impl Workload for NormForward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.turns.len())
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, p, v) = (&self.bench, self.bench.problem(), &self.variant);
        let (t, rows) = (p.tokens(), some(p.tokens()));
        let (tokens, one) = (Rows::Tokens, Rows::Shared(1));
        let mut inputs =
            vec![bench.rows_of(&weight(p), "weight", one, &[0]), bench.rows_of(&epsilon(), "epsilon", one, &[0])];
        inputs.extend((!v.alone).then(|| bench.rows_of(&x(p), "x", tokens, &rows)));
        inputs.extend(v.residual.then(|| bench.rows_of(&residual(p), "residual", tokens, &rows)));
        let Turn { y, r, .. } = &self.turns[0];
        let mut outputs = vec![Some(bench.rows_from(y.rows(t)?, "y", tokens, &rows)?)];
        let sum = || bench.rows_from(r.rows(t)?, "residual_out", tokens, &rows);
        outputs.extend(v.sum.then(sum).transpose()?.map(Some));
        let stats = || bench.rows_from(self.rstd.rows(t)?, "rstd", tokens, &rows);
        outputs.extend(v.stats.then(stats).transpose()?.map(Some));
        bench.agrees(&self.id(), &Packed::from_lengths(&[rows.len()])?, &inputs, &outputs)
    }

    /// x and the residual read, y and r written. An addition, a square, two products.
    fn floor(&self) -> Floor {
        let v = &self.variant;
        let (tm, t) = (x(self.bench.problem()).len() as f64, self.bench.problem().tokens() as f64);
        let moved = |options: [bool; 2]| options.into_iter().filter(|&moved| moved).count() as f64;
        let stats = if v.stats { 4.0 } else { 0.0 };
        let bytes = tm * (moved([true, !v.alone]) * v.io.bytes() as f64 + 4.0 * moved([v.residual, v.sum])) + stats * t;
        Floor { bytes, operations: 4.0 * tm, special_results: t }
    }
}

struct NormBackward {
    bench: Rc<Bench>,
    variant: Backward,
    turns: Vec<BackwardTurn>,
    /// `(T)`, `(M)`, `(M)` f32
    rstd: Rc<Buffer>,
    weight: Rc<Buffer>,
    dweight: Rc<Buffer>,
    /// `(P, M)` f32
    parts: Buffer,
    parts_rows: usize,
    next: usize,
}

/// `(T, M)` io, f32, f32, f32, io
struct BackwardTurn {
    dy: Rc<Buffer>,
    r: Rc<Buffer>,
    incoming: Rc<Buffer>,
    dresidual: Rc<Buffer>,
    dx: Rc<Buffer>,
}

pub(super) fn backward(bench: &Rc<Bench>, variant: Backward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "width", variant.width as usize, p.width)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let turn = |i| -> Result<BackwardTurn> {
        Ok(BackwardTurn {
            dy: bench.input(&dy(p), i)?,
            r: bench.input(&r(p), i)?,
            incoming: bench.input(&incoming(p), i)?,
            dresidual: bench.room("dresidual", i, Dtype::F32, r(p).len())?,
            dx: bench.room("dhidden", i, p.io, r(p).len())?,
        })
    };
    let turns = bench.turns(2 * dy(p).bytes() + 3 * r(p).bytes());
    let parts_rows = norm::parts_rows(bench.packed(), &variant)?;
    Ok(Box::new(NormBackward {
        variant,
        turns: (0..turns).map(turn).collect::<Result<_>>()?,
        rstd: bench.input(&rstd(p), 0)?,
        weight: bench.input(&weight(p), 0)?,
        dweight: bench.sums("dnorm_weight", 0, p.width)?,
        parts: Buffer::unwritten(bench.device(), Dtype::F32, parts_rows * p.width)?,
        parts_rows,
        bench: bench.clone(),
        next: 0,
    }))
}

impl NormBackward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let (t, v) = (self.bench.problem().tokens(), &self.variant);
        let turn = &self.turns[turn];
        let given = Incoming {
            dy: turn.dy.rows(t)?,
            r: turn.r.rows(t)?,
            rstd: self.rstd.view(),
            weight: self.weight.view(),
            dr: v.incoming.then(|| turn.incoming.rows(t)).transpose()?,
        };
        let gradients = Gradients {
            residual: v.dresidual.then(|| turn.dresidual.rows(t)).transpose()?,
            x: v.dx.then(|| turn.dx.rows(t)).transpose()?,
            weight: self.dweight.view(),
            add: true,
            parts: self.parts.rows(self.parts_rows)?,
        };
        norm::backward(self.bench.packed(), v, &given, &gradients).map(drop)
    }
}

impl Workload for NormBackward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        self.next += 1;
        self.launch(self.next % self.turns.len())
    }

    /// The gradient of the weight is a sum over all tokens, which a slice does not have.
    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, p, v) = (&self.bench, self.bench.problem(), &self.variant);
        let (t, rows) = (p.tokens(), some(p.tokens()));
        let tokens = Rows::Tokens;
        let mut inputs = vec![
            bench.rows_of(&dy(p), "dy", tokens, &rows),
            bench.rows_of(&r(p), "r", tokens, &rows),
            bench.rows_of(&rstd(p), "rstd", tokens, &rows),
            bench.rows_of(&weight(p), "weight", Rows::Shared(1), &[0]),
        ];
        inputs.extend(v.incoming.then(|| bench.rows_of(&incoming(p), "incoming", tokens, &rows)));
        let BackwardTurn { dresidual, dx, .. } = &self.turns[0];
        let mut outputs = Vec::new();
        for (wanted, buffer, name) in [(v.dresidual, dresidual, "dresidual"), (v.dx, dx, "dx")] {
            if wanted {
                outputs.push(Some(bench.rows_from(buffer.rows(t)?, name, tokens, &rows)?));
            }
        }
        outputs.push(None);
        bench.agrees(&self.id(), &Packed::from_lengths(&[rows.len()])?, &inputs, &outputs)
    }

    /// dy, r and the incoming gradient read, both gradients written. Two products and two sums over the row, three operations for the
    /// gradient, two for that of the weight.
    fn floor(&self) -> Floor {
        let v = &self.variant;
        let (tm, t) = (r(self.bench.problem()).len() as f64, self.bench.problem().tokens() as f64);
        let io = 1.0 + f64::from(u8::from(v.dx));
        let f32s = 1.0 + [v.incoming, v.dresidual].into_iter().filter(|&moved| moved).count() as f64;
        Floor {
            bytes: tm * (v.io.bytes() as f64 * io + 4.0 * f32s) + 4.0 * t,
            operations: 9.0 * tm,
            special_results: 0.0,
        }
    }
}
