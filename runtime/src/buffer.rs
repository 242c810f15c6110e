//! [`Buffer`]: typed memory on a device, and [`View`]: rows of it.

use std::fmt;
use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut, zeroed_vec};

use crate::device::{Device, Storage};
use crate::{Dtype, Element, Error, Result};

/// More bytes than a machine has.
const MOST_BYTES: usize = 1 << 48;

/// Memory for `len` elements of one type on one device.
///
/// A fresh buffer is *unwritten*: it reads as NaN, and the emulator reports a kernel that reads it. Operators write through
/// shared references, as devices do; every launch checks that what it writes overlaps nothing else that it was given.
pub struct Buffer {
    device: Device,
    storage: Storage,
    dtype: Dtype,
    len: usize,
    /// The most elements that it can hold.
    room: usize,
}

impl Buffer {
    /// An unwritten buffer of `len` elements.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the GPU has no room, [`Error::Buffer`] where no machine has.
    pub fn unwritten(device: &Device, dtype: Dtype, len: usize) -> Result<Buffer> {
        let bytes = len.checked_mul(dtype.bytes()).filter(|&bytes| bytes < MOST_BYTES);
        let too_many = || Error::Buffer { rule: format!("{len} elements of {dtype} are more than any memory holds") };
        let bytes = bytes.ok_or_else(too_many)?;
        let storage = Storage::unwritten(device, bytes)?;
        device.usage().add(bytes);
        Ok(Buffer { device: device.clone(), storage, dtype, len, room: len })
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn from_slice<T: Element>(device: &Device, values: &[T]) -> Result<Buffer> {
        let buffer = Buffer::unwritten(device, T::DTYPE, values.len())?;
        buffer.storage.write(0, cast_slice(values))?;
        Ok(buffer)
    }

    /// Replaces its elements, after everything launched before. `values` may change once this has returned.
    ///
    /// # Errors
    /// [`Error::Buffer`] for values of another type or number; [`Error::Cuda`] if an earlier launch failed.
    pub fn write<T: Element>(&self, values: &[T]) -> Result<()> {
        self.view().write(values)
    }

    /// Holds these elements from now on, as many as they are, up to the number that it was made with: what differs in length from one pack
    /// to the next stays in one allocation. Otherwise as [`Buffer::write`].
    ///
    /// # Errors
    /// [`Error::Buffer`] for values of another type or more than it has room for; [`Error::Cuda`] if an earlier launch failed.
    pub fn refill<T: Element>(&mut self, values: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype || values.len() > self.room {
            let rule = format!("it has room for {} {}, not for {} {}", self.room, self.dtype, values.len(), T::DTYPE);
            return Err(Error::Buffer { rule });
        }
        self.len = values.len();
        self.write(values)
    }

    /// Fills it with zeros, after everything launched before.
    ///
    /// # Errors
    /// [`Error::Cuda`] if an earlier launch failed.
    pub fn zero(&self) -> Result<()> {
        self.view().zero()
    }

    /// A buffer of `dtype` with the representable values nearest to these.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn from_f32(device: &Device, dtype: Dtype, values: &[f32]) -> Result<Buffer> {
        let buffer = Buffer::unwritten(device, dtype, values.len())?;
        buffer.view().write_f32(values)?;
        Ok(buffer)
    }

    /// Its elements, copied to the host once everything launched before has run.
    ///
    /// # Errors
    /// [`Error::Buffer`] if it holds another type; [`Error::Cuda`] if an earlier launch failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }

    /// Its elements widened to f32, copied to the host.
    ///
    /// # Errors
    /// [`Error::Cuda`] if an earlier launch failed.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.view().to_f32()
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it holds.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most elements that [`Buffer::refill`] takes.
    pub fn room(&self) -> usize {
        self.room
    }

