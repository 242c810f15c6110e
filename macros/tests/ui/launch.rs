//! A launch without threads, with too many extents.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        tensors {
            /// Tensor.
            x: in f32 [T],
        }
        launch { grid: [1, 2, 3, 4] }
    }
}

fn main() {}
