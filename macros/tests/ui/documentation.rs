//! Documentation is the product: nothing goes without.

packscan_macros::kernel! {
    pub kernel Wrong = "wrong" in "tests/ui" from ["wrong.cuh"] {
        variant { state: "n" in 1..=16 }
        dims { d: "D" }
        tensors { x: in f32 [T, D] }
        launch { grid: [1], threads: 32 }
    }
}

fn main() {}
