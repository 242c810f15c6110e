//! [`Download`]: what the host wants to look at later.

use bytemuck::{cast_slice_mut, zeroed_vec};

use crate::cuda::CudaDownload;
use crate::device::Storage;
use crate::{Device, Element, Error, Result, View};

/// Elements on their way from a device to the host, taken at one point in the order of launches. Unlike [`View::to_vec`] it lets the host go
/// on launching, and later waits for what came before that point alone.
pub struct Download {
    place: Place,
    /// The most bytes of a copy, and those of the last one.
    room: usize,
    bytes: usize,
}

enum Place {
    Cuda(CudaDownload),
    /// Where launches have run when they return.
    Host(Vec<u8>),
}

impl Download {
    /// Room for as many elements as a view has.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the host has no memory that a GPU can write.
    pub fn of(view: View<'_>) -> Result<Download> {
        let room = view.contiguous()?.len();
        let place = match view.buffer().device() {
            Device::Cuda(cuda) => Place::Cuda(CudaDownload::new(cuda, room)?),
            Device::Emulator(_) | Device::Cpu => Place::Host(vec![0; room]),
        };
        Ok(Download { place, room, bytes: 0 })
    }

    /// Takes the elements of a view as everything launched so far leaves them, and returns at once.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a view of another device, with gaps or with more elements than there is room for; [`Error::Cuda`] if an earlier
    /// launch failed.
    pub fn start(&mut self, view: View<'_>) -> Result<()> {
        let from = view.contiguous()?;
        if from.len() > self.room {
            let rule = format!("a download of up to {} bytes was asked for {}", self.room, from.len());
            return Err(Error::Buffer { rule });
        }
        self.bytes = from.len();
        match (&mut self.place, view.buffer().storage()) {
            (Place::Cuda(download), Storage::Cuda(memory)) => download.start(memory, from.start, from.len()),
            (Place::Host(bytes), storage @ (Storage::Emulator { .. } | Storage::Cpu(_))) => {
                storage.read(from.start, &mut bytes[..from.len()])
            }
            _ => Err(Error::Buffer { rule: format!("a download was asked of a buffer on {}", view.buffer().device()) }),
        }
    }

    /// The elements, once they are there.
    ///
    /// # Errors
    /// [`Error::Buffer`] if they do not fill elements of this type; [`Error::Cuda`] if something launched before failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if !self.bytes.is_multiple_of(T::DTYPE.bytes()) {
            return Err(Error::Buffer {
                rule: format!("its {} bytes are no whole number of {}", self.bytes, T::DTYPE),
            });
        }
        let mut values = zeroed_vec::<T>(self.bytes / T::DTYPE.bytes());
        match &self.place {
            Place::Cuda(download) => download.read(cast_slice_mut(&mut values))?,
            Place::Host(bytes) => cast_slice_mut(&mut values).copy_from_slice(&bytes[..self.bytes]),
        }
        Ok(values)
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Download({} of {} bytes)", self.bytes, self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Dtype};

    #[test]
    fn a_download_keeps_what_was_there_when_it_started() {
        let gpu = Device::cuda(0).map_err(|error| println!("skipped on a GPU: {error}"));
        for device in [Device::Cpu, Device::emulator(1)].into_iter().chain(gpu) {
            let buffer = Buffer::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
            let mut download = Download::of(buffer.view()).unwrap();
            assert!(download.to_vec::<f32>().unwrap().is_empty());
            for round in 0..3 {
                let part = buffer.part(round, 2, 1).unwrap();
                download.start(part).unwrap();
                let there = part.to_vec::<f32>().unwrap();
                buffer.write(&[round as f32; 4]).unwrap();
                assert_eq!(download.to_vec::<f32>().unwrap(), there, "on {device}");
            }
            let large = Buffer::unwritten(&device, Dtype::F32, 5).unwrap();
            let error = download.start(large.view()).unwrap_err().to_string();
            assert!(error.contains("up to 16 bytes was asked for 20"), "{error}");
        }
    }
}
