//! Tensors whose words mean nothing.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// State size.
            state: "n" in 1..=16,
            /// Types.
            io: dtype in [F32, Bf16],
            /// Gate.
            gate: flag "gate",
        }
        dims {
            /// Channels.
            d: "D",
        }
        tensors {
            /// Unknown access.
            a: input f32 [T],
            /// Near miss.
            b: strukture u32 [S],
            /// Neither type nor parameter.
            c: in oi [T],
            /// A parameter, but no type.
            e: in state [T],
            /// Unknown letter.
            f: in f32 [T, K],
            /// Unknown name.
            g: in f32 [T, stat],
            /// Unknown letter in an expression.
            h: in f32 [T, D * Q + 1],
            /// Tokens not first.
            i: in f32 [D, T],
            /// Tokens not first.
            j: in f32 [D, T / state],
            /// No flag.
            k: in f32 [T] if gat,
            /// A parameter, but no flag.
            l: in f32 [T] if state,
            /// No shape.
            m: in f32 [],
        }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
