//! A kind of parameter that does not exist.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// Gate.
            gate: flog "gate",
        }
    }
}

fn main() {}
