//! A name that C cannot have, no file, no tensor, no launch.

packscan_macros::kernel! {
    /// Kernel.
    pub kernel Wrong = "wrong-kernel" in "tests/ui" from [] {}
}

fn main() {}
