//! Rows of host buffers as slices, for the native CPU paths of operators.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::Storage;
use crate::{Element, View};

/// The rows of a [`View`] in host memory, readable and writable by several threads at once.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    first: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    view: PhantomData<View<'a>>,
}

// SAFETY: a pointer into host memory whose users promise, in `row_mut`, that nobody else touches what they write.
unsafe impl<T: Send> Send for Rows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Rows<'_, T> {}

impl<'a, T: Element> Rows<'a, T> {
    /// The rows of a view as `cols` elements each; a contiguous view may be cut into other rows than it was made with.
    ///
    /// # Panics
    /// If the buffer is not in host memory or holds another type: [`crate::launch::check_call`] comes first.
    pub fn of(view: View<'a>, cols: usize) -> Rows<'a, T> {
        let Storage::Cpu(memory) = view.buffer.storage() else { panic!("{:?} is not on the CPU", view.buffer) };
        assert_eq!(view.buffer.dtype(), T::DTYPE);
        let elements = view.rows * view.cols;
        let (rows, stride) = match view.cols == cols {
            true => (view.rows, view.stride),
            false => (elements.checked_div(cols).unwrap_or(0), cols),
        };
        assert!(elements == 0 || (rows - 1) * stride + cols + view.offset <= view.buffer.len());
        let first = memory.pointer().cast::<T>().wrapping_add(view.offset);
        Rows { first, rows, cols, stride, view: PhantomData }
    }

    /// Row `row`, as it is now.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows);
        // SAFETY: in bounds by `of`; aligned, since buffers are and offsets count elements; nobody writes what an operator reads, by
        // `check_call`, and who reads what the operator writes does so after it has returned.
        unsafe { std::slice::from_raw_parts(self.first.add(row * self.stride), self.cols) }
    }

    /// Columns `cols` of row `row`, to write.
    ///
    /// # Safety
    /// No other thread may touch these elements as long as the slice lives.
    pub unsafe fn row_mut(&self, row: usize, cols: Range<usize>) -> &'a mut [T] {
        assert!(row < self.rows && cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: in bounds by `of`; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride + cols.start), cols.len()) }
    }
}
