//! Everything that a scan and its gradient read, owned.

use super::Packing;
use packscan_reference::selective_scan::{Inputs, Pack, Upstream};

/// Which optional parts a scan has.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub d_skip: bool,
    pub delta_bias: bool,
    pub gate: bool,
    pub softplus: bool,
    /// Whether the loss depends on the final states.
    pub final_gradient: bool,
}

impl Options {
    pub const ALL: Self = Self { d_skip: true, delta_bias: true, gate: true, softplus: true, final_gradient: true };
    pub const NONE: Self =
        Self { d_skip: false, delta_bias: false, gate: false, softplus: false, final_gradient: false };

    /// Every combination.
    pub fn every() -> impl Iterator<Item = Self> {
        (0..32).map(|bits| Self {
            d_skip: bits & 1 != 0,
            delta_bias: bits & 2 != 0,
            gate: bits & 4 != 0,
            softplus: bits & 8 != 0,
            final_gradient: bits & 16 != 0,
        })
    }
}

/// The inputs of a scan over a pack, and the gradients of its outputs, with the shapes of `Inputs`, `Pack` and `Upstream`.
#[derive(Clone)]
pub struct Arrays<X> {
    pub packing: Packing,
    pub channels: usize,
    pub states: usize,
    pub options: Options,
    pub u: Vec<X>,
    pub delta: Vec<X>,
    pub z: Vec<X>,
    pub a: Vec<X>,
    pub b: Vec<X>,
    pub c: Vec<X>,
    pub d_skip: Vec<X>,
    pub delta_bias: Vec<X>,
    pub initial_state: Vec<X>,
    pub g: Vec<X>,
    pub final_gradient: Vec<X>,
}

impl<X> Arrays<X> {
    /// Filled by `make(name, count)`.
    pub fn new(
        packing: Packing,
        (channels, states): (usize, usize),
        options: Options,
        mut make: impl FnMut(&str, usize) -> Vec<X>,
    ) -> Self {
        let (t, s, d, n) = (packing.tokens(), packing.lengths.len(), channels, states);
        Self {
            packing,
            channels,
            states,
            options,
            u: make("u", t * d),
            delta: make("delta", t * d),
            z: make("z", t * d),
            a: make("a", d * n),
            b: make("b", t * n),
            c: make("c", t * n),
            d_skip: make("d_skip", d),
            delta_bias: make("delta_bias", d),
            initial_state: make("initial_state", s * d * n),
            g: make("g", t * d),
            final_gradient: make("final_gradient", s * d * n),
        }
    }

    /// The same with other numbers.
    pub fn map<Y>(&self, number: impl Fn(&X) -> Y) -> Arrays<Y> {
        let all = |values: &[X]| values.iter().map(&number).collect();
        Arrays {
            packing: self.packing.clone(),
            channels: self.channels,
            states: self.states,
            options: self.options,
            u: all(&self.u),
            delta: all(&self.delta),
            z: all(&self.z),
            a: all(&self.a),
            b: all(&self.b),
            c: all(&self.c),
            d_skip: all(&self.d_skip),
            delta_bias: all(&self.delta_bias),
            initial_state: all(&self.initial_state),
            g: all(&self.g),
            final_gradient: all(&self.final_gradient),
        }
    }

    pub fn pack(&self) -> Pack<'_, X> {
        Pack { lengths: &self.packing.lengths, continued: &self.packing.continued, initial_state: &self.initial_state }
    }

    pub fn inputs(&self) -> Inputs<'_, X> {
        Inputs {
            channels: self.channels,
            states: self.states,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: self.options.d_skip.then_some(&self.d_skip),
            delta_bias: self.options.delta_bias.then_some(&self.delta_bias),
            z: self.options.gate.then_some(&self.z),
            softplus: self.options.softplus,
        }
    }

    pub fn upstream(&self) -> Upstream<'_, X> {
        Upstream { out: &self.g, final_state: self.options.final_gradient.then_some(&self.final_gradient) }
    }
}
