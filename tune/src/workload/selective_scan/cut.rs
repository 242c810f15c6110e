//! A scan whose sequences are cut along time: everything that it launches is timed as one.

use std::rc::Rc;

use packscan_kernels::selective_scan::split::{Scratch, Split};
use packscan_kernels::selective_scan::{State, default_join};
use packscan_runtime::{Buffer, DevicePacked, Dtype, Result as Ran, Segments};

use super::Bench;
use crate::Result;

/// How sequences are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of a segment.
    pub segment: usize,
    /// What finds the states that segments leave, in the direction of the pass; none: the hand-picked variant.
    pub state: Option<State>,
}

/// A cut and what is kept for it between launches.
pub(super) struct Kept {
    tokens: usize,
    segments: Segments,
    state: State,
    /// `(Q, D, N)` f32: what enters each of Q segments, on the way there.
    entering: Rc<Buffer>,
    scratch: Scratch,
}

impl Kept {
    /// Room for the segments of the bench's pack; `picked` finds their states unless another variant was named.
    pub(super) fn new(bench: &Bench, cut: &Cut, picked: State) -> Result<Kept> {
        let (device, p) = (bench.device(), bench.problem());
        let state = cut.state.map_or(picked, |named| State { ends: picked.ends, ..named });
        device.check(&state)?;
        p.same(&state, "state", state.state as usize, p.state)?;
        p.same(&state, "io", state.io, p.io)?;
        for (parameter, got, want) in [
            ("reverse", state.reverse, picked.reverse),
            ("softplus", state.softplus, picked.softplus),
            ("bias", state.bias, picked.bias),
            ("gate", state.gate, picked.gate),
        ] {
            p.same(&state, parameter, got, want)?;
        }
        let segments = Segments::new(bench.packed().packed(), cut.segment, device)?;
        let rows = segments.pack().packed().sequences();
        Ok(Kept {
            tokens: cut.segment,
            segments,
            state,
            entering: bench.room("entering", 0, Dtype::F32, rows * p.channels * p.state)?,
            scratch: Scratch::new(device, rows, p.channels, p.state)?,
        })
    }

    /// Tokens of a segment.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What the pass walks.
    pub(super) fn pack(&self) -> &DevicePacked {
        self.segments.pack()
    }

    /// The cut of one call.
    pub(super) fn split(&self) -> Ran<Split<'_>> {
        self.split_by(self.state)
    }

    /// The cut of a call in the other direction.
    pub(super) fn split_by(&self, state: State) -> Ran<Split<'_>> {
        let Kept { segments, entering, scratch, .. } = self;
        let rows = segments.pack().packed().sequences();
        Ok(Split { segments, state, join: default_join(state.state), entering: entering.rows(rows)?, scratch })
    }
}
