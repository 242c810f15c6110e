//! [`Buffer`]: typed memory on a device, and [`View`]: rows of it.

use std::fmt;

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
}

impl Buffer {
    /// An unwritten buffer of `len` elements.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the GPU has no room, [`Error::Buffer`] where no machine has.
    pub fn unwritten(device: &Device, dtype: Dtype, len: usize) -> Result<Buffer> {
        let bytes = len.checked_mul(dtype.bytes()).filter(|&bytes| bytes < MOST_BYTES);
        let too_many = || Error::Buffer { rule: format!("{len} elements of {dtype} are more than any memory holds") };
        let storage = Storage::unwritten(device, bytes.ok_or_else(too_many)?)?;
        Ok(Buffer { device: device.clone(), storage, dtype, len })
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

    /// Replaces its elements, once everything launched before has run.
    ///
    /// # Errors
    /// [`Error::Buffer`] for values of another type or number; [`Error::Cuda`] if an earlier launch failed.
    pub fn write<T: Element>(&self, values: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype || values.len() != self.len {
            let rule = format!("it holds {} {}, not {} {}", self.len, self.dtype, values.len(), T::DTYPE);
            return Err(Error::Buffer { rule });
        }
        self.storage.write(0, cast_slice(values))
    }

    /// Fills it with zeros, after everything launched before; on a GPU it returns before that has happened.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the driver refuses.
    pub fn zero(&self) -> Result<()> {
        self.storage.zero(&self.device, self.len * self.dtype.bytes())
    }

    /// A buffer of `dtype` with the representable values nearest to these.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn from_f32(device: &Device, dtype: Dtype, values: &[f32]) -> Result<Buffer> {
        fn converted<T: Element>(device: &Device, values: &[f32]) -> Result<Buffer> {
            Buffer::from_slice(device, &values.iter().map(|&x| T::from_f32(x)).collect::<Vec<_>>())
        }
        match dtype {
            Dtype::F32 => converted::<f32>(device, values),
            Dtype::F16 => converted::<half::f16>(device, values),
            Dtype::Bf16 => converted::<half::bf16>(device, values),
            Dtype::U32 => converted::<u32>(device, values),
        }
    }

    /// Its elements, copied to the host.
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

    /// `rows` rows of `cols` elements, one right after the other from element `offset` on: a matrix in a flat buffer.
    ///
    /// # Errors
    /// [`Error::Buffer`] if the buffer ends before them.
    pub fn part(&self, offset: usize, rows: usize, cols: usize) -> Result<View<'_>> {
        let end = rows.checked_mul(cols).and_then(|elements| elements.checked_add(offset));
        if end.is_none_or(|end| end > self.len) {
            let rule = format!("{rows} rows of {cols} from element {offset} on were asked of {} elements", self.len);
            return Err(Error::Buffer { rule });
        }
        Ok(View { buffer: self, offset, rows, cols, stride: cols })
    }

    /// The whole buffer as a vector.
    pub fn view(&self) -> View<'_> {
        View { buffer: self, offset: 0, rows: self.len, cols: 1, stride: 1 }
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

    /// Its elements, copied to the host.
    ///
    /// # Errors
    /// [`Error::Buffer`] if it holds another type or its rows lie apart; [`Error::Cuda`] if an earlier launch failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let at = self.first_byte::<T>()?;
        let mut values = zeroed_vec::<T>(self.rows * self.cols);
        self.buffer.storage.read(at, cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Its elements widened to f32, copied to the host.
    ///
    /// # Errors
    /// [`Error::Buffer`] if its rows lie apart; [`Error::Cuda`] if an earlier launch failed.
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

    /// Replaces its elements, once everything launched before has run.
    ///
    /// # Errors
    /// [`Error::Buffer`] for values of another type or number, or rows that lie apart; [`Error::Cuda`] if an earlier launch failed.
    pub fn write<T: Element>(&self, values: &[T]) -> Result<()> {
        let at = self.first_byte::<T>()?;
        if values.len() != self.rows * self.cols {
            let rule = format!("{} rows of {} were to become {} values", self.rows, self.cols, values.len());
            return Err(Error::Buffer { rule });
        }
        self.buffer.storage.write(at, cast_slice(values))
    }

    /// Bytes of the buffer before the first element, for a copy of all of them at once.
    fn first_byte<T: Element>(&self) -> Result<usize> {
        if T::DTYPE != self.buffer.dtype {
            return Err(Error::Buffer { rule: format!("it holds {}, not {}", self.buffer.dtype, T::DTYPE) });
        }
        if self.stride != self.cols && self.rows > 1 {
            let rule = format!("rows of {} that start {} apart are not copied at once", self.cols, self.stride);
            return Err(Error::Buffer { rule });
        }
        Ok(self.offset * T::DTYPE.bytes())
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
    fn rows_that_lie_together_are_read_and_written_alone() {
        for device in [Device::Cpu, Device::emulator(0)] {
            let buffer = Buffer::from_slice(&device, &[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
            let part = buffer.part(2, 2, 2).unwrap();
            assert_eq!(part.to_vec::<f32>().unwrap(), [2.0, 3.0, 4.0, 5.0]);
            part.write(&[-2.0f32, -3.0, -4.0, -5.0]).unwrap();
            assert_eq!(buffer.to_vec::<f32>().unwrap(), [0.0, 1.0, -2.0, -3.0, -4.0, -5.0, 6.0, 7.0]);
            for wrong in
                [part.write(&[1.0f32]), part.write(&[1u32; 4]), part.columns(0, 1).unwrap().write(&[1.0f32; 2])]
            {
                assert!(wrong.unwrap_err().to_string().starts_with("buffer: "));
            }
            assert_eq!(part.columns(1, 1).unwrap().rows_at(1, 1).unwrap().to_f32().unwrap(), [-5.0]);
        }
    }
}
