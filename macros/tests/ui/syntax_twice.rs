//! A section that is given twice.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        dims {}
        dims {}
    }
}

fn main() {}