    /// The whole buffer as `rows` rows of equal length.
    ///
    /// # Errors
    /// [`Error::Buffer`] if the elements do not fill that many rows.
    pub fn rows(&self, rows: usize) -> Result<View<'_>> {
        let cols = self.len.checked_div(rows).unwrap_or(0);
        if rows * cols != self.len {
            return Err(Error::Buffer { rule: format!("its {} elements do not fill {rows} equal rows", self.len) });
        }
        Ok(View { buffer: self, offset: 0, rows, cols, stride: cols })
    }

    /// The whole buffer as a vector.
    pub fn view(&self) -> View<'_> {
        View { buffer: self, offset: 0, rows: self.len, cols: 1, stride: 1 }
    }

    /// Elements `offset` to `offset + rows * cols` as `rows` rows: how one tensor of many in a flat buffer is named.
    ///
    /// # Errors
    /// [`Error::Buffer`] if the buffer ends before.
    pub fn part(&self, offset: usize, rows: usize, cols: usize) -> Result<View<'_>> {
        let end = rows.checked_mul(cols).and_then(|elements| offset.checked_add(elements));
        if end.is_none_or(|end| end > self.len) {
            let rule = format!("{rows} rows of {cols} from element {offset} on were asked of {} elements", self.len);
            return Err(Error::Buffer { rule });
        }
        Ok(View { buffer: self, offset, rows, cols, stride: cols })
    }

    /// Whether the bytes beside the buffer are as they were when it was made. The emulator watches every access instead and
    /// always answers yes.
    ///
    /// # Errors
    /// [`Error::Cuda`] if an earlier launch failed.
    pub fn fence_holds(&self) -> Result<bool> {
        self.storage.fence_holds()
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.usage().remove(self.room * self.dtype.bytes());
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer([{}; {}] on {})", self.dtype, self.len, self.device)
    }
}

/// `rows` rows of `cols` elements that start `stride` elements apart: a whole buffer, or columns of it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) buffer: &'a Buffer,
    /// Elements before the first.
    pub(crate) offset: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Elements from the start of a row to the start of the next.
    pub(crate) stride: usize,
}

