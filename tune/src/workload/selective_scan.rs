//! The scan, as a block runs it: B and C are columns of `x_dbl`, z the second half of `xz`.

use std::rc::Rc;

use packscan_kernels::selective_scan::{
    self as scan, Backward, Forward, Gradients, Inputs, Outputs, State, Upstream, Workspace, default_variant, split,
};
use packscan_runtime::{Buffer, Dtype, Result as Ran};
use packscan_verify::{Random, Rows, Tensor};

use super::data::Data;
use super::slice::some;
use super::{Bench, Floor, Problem, Workload};
use crate::Result;

mod cut;

pub use cut::Cut;
use cut::Kept;

/// What decides which inputs a pass has.
#[derive(Clone, Copy)]
struct Options {
    softplus: bool,
    bias: bool,
    skip: bool,
    gate: bool,
    initial: bool,
}

/// What both passes read.
struct Scan {
    bench: Rc<Bench>,
    options: Options,
    turns: Vec<Turn>,
    /// `(D, N)`, `(D)`, `(D)`, `(S, D, N)` f32
    a: Rc<Buffer>,
    d_skip: Rc<Buffer>,
    delta_bias: Rc<Buffer>,
    initial_state: Option<Rc<Buffer>>,
    /// Which turn is next.
    next: usize,
}

/// `(T, D)`, `(T, D)`, `(T, 2D)`, `(T, R + 2N)` io
struct Turn {
    u: Rc<Buffer>,
    delta: Rc<Buffer>,
    xz: Rc<Buffer>,
    x_dbl: Rc<Buffer>,
}

fn of_tokens(p: &Problem, name: &'static str, cols: usize, value: fn(&mut Random) -> f32) -> Data {
    Data::new(name, p.io, (p.tokens(), cols), value)
}

fn u(p: &Problem) -> Data {
    of_tokens(p, "u", p.channels, |r| r.between(-2.0, 2.0))
}

/// Before a softplus any number is a step size; without one the model's are small and positive.
fn delta(p: &Problem, softplus: bool) -> Data {
    match softplus {
        true => of_tokens(p, "delta", p.channels, |r| r.between(-6.0, 2.0)),
        false => of_tokens(p, "steps", p.channels, |r| r.between(0.001, 0.8)),
    }
}

pub(super) fn xz(p: &Problem) -> Data {
    of_tokens(p, "xz", 2 * p.channels, |r| r.between(-3.0, 3.0))
}

fn x_dbl(p: &Problem) -> Data {
    of_tokens(p, "x_dbl", p.rank + 2 * p.state, |r| r.between(-1.0, 1.0))
}

/// Incoming gradient of the scan's and of the convolution's result.
pub(super) fn g(p: &Problem) -> Data {
    of_tokens(p, "g", p.channels, |r| r.between(-1.0, 1.0))
}

fn a(p: &Problem) -> Data {
    Data::new("a", Dtype::F32, (p.channels, p.state), |r| -r.between(-3.0, 2.5).exp())
}

fn d_skip(p: &Problem) -> Data {
    Data::new("d_skip", Dtype::F32, (1, p.channels), |r| r.between(-1.0, 1.0))
}

fn delta_bias(p: &Problem) -> Data {
    Data::new("delta_bias", Dtype::F32, (1, p.channels), |r| r.between(0.0, 0.2))
}

fn initial_state(p: &Problem) -> Data {
    Data::new("initial_state", Dtype::F32, (p.lengths.len(), p.channels * p.state), |r| r.between(-1.0, 1.0))
}

impl Scan {
    fn new(bench: &Rc<Bench>, options: Options, bytes: usize) -> Result<Scan> {
        let p = bench.problem();
        let turn = |i| -> Result<Turn> {
            let [u, delta, xz, x_dbl] =
                [u(p), delta(p, options.softplus), xz(p), x_dbl(p)].map(|data| bench.input(&data, i));
            Ok(Turn { u: u?, delta: delta?, xz: xz?, x_dbl: x_dbl? })
        };
        Ok(Scan {
            options,
            turns: (0..bench.turns(bytes)).map(turn).collect::<Result<_>>()?,
            a: bench.input(&a(p), 0)?,
            d_skip: bench.input(&d_skip(p), 0)?,
            delta_bias: bench.input(&delta_bias(p), 0)?,
            initial_state: options.initial.then(|| bench.input(&initial_state(p), 0)).transpose()?,
            bench: bench.clone(),
            next: 0,
        })
    }

