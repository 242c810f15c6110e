//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

const BARRIER: &str = "__syncthreads();";
const COLUMNS: &str = "(1.0f / WIDTH)";

/// Every fault of both passes.
pub fn faults() -> Vec<Edit> {
    let edit = |name, kernel, changes: &[_]| Edit { name, kernel, changes: changes.to_vec() };
    let forward = |name, changes: &[_]| edit(name, "rms_norm_fwd", changes);
    let backward = |name, changes: &[_]| edit(name, "rms_norm_bwd", changes);
    vec![
        forward("norm-forgets-x", &[("RESIDUAL ? r[k][i] + x[k][i]", 0, "RESIDUAL ? r[k][i]")]),
        forward("norm-forgets-epsilon", &[("mean + args.epsilon[0]", 0, "mean")]),
        forward("norm-of-padded-row", &[(COLUMNS, 0, "(1.0f / (PASSES * LANES * VEC))")]),
        forward("norm-loses-lanes", &[("over_warp<Sum>(sum)", 0, "over_warp<Sum>(threadIdx.x & 1 ? 0.0f : sum)")]),
        forward("norm-drops-barrier", &[(BARRIER, 0, "")]),
        forward("norm-of-first-row", &[("shared + warp / WARPS * WARPS", 0, "shared")]),
        backward(
            "norm-grad-without-mean",
            &[("fma(-r[k][i], pull, weight[k][i] * dy[k][i])", 0, "weight[k][i] * dy[k][i]")],
        ),
        backward("norm-grad-forgets-incoming", &[("fma(rstd, turned, incoming[k][i])", 0, "rstd * turned")]),
        backward("norm-grad-of-padded-row", &[(COLUMNS, 0, "(1.0f / (PASSES * LANES * VEC))")]),
        backward("norm-grad-one-place", &[("place ^= 1;", 0, "")]),
        backward("norm-grad-drops-barrier", &[(BARRIER, 0, "")]),
        backward("norm-grad-overwrites-part", &[("r[k][i] * rstd, dweight[k][i])", 0, "r[k][i] * rstd, 0.0f)")]),
    ]
}
