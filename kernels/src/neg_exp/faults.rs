//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

/// Every fault of both passes.
pub fn faults() -> Vec<Edit> {
    let forward = |name, changes: &[_]| Edit { name, kernel: "neg_exp_fwd", changes: changes.to_vec() };
    let backward = |name, changes: &[_]| Edit { name, kernel: "neg_exp_bwd", changes: changes.to_vec() };
    vec![
        forward("neg-exp-grows", &[("-ex2(a_log[i]", 0, "ex2(a_log[i]")]),
        forward("neg-exp-base-two", &[("a_log[i] * LOG2E", 0, "a_log[i]")]),
        forward("neg-exp-overruns", &[("first + VEC <= args.n", 0, "first < args.n")]),
        backward("neg-exp-overwrites", &[("old_g[i] * a[i]", 0, "a[i]")]),
        backward("neg-exp-adds", &[("old_g[i] * a[i]", 0, "fma(old_g[i], a[i], old_g[i])")]),
        backward(
            "neg-exp-tail-lost",
            &[("for (unsigned long long i = first; i < args.n; ++i) multiply<1>(args, i);", 0, "")],
        ),
    ]
}
