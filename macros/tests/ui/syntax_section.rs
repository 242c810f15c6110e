//! A section that does not exist.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        varient {}
    }
}

fn main() {}
