//! The faults that verification must catch: passages of `forward.cuh` and what a mistaken author might have written.

use packscan_runtime::Edit;

/// Every fault of the step.
pub fn faults() -> Vec<Edit> {
    let edit = |name, changes: &[_]| Edit { name, kernel: "adamw", changes: changes.to_vec() };
    vec![
        edit("adamw-coupled-decay", &[("raw * scale;", 0, "raw * scale + decay * p;"), ("rate * decay", 0, "0.0f")]),
        edit("adamw-uncorrected-moment", &[("m * correction1", 0, "m")]),
        edit("adamw-eps-in-the-root", &[("__fsqrt_rn(v * correction2) + eps", 0, "__fsqrt_rn(v * correction2 + eps)")]),
        edit("adamw-unscaled-square", &[("(1.0f - beta2) * g * g", 0, "(1.0f - beta2) * raw * raw")]),
        edit("adamw-skip-by-factor", &[("skipped = args.clip_by[2] != 0.0f;", 0, "")]),
        edit(
            "adamw-tail-lost",
            &[("for (unsigned long long i = first; i < args.n; ++i) update<1>(args, step, i);", 0, "")],
        ),
        edit(
            "adamw-old-copy",
            &[
                (
                    "    read<WIDTH>(args, first, p);",
                    0,
                    "    float old_p[WIDTH];\n    read<WIDTH>(args, first, old_p);\n    read<WIDTH>(args, first, p);",
                ),
                (
                    "if constexpr (COPY) store",
                    0,
                    "for (unsigned i = 0; i < WIDTH; ++i) p[i] = old_p[i];\n    if constexpr (COPY) store",
                ),
            ],
        ),
        edit("adamw-rest-without-carry", &[(" - (rest >> 15)", 0, "")]),
        edit("adamw-rest-cut-off", &[("bits + 0x8000", 0, "bits")]),
        edit("adamw-rest-forgotten", &[("rests.element[i] = (unsigned short)bits", 0, "rests.element[i] = 0")]),
    ]
}
