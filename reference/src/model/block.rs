//! One block of the model, of one sequence.

use super::{Config, Parameters, matrix, parameters};
use crate::{Number, causal_conv1d, rms_norm, selective_scan};

/// What a block remembers of the tokens of a sequence, or the gradient of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory<X = f64> {
    /// The scan's state, (D, N).
    pub state: Vec<X>,
    /// The last inputs of the convolution, the oldest first, (K - 1, D).
    pub history: Vec<X>,
}

/// A block and what it remembers of the tokens before the sequence.
pub(super) struct Block<'a, X> {
    pub config: &'a Config,
    pub parameters: &'a Parameters<X>,
    pub layer: usize,
    /// None for a fresh sequence.
    pub memory: Option<&'a Memory<X>>,
}

/// What a block computes, all that its backward pass reads.
pub(super) struct Computed<X> {
    /// Of the norm: y and r, (T, M), and rstd, (T).
    pub norm: rms_norm::Outputs<X>,
    /// The input of the convolution, (T, D).
    x: Vec<X>,
    /// The gate, (T, D).
    z: Vec<X>,
    /// The output of the convolution, (T, D).
    u: Vec<X>,
    /// Of what delta is made, (T, R).
    dt: Vec<X>,
    /// Before bias and softplus, (T, D).
    delta: Vec<X>,
    /// -exp(A_log), (D, N)
    a: Vec<X>,
    /// (T, N)
    b: Vec<X>,
    /// (T, N)
    c: Vec<X>,
    /// The output of the scan, (T, D).
    scanned: Vec<X>,
    /// (T, M)
    pub out: Vec<X>,
    /// What the block remembers after the sequence's last token.
    pub left: Memory<X>,
}

impl<'a, X: Number> Block<'a, X> {
    fn name(&self, name: &str) -> String {
        parameters::in_block(self.layer, name)
    }

