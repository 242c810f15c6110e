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

// SAFETY: a pointer into host memory; who makes one promises, in `of`, that threads do not touch what others write.
unsafe impl<T: Element> Send for Rows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for Rows<'_, T> {}

impl<'a, T: Element> Rows<'a, T> {
    /// The rows of a view as `cols` elements each; a contiguous view may be cut into other rows than it was made with.
    ///
    /// # Safety
    /// As long as a slice of a row lives, nothing else writes its elements, and if it came from [`Rows::row_mut`] nothing else touches
    /// them, in this or any other thread. [`crate::launch::check_call`] sees to it between the arguments of one operator, and a
    /// [`Buffer`](crate::Buffer) is used by one thread at a time.
    ///
    /// # Panics
    /// If the buffer is not in host memory, holds another type, or has no such rows: `check_call` comes first.
    pub unsafe fn of(view: View<'a>, cols: usize) -> Rows<'a, T> {
        let Storage::Cpu(memory) = view.buffer.storage() else { panic!("{:?} is not on the CPU", view.buffer) };
        assert_eq!(view.buffer.dtype(), T::DTYPE);
        let elements = view.rows * view.cols;
        let (rows, stride) = match view.cols == cols {
            true => (view.rows, view.stride),
            false => (elements.checked_div(cols).unwrap_or(0), cols),
        };
        assert!(view.cols == cols || (view.is_contiguous() && rows * cols == elements));
        assert!(rows == 0 || (rows - 1) * stride + cols + view.offset <= view.buffer.len());
        let first = memory.pointer().wrapping_add(view.buffer.before()).cast::<T>().wrapping_add(view.offset);
        Rows { first, rows, cols, stride, view: PhantomData }
    }

    /// Row `row`, as it is now.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows);
        // SAFETY: in bounds by `of`; aligned, since buffers are and offsets count elements; not written meanwhile, by the promise of `of`.
        unsafe { std::slice::from_raw_parts(self.first.add(row * self.stride), self.cols) }
    }

    /// Columns `cols` of row `row`, to write.
    ///
    /// # Safety
    /// The promise of [`Rows::of`] for these elements: nothing else touches them as long as the slice lives.
    pub unsafe fn row_mut(&self, row: usize, cols: Range<usize>) -> &'a mut [T] {
        assert!(row < self.rows && cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: in bounds by `of`; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride + cols.start), cols.len()) }
    }
}
