//! A rule about no parameter.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// State size.
            state: "n" in 1..=16,
        }
        derived { threads = 32 * state }
        rules {
            state > 1, stat: "one state is not enough", "take 2";
            threads > 32, threads: "a derived number cannot be changed", "take 2";
        }
        tensors {
            /// Tensor.
            x: in f32 [T],
        }
        launch { grid: [1], threads: threads }
    }
}

fn main() {}
