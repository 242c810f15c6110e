//! What was measured of some variants, in a form that can be kept.

use std::rc::Rc;

use packscan_verify::operators::PASSES;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::workload::timing::{Times, times};
use crate::workload::{Bench, Bound, Cut, Floor, Limit, Machine, Problem};

/// Variants of one problem on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the machine can do.
    pub machine: Machine,
    /// Of what size everything was.
    pub problem: Sizes,
    /// The variants, in the order in which they were timed.
    pub rows: Vec<Row>,
}

/// The sizes of a [`Problem`], by the letters of the README.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// T
    pub tokens: usize,
    /// S
    pub sequences: usize,
    /// M
    pub width: usize,
    /// D
    pub channels: usize,
    /// N
    pub state: usize,
    /// K
    pub taps: usize,
    /// V
    pub vocabulary: usize,
    /// Parameters of the optimiser.
    pub parameters: usize,
    /// Type of the activations.
    pub dtype: String,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As the command line names it.
    pub operator: String,
    /// `forward`, `backward`, ...
    pub pass: String,
    /// The variant.
    pub id: String,
    /// How the sequences of a scan were cut along time, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutInto>,
    /// Its launches, everything that a pass over cut sequences launches in one.
    #[serde(flatten)]
    pub times: Times,
    /// What a machine needs at least.
    #[serde(flatten)]
    pub floor: Floor,
    /// The time that this machine needs for that.
    pub floor_ms: f64,
    /// What it needs it for.
    pub limit: Limit,
    /// The largest error of the slice that was compared with the book, as a share of its bound.
    pub worst_error: f64,
}

/// A [`Cut`], for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CutInto {
    /// Tokens of a segment.
    pub segment: usize,
    /// What found the states that segments leave; none: the hand-picked variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl From<&Problem> for Sizes {
    fn from(p: &Problem) -> Sizes {
        Sizes {
            tokens: p.tokens(),
            sequences: p.lengths.len(),
            width: p.width,
            channels: p.channels,
            state: p.state,
            taps: p.taps,
            vocabulary: p.vocabulary,
            parameters: p.parameters,
            dtype: p.io.to_string(),
        }
    }
}

impl Row {
    /// Checks a variant, of a scan with sequences cut or not, then times it.
    ///
    /// # Errors
    /// Those of [`Bench::cut_workload`], and [`crate::Error::Wrong`].
    pub fn measure(bench: &Rc<Bench>, id: &str, cut: Option<&Cut>, launches: usize, machine: &Machine) -> Result<Row> {
        let mut workload = bench.cut_workload(id, cut)?;
        let worst_error = workload.check()?;
        let times = times(bench.device(), launches, || workload.run())?;
        let floor = workload.floor();
        let Bound { ms: floor_ms, limit } = floor.on(machine);
        let kernel = id.split('-').next().unwrap_or_default();
        let pass = PASSES.iter().find(|pass| pass.kernel == kernel);
        let (operator, pass) = pass.map_or((kernel, "forward"), |pass| (pass.operator, pass.name));
        let (operator, pass, id) = (operator.to_owned(), pass.to_owned(), id.to_owned());
        let state = |cut: &Cut| cut.state.map(|state| state.to_string());
        let cut = cut.map(|cut| CutInto { segment: cut.segment, state: state(cut) });
        Ok(Row { operator, pass, id, cut, times, floor, floor_ms, limit, worst_error })
    }

    /// The floor as a share of the time; 1 is as fast as the machine could be.
    pub fn share(&self) -> f64 {
        self.floor_ms / self.times.median_ms
    }

    /// Bytes of the floor in a second, in 10^9.
    pub fn gb_s(&self) -> f64 {
        self.floor.bytes / self.times.median_ms / 1e6
    }
}
