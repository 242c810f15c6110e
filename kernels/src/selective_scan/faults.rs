//! The faults that verification must catch: passages of the CUDA text and what a mistaken author might have written.

use packscan_runtime::Edit;

const ZERO: &str = "            clear(h);\n            if (INITIAL";
const CALL: &str = "if (fresh) scan_inside<true, 1>(shared, r);";
const UPDATE: &str = "FRESH ? x : fma(ex2(step[w].x * a2[w][i + j]), state, x)";
const BARRIER: &str = "__syncthreads();";

/// Every fault of the forward pass.
pub fn forward_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "selective_scan_fwd", changes: changes.to_vec() };
    vec![
        edit(
            "skip-reset",
            &[(ZERO, 0, "            if (INITIAL"), (CALL, 0, "if (fresh) scan_inside<false, 1>(shared, r);")],
        ),
        edit(
            "multiply-reset",
            &[
                (ZERO, 0, "            if (INITIAL"),
                (UPDATE, 0, "fma(FRESH ? 0.0f : ex2(step[w].x * a2[w][i + j]), state, x)"),
            ],
        ),
        edit("boundary-off-by-one", &[("ends = args.cu_seqlens[seq + 1];", 0, "ends = args.cu_seqlens[seq + 1] + 1;")]),
        edit(
            "lost-carry",
            &[("#pragma unroll 1\n        for (unsigned g = 0;", 0, "clear(h);\n        for (unsigned g = 0;")],
        ),
        edit(
            "late-state",
            &[(
                "scanner.advance(base);\n            scanner.save(scanner.h, args.checkpoints, base / CHUNK);",
                0,
                "scanner.save(scanner.h, args.checkpoints, base / CHUNK);",
            )],
        ),
        edit("group-over-boundary", &[("base + g + GROUP + LAST <= ends", 0, "base + g <= ends")]),
        edit("lane-lost", &[("fold<LANES / 2, 1, SWAPS>(sums);", 0, "fold<LANES / 2, 2, SWAPS>(sums);")]),
        edit(
            "padding-left",
            &[(
                "shared.b[r][k][turned_state(n, k)] = 0.0f;\n                shared.c[r][k][turned_state(n, k)] = 0.0f;",
                0,
                "",
            )],
        ),
        edit("drop-barrier-1", &[(BARRIER, 0, "")]),
        edit("drop-barrier-2", &[(BARRIER, 1, "")]),
    ]
}

/// Every fault of the backward pass.
pub fn backward_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "selective_scan_bwd", changes: changes.to_vec() };
    vec![
        edit("keep-carry", &[("else clear(carry);", 0, ""), ("if (!is_continued(seq)) clear(carry);", 0, "")]),
        edit(
            "multiply-carry",
            &[
                ("else clear(carry);", 0, "else for (auto& walked : carry) for (float& c : walked) c *= 0.0f;"),
                ("if (!is_continued(seq)) clear(carry);", 0, ""),
            ],
        ),
        edit("late-boundary", &[("const bool starts = t == start;", 0, "const bool starts = t == start + 1;")]),
        edit("boundary-unseen", &[("start < base && base + CHUNK <= end", 0, "base + CHUNK <= end")]),
        edit(
            "lost-chunk-carry",
            &[(
                "__device__ void scan(Staged& shared, unsigned base) {",
                0,
                "__device__ void scan(Staged& shared, unsigned base) {\n        clear(carry);",
            )],
        ),
        edit("old-state-at-start", &[("if constexpr (!FRESH) {", 0, "{")]),
        edit("overwrite-parts", &[("db += shared.parts[w][r][0][n];", 0, "db = shared.parts[w][r][0][n];")]),
        edit("drop-backward-barrier-1", &[(BARRIER, 0, "")]),
        edit("drop-backward-barrier-2", &[(BARRIER, 1, "")]),
        edit("drop-backward-barrier-3", &[(BARRIER, 2, "")]),
        edit("drop-backward-barrier-4", &[(BARRIER, 3, "")]),
    ]
}
