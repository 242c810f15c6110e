//! Domains with no value, or with values that no field holds.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// Backwards.
            backwards: "a" in 16..=1,
            /// Wide.
            wide: "b" in 1..=4294967296,
            /// From 0.
            zero: "c" in 0..=4,
            /// Nothing.
            none: "d" in [],
            /// Twice.
            twice: "e" in [1, 2, 1],
            /// Unknown type.
            unknown: dtype in [F32, Float16, bf16],
            /// No type.
            untyped: dtype in [],
        }
        tensors {
            /// Tensor.
            x: in f32 [T],
        }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
