//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

/// Every fault of both passes.
pub fn faults() -> Vec<Edit> {
    let edit = |name, kernel, changes: &[_]| Edit { name, kernel, changes: changes.to_vec() };
    let forward = |name, changes: &[_]| edit(name, "embedding_fwd", changes);
    let backward = |name, changes: &[_]| edit(name, "embedding_bwd", changes);
    vec![
        forward("embedding-of-first-token", &[("args.ids[t]", 0, "args.ids[0]")]),
        forward(
            "embedding-loses-columns",
            &[("column < args.width; column += LANES * VEC", 0, "column < args.width; column += 2 * LANES * VEC")],
        ),
        forward("embedding-past-the-end", &[("t >= args.tokens", 0, "t > args.tokens")]),
        backward("embedding-grad-overwrites", &[("to[i] + sum[i]", 0, "sum[i]")]),
        backward("embedding-grad-unsorted", &[("args.order[k]", 0, "k")]),
        backward("embedding-grad-loses-token", &[("k < end", 0, "k + 1 < end")]),
        backward(
            "embedding-grad-of-next-id",
            &[("args.distinct_ids[blockIdx.x]", 0, "(args.distinct_ids[blockIdx.x] + 1) % args.vocabulary")],
        ),
    ]
}