    /// The next turn.
    fn turn(&mut self) -> usize {
        let turn = self.next % self.turns.len();
        self.next += 1;
        turn
    }

    fn inputs(&self, turn: usize) -> Ran<Inputs<'_>> {
        let (p, t) = (self.bench.problem(), self.bench.problem().tokens());
        let (turn, Options { bias, skip, gate, .. }) = (&self.turns[turn], self.options);
        let x_dbl = turn.x_dbl.rows(t)?;
        Ok(Inputs {
            u: turn.u.rows(t)?,
            delta: turn.delta.rows(t)?,
            a: self.a.rows(p.channels)?,
            b: x_dbl.columns(p.rank, p.state)?,
            c: x_dbl.columns(p.rank + p.state, p.state)?,
            d_skip: skip.then(|| self.d_skip.view()),
            delta_bias: bias.then(|| self.delta_bias.view()),
            z: gate.then(|| turn.xz.rows(t)?.columns(p.channels, p.channels)).transpose()?,
            initial_state: self.initial_state.as_ref().map(|s| s.rows(p.lengths.len())).transpose()?,
        })
    }

    /// The inputs of some channels, as the book's operator takes them.
    fn slice(&self, channels: &[usize]) -> Vec<Tensor> {
        let (bench, p) = (&self.bench, self.bench.problem());
        let Options { softplus, bias, skip, gate, initial } = self.options;
        let states = |first: usize| (first..first + p.state).collect::<Vec<usize>>();
        let z: Vec<usize> = channels.iter().map(|channel| p.channels + channel).collect();
        let of_channels: Vec<usize> =
            channels.iter().flat_map(|channel| channel * p.state..(channel + 1) * p.state).collect();
        let (tokens, one) = (Rows::Tokens, Rows::Shared(1));
        let mut inputs = vec![
            bench.columns_of(&u(p), "u", tokens, channels),
            bench.columns_of(&delta(p, softplus), "delta", tokens, channels),
            bench.rows_of(&a(p), "a", Rows::Shared(channels.len()), channels),
            bench.columns_of(&x_dbl(p), "b", tokens, &states(p.rank)),
            bench.columns_of(&x_dbl(p), "c", tokens, &states(p.rank + p.state)),
        ];
        inputs.extend(skip.then(|| bench.columns_of(&d_skip(p), "d_skip", one, channels)));
        inputs.extend(bias.then(|| bench.columns_of(&delta_bias(p), "delta_bias", one, channels)));
        inputs.extend(gate.then(|| bench.columns_of(&xz(p), "z", tokens, &z)));
        let state = || bench.columns_of(&initial_state(p), "initial_state", Rows::Sequences, &of_channels);
        inputs.extend(initial.then(state));
        inputs
    }

    /// Elements `(t, d)` and `(t, n)`.
    fn elements(&self) -> (f64, f64) {
        let p = self.bench.problem();
        ((p.tokens() * p.channels) as f64, (p.tokens() * p.state) as f64)
    }
}

struct ScanForward {
    scan: Scan,
    variant: Forward,
    /// `(T, D)` io, of each turn
    out: Vec<Rc<Buffer>>,
    final_state: Option<Rc<Buffer>>,
    checkpoints: Option<Rc<Buffer>>,
    cut: Option<Kept>,
}

/// `(ceil(T / distance), D, N)` f32
fn checkpoints(bench: &Bench, distance: u32) -> Result<Rc<Buffer>> {
    let p = bench.problem();
    let rows = p.tokens().div_ceil(distance as usize);
    bench.room("checkpoints", 0, Dtype::F32, rows * p.channels * p.state)
}

