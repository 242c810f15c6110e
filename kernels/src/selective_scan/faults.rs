//! The faults that verification must catch: passages of `forward.cuh` and what a mistaken author might have written.

use packscan_runtime::Edit;

const ZERO: &str = "for (unsigned i = 0; i < LANE_STATES; ++i) h[i] = 0.0f;";
const CALL: &str = "fresh ? step<true>(shared, r) : step<false>(shared, r)";
const UPDATE: &str = "FRESH ? x : fma(ex2(step.x * a2[i + j]), h[i + j], x)";
const BARRIER: &str = "__syncthreads();";

/// Every fault of the forward pass.
pub fn faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "selective_scan_fwd", changes: changes.to_vec() };
    vec![
        edit("skip-reset", &[(ZERO, 0, "{}"), (CALL, 0, "step<false>(shared, r)")]),
        edit(
            "multiply-reset",
            &[(ZERO, 0, "{}"), (UPDATE, 0, "fma(FRESH ? 0.0f : ex2(step.x * a2[i + j]), h[i + j], x)")],
        ),
        edit("boundary-off-by-one", &[("ends = args.cu_seqlens[seq + 1];", 0, "ends = args.cu_seqlens[seq + 1] + 1;")]),
        edit(
            "lost-carry",
            &[(
                "#pragma unroll 1\n        for (unsigned g = 0;",
                0,
                "for (unsigned i = 0; i < LANE_STATES; ++i) h[i] = 0.0f;\n        for (unsigned g = 0;",
            )],
        ),
        edit(
            "late-state",
            &[(
                "scanner.advance(base);\n            scanner.save(args.checkpoints_out, base / CHUNK);",
                0,
                "scanner.save(args.checkpoints_out, base / CHUNK);",
            )],
        ),
        edit("group-over-boundary", &[("base + g + GROUP + LAST <= ends", 0, "base + g <= ends")]),
        edit("lane-lost", &[("fold<LANES / 2, 1>(y);", 1, "fold<LANES / 2, 2>(y);")]),
        edit("drop-barrier-1", &[(BARRIER, 0, "")]),
        edit("drop-barrier-2", &[(BARRIER, 1, "")]),
    ]
}
