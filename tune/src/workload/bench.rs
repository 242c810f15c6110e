//! [`Bench`]: a problem on a device, with the buffers that its workloads share.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use packscan_kernels::cast;
use packscan_kernels::selective_scan::Balance;
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed};

use super::data::{Data, Pattern};
use super::{
    Cut, Problem, Workload, adamw, cast as casts, causal_conv1d, cross_entropy, embedding, grad_norm, neg_exp,
    rms_norm, selective_scan, sum_rows,
};
use crate::{Error, Result};

/// The most sets of inputs and outputs that a workload takes turns over.
const MOST_TURNS: usize = 64;

/// The most elements of one copy of a pattern: a row of them stays below 4 GiB.
const MOST_COPIED: usize = 1 << 28;

/// A problem on a device. Buffers are made once, by name, and shared by all workloads that use them.
pub struct Bench {
    device: Device,
    problem: Problem,
    packed: DevicePacked,
    /// A pack of one token, for operators on things that are no tokens.
    one: DevicePacked,
    l2_bytes: usize,
    buffers: RefCell<HashMap<(&'static str, usize), Rc<Buffer>>>,
    patterns: RefCell<HashMap<&'static str, Rc<Pattern>>>,
}

impl Bench {
    /// Puts the pack on the device; everything else is made when a workload first needs it.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Packed`] for lengths that are no pack, and where the device has no room.
    pub fn new(device: &Device, problem: Problem) -> Result<Rc<Bench>> {
        let packed = Packed::from_lengths(&problem.lengths)?.on(device)?;
        let one = Packed::from_lengths(&[1])?.on(device)?;
        let l2_bytes = match device {
            Device::Cuda(cuda) => cuda.l2_bytes()?,
            Device::Emulator(_) | Device::Cpu => 0,
        };
        let (buffers, patterns) = (RefCell::default(), RefCell::default());
        Ok(Rc::new(Bench { device: device.clone(), problem, packed, one, l2_bytes, buffers, patterns }))
    }

    /// The sizes.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The pack.
    pub fn packed(&self) -> &DevicePacked {
        &self.packed
    }

    /// The variant with this id, ready to be run.
    ///
    /// # Errors
    /// [`packscan_runtime::Error::Id`] and [`packscan_runtime::Error::Variant`] for an id that names none,
    /// [`Error::OtherProblem`] for one of another problem, [`Error::TooLarge`] where the device has no room.
    pub fn workload(self: &Rc<Self>, id: &str) -> Result<Box<dyn Workload>> {
        self.cut_workload(id, None)
    }

    /// The same, with the sequences of a scan cut along time; other operators have nothing to cut.
    ///
    /// # Errors
    /// As [`Bench::workload`], also for the variant that finds states.
    pub fn cut_workload(self: &Rc<Self>, id: &str, cut: Option<&Cut>) -> Result<Box<dyn Workload>> {
        match id.split('-').next().unwrap_or_default() {
            "selective_scan_fwd" => selective_scan::forward(self, id.parse()?, cut),
            "selective_scan_bwd" => selective_scan::backward(self, id.parse()?, cut),
            "causal_conv1d_fwd" => causal_conv1d::forward(self, id.parse()?),
            "causal_conv1d_bwd" => causal_conv1d::backward(self, id.parse()?),
            "rms_norm_fwd" => rms_norm::forward(self, id.parse()?),
            "rms_norm_bwd" => rms_norm::backward(self, id.parse()?),
            "embedding_fwd" => embedding::forward(self, id.parse()?),
            "embedding_bwd" => embedding::backward(self, id.parse()?),
            "cross_entropy" => cross_entropy::forward(self, id.parse()?),
            "adamw" => adamw::forward(self, id.parse()?),
            "grad_norm" => grad_norm::forward(self, id.parse()?),
            "grad_norm_clip" => grad_norm::clip(self, id.parse()?),
            "neg_exp_fwd" => neg_exp::forward(self, id.parse()?),
            "neg_exp_bwd" => neg_exp::backward(self, id.parse()?),
            "sum_rows" => sum_rows::forward(self, id.parse()?),
            "sum_rows_tokens" => sum_rows::tokens(self, id.parse()?),
            "cast" => casts::forward(self, id.parse()?),
            // Whatever else it is, it says which kernels there are.
            _ => Err(packscan_verify::operators::job(id)
                .err()
                .map_or_else(|| unreachable!("kernel of {id}"), Error::from)),
        }
    }

    /// Tokens of a segment with which a pass of the scan and the hand-picked other one are together done soonest, as in training; none if that
    /// is with whole sequences.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn segment_for(&self, id: &str) -> Result<Option<usize>> {
        let other = |kernel: &str| self.problem.hand_picked(kernel);
        let forward = id.parse().or_else(|_| other("selective_scan_fwd")?.parse().map_err(Error::from))?;
        let backward = id.parse().or_else(|_| other("selective_scan_bwd")?.parse().map_err(Error::from))?;
        let balance = Balance::new(&self.device, self.problem.channels, &forward, &backward)?;
        Ok(balance.and_then(|balance| balance.segment(self.packed.packed())))
    }

    /// How many sets of inputs and outputs of `bytes` each it takes that one is gone from the L2 when it is used again.
    pub(super) fn turns(&self, bytes: usize) -> usize {
        (2 * self.l2_bytes).div_ceil(bytes.max(1)).clamp(1, MOST_TURNS)
    }

    /// The pack of one token.
    pub(super) fn one(&self) -> &DevicePacked {
        &self.one
    }

