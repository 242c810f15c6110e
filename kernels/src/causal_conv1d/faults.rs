//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

const BEFORE: &str = "if (EDGE && age < back) {";
const NOTHING: &str = "if (!in.continued) return false;";
const FORWARD: &str = "causal_conv1d_fwd";
const BACKWARD: &str = "causal_conv1d_bwd";

/// Every fault of the forward pass.
pub fn forward_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: FORWARD, changes: changes.to_vec() };
    vec![
        edit("conv-skip-boundary", &[(BEFORE, 0, "if (EDGE && age < back && in.continued) {")]),
        edit(
            "conv-multiply-boundary",
            &[
                (BEFORE, 0, "if (EDGE && age < back && in.continued) {"),
                (
                    "fma(f.w[i * WIDTH + k], seen[i], c[i])",
                    0,
                    "fma(f.w[i * WIDTH + k] * (t - in.start < PAST - k && !in.continued ? 0.0f : 1.0f), seen[i], c[i])",
                ),
            ],
        ),
        edit("conv-boundary-off-by-one", &[("age < back)", 0, "age + 1 < back)")]),
        edit("conv-group-over-start", &[("in.start + PAST <= base", 0, "in.start <= base")]),
        edit("conv-group-over-end", &[("least(in.end, limit)", 0, "limit")]),
        edit("conv-history-ignored", &[(NOTHING, 0, "return false;")]),
        edit("conv-history-of-fresh", &[(NOTHING, 0, "if (!INITIAL) return false;")]),
        edit("conv-history-shifted", &[("PAST + age - back, d", 0, "PAST - back, d")]),
        edit("conv-short-history-out", &[("else if (in.continued) kept", 0, "else if (false) kept")]),
        edit("conv-late-history-out", &[("in.end - PAST + row", 0, "in.start + row")]),
    ]
}

/// Every fault of the backward pass.
pub fn backward_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: BACKWARD, changes: changes.to_vec() };
    vec![
        edit("conv-skip-backward-boundary", &[("if (EDGE && s + later >= in.end) continue;", 0, "")]),
        edit("conv-backward-boundary-off-by-one", &[("s + later >= in.end)", 0, "s + later > in.end)")]),
        edit("conv-taps-over-boundary", &[(BEFORE, 0, "if (EDGE && age < back && in.continued) {")]),
        edit("conv-backward-group-over-end", &[("least(in.end, limit + PAST)", 0, "limit + PAST")]),
        edit("conv-backward-history-ignored", &[(NOTHING, 0, "return false;")]),
        edit("conv-history-gradient-lost", &[("if (!LAST || row < length) continue;", 0, "continue;")]),
        edit("conv-kept-gradient-lost", &[("dx[v] = dx[v] + kept[v]", 0, "dx[v] = dx[v]")]),
        edit("conv-overwrite-dw", &[("seen[v], dw[v * WIDTH + k])", 0, "seen[v], 0.0f)")]),
        edit("conv-overwrite-db", &[("db[v] = db[v] + p[j][v]", 0, "db[v] = p[j][v]")]),
        edit("conv-overwrite-parts", &[("sum += shared[", 0, "sum = shared[")]),
        edit("conv-seam-counted-twice", &[("if (EDGE && t - begin < PAST && begin > 0) return;", 0, "")]),
        edit("conv-drop-barrier", &[("__syncthreads();", 0, "")]),
    ]
}
