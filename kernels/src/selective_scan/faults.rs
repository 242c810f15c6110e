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
        edit("late-state", &[("advance(t);\n        save(h, args.checkpoints,", 0, "save(h, args.checkpoints,")]),
        edit("group-over-boundary", &[("base + g + GROUP + LAST <= ends", 0, "base + g <= ends")]),
        edit("first-run-alone", &[("run < last_run; ++run)", 0, "run < last_run; run = last_run)")]),
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
        edit("last-run-alone", &[("run-- > first_run;)", 0, "run-- > first_run; run = first_run)")]),
        edit("keep-carry", &[("else clear(carry);", 0, ""), ("if (!is_continued(seq)) clear(carry);", 0, "")]),
        edit(
            "multiply-carry",
            &[
                ("else clear(carry);", 0, "else for (auto& walked : carry) for (float& c : walked) c *= 0.0f;"),
                ("if (!is_continued(seq)) clear(carry);", 0, ""),
            ],
        ),
        edit("late-boundary", &[("const bool starts = t == start;", 0, "const bool starts = t == start + 1;")]),
        edit("boundary-unseen", &[("(start < base || opens(base)) && base + CHUNK <= end", 0, "base + CHUNK <= end")]),
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

/// Every fault of what finds the states that segments leave.
pub fn state_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "selective_scan_state", changes: changes.to_vec() };
    vec![
        edit(
            "segment-off-by-one",
            &[(
                "end = args.cu_seqlens[segment + 1];",
                0,
                "end = args.cu_seqlens[segment + 1] - (segment + 1 < args.sequences);",
            )],
        ),
        edit("segment-into-next", &[("count == CHUNK", 0, "count > 0")]),
        edit("segment-chunk-lost", &[("mover.prefetch(REVERSE ?", 0, "if (k + 2 < chunks) mover.prefetch(REVERSE ?")]),
        edit("end-skipped", &[("ENDS || !is_outermost", 0, "!is_outermost")]),
        edit(
            "wrong-end-skipped",
            &[("    if (REVERSE) return segment == 0", 0, "    if (!REVERSE) return segment == 0")],
        ),
        edit("sum-of-some-deltas", &[("sum[w] += step.x;", 0, "if (!FIRST) sum[w] += step.x * (r > 0);")]),
        edit("state-padding-left", &[("[STATE + i % (ROW - STATE)] = 0.0f;", 0, "[STATE + i % (ROW - STATE)];")]),
        edit("drop-state-barrier-1", &[(BARRIER, 0, "")]),
        edit("drop-state-barrier-2", &[(BARRIER, 1, "")]),
    ]
}

/// Every fault of what passes states from segment to segment.
pub fn join_faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "selective_scan_join", changes: changes.to_vec() };
    vec![
        edit(
            "decay-of-next-segment",
            &[(
                "args.delta_sums[(unsigned long long)segment * args.d",
                0,
                "args.delta_sums[(unsigned long long)(segment + (place + 1 < count ? 1 : 0)) * args.d",
            )],
        ),
        edit(
            "first-state-lost",
            &[("entered ? fma(decay[j], h, own[j]) : own[j]", 0, "entered ? fma(decay[j], h, own[j]) : 0.0f")],
        ),
        edit("given-lost", &[("if (entered) h = args.given[s * elements + i];", 0, "")]),
        edit("not-handed-on", &[("fma(decay[j], h, own[j]) :", 0, "own[j] :")]),
        edit(
            "join-over-boundary",
            &[(
                "const unsigned s = blockIdx.y, first = args.firsts[s], count = args.firsts[s + 1] - first;",
                0,
                "const unsigned s = blockIdx.y, first = args.firsts[s] - (s > 0), count = args.firsts[s + 1] - first;",
            )],
        ),
        edit("join-batch-lost", &[("k += BATCH", 0, "k += 2 * BATCH")]),
    ]
}
