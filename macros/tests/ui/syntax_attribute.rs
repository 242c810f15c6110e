//! An attribute that nothing would carry.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            #[serde(skip)]
            state: "n" in 1..=16,
        }
    }
}

fn main() {}
