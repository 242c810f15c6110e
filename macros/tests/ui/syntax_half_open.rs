//! A range whose end is left out.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant {
            /// State size.
            state: "n" in 1..16,
        }
    }
}

fn main() {}