    /// The buffer of an input, filled when it is first asked for.
    pub(super) fn input(&self, data: &Data, turn: usize) -> Result<Rc<Buffer>> {
        if let Some(buffer) = self.known(data.name, turn, data.dtype, data.len()) {
            return Ok(buffer);
        }
        let buffer = self.room(data.name, turn, data.dtype, data.len())?;
        self.fill(&buffer, &self.pattern(data))?;
        Ok(buffer)
    }

    /// A buffer to write to. What an earlier workload left in it may still be there.
    pub(super) fn room(&self, name: &'static str, turn: usize, dtype: Dtype, len: usize) -> Result<Rc<Buffer>> {
        if let Some(buffer) = self.known(name, turn, dtype, len) {
            return Ok(buffer);
        }
        // What had the name before goes first.
        self.buffers.borrow_mut().remove(&(name, turn));
        self.check_room(name, len * dtype.bytes())?;
        let buffer = Rc::new(Buffer::unwritten(&self.device, dtype, len)?);
        self.buffers.borrow_mut().insert((name, turn), buffer.clone());
        Ok(buffer)
    }

    /// A buffer of f32 to add to, which starts as zeros.
    pub(super) fn sums(&self, name: &'static str, turn: usize, len: usize) -> Result<Rc<Buffer>> {
        let buffer = self.room(name, turn, Dtype::F32, len)?;
        buffer.zero()?;
        Ok(buffer)
    }

    /// The numbers of an input.
    pub(super) fn pattern(&self, data: &Data) -> Rc<Pattern> {
        self.patterns.borrow_mut().entry(data.name).or_insert_with(|| Rc::new(data.pattern())).clone()
    }

    fn known(&self, name: &'static str, turn: usize, dtype: Dtype, len: usize) -> Option<Rc<Buffer>> {
        let buffers = self.buffers.borrow();
        buffers.get(&(name, turn)).filter(|b| b.dtype() == dtype && b.len() == len).cloned()
    }

    fn check_room(&self, name: &'static str, bytes: usize) -> Result<()> {
        let Device::Cuda(cuda) = &self.device else { return Ok(()) };
        let (free, _) = cuda.memory()?;
        if bytes as u64 <= free {
            return Ok(());
        }
        let (needed_gb, free_gb) = (bytes as f64 / 1e9, free as f64 / 1e9);
        Err(Error::TooLarge { name, needed_gb, free_gb, device: self.device.to_string() })
    }

    /// Repeats a pattern: the host copies it once, the device doubles it from there.
    fn fill(&self, buffer: &Buffer, pattern: &Pattern) -> Result<()> {
        let first = pattern.0.len();
        if first == 0 {
            return Ok(());
        }
        buffer.part(0, first, 1)?.write_f32(&pattern.0)?;
        let mut filled = first;
        while filled < buffer.len() {
            let more = filled.min(buffer.len() - filled).min(MOST_COPIED);
            let variant = cast::default_variant(more, buffer.dtype(), buffer.dtype());
            cast::forward(&self.one, &variant, buffer.part(0, 1, more)?, buffer.part(filled, 1, more)?)?;
            filled += more;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use packscan_runtime::Dtype;

    use super::*;
    use crate::workload::data::PERIOD;

    #[test]
    fn a_pattern_is_repeated_to_the_end_of_a_buffer_of_any_type() {
        let rows = PERIOD + 11;
        for device in [Device::Cpu, Device::emulator(0)] {
            let bench = Bench::new(&device, Problem::of_channels(vec![3], 8, 4, Dtype::Bf16)).unwrap();
            for (name, dtype) in [("f32", Dtype::F32), ("f16", Dtype::F16), ("bf16", Dtype::Bf16)] {
                let data = Data::new(name, dtype, (rows, 1), |r| r.between(-1.0, 1.0));
                let buffer = bench.input(&data, 0).unwrap();
                let pattern = bench.pattern(&data);
                let end = buffer.part(PERIOD - 1, 12, 1).unwrap().to_f32().unwrap();
                let want: Vec<f32> = (PERIOD - 1..rows).map(|place| pattern.at(place)).collect();
                assert_eq!(end, want, "{name} on {device}");
                assert_eq!(end[1..], pattern.0[..11]);
                assert!(Rc::ptr_eq(&buffer, &bench.input(&data, 0).unwrap()), "made once");
            }
        }
    }

    #[test]
    fn runs_take_turns_until_one_is_gone_from_the_l2() {
        let sizes = Problem::of_channels(vec![30, 7], 8, 4, Dtype::F32);
        let sizes = Problem { vocabulary: 40, logits_rows: 5, parameters: 500, decays: 50, ..sizes };
        let mut bench = Bench::new(&Device::Cpu, sizes).unwrap();
        Rc::get_mut(&mut bench).unwrap().l2_bytes = 1 << 14;
        let activation = 4 * 37 * 8;
        assert_eq!((bench.turns(activation), bench.turns(1 << 20), bench.turns(1)), (28, 1, MOST_TURNS));
        for pass in crate::workload::passes() {
            let mut workload = bench.workload(&bench.problem().hand_picked(pass.kernel).unwrap()).unwrap();
            (0..2 * MOST_TURNS).try_for_each(|_| workload.run()).unwrap();
            workload.check().unwrap();
        }
        // The scan reads and writes four activations.
        let turns = bench.turns(4 * activation);
        assert!(bench.buffers.borrow().contains_key(&("u", turns - 1)));
        let untouched = bench.known("out", turns - 1, Dtype::F32, 37 * 8).unwrap().to_f32().unwrap();
        assert!(untouched.iter().all(|x| x.is_finite()), "every set is used");
    }
}
