//! Tags that an id could not be read back from.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// With a digit.
            first: "n2" in 1..=16,
            /// With the separator.
            second: "a-b" in [1, 2],
            /// Upper case.
            third: "N" in 1..=16,
            /// Nothing.
            fourth: "" in 1..=16,
            /// With 32 it reads as a type of `io`.
            fifth: "f" in 1..=64,
            /// A type.
            sixth: flag "bf16",
            /// Free.
            seventh: "x" in 1..=16,
            /// Taken.
            eighth: flag "x",
            /// Types.
            io: dtype in [F32, Bf16],
        }
        tensors {
            /// Tensor.
            x: in f32 [T],
        }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