impl<'a> View<'a> {
    /// Columns `start` to `start + cols` of these rows: how the halves of `xz (T, 2D)` are named.
    ///
    /// # Errors
    /// [`Error::Buffer`] if the rows are shorter.
    pub fn columns(self, start: usize, cols: usize) -> Result<View<'a>> {
        if start.checked_add(cols).is_none_or(|end| end > self.cols) {
            let rule = format!("{cols} columns from {start} on were asked of rows that have {}", self.cols);
            return Err(Error::Buffer { rule });
        }
        Ok(View { offset: self.offset + start, cols, ..self })
    }

    /// Rows `start` to `start + rows` of these.
    ///
    /// # Errors
    /// [`Error::Buffer`] if there are fewer.
    pub fn rows_at(self, start: usize, rows: usize) -> Result<View<'a>> {
        if start.checked_add(rows).is_none_or(|end| end > self.rows) {
            let rule = format!("{rows} rows from {start} on were asked of {}", self.rows);
            return Err(Error::Buffer { rule });
        }
        Ok(View { offset: self.offset + start * self.stride, rows, ..self })
    }

    /// The buffer that holds the rows.
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// `(rows, cols)`
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Whether some element belongs to both.
    pub fn overlaps(&self, other: &View<'_>) -> bool {
        if !std::ptr::eq(self.buffer, other.buffer) || self.is_empty() || other.is_empty() {
            return false;
        }
        let last = |v: &View<'_>| v.offset + (v.rows - 1) * v.stride + v.cols;
        if last(self) <= other.offset || last(other) <= self.offset {
            return false;
        }
        if self.stride != other.stride {
            return true;
        }
        // Of rows equally far apart, only the columns decide.
        let (a, b) = (self.offset % self.stride, other.offset % self.stride);
        let meet = |x: usize, x_cols: usize, y: usize, y_cols: usize| x < y + y_cols && y < x + x_cols;
        meet(a, self.cols, b, other.cols)
            || meet(a + self.stride, self.cols, b, other.cols)
            || meet(a, self.cols, b + self.stride, other.cols)
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether its rows follow each other without a gap.
    pub fn is_contiguous(&self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }

    /// Replaces these elements, after everything launched before. `values` may change once this has returned.
    ///
    /// # Errors
    /// [`Error::Buffer`] for values of another type or number, and for rows with gaps; [`Error::Cuda`] if an earlier launch failed.
    pub fn write<T: Element>(&self, values: &[T]) -> Result<()> {
        let dtype = self.buffer.dtype;
        if T::DTYPE != dtype || values.len() != self.len() {
            let rule = format!("it holds {} {dtype}, not {} {}", self.len(), values.len(), T::DTYPE);
            return Err(Error::Buffer { rule });
        }
        self.buffer.storage.write(self.contiguous()?.start, cast_slice(values))
    }

    /// Replaces these elements by the representable values nearest to these, as [`View::write`].
    ///
    /// # Errors
    /// As [`View::write`].
    pub fn write_f32(&self, values: &[f32]) -> Result<()> {
        fn converted<T: Element>(view: &View<'_>, values: &[f32]) -> Result<()> {
            view.write(&values.iter().map(|&x| T::from_f32(x)).collect::<Vec<_>>())
        }
        match self.buffer.dtype {
            Dtype::F32 => self.write(values),
            Dtype::F16 => converted::<half::f16>(self, values),
            Dtype::Bf16 => converted::<half::bf16>(self, values),
            Dtype::U32 => converted::<u32>(self, values),
        }
    }

    /// These elements, copied to the host once everything launched before has run.
    ///
    /// # Errors
    /// [`Error::Buffer`] if they are of another type, and for rows with gaps; [`Error::Cuda`] if an earlier launch failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.buffer.dtype {
            return Err(Error::Buffer { rule: format!("it holds {}, not {}", self.buffer.dtype, T::DTYPE) });
        }
        let mut values = zeroed_vec::<T>(self.len());
        self.buffer.storage.read(self.contiguous()?.start, cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// These elements widened to f32, copied to the host once everything launched before has run.
    ///
    /// # Errors
    /// [`Error::Buffer`] for rows with gaps; [`Error::Cuda`] if an earlier launch failed.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        fn widened<T: Element>(view: &View<'_>) -> Result<Vec<f32>> {
            Ok(view.to_vec::<T>()?.into_iter().map(T::to_f32).collect())
        }
        match self.buffer.dtype {
            Dtype::F32 => self.to_vec(),
            Dtype::F16 => widened::<half::f16>(self),
            Dtype::Bf16 => widened::<half::bf16>(self),
            Dtype::U32 => widened::<u32>(self),
        }
    }

    /// Fills with zeros, after everything launched before.
    ///
    /// # Errors
    /// [`Error::Buffer`] for rows with gaps; [`Error::Cuda`] if an earlier launch failed.
    pub fn zero(&self) -> Result<()> {
        let bytes = self.contiguous()?;
        self.buffer.storage.zero(bytes.start, bytes.len())
    }

    /// The bytes of the buffer that these rows are.
    ///
    /// # Errors
    /// [`Error::Buffer`] for rows with gaps.
    pub(crate) fn contiguous(&self) -> Result<Range<usize>> {
        if !self.is_contiguous() {
            let rule =
                format!("its rows of {} start {} apart; name rows without a gap between them", self.cols, self.stride);
            return Err(Error::Buffer { rule });
        }
        let bytes = self.buffer.dtype.bytes();
        Ok(self.offset * bytes..(self.offset + self.len()) * bytes)
    }

    /// The device address of a row.
    pub(crate) fn row_address(&self, row: usize) -> u64 {
        self.buffer.storage().address() + ((self.offset + row * self.stride) * self.buffer.dtype().bytes()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_written_whole_and_with_its_own_type() {
        let buffer = Buffer::from_slice(&Device::Cpu, &[1.0f32, 2.0]).unwrap();
        buffer.write(&[3.0f32, 4.0]).unwrap();
        assert_eq!(buffer.to_vec::<f32>().unwrap(), [3.0, 4.0]);
        for wrong in [buffer.write(&[3.0f32]), buffer.write(&[3u32, 4])] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.starts_with("buffer: it holds 2 f32, not"), "{error}");
        }
        assert_eq!(buffer.to_vec::<f32>().unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn a_buffer_is_refilled_in_the_room_that_it_has() {
        let device = Device::emulator(1);
        let mut buffer = Buffer::from_slice(&device, &[1u32, 2, 3, 4]).unwrap();
        for values in [&[5, 6][..], &[], &[7, 8, 9, 10]] {
            buffer.refill::<u32>(values).unwrap();
            assert_eq!((buffer.to_vec::<u32>().unwrap().as_slice(), buffer.len()), (values, values.len()));
        }
        for wrong in [buffer.refill(&[1u32; 5]), buffer.refill(&[1.0f32])] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.starts_with("buffer: it has room for 4 u32, not for"), "{error}");
        }
        assert_eq!(buffer.to_vec::<u32>().unwrap(), [7, 8, 9, 10]);
        assert_eq!((device.allocations(), device.allocated_bytes()), (1, 16));
        drop(buffer);
        assert_eq!((device.allocations(), device.allocated_bytes()), (1, 0));
    }

    #[test]
    fn a_part_of_a_flat_buffer_is_written_read_and_cleared_alone() {
        for device in [Device::Cpu, Device::emulator(1)] {
            let flat = Buffer::from_slice(&device, &[1.0f32; 10]).unwrap();
            let part = flat.part(2, 2, 3).unwrap();
            assert_eq!((part.shape(), part.len()), ((2, 3), 6));
            part.write(&[2.0f32, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
            assert_eq!(part.rows_at(1, 1).unwrap().to_vec::<f32>().unwrap(), [5.0, 6.0, 7.0]);
            part.rows_at(0, 1).unwrap().zero().unwrap();
            assert_eq!(flat.to_vec::<f32>().unwrap(), [1.0, 1.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 1.0, 1.0]);
            flat.zero().unwrap();
            assert_eq!(flat.to_vec::<f32>().unwrap(), [0.0; 10]);
            assert!(flat.fence_holds().unwrap());
        }
    }

    #[test]
    fn a_part_outside_or_with_gaps_is_refused() {
        let flat = Buffer::from_slice(&Device::Cpu, &[1.0f32; 10]).unwrap();
        assert!(flat.part(10, 0, 3).unwrap().is_empty());
        for (offset, rows, cols) in [(5, 2, 3), (11, 0, 0), (usize::MAX, 1, 1), (0, usize::MAX, 2)] {
            let error = flat.part(offset, rows, cols).unwrap_err().to_string();
            assert!(error.contains("10 elements"), "{error}");
        }
        let gaps = flat.part(0, 2, 5).unwrap().columns(1, 2).unwrap();
        let refused =
            [gaps.zero().err(), gaps.write(&[0.0f32; 4]).err(), gaps.to_vec::<f32>().err()].map(Option::unwrap);
        for error in refused.map(|error| error.to_string()) {
            assert!(error.contains("rows of 2 start 5 apart"), "{error}");
        }
        assert_eq!(flat.to_vec::<f32>().unwrap(), [1.0; 10]);
    }

    #[test]
    fn a_device_counts_its_buffers() {
        let device = Device::emulator(1);
        let small = Buffer::unwritten(&device, Dtype::Bf16, 8).unwrap();
        let large = Buffer::unwritten(&device, Dtype::F32, 100).unwrap();
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (416, 416));
        drop(large);
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (16, 416));
        drop(small);
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (0, 416));
        // Other tests of this process use the CPU too.
        let large = Buffer::unwritten(&Device::Cpu, Dtype::F32, 1 << 20).unwrap();
        assert!(Device::Cpu.allocated_bytes() >= 4 << 20);
        drop(large);
        assert!(Device::Cpu.peak_bytes() >= 4 << 20);
    }
}
