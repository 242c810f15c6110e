//! The faults that verification must catch: passages of `forward.cuh` and what a mistaken author might have written.

use packscan_runtime::Edit;

/// Every fault of the copy.
pub fn faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "cast", changes: changes.to_vec() };
    vec![
        edit(
            "cast-truncates",
            &[("values[i] = x[i];", 0, "values[i] = __uint_as_float(__float_as_uint(x[i]) & 0xffffe000u);")],
        ),
        edit("cast-ignores-stride", &[("t, args.x_stride", 0, "t, args.columns")]),
        edit("cast-neighbours-row", &[("args.x + column, t,", 0, "args.x + column, t > 0 ? t - 1 : t,")]),
        edit("cast-overruns", &[("if (packet >= (unsigned long long)args.tokens * packets) return;", 0, "")]),
    ]
}
