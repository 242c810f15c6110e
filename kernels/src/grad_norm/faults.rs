//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

const BARRIER: &str = "__syncthreads();";

/// Every fault of both kernels.
pub fn faults() -> Vec<Edit> {
    let sum = |name, changes: &[_]| Edit { name, kernel: "grad_norm", changes: changes.to_vec() };
    let clip = |name, changes: &[_]| Edit { name, kernel: "grad_norm_clip", changes: changes.to_vec() };
    vec![
        sum("norm-tail-lost", &[("threadIdx.x < count - whole", 0, "false")]),
        sum("norm-one-sum-lost", &[("unsigned width = VEC / 2", 0, "unsigned width = VEC / 4")]),
        sum("norm-last-part-overrun", &[("left < PART ? unsigned(left) : PART", 0, "PART")]),
        sum("norm-drop-barrier", &[(BARRIER, 0, "")]),
        clip(
            "clip-stretches",
            &[(
                "fminf(1.0f, __fdiv_rn(args.max_norm[0], norm + 1e-6f))",
                0,
                "__fdiv_rn(args.max_norm[0], norm + 1e-6f)",
            )],
        ),
        clip("clip-no-root", &[("__fsqrt_rn(sum)", 0, "sum")]),
        clip("clip-infinite-is-finite", &[("norm <= LARGEST;", 0, "norm == norm;")]),
        clip("clip-nan-is-finite", &[("norm <= LARGEST;", 0, "!(norm > LARGEST);")]),
        clip("clip-drop-barrier", &[(BARRIER, 0, "")]),
    ]
}
