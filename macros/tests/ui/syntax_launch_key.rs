//! A launch setting that does not exist.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        launch { grid: [1], thread: 32 }
    }
}

fn main() {}
