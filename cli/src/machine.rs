//! Where models run, as the command line names it.

use clap::{Args, ValueEnum};
use packscan::runtime::collective::World;
use packscan::{Device, Dtype};

use crate::error::Result;
use crate::parse;

/// Where, and in what precision.
#[derive(Debug, Args)]
pub struct Machine {
    /// Where to run; auto: on a GPU if there is one.
    #[arg(long, value_enum, default_value = "auto")]
    device: Place,
    /// Type of the activations: f32, f16 or bf16 [default: bf16 on a GPU, f32 elsewhere].
    #[arg(long, value_parser = parse::dtype)]
    dtype: Option<Dtype>,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Place {
    Auto,
    Cuda,
    Cpu,
    /// For looking at, not for training: thousands of times slower.
    Emulator,
}

impl Machine {
    /// The device, of a rank its own.
    pub fn device(&self, world: Option<&World>) -> Result<Device> {
        let gpu = || world.map_or_else(|| Device::cuda(0), World::gpu);
        Ok(match self.device {
            Place::Cuda => gpu()?,
            Place::Cpu => Device::Cpu,
            Place::Emulator => Device::emulator(0),
            // Several processes without GPUs are refused where they would meet, with the reason.
            Place::Auto => gpu().unwrap_or(Device::Cpu),
        })
    }

    /// The type of the activations.
    pub fn dtype(&self, device: &Device) -> Dtype {
        self.dtype.unwrap_or(match device {
            Device::Cuda(_) => Dtype::Bf16,
            Device::Emulator(_) | Device::Cpu => Dtype::F32,
        })
    }
}
