//! The tensors of one run on its device, by name; what every operator does with them.

use packscan_reference::{Bounded, Io};
use packscan_runtime::{Device, Dtype, Packed, Result, View};

use crate::{Placed, Tensor};

/// Inputs and outputs of one run.
pub(super) struct Arguments {
    names: Vec<&'static str>,
    placed: Vec<Placed>,
    outputs: Vec<Tensor>,
}

impl Arguments {
    /// Places inputs and makes room for outputs; `padding` is how many unused columns each side of a tensor's rows has. An output with
    /// the name of an input is that input, updated in place.
    pub(super) fn new(
        device: &Device,
        packed: &Packed,
        inputs: &[Tensor],
        outputs: Vec<Tensor>,
        padding: impl Fn(&str) -> usize,
    ) -> Result<Arguments> {
        let updated = |input: &&Tensor| outputs.iter().any(|output| output.name == input.name);
        let only_read: Vec<&Tensor> = inputs.iter().filter(|input| !updated(input)).collect();
        let read = only_read.iter().map(|t| t.place(device, padding(t.name)));
        let written = outputs.iter().map(|t| match inputs.iter().find(|input| input.name == t.name) {
            Some(start) => start.place(device, padding(t.name)),
            None => Placed::output(t, packed, device, padding(t.name)),
        });
        let placed = read.chain(written).collect::<Result<Vec<Placed>>>()?;
        let names = only_read.into_iter().chain(&outputs).map(|t| t.name).collect();
        Ok(Arguments { names, placed, outputs })
    }

    /// The tensor with this name, if the run has it.
    pub(super) fn get(&self, name: &str) -> Option<View<'_>> {
        self.names.iter().position(|known| *known == name).map(|i| self.placed[i].view())
    }

    /// The tensor with this name.
    pub(super) fn view(&self, name: &str) -> View<'_> {
        self.get(name).unwrap_or_else(|| panic!("the run has no tensor {name}"))
    }

    /// The outputs, and whether everything beside them stayed untouched.
    pub(super) fn take(mut self) -> Result<(Vec<Tensor>, bool)> {
        let written = self.placed.split_off(self.placed.len() - self.outputs.len());
        let mut untouched = true;
        let mut results = Vec::with_capacity(written.len());
        for (placed, shape) in std::iter::zip(written, self.outputs) {
            let (tensor, kept) = placed.take(shape)?;
            untouched &= kept;
            results.push(tensor);
        }
        Ok((results, untouched))
    }
}

/// The values of the tensor with this name, as the book takes them; they are what the kernel reads, so without error.
pub(super) fn exact(inputs: &[Tensor], name: &str) -> Option<Vec<Bounded>> {
    let tensor = inputs.iter().find(|t| t.name == name)?;
    Some(tensor.values.iter().map(|&x| Bounded { value: x.into(), error: 0.0 }).collect())
}

/// Results of the book after the conversion to the type in which they are stored.
pub(super) fn stored(results: &[Bounded], dtype: Dtype) -> Vec<Bounded> {
    let io = match dtype {
        Dtype::F16 => Io::F16,
        Dtype::Bf16 => Io::Bf16,
        Dtype::F32 | Dtype::U32 => Io::F32,
    };
    results.iter().map(|x| x.rounded_to(io)).collect()
}