    fn parameter(&self, name: &str) -> &'a [X] {
        &self.parameters[self.name(name).as_str()]
    }

    /// `x: (T, M)` is added to `residual: (T, M)`, the sum is normed, and goes through the mixer.
    pub fn forward(&self, x: &[X], residual: Option<&[X]>) -> Computed<X> {
        let Config { width, channels, state, rank, epsilon, .. } = *self.config;
        let weight = self.parameter("norm.weight");
        let norm = rms_norm::forward(&rms_norm::Inputs { width, x, residual, weight, epsilon: X::constant(epsilon) });

        let xz = matrix::forward(width, &norm.y, self.parameter("mixer.in_proj.weight"));
        let x = matrix::columns(&xz, 2 * channels, 0..channels);
        let z = matrix::columns(&xz, 2 * channels, channels..2 * channels);
        let lengths = [x.len() / channels];
        let convolved = causal_conv1d::forward(&self.conv_pack(&lengths), &self.conv_inputs(&x));

        let u = convolved.out;
        let x_dbl = matrix::forward(channels, &u, self.parameter("mixer.x_proj.weight"));
        let of_x_dbl = |from, count| matrix::columns(&x_dbl, rank + 2 * state, from..from + count);
        let (dt, b, c) = (of_x_dbl(0, rank), of_x_dbl(rank, state), of_x_dbl(rank + state, state));
        let delta = matrix::forward(rank, &dt, self.parameter("mixer.dt_proj.weight"));
        let a = self.parameter("mixer.A_log").iter().map(|a_log| a_log.exp().neg()).collect();

        let left = Memory { state: vec![], history: convolved.history };
        let mut computed = Computed { norm, x, z, u, dt, delta, a, b, c, scanned: vec![], out: vec![], left };
        let scan = selective_scan::forward(&self.scan_pack(&lengths), &self.scan_inputs(&computed));
        computed.out = matrix::forward(channels, &scan.out, self.parameter("mixer.out_proj.weight"));
        computed.scanned = scan.out;
        computed.left.state = scan.final_state;
        computed
    }

    /// Adds the gradients of the parameters; returns that of `x`, which is that of the residual too, (T, M), and that of the memory.
    ///
    /// `dr: (T, M)` is the gradient of the block's output and, through all that comes after it, of `r`: the two are added next, so it is
    /// the same. `left_gradient` is that of the memory that the sequence leaves.
    pub fn backward(
        &self,
        computed: &Computed<X>,
        dr: &[X],
        left_gradient: Option<&Memory<X>>,
        gradients: &mut Parameters<X>,
    ) -> (Vec<X>, Memory<X>) {
        let Config { width, channels, state, rank, .. } = *self.config;
        let tokens = computed.norm.rstd.len();
        let lengths = [tokens];

        let dscanned = self.through(gradients, "mixer.out_proj.weight", (channels, &computed.scanned), dr);
        let upstream =
            selective_scan::Upstream { out: &dscanned, final_state: left_gradient.map(|left| left.state.as_slice()) };
        let scan = selective_scan::backward(&self.scan_pack(&lengths), &self.scan_inputs(computed), &upstream);
        // A = -exp(A_log) is its own derivative.
        self.add(
            gradients,
            "mixer.A_log",
            &scan.a.iter().zip(&computed.a).map(|(da, a)| da.mul(a)).collect::<Vec<_>>(),
        );
        self.add(gradients, "mixer.D", &scan.d_skip.expect("the scan has a skip"));
        self.add(gradients, "mixer.dt_proj.bias", &scan.delta_bias.expect("the scan has a bias"));

        let ddt = self.through(gradients, "mixer.dt_proj.weight", (rank, &computed.dt), &scan.delta);
        let dx_dbl = matrix::beside(tokens, &[(&ddt, rank), (&scan.b, state), (&scan.c, state)]);
        let du_of_x_dbl = self.through(gradients, "mixer.x_proj.weight", (channels, &computed.u), &dx_dbl);
        let du: Vec<X> = scan.u.iter().zip(&du_of_x_dbl).map(|(a, b)| a.add(b)).collect();

        let upstream = causal_conv1d::Upstream { out: &du, history: left_gradient.map(|left| left.history.as_slice()) };
        let conv = causal_conv1d::backward(&self.conv_pack(&lengths), &self.conv_inputs(&computed.x), &upstream);
        self.add(gradients, "mixer.conv1d.weight", &conv.w);
        self.add(gradients, "mixer.conv1d.bias", &conv.b.expect("the convolution has a bias"));

        let dxz = matrix::beside(tokens, &[(&conv.x, channels), (&scan.z.expect("the scan has a gate"), channels)]);
        let dy = self.through(gradients, "mixer.in_proj.weight", (width, &computed.norm.y), &dxz);
        let norm = rms_norm::backward(&rms_norm::Incoming {
            width,
            dy: &dy,
            r: &computed.norm.r,
            rstd: &computed.norm.rstd,
            weight: self.parameter("norm.weight"),
            incoming: Some(dr),
        });
        self.add(gradients, "norm.weight", &norm.weight);
        (norm.r, Memory { state: scan.initial_state, history: conv.history })
    }

    fn add(&self, gradients: &mut Parameters<X>, name: &str, terms: &[X]) {
        gradients.add(&self.name(name), terms);
    }

    /// Back through a projection of `x: (T, I)`, given with I: adds the gradient of its weight, returns that of `x`. `dy: (T, O)`
    fn through(&self, gradients: &mut Parameters<X>, name: &str, (inputs, x): (usize, &[X]), dy: &[X]) -> Vec<X> {
        let both = matrix::backward(inputs, x, self.parameter(name), dy);
        self.add(gradients, name, &both.w);
        both.x
    }

    fn conv_pack<'b>(&'b self, lengths: &'b [usize; 1]) -> causal_conv1d::Pack<'b, X> {
        match self.memory {
            Some(memory) => causal_conv1d::Pack { lengths, continued: &[true], history: &memory.history },
            None => causal_conv1d::Pack::fresh(lengths),
        }
    }

    fn scan_pack<'b>(&'b self, lengths: &'b [usize; 1]) -> selective_scan::Pack<'b, X> {
        match self.memory {
            Some(memory) => selective_scan::Pack { lengths, continued: &[true], initial_state: &memory.state },
            None => selective_scan::Pack::fresh(lengths),
        }
    }

    /// `x: (T, D)`
    fn conv_inputs<'b>(&'b self, x: &'b [X]) -> causal_conv1d::Inputs<'b, X> {
        causal_conv1d::Inputs {
            channels: self.config.channels,
            width: self.config.taps,
            x,
            w: self.parameter("mixer.conv1d.weight"),
            b: Some(self.parameter("mixer.conv1d.bias")),
            silu: true,
        }
    }

    fn scan_inputs<'b>(&'b self, computed: &'b Computed<X>) -> selective_scan::Inputs<'b, X> {
        selective_scan::Inputs {
            channels: self.config.channels,
            states: self.config.state,
            u: &computed.u,
            delta: &computed.delta,
            a: &computed.a,
            b: &computed.b,
            c: &computed.c,
            d_skip: Some(self.parameter("mixer.D")),
            delta_bias: Some(self.parameter("mixer.dt_proj.bias")),
            z: Some(&computed.z),
            softplus: true,
        }
    }
}
