//! The faults that verification must catch: passages of `forward.cuh` and what a mistaken author might have written.

use packscan_runtime::Edit;

const BARRIER: &str = "__syncthreads();";

/// Every fault of the loss.
pub fn faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "cross_entropy", changes: changes.to_vec() };
    vec![
        edit("loss-no-maximum", &[("max = collect<Max, BLOCK>(shared);", 0, "max = 0.0f;")]),
        edit("loss-target-off-by-one", &[("column + i == target", 0, "column + i == target + 1")]),
        edit(
            "loss-unscaled-target",
            &[("(column + i == target ? p - 1.0f : p) * scale", 0, "p * scale - (column + i == target ? 1.0f : 0.0f)")],
        ),
        edit("loss-no-target-counted", &[("if (target == NO_TARGET) {", 0, "if (false) {")]),
        edit("loss-rest-of-row-lost", &[("c = column(KEEP); c < length;", 0, "c = column(KEEP); c + WIDTH < length;")]),
        edit(
            "loss-target-read-late",
            &[
                ("const float aim =", 0, "float aim ="),
                (
                    "if (threadIdx.x == 0) args.loss[t] = fma",
                    0,
                    "if (threadIdx.x == 0) aim = to_float(logits[target]);\n    if (threadIdx.x == 0) args.loss[t] = fma",
                ),
            ],
        ),
        edit("loss-drop-barrier-1", &[(BARRIER, 0, "")]),
        edit("loss-drop-barrier-2", &[(BARRIER, 1, "")]),
    ]
}
