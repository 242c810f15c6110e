//! [`Buffer`]: typed memory on a device, and [`View`]: rows of it.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use bytemuck::{cast_slice, cast_slice_mut, zeroed_vec};

use crate::device::{Device, Storage};
use crate::{Dtype, Element, Error, Result};

/// More bytes than a machine has.
const MOST_BYTES: usize = 1 << 48;

/// Bytes on a device, counted as long as they are there.
struct Memory {
    device: Device,
    storage: Storage,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.usage().remove(self.bytes);
    }
}

/// Memory for `len` elements of one type on one device.
///
/// A fresh buffer is *unwritten*: it reads as NaN, and the emulator reports a kernel that reads it. Operators write through
/// shared references, as devices do; every launch checks that what it writes overlaps nothing else that it was given.
pub struct Buffer {
    memory: Rc<Memory>,
    /// Bytes of the memory before its first element.
    before: usize,
    dtype: Dtype,
    len: usize,
    /// The most elements that it can hold.
    room: usize,
}

impl Buffer {
    /// Starts of buffers within others are multiples of so many bytes, as those of all others are.
    pub const ALIGNMENT_BYTES: usize = 256;

    /// An unwritten buffer of `len` elements.
    ///
    /// # Errors
    /// [`Error::Cuda`] and [`Error::HostMemory`] where the device has no room, [`Error::Buffer`] where no machine has.
    pub fn unwritten(device: &Device, dtype: Dtype, len: usize) -> Result<Buffer> {
        let bytes = len.checked_mul(dtype.bytes()).filter(|&bytes| bytes < MOST_BYTES);
        let too_many = || Error::Buffer { rule: format!("{len} elements of {dtype} are more than any memory holds") };
        let bytes = bytes.ok_or_else(too_many)?;
        let storage = Storage::unwritten(device, bytes)?;
        device.usage().add(bytes);
        let memory = Rc::new(Memory { device: device.clone(), storage, bytes });
        Ok(Buffer { memory, before: 0, dtype, len, room: len })
    }

    /// A buffer in the memory of this one, from byte `start` on: what is needed at other times can lie there. Nothing is allocated, and
    /// what one writes the other reads; no launch is given both where they overlap and one is written.
    ///
    /// # Errors
    /// [`Error::Buffer`] for a start that is no multiple of 256, and for an end beyond this buffer's.
    pub fn within(&self, start: usize, dtype: Dtype, len: usize) -> Result<Buffer> {
        let end = len.checked_mul(dtype.bytes()).and_then(|bytes| start.checked_add(bytes));
        if !start.is_multiple_of(Buffer::ALIGNMENT_BYTES) || end.is_none_or(|end| end > self.len * self.dtype.bytes()) {
            let rule = format!(
                "{len} {dtype} from byte {start} on were asked within {} bytes; they start at a multiple of {} and end inside",
                self.len * self.dtype.bytes(),
                Buffer::ALIGNMENT_BYTES
            );
            return Err(Error::Buffer { rule });
        }
        Ok(Buffer { memory: self.memory.clone(), before: self.before + start, dtype, len, room: len })
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device has no room.
    pub fn from_slice<T: Element>(device: &Device, values: &[T]) -> Result<Buffer> {
        let buffer = Buffer::unwritten(device, T::DTYPE, values.len())?;
        buffer.storage().write(0, cast_slice(values))?;
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
        &self.memory.device
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
        self.storage().fence_holds()
    }

    /// The memory that it lies in, of which it may be a part.
    pub(crate) fn storage(&self) -> &Storage {
        &self.memory.storage
    }

    /// Bytes of that memory before its first element.
    pub(crate) fn before(&self) -> usize {
        self.before
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer([{}; {}] on {})", self.dtype, self.len, self.device())
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
        if !Rc::ptr_eq(&self.buffer.memory, &other.buffer.memory) || self.is_empty() || other.is_empty() {
            return false;
        }
        let last = |v: &View<'_>| v.offset + (v.rows - 1) * v.stride + v.cols;
        if !std::ptr::eq(self.buffer, other.buffer) {
            // One lies within the other, or both within a third: all that lies between their elements counts too.
            let byte = |v: &View<'_>, element: usize| v.buffer.before + element * v.buffer.dtype.bytes();
            return byte(self, self.offset) < byte(other, last(other))
                && byte(other, other.offset) < byte(self, last(self));
        }
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
        self.buffer.storage().write(self.contiguous()?.start, cast_slice(values))
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
        self.buffer.storage().read(self.contiguous()?.start, cast_slice_mut(&mut values))?;
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
        self.buffer.storage().zero(bytes.start, bytes.len())
    }

    /// The bytes of the buffer's memory that these rows are.
    ///
    /// # Errors
    /// [`Error::Buffer`] for rows with gaps.
    pub(crate) fn contiguous(&self) -> Result<Range<usize>> {
        if !self.is_contiguous() {
            let rule =
                format!("its rows of {} start {} apart; name rows without a gap between them", self.cols, self.stride);
            return Err(Error::Buffer { rule });
        }
        let (before, bytes) = (self.buffer.before, self.buffer.dtype.bytes());
        Ok(before + self.offset * bytes..before + (self.offset + self.len()) * bytes)
    }

    /// The device address of a row.
    pub(crate) fn row_address(&self, row: usize) -> u64 {
        let elements = self.offset + row * self.stride;
        self.buffer.storage().address() + (self.buffer.before + elements * self.buffer.dtype.bytes()) as u64
    }
}

#[cfg(test)]
mod tests;
