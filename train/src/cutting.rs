//! How the scan cuts the sequences of a pack along time: decided once for a forward pass and the backward pass after it.

use std::cell::{Cell, OnceCell, Ref, RefCell};

use packscan_kernels::selective_scan::split::Scratch;
use packscan_kernels::selective_scan::{Balance, most_segments};
use packscan_runtime::{Device, Packed, Segments};

use crate::{Model, ModelConfig, Result};

/// Whether the scan cuts sequences along time. Results depend on where it does, by rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Where both passes over the pack are then done sooner, by a model of the GPU; a CPU is filled by channels.
    #[default]
    Auto,
    /// Always, into segments of so many tokens.
    Into(usize),
}

/// Room for the segments of one pack at a time, and for what passes between them.
#[derive(Debug)]
pub(crate) struct Cutting {
    /// Of the pack that was cut last.
    segments: RefCell<Segments>,
    /// Whether the pack of the last forward pass was.
    is_cut: Cell<bool>,
    /// What decides, on a GPU; made for the first pack that may be cut.
    balance: OnceCell<Option<Balance>>,
    /// What a scan needs while it runs.
    pub scratch: Scratch,
}

/// The most segments of a pack of a model.
pub(crate) fn most(config: &ModelConfig, tokens: usize) -> usize {
    most_segments(tokens, config.channels())
}

impl Cutting {
    /// For packs of up to `tokens`.
    pub fn new(device: &Device, config: &ModelConfig, tokens: usize) -> Result<Cutting> {
        let most = most(config, tokens);
        Ok(Cutting {
            segments: RefCell::new(Segments::with_room(device, most)?),
            is_cut: Cell::new(false),
            balance: OnceCell::new(),
            scratch: Scratch::new(device, most, config.channels(), config.state)?,
        })
    }

    /// Bytes of that room on the device.
    pub fn bytes(config: &ModelConfig, tokens: usize) -> usize {
        let most = most(config, tokens);
        Segments::bytes(most) + Scratch::bytes(most, config.channels(), config.state)
    }

    /// Takes the pack of a forward pass: cuts it, if that pays.
    pub fn take(&self, model: &Model, packed: &Packed) -> Result<()> {
        let segment = match model.cut {
            Cut::Into(tokens) => Some(tokens),
            Cut::Auto if packed.lengths().into_iter().all(|length| length <= Balance::SHORTEST) => None,
            Cut::Auto => self.balance(model)?.and_then(|balance| balance.segment(packed)),
        };
        self.is_cut.set(segment.is_some());
        match segment {
            Some(tokens) => Ok(self.segments.borrow_mut().set(packed, tokens)?),
            None => Ok(()),
        }
    }

    fn balance(&self, model: &Model) -> Result<Option<&Balance>> {
        if self.balance.get().is_none() {
            let (forward, backward) = (&model.variants.scan, &model.variants.scan_bwd);
            let made = Balance::new(&model.device, model.config.channels(), forward, backward)?;
            // Nobody else made one meanwhile.
            let _ = self.balance.set(made);
        }
        Ok(self.balance.get().and_then(Option::as_ref))
    }

    /// The segments of the pack of the last forward pass; none if the scan walks whole sequences.
    pub fn segments(&self) -> Option<Ref<'_, Segments>> {
        self.is_cut.get().then(|| self.segments.borrow())
    }
}
