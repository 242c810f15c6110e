//! The parameters by their names.

use std::collections::BTreeMap;
use std::ops::Index;

use super::Config;
use crate::Number;

pub(super) const EMBEDDING: &str = "backbone.embeddings.weight";
pub(super) const NORM: &str = "backbone.norm_f.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// Every parameter of a model, under its Hugging Face name and with its shape, in the order of use.
pub fn names_and_shapes(config: &Config) -> Vec<(String, Vec<usize>)> {
    let Config { width: m, channels: d, state: n, taps: k, rank: r, vocabulary: v, .. } = *config;
    let mut all = vec![(EMBEDDING.to_owned(), vec![v, m])];
    for layer in 0..config.layers {
        let of_block = [
            ("norm.weight", vec![m]),
            ("mixer.in_proj.weight", vec![2 * d, m]),
            ("mixer.conv1d.weight", vec![d, 1, k]),
            ("mixer.conv1d.bias", vec![d]),
            ("mixer.x_proj.weight", vec![r + 2 * n, d]),
            ("mixer.dt_proj.weight", vec![d, r]),
            ("mixer.dt_proj.bias", vec![d]),
            ("mixer.A_log", vec![d, n]),
            ("mixer.D", vec![d]),
            ("mixer.out_proj.weight", vec![m, d]),
        ];
        all.extend(of_block.map(|(name, shape)| (in_block(layer, name), shape)));
    }
    all.push((NORM.to_owned(), vec![m]));
    if !config.tied {
        all.push((HEAD.to_owned(), vec![v, m]));
    }
    all
}

/// The whole name of a block's parameter.
pub(super) fn in_block(layer: usize, name: &str) -> String {
    format!("backbone.layers.{layer}.{name}")
}

/// A value or a gradient for every parameter, under the names and in the shapes of [`names_and_shapes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters<X = f64> {
    /// Row-major.
    pub values: BTreeMap<String, Vec<X>>,
}

impl<X: Number> Parameters<X> {
    /// 0 for every parameter.
    pub fn zeros(config: &Config) -> Self {
        let zeros = |(name, shape): (String, Vec<usize>)| (name, vec![X::constant(0.0); shape.iter().product()]);
        Self { values: names_and_shapes(config).into_iter().map(zeros).collect() }
    }

    /// Adds to the values under a name.
    pub(super) fn add(&mut self, name: &str, terms: &[X]) {
        let values = self.values.get_mut(name).expect("every parameter has a gradient");
        assert_eq!(values.len(), terms.len(), "{name} has the wrong length for its shape");
        values.iter_mut().zip(terms).for_each(|(value, term)| *value = value.add(term));
    }

    pub(super) fn check(&self, config: &Config) {
        let expected = names_and_shapes(config);
        for (name, shape) in &expected {
            let length = shape.iter().product::<usize>();
            assert_eq!(self[name].len(), length, "{name} has the wrong length for the shape {shape:?}");
        }
        assert_eq!(self.values.len(), expected.len(), "there are parameters that the model does not have");
    }
}

impl<X> Index<&str> for Parameters<X> {
    type Output = Vec<X>;

    fn index(&self, name: &str) -> &Vec<X> {
        self.values.get(name).unwrap_or_else(|| panic!("the model needs the parameter {name}"))
    }
}
