//! [`Model`]: parameters on a device, and what it takes to run them.

use std::cell::RefCell;

use packscan_kernels::{neg_exp, rms_norm, selective_scan};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, GemmContext, Packed, View};

use crate::parameters::{Layout, Parameter, Slot, Weights, part};
use crate::variants::{Carries, Ids, Variants};
use crate::{Cut, ModelConfig, Result};

/// A model on a device.
#[derive(Debug)]
pub struct Model {
    /// Its sizes.
    pub config: ModelConfig,
    /// Type of its activations.
    pub io: Dtype,
    /// Its table of parameters.
    pub layout: Layout,
    /// Its parameters.
    pub weights: Weights,
    /// Where it is.
    pub device: Device,
    /// Which kernels it runs.
    pub variants: Variants,
    /// Whether its scan cuts sequences along time.
    pub cut: Cut,
    pub(crate) gemm: GemmContext,
    /// `[layout.a_logs]` f32: A = -exp(A_log) of all blocks.
    a: Buffer,
    /// `(1)` f32
    pub(crate) epsilon: Buffer,
    /// What operators on parameters are called with.
    pub(crate) nobody: DevicePacked,
    /// One token, for what is one row.
    pub(crate) row: DevicePacked,
    /// One sequence, for tokens that are rows of whatever sequence; as many as the last call had.
    pub(crate) rows: RefCell<DevicePacked>,
    /// `(1)` f32: 1
    pub(crate) unit: Buffer,
}

impl Model {
    /// A model with these parameters, `[layout.elements]`, for instance [`Layout::fresh`] ones.
    ///
    /// # Errors
    /// Where the device has no room, or has no library for matrix products.
    pub fn new(device: &Device, io: Dtype, config: &ModelConfig, values: &[f32]) -> Result<Model> {
        Model::read(device, io, config, |parameter| Ok(values[parameter.slot.range()].to_vec()))
    }

    /// A model whose parameters come one at a time, each in its own order: no more than one is on the host.
    ///
    /// # Errors
    /// Those of `values_of`, and as [`Model::new`].
    pub fn read(
        device: &Device,
        io: Dtype,
        config: &ModelConfig,
        values_of: impl FnMut(&Parameter) -> Result<Vec<f32>>,
    ) -> Result<Model> {
        Model::of(device, io, config, Weights::read(device, io, &Layout::of(config), values_of)?)
    }

    fn of(device: &Device, io: Dtype, config: &ModelConfig, weights: Weights) -> Result<Model> {
        let layout = Layout::of(config);
        let model = Model {
            config: config.clone(),
            io,
            weights,
            device: device.clone(),
            variants: Variants::hand_picked(config, io, Carries { initial: false, last: false }),
            cut: Cut::Auto,
            gemm: GemmContext::new(device)?,
            a: Buffer::unwritten(device, Dtype::F32, layout.a_logs.len())?,
            epsilon: Buffer::from_slice(device, &[config.epsilon])?,
            nobody: DevicePacked::empty(device)?,
            row: Packed::from_lengths(&[1])?.on(device)?,
            rows: RefCell::new(DevicePacked::with_room(device, 1)?),
            unit: Buffer::from_slice(device, &[1.0f32])?,
            layout,
        };
        model.refresh_decays()?;
        Ok(model)
    }

    /// Says by which of cuBLASLt's algorithms products are multiplied: ids by their [kinds](packscan_runtime::Gemm::kind).
    pub fn choose_products(&self, products: &Ids) {
        self.gemm.choose(products.iter().map(|(kind, id)| (kind.as_str(), id.as_str())));
    }

    /// The values of a parameter, on the host: [`Weights::values`].
    ///
    /// # Errors
    /// If an earlier launch failed.
    pub fn values_of(&self, parameter: &Parameter) -> Result<Vec<f32>> {
        self.weights.values(parameter.slot)
    }

    /// Computes A from A_log; to be called after each change of the parameters.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub fn refresh_decays(&self) -> Result<()> {
        let a_logs = Slot { offset: self.layout.a_logs.start, rows: self.a.len(), cols: 1 };
        let a_log = self.weights.f32(a_logs)?;
        neg_exp::forward(&self.nobody, &neg_exp::default_variant(), a_log, self.a.view())?;
        Ok(())
    }

    /// Turns gradients of A, summed over packs where those of A_log belong, into those of A_log.
    ///
    /// # Errors
    /// Whatever launching fails with.
    pub(crate) fn decay_gradients(&self, gradients: &Buffer) -> Result<()> {
        let gradients = gradients.part(self.layout.a_logs.start, self.a.len(), 1)?;
        neg_exp::backward(&self.nobody, &neg_exp::default_backward(), self.a.view(), gradients)?;
        Ok(())
    }

    /// `(D, N)` f32: A of a block.
    pub(crate) fn a(&self, block: usize) -> Result<View<'_>> {
        let slot = self.layout.blocks[block].a_log;
        part(&self.a, Slot { offset: slot.offset - self.layout.a_logs.start, ..slot })
    }

    /// What the backward pass needs beside activations, for packs of up to `tokens`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub(crate) fn workspaces(&self, tokens: usize) -> Result<Workspaces> {
        let packed = Packed::from_lengths(&[tokens])?.on(&self.device)?;
        let d = self.config.channels();
        let norm_rows = rms_norm::parts_rows(&packed, &self.variants.norm_bwd)?;
        Ok(Workspaces {
            scan: selective_scan::Workspace::new(&packed, &self.variants.scan_bwd, d, None)?,
            conv: packscan_kernels::causal_conv1d::Workspace::new(&packed, &self.variants.conv_bwd, d)?,
            norm: Buffer::unwritten(&self.device, Dtype::F32, norm_rows * self.config.width)?,
        })
    }
}

/// Partial sums of gradients of parameters.
#[derive(Debug)]
pub(crate) struct Workspaces {
    pub scan: selective_scan::Workspace,
    pub conv: packscan_kernels::causal_conv1d::Workspace,
    /// `(P, M)` f32
    pub norm: Buffer,
}