pub(super) fn forward(bench: &Rc<Bench>, variant: Forward, cut: Option<&Cut>) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "state", variant.state as usize, p.state)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let Forward { io, softplus, bias, skip, gate, initial, .. } = variant;
    let activation = u(p).bytes();
    let scan = Scan::new(bench, Options { softplus, bias, skip, gate, initial }, 4 * activation)?;
    let out = |turn| bench.room("out", turn, io, p.tokens() * p.channels);
    let states = p.lengths.len() * p.channels * p.state;
    Ok(Box::new(ScanForward {
        variant,
        out: (0..scan.turns.len()).map(out).collect::<Result<_>>()?,
        final_state: variant.last.then(|| bench.room("final_state", 0, Dtype::F32, states)).transpose()?,
        checkpoints: variant.checkpoints.then(|| checkpoints(bench, variant.distance)).transpose()?,
        cut: cut.map(|cut| Kept::new(bench, cut, State::for_forward(&variant, p.channels))).transpose()?,
        scan,
    }))
}

impl ScanForward {
    fn launch(&self, turn: usize) -> Ran<()> {
        let Scan { bench, .. } = &self.scan;
        let (p, t) = (bench.problem(), bench.problem().tokens());
        let outputs = Outputs {
            out: self.out[turn].rows(t)?,
            final_state: self.final_state.as_ref().map(|state| state.rows(p.lengths.len())).transpose()?,
            checkpoints: self
                .checkpoints
                .as_ref()
                .map(|c| c.rows(t.div_ceil(self.variant.distance as usize)))
                .transpose()?,
        };
        let (packed, inputs) = (bench.packed(), self.scan.inputs(turn)?);
        match &self.cut {
            Some(cut) => split::forward(packed, &self.variant, None, &inputs, &outputs, &cut.split()?),
            None => scan::forward(packed, &self.variant, None, &inputs, &outputs),
        }
        .map(drop)
    }
}

impl Workload for ScanForward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        let turn = self.scan.turn();
        self.launch(turn)
    }

    fn check(&mut self) -> Result<f64> {
        self.launch(0)?;
        let (bench, channels) = (&self.scan.bench, some(self.scan.bench.problem().channels));
        let out = bench.columns_from(self.out[0].rows(bench.problem().tokens())?, "out", &channels)?;
        let segment = self.cut.as_ref().map(Kept::tokens);
        bench.scan_agrees(&self.id(), segment, &self.scan.slice(&channels), &[Some(out)])
    }

    /// u, delta and z read, out written, B and C read. Of each state an exponential and four operations: its argument, delta*u*B, the
    /// recurrence and the sum. Beside them one result of softplus, whose logarithm is a polynomial of eight operations, and two of silu.
    fn floor(&self) -> Floor {
        let ((td, tn), n) = (self.scan.elements(), f64::from(self.variant.state));
        let Forward { io, gate, softplus, .. } = self.variant;
        let of_gate = if gate { 2.0 } else { 0.0 };
        let of_softplus = f64::from(u8::from(softplus));
        Floor {
            bytes: io.bytes() as f64 * (td * (3.0 + of_gate / 2.0) + 2.0 * tn),
            operations: td * (4.0 * n + 2.0 + of_gate + 8.0 * of_softplus),
            special_results: td * (n + of_softplus + of_gate),
        }
    }
}

struct ScanBackward {
    scan: Scan,
    variant: Backward,
    /// `(T, D)`, `(T, D)`, `(T, D)`, `(T, 2D)`, `(T, R + 2N)` io: incoming and outgoing gradients, of each turn
    gradients: Vec<[Rc<Buffer>; 5]>,
    /// `(D, N)`, `(D)`, `(D)` f32
    of_parameters: [Rc<Buffer>; 3],
    /// `(S, D, N)` f32: of the states after and before each sequence
    of_states: Option<Rc<Buffer>>,
    of_initial: Option<Rc<Buffer>>,
    checkpoints: Rc<Buffer>,
    workspace: Workspace,
    cut: Option<Kept>,
}

