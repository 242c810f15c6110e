//! Names that Rust, CUDA or a reader could not tell apart.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// Twice.
            state: "n" in 1..=16,
            /// The same constant.
            State: "m" in 1..=16,
            /// A constant of the prelude.
            log2e: "k" in 1..=16,
            /// A type of C.
            size: dtype in [F32],
            /// An element type.
            f16: "h" in 1..=16,
            /// A letter.
            S: "s" in 1..=16,
        }
        derived {
            state = 16,
        }
        dims {
            /// A name that is taken.
            state: "D",
            /// A letter that is taken.
            tokens_of: "T",
            /// A letter that is taken, too.
            width: "D",
            /// A field that every `Args` has.
            sequences: "Q",
        }
        tensors {
            /// A keyword of C++.
            double: in f32 [T],
            /// Adds the field `x_stride`.
            x: in f32 [T, D] strided,
            /// The same field.
            x_stride: in f32 [T],
            /// The same name.
            x: out f32 [T],
        }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
