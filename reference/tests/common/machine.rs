//! The ways in which an f32 implementation may compute.

use packscan_reference::Bounded;

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