pub(super) fn backward(bench: &Rc<Bench>, variant: Backward, cut: Option<&Cut>) -> Result<Box<dyn Workload>> {
    let p = bench.problem();
    bench.device().check(&variant)?;
    p.same(&variant, "state", variant.state as usize, p.state)?;
    p.same(&variant, "io", variant.io, p.io)?;
    let Backward { io, softplus, bias, skip, gate, initial, last, .. } = variant;
    let scan = Scan::new(bench, Options { softplus, bias, skip, gate, initial }, 7 * u(p).bytes())?;
    let (t, d, n) = (p.tokens(), p.channels, p.state);
    let turn = |i| -> Result<[Rc<Buffer>; 5]> {
        let room = |name, cols| bench.room(name, i, io, t * cols);
        Ok([
            bench.input(&g(p), i)?,
            room("du", d)?,
            room("ddelta", d)?,
            room("dxz", 2 * d)?,
            room("dx_dbl", p.rank + 2 * n)?,
        ])
    };
    let states = Data { name: "d_final_state", ..initial_state(p) };
    let cut = cut.map(|cut| Kept::new(bench, cut, State::for_backward(&variant, d))).transpose()?;
    let walked = cut.as_ref().map_or(bench.packed(), Kept::pack);
    let workload = ScanBackward {
        gradients: (0..scan.turns.len()).map(turn).collect::<Result<_>>()?,
        of_parameters: [bench.sums("da", 0, d * n)?, bench.sums("dd_skip", 0, d)?, bench.sums("ddelta_bias", 0, d)?],
        of_states: last.then(|| bench.input(&states, 0)).transpose()?,
        of_initial: initial.then(|| bench.room("d_initial_state", 0, Dtype::F32, states.len())).transpose()?,
        checkpoints: checkpoints(bench, variant.chunk)?,
        workspace: Workspace::new(walked, &variant, d, None)?,
        cut,
        scan,
        variant,
    };
    workload.save_states()?;
    Ok(Box::new(workload))
}

impl ScanBackward {
    /// What the forward pass saves for this variant.
    fn save_states(&self) -> Result<()> {
        let (bench, Backward { chunk, softplus, bias, skip, gate, initial, .. }) = (&self.scan.bench, self.variant);
        let (p, t) = (bench.problem(), bench.problem().tokens());
        let problem = scan::Problem { softplus, bias, skip, gate, initial, ..p.scan() };
        let picked = default_variant(&problem);
        let variant = Forward { vec: p.load_of_columns(picked.vec), ..picked }.saving_every(chunk);
        let out = bench.room("out", 0, variant.io, t * p.channels)?;
        let checkpoints = Some(self.checkpoints.rows(t.div_ceil(chunk as usize))?);
        let outputs = Outputs { out: out.rows(t)?, final_state: None, checkpoints };
        let (packed, inputs) = (bench.packed(), self.scan.inputs(0)?);
        match &self.cut {
            Some(cut) => {
                let split = cut.split_by(State::for_forward(&variant, p.channels))?;
                split::forward(packed, &variant, None, &inputs, &outputs, &split)?
            }
            None => scan::forward(packed, &variant, None, &inputs, &outputs)?,
        };
        Ok(())
    }

    fn launch(&mut self, turn: usize) -> Ran<()> {
        let bench = &self.scan.bench;
        let p = bench.problem();
        let (t, d, n, sequences) = (p.tokens(), p.channels, p.state, p.lengths.len());
        let [g, du, ddelta, dxz, dx_dbl] = &self.gradients[turn];
        let [da, dd_skip, ddelta_bias] = &self.of_parameters;
        let dx_dbl = dx_dbl.rows(t)?;
        let upstream = Upstream {
            out: g.rows(t)?,
            final_state: self.of_states.as_ref().map(|states| states.rows(sequences)).transpose()?,
            checkpoints: self.checkpoints.rows(t.div_ceil(self.variant.chunk as usize))?,
        };
        let gradients = Gradients {
            u: du.rows(t)?,
            delta: ddelta.rows(t)?,
            a: da.rows(d)?,
            b: dx_dbl.columns(p.rank, n)?,
            c: dx_dbl.columns(p.rank + n, n)?,
            d_skip: self.variant.skip.then(|| dd_skip.view()),
            delta_bias: self.variant.bias.then(|| ddelta_bias.view()),
            add: true,
            z: self.variant.gate.then(|| dxz.rows(t)?.columns(d, d)).transpose()?,
            initial_state: self.of_initial.as_ref().map(|states| states.rows(sequences)).transpose()?,
        };
        let inputs = self.scan.inputs(turn)?;
        let (packed, variant, workspace) = (bench.packed(), &self.variant, &mut self.workspace);
        match &self.cut {
            Some(cut) => {
                split::backward(packed, variant, &inputs, &upstream, &gradients, workspace, &cut.split()?).map(drop)
            }
            None => scan::backward(packed, variant, &inputs, &upstream, &gradients, workspace).map(drop),
        }
    }

