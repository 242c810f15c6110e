//! The convolution, as a block runs it: x and its gradient in place, the first halves of `xz` and `dxz`.

use std::rc::Rc;

use packscan_kernels::causal_conv1d::{
    self as conv, Backward, Forward, Gradients, Inputs, Outputs, Upstream, Workspace,
};
use packscan_runtime::{Buffer, Dtype, Result as Ran};
use packscan_verify::{Rows, Tensor};

use super::data::Data;
use super::selective_scan::{g, xz};
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

/// What both passes read.
struct Conv {
    bench: Rc<Bench>,
    bias: bool,
    /// `(T, 2D)` io, of each turn
    xz: Vec<Rc<Buffer>>,
    /// `(D, K)`, `(D)` f32, `(S, K - 1, D)` io
    w: Rc<Buffer>,
    b: Rc<Buffer>,
    history: Option<Rc<Buffer>>,
    next: usize,
}

fn w(p: &Problem) -> Data {
    Data::new("conv_w", Dtype::F32, (p.channels, p.taps), |r| r.between(-1.0, 1.0))
}

fn b(p: &Problem) -> Data {
    Data::new("conv_b", Dtype::F32, (1, p.channels), |r| r.between(-1.0, 1.0))
}

fn history(p: &Problem, name: &'static str) -> Data {
    Data::new(name, p.io, (p.lengths.len(), (p.taps - 1) * p.channels), |r| r.between(-2.0, 2.0))
}

impl Conv {
    fn new(bench: &Rc<Bench>, bias: bool, initial: bool, bytes: usize) -> Result<Conv> {
        let p = bench.problem();
        Ok(Conv {
            bias,
            xz: (0..bench.turns(bytes)).map(|turn| bench.input(&xz(p), turn)).collect::<Result<_>>()?,
            w: bench.input(&w(p), 0)?,
            b: bench.input(&b(p), 0)?,
            history: initial.then(|| bench.input(&history(p, "history"), 0)).transpose()?,
            bench: bench.clone(),
            next: 0,
        })
    }

    fn turn(&mut self) -> usize {
        let turn = self.next % self.xz.len();
        self.next += 1;
        turn
    }

    fn inputs(&self, turn: usize) -> Ran<Inputs<'_>> {
        let p = self.bench.problem();
        Ok(Inputs {
            x: self.xz[turn].rows(p.tokens())?.columns(0, p.channels)?,
            w: self.w.rows(p.channels)?,
            b: self.bias.then(|| self.b.view()),
            history: self.history.as_ref().map(|h| h.rows(p.lengths.len())).transpose()?,
        })
    }

    fn slice(&self, channels: &[usize]) -> Vec<Tensor> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let mut inputs = vec![
            bench.columns_of(&xz(p), "x", Rows::Tokens, channels),
            bench.rows_of(&w(p), "w", Rows::Shared(channels.len()), channels),
        ];
        inputs.extend(self.bias.then(|| bench.columns_of(&b(p), "b", Rows::Shared(1), channels)));
        let past = || bench.columns_of(&history(p, "history"), "history", Rows::Sequences, &of_history(p, channels));
        inputs.extend(self.history.is_some().then(past));
        inputs
    }

    /// Elements `(t, d)`.
    fn elements(&self) -> f64 {
        (self.bench.problem().tokens() * self.bench.problem().channels) as f64
    }
}

/// The columns of a history that belong to these channels.
fn of_history(p: &Problem, channels: &[usize]) -> Vec<usize> {
    (0..p.taps - 1).flat_map(|row| channels.iter().map(move |channel| row * p.channels + channel)).collect()
}

struct ConvForward {
    conv: Conv,
    variant: Forward,
    /// `(T, D)` io, of each turn
    out: Vec<Rc<Buffer>>,
    history: Option<Rc<Buffer>>,
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "width", variant.width as usize, p.taps)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let conv = Conv::new(bench, variant.bias, variant.initial, xz(p).bytes())?;
    let out = |turn| bench.room("out", turn, p.io, p.tokens() * p.channels);
    let past = history(p, "history_out");
    Ok(Box::new(ConvForward {
        variant,
        out: (0..conv.xz.len()).map(out).collect::<Result<_>>()?,
        history: variant.last.then(|| bench.room(past.name, 0, p.io, past.len())).transpose()?,
        conv,
    }))
}

impl ConvForward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let bench = &self.conv.bench;
        let outputs = Outputs {
            out: self.out[turn].rows(bench.problem().tokens())?,
            history: self.history.as_ref().map(|h| h.rows(bench.problem().lengths.len())).transpose()?,
        };
        conv::forward(bench.packed(), &self.variant, &self.conv.inputs(turn)?, &outputs).map(drop)
    }
}

