//! The ways in which an f32 implementation may compute, and data for it.

use super::arrays::{Arrays, Options};
use super::{Generator, Packing};
use packscan_reference::{Bounded, Number};

/// The order in which an implementation adds up the states.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Ascending,
    Descending,
    Tree,
    /// Two lanes, each a chain over every second state.
    Lanes,
}

/// One way in which an f32 implementation may compute. The biases are relative errors of the approximate functions.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub order: Order,
    pub fused: bool,
    pub flushes: bool,
    pub ex2_bias: f64,
    pub rcp_bias: f64,
}

/// Exact functions, and functions that are as wrong as they may be in either direction (less the rounding of the emulation).
pub fn machines() -> Vec<Machine> {
    let ulp = f64::from(f32::EPSILON);
    let mut machines = Vec::new();
    for order in [Order::Ascending, Order::Descending, Order::Tree, Order::Lanes] {
        for (fused, flushes) in [(true, true), (false, false)] {
            for (ex2_bias, rcp_bias) in [(0.0, 0.0), (1.49 * ulp, 0.49 * ulp), (-1.49 * ulp, -0.49 * ulp)] {
                machines.push(Machine { order, fused, flushes, ex2_bias, rcp_bias });
            }
        }
    }
    machines
}

impl Machine {
    pub fn store(self, x: f32) -> f32 {
        if self.flushes && x.is_subnormal() { 0.0 } else { x }
    }

    pub fn ex2(self, x: f32) -> f32 {
        self.store((f64::from(x).exp2() * (1.0 + self.ex2_bias)) as f32)
    }

    pub fn fma(self, x: f32, y: f32, z: f32) -> f32 {
        self.store(if self.fused { x.mul_add(y, z) } else { self.store(x * y) + z })
    }

    pub fn softplus(self, x: f32) -> f32 {
        let w = self.ex2(-x.abs() * std::f32::consts::LOG2_E);
        self.store(x.max(0.0) + w.ln_1p())
    }

    pub fn silu(self, z: f32) -> f32 {
        self.store(z * self.sigmoid(z))
    }

    pub fn sigmoid(self, x: f32) -> f32 {
        let q = 1.0 + self.ex2(-x * std::f32::consts::LOG2_E);
        self.store(((1.0 + self.rcp_bias) / f64::from(q)) as f32)
    }

    /// s * (1 + z*(1-s))
    pub fn silu_derivative(self, z: f32) -> f32 {
        let s = self.sigmoid(z);
        self.store(s * self.fma(z, 1.0 - s, 1.0))
    }

    /// sum_n c*h, 0 for none
    pub fn dot(self, c: &[f32], h: &[f32]) -> f32 {
        let chain = |ns: &mut dyn Iterator<Item = usize>| ns.fold(0.0, |sum, n| self.fma(c[n], h[n], sum));
        match self.order {
            Order::Ascending => chain(&mut (0..h.len())),
            Order::Descending => chain(&mut (0..h.len()).rev()),
            Order::Lanes => chain(&mut (0..h.len()).step_by(2)) + chain(&mut (1..h.len()).step_by(2)),
            Order::Tree if h.len() > 1 => {
                let half = h.len() / 2;
                self.store(self.dot(&c[..half], &h[..half]) + self.dot(&c[half..], &h[half..]))
            }
            Order::Tree => c.iter().zip(h).map(|(c, h)| self.store(c * h)).sum(),
        }
    }
}

/// Fused, flushing, exact functions.
pub const PLAIN: Machine = Machine { order: Order::Lanes, fused: true, flushes: true, ex2_bias: 0.0, rcp_bias: 0.0 };

/// What the random data are like.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Range of delta where there is no softplus; with softplus, of what it is given before the bias.
    pub delta: (f64, f64),
    /// Range of -A.
    pub decay: (f64, f64),
    pub softplus: bool,
    /// Magnitude of u, B and C.
    pub data: f64,
}

/// As in the initialisation of Mamba: delta between 0.001 and 0.1, A from -1 to -16.
pub const ORDINARY: Scale = Scale { delta: (-6.9, -2.3), decay: (1.0, 16.0), softplus: true, data: 1.0 };

/// Random data of that scale, with every option but softplus, which the scale decides.
pub fn random(generator: &mut Generator, packing: Packing, shape: (usize, usize), scale: Scale) -> Arrays<f32> {
    let options = Options { softplus: scale.softplus, ..Options::ALL };
    Arrays::new(packing, shape, options, |name, count| {
        let (low, high) = scale.delta;
        let mut number = || match name {
            "u" | "b" | "c" => generator.uniform(-1.0, 1.0) * scale.data,
            "delta" if scale.softplus => generator.uniform(low, high),
            "delta" => generator.log_uniform(low, high),
            "delta_bias" if !scale.softplus => 0.0,
            "a" => -generator.log_uniform(scale.decay.0, scale.decay.1),
            "z" => generator.uniform(-4.0, 4.0),
            _ => generator.uniform(-1.0, 1.0),
        };
        (0..count).map(|_| number() as f32).collect()
    })
}

/// Data of very different scales.
pub fn scales() -> [Scale; 7] {
    let direct = |delta, decay, data| Scale { delta, decay, softplus: false, data };
    [
        ORDINARY,
        Scale { delta: (-30.0, 10.0), decay: (1.0, 1024.0), softplus: true, data: 1.0 },
        direct((1e-3, 1e-3), (1.0, 1.0), 1.0),
        direct((1e-3, 10.0), (1.0, 1024.0), 1.0),
        direct((1.0, 10.0), (512.0, 1024.0), 1.0),
        direct((1e-3, 1.0), (1.0, 16.0), 1e6),
        direct((1e-3, 1.0), (1.0, 16.0), 1e-13),
    ]
}

/// The numbers as a kernel reads them: exact.
pub fn bounded(arrays: &Arrays<f32>) -> Arrays<Bounded> {
    arrays.map(|x| Bounded::constant(f64::from(*x)))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The largest share of its bound that any element uses: above 1 where the bound is exceeded.
pub fn largest_share(bound: &[Bounded], got: &[f32]) -> f64 {
    assert_eq!(bound.len(), got.len());
    let share = |(bound, got): (&Bounded, &f32)| {
        let got = f64::from(*got);
        assert!(bound.error.is_finite() && got.is_finite(), "{got}, {bound:?}");
        if bound.allows(got) { (got - bound.value).abs() / bound.error.max(f64::MIN_POSITIVE) } else { f64::INFINITY }
    };
    bound.iter().zip(got).map(share).fold(0.0, f64::max)
}