    /// The slice's incoming gradients beside its inputs.
    fn slice(&self, channels: &[usize]) -> Vec<Tensor> {
        let (bench, p) = (&self.scan.bench, self.scan.bench.problem());
        let mut inputs = self.scan.slice(channels);
        inputs.push(bench.columns_of(&g(p), "g", Rows::Tokens, channels));
        if self.variant.last {
            let states = Data { name: "d_final_state", ..initial_state(p) };
            let columns: Vec<usize> =
                channels.iter().flat_map(|channel| channel * p.state..(channel + 1) * p.state).collect();
            inputs.push(bench.columns_of(&states, "d_final_state", Rows::Sequences, &columns));
        }
        inputs
    }
}

impl Workload for ScanBackward {
    fn id(&self) -> String {
        self.variant.to_string()
    }

    fn run(&mut self) -> Ran<()> {
        let turn = self.scan.turn();
        self.launch(turn)
    }

    fn check(&mut self) -> Result<f64> {
        self.of_parameters.iter().try_for_each(|sums| sums.zero())?;
        // Another variant may have left its own states there.
        self.save_states()?;
        self.launch(0)?;
        let bench = &self.scan.bench;
        let (p, t) = (bench.problem(), bench.problem().tokens());
        let channels = some(p.channels);
        let [_, du, ddelta, dxz, _] = &self.gradients[0];
        let of_tokens = |buffer: &Buffer, name| bench.columns_from(buffer.rows(t)?, name, &channels);
        let [da, dd_skip, ddelta_bias] = &self.of_parameters;
        let of_channels = |sums: &Buffer, name| -> Result<Tensor> {
            let cols = sums.len() / p.channels;
            let rows = bench.rows_from(sums.rows(p.channels)?, name, Rows::Shared(channels.len()), &channels)?;
            Ok(Tensor { cols: if cols == 1 { channels.len() } else { cols }, ..rows })
        };
        // dB and dC are sums over all channels, which a slice does not have.
        let mut outputs = vec![
            Some(of_tokens(du, "du")?),
            Some(of_tokens(ddelta, "ddelta")?),
            Some(of_channels(da, "da")?),
            None,
            None,
        ];
        let Backward { skip, bias, gate, .. } = self.variant;
        outputs.extend(skip.then(|| of_channels(dd_skip, "dd_skip")).transpose()?.map(Some));
        outputs.extend(bias.then(|| of_channels(ddelta_bias, "ddelta_bias")).transpose()?.map(Some));
        let z: Vec<usize> = channels.iter().map(|channel| p.channels + channel).collect();
        let dz = || bench.columns_from(dxz.rows(t)?, "dz", &z);
        outputs.extend(gate.then(dz).transpose()?.map(Some));
        bench.scan_agrees(&self.id(), self.cut.as_ref().map(Kept::tokens), &self.slice(&channels), &outputs)
    }

    /// u, delta, z and g read, three gradients written, B and C read and their gradients written. Of each state an exponential and eleven
    /// operations: the three of forward that give h again; dh and what it passes on; dB and dC, into sums over channels; du; a product
    /// that ddelta and dA share, and these two. Beside them softplus and silu with their derivatives, two results of special functions each.
    fn floor(&self) -> Floor {
        let ((td, tn), n) = (self.scan.elements(), f64::from(self.variant.state));
        let Backward { io, gate, softplus, .. } = self.variant;
        let (of_gate, of_softplus) = (f64::from(u8::from(gate)), f64::from(u8::from(softplus)));
        Floor {
            bytes: io.bytes() as f64 * (td * (5.0 + 2.0 * of_gate) + 4.0 * tn),
            operations: td * (11.0 * n + 6.0 + 6.0 * of_gate + 10.0 * of_softplus),
            special_results: td * (n + 2.0 * of_softplus + 2.0 * of_gate),
        }
    }
}
