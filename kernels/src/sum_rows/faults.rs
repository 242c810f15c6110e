//! The faults that verification must catch: passages of `forward.cuh` and `several.cuh`, and what a mistaken author might have written.

use packscan_runtime::Edit;

const BARRIER: &str = "__syncthreads();";

/// Every fault of the sums of rows.
pub fn faults() -> Vec<Edit> {
    let edit = |name, kernel, changes: &[_]| Edit { name, kernel, changes: changes.to_vec() };
    vec![
        edit("sum-overwrites", "sum_rows", &[("to_float(out[i]) + sum[i]", 0, "sum[i]")]),
        edit("sum-loses-a-way", "sum_rows", &[("way = 1; way < WAYS", 0, "way = 1; way + 1 < WAYS")]),
        edit("sum-drops-barrier", "sum_rows", &[(BARRIER, 0, "")]),
        edit(
            "sum-of-next-token",
            "sum_rows_tokens",
            &[(
                "args.first_parts, args.rows",
                0,
                "args.first_parts + (at.group + 1 < args.tokens ? args.rows * args.columns : 0), args.rows",
            )],
        ),
        edit("sum-of-first-twice", "sum_rows_tokens", &[("args.second_parts :", 0, "args.first_parts :")]),
        edit("sums-overwrite", "sum_rows_several", &[("out[i] + sum[i]", 0, "sum[i]")]),
        edit("sums-lose-a-way", "sum_rows_several", &[("other < at.ways", 0, "other + 1 < at.ways")]),
        edit("sums-drop-barrier", "sum_rows_several", &[(BARRIER, 0, "")]),
        edit("sums-of-another", "sum_rows_several", &[("block = blockIdx.x - start", 0, "block = blockIdx.x")]),
        edit("sums-without-last", "sum_rows_several", &[("i < SUMS", 0, "i + 1 < SUMS")]),
    ]
}
