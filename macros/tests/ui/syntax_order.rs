//! A tensor whose parts are out of order.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        tensors {
            /// Tensor.
            x: in f32 [T] if gate strided,
        }
    }
}

fn main() {}
