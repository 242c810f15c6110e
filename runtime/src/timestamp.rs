//! [`Timestamp`]: when a device got where in the order of its launches.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::CudaEvent;

use crate::cuda::between_ms;
use crate::{Device, Result};

/// A point in the order of a device's launches, and the time at which the device gets there. On a GPU the GPU's own clock counts: when
/// the host asks does not matter.
#[derive(Clone)]
pub struct Timestamp(At);

#[derive(Clone)]
enum At {
    Cuda(Arc<CudaEvent>),
    /// Where launches have run when they return.
    Host(Instant),
}

impl Timestamp {
    /// After everything that was launched on a device so far, but for what runs beside until it is waited for; now, if all of that is done.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if something that was launched failed.
    pub fn of(device: &Device) -> Result<Timestamp> {
        Ok(Timestamp(match device {
            Device::Cuda(cuda) => At::Cuda(Arc::new(cuda.timestamp()?)),
            Device::Emulator(_) | Device::Cpu => At::Host(Instant::now()),
        }))
    }

    /// Seconds from an earlier timestamp of the same device to this one. Waits until the device has got there.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if something that was launched failed, or for a timestamp of another GPU.
    ///
    /// # Panics
    /// For a timestamp of another kind of device.
    pub fn since_s(&self, earlier: &Timestamp) -> Result<f64> {
        match (&self.0, &earlier.0) {
            (At::Cuda(end), At::Cuda(start)) => Ok(f64::from(between_ms(start, end)?) / 1e3),
            (At::Host(end), At::Host(start)) => Ok(end.duration_since(*start).as_secs_f64()),
            _ => panic!("two timestamps of one device"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            At::Cuda(_) => f.write_str("Timestamp(on the GPU)"),
            At::Host(at) => write!(f, "Timestamp({at:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_as_far_apart_as_the_device_takes() {
        let gpu = Device::cuda(0).map_err(|error| println!("skipped on a GPU: {error}"));
        for device in [Device::Cpu, Device::emulator(1)].into_iter().chain(gpu) {
            let began = Instant::now();
            let before = Timestamp::of(&device).unwrap();
            // Nothing is under way, so that the device is there when the host is.
            device.synchronize().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            let after = Timestamp::of(&device).unwrap();
            let took = after.since_s(&before).unwrap();
            assert!((0.0199..began.elapsed().as_secs_f64() + 1e-4).contains(&took), "{took} s on {device}");
            assert_eq!(after.since_s(&after).unwrap(), 0.0);
        }
    }
}