impl Workload for ConvForward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        let turn = self.conv.turn();
        self.launch(turn)
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, channels) = (&self.conv.bench, some(self.conv.bench.problem().channels));
        let out = bench.columns_from(self.out[0].rows(bench.problem().tokens())?, "out", &channels)?;
        bench.agrees(&self.id(), bench.packed().packed(), &self.conv.slice(&channels), &[Some(out)])
    }

    /// x read and out written. A product for each tap, and silu: two results of special functions and two operations.
    fn floor(&self) -> Floor {
        let (td, silu) = (self.conv.elements(), f64::from(u8::from(self.variant.silu)));
        Floor {
            bytes: 2.0 * self.variant.io.bytes() as f64 * td,
            operations: td * (f64::from(self.variant.width) + 2.0 * silu),
            special_results: td * 2.0 * silu,
        }
    }
}

struct ConvBackward {
    conv: Conv,
    variant: Backward,
    /// `(T, D)`, `(T, 2D)` io, of each turn
    g: Vec<Rc<Buffer>>,
    dxz: Vec<Rc<Buffer>>,
    /// `(D, K)`, `(D)` f32
    dw: Rc<Buffer>,
    db: Rc<Buffer>,
    /// `(S, K - 1, D)` io: gradients of the histories written and read
    of_written: Option<Rc<Buffer>>,
    of_read: Option<Rc<Buffer>>,
    workspace: Workspace,
}

pub(super) fn backward(bench: &Rc<Bench>, variant: Backward) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "width", variant.width as usize, p.taps)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let conv = Conv::new(bench, variant.bias, variant.initial, 3 * g(p).bytes())?;
    let turns = 0..conv.xz.len();
    let (written, read) = (history(p, "d_history_out"), history(p, "d_history"));
    Ok(Box::new(ConvBackward {
        g: turns.clone().map(|turn| bench.input(&g(p), turn)).collect::<Result<_>>()?,
        dxz: turns.map(|turn| bench.room("dxz", turn, p.io, xz(p).len())).collect::<Result<_>>()?,
        dw: bench.sums("conv_dw", 0, p.channels * p.taps)?,
        db: bench.sums("conv_db", 0, p.channels)?,
        of_written: variant.last.then(|| bench.input(&written, 0)).transpose()?,
        of_read: variant.initial.then(|| bench.room(read.name, 0, p.io, read.len())).transpose()?,
        workspace: Workspace::new(bench.packed(), &variant, p.channels)?,
        conv,
        variant,
    }))
}

impl ConvBackward {
    fn launch(&mut self, turn: usize) -> Ran<()> {
        let bench = &self.conv.bench;
        let (p, t) = (bench.problem(), bench.problem().tokens());
        let upstream = Upstream {
            out: self.g[turn].rows(t)?,
            history: self.of_written.as_ref().map(|h| h.rows(p.lengths.len())).transpose()?,
        };
        let gradients = Gradients {
            x: self.dxz[turn].rows(t)?.columns(0, p.channels)?,
            w: self.dw.rows(p.channels)?,
            b: self.variant.bias.then(|| self.db.view()),
            add: true,
            history: self.of_read.as_ref().map(|h| h.rows(p.lengths.len())).transpose()?,
        };
        let inputs = self.conv.inputs(turn)?;
        conv::backward(bench.packed(), &self.variant, &inputs, &upstream, &gradients, &mut self.workspace).map(drop)
    }
}

impl Workload for ConvBackward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        let turn = self.conv.turn();
        self.launch(turn)
    }

    fn check(&mut self) -> Result<f64> {
        self.dw.zero()?;
        self.db.zero()?;
        self.launch(0)?;
        let bench = &self.conv.bench;
        let (p, t) = (bench.problem(), bench.problem().tokens());
        let channels = some(p.channels);
        let mut inputs = self.conv.slice(&channels);
        inputs.push(bench.columns_of(&g(p), "g", Rows::Tokens, &channels));
        if self.variant.last {
            let written = history(p, "d_history_out");
            inputs.push(bench.columns_of(&written, written.name, Rows::Sequences, &of_history(p, &channels)));
        }
        let of_channels = Rows::Shared(channels.len());
        let mut outputs = vec![
            Some(bench.columns_from(self.dxz[0].rows(t)?, "dx", &channels)?),
            Some(bench.rows_from(self.dw.rows(p.channels)?, "dw", of_channels, &channels)?),
        ];
        if self.variant.bias {
            outputs.push(Some(bench.rows_from(self.db.rows(p.channels)?, "db", of_channels, &channels)?));
        }
        bench.agrees(&self.id(), bench.packed().packed(), &inputs, &outputs)
    }

    /// x and g read, dx written. Two products for each tap, the taps of forward again, and silu with its derivative.
    fn floor(&self) -> Floor {
        let (td, silu) = (self.conv.elements(), f64::from(u8::from(self.variant.silu)));
        Floor {
            bytes: 3.0 * self.variant.io.bytes() as f64 * td,
            operations: td * (3.0 * f64::from(self.variant.width) + 1.0 + 5.0 * silu),
            special_results: td * 2.0 * silu,
        }
    }
}
