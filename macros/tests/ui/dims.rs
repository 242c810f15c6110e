//! Letters that are none.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        dims {
            /// Lower case.
            d: "d",
            /// Nothing.
            e: "",
            /// No identifier.
            f: "D+1",
        }
        tensors {
            /// Tensor.
            x: in f32 [T],
        }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
