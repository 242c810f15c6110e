// Backward pass of the residual addition and the root-mean-square norm, in one kernel, but for the last sum of the weight's gradient.
//
// What. With g = weight * dy, row by row,
//   dr      = incoming + rstd * (g - r * rstd^2 * mean(g * r))
//   dweight = sum over rows of dy * r * rstd
// where incoming is the gradient that r gets from elsewhere, along the residual stream. dr is the gradient of both summands of r: it is
// written as dresidual (f32) and, rounded, as dx.
//
// How. The blocks stay: LANES threads of a block (rows.cuh has the cut and the sum) walk rows q, q + PARTS, q + 2*PARTS, ... for their
// q below the number PARTS of partial sums, and keep the weight and their part of dweight in registers. At the end they write row q of
// `dweight_parts`, and sum_rows adds those. So neighbouring groups of threads touch neighbouring rows at a time, and a part is a chain of
// additions in the order of rows, whichever block is faster.
//
// One barrier a row: sums go to two places of shared memory in turn, so that who is a row ahead overwrites nothing that is still read.
//
// Cost an element: r, dy and incoming read, dresidual and dx written, 16 bytes in bf16, and 7 float operations. The limit is memory.
//
// Dropped: the next row's loads before this row's sum; other blocks of the multiprocessor fill that gap.

__device__ inline void rms_norm_bwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory); // (2, ROWS, WARPS)
    const unsigned part = blockIdx.x * ROWS + threadIdx.x / LANES;

    float weight[PASSES][VEC], dweight[PASSES][VEC];
#pragma unroll
    for (unsigned k = 0; k < PASSES; ++k) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) weight[k][i] = dweight[k][i] = 0.0f;
        if (is_column(k)) get<VEC>(args.weight + column_of(k), weight[k]);
    }

    unsigned place = 0;
    // As many turns for every thread of the block, since all meet at the barrier.
    for (unsigned first = 0; first < args.tokens; first += args.parts_rows) {
        const unsigned t = first + part;
        const bool exists = part < args.parts_rows && t < args.tokens;
        const long long row = (long long)t * WIDTH;
        const float rstd = exists ? args.rstd[t] : 0.0f;

        Packet<io_t, VEC> dy[PASSES];
        float r[PASSES][VEC], incoming[PASSES][VEC];
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            dy[k] = zeros<VEC, io_t>();
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) r[k][i] = incoming[k][i] = 0.0f;
            if (!exists || !is_column(k)) continue;
            dy[k] = load<VEC>(row_at(args.dy + column_of(k), t, args.dy_stride));
            get<VEC>(args.r + row + column_of(k), r[k]);
            if constexpr (INCOMING) get<VEC>(args.incoming + row + column_of(k), incoming[k]);
        }
        float dot = 0.0f;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                dot = fma(weight[k][i] * dy[k][i], r[k][i], dot);
                dweight[k][i] = fma(dy[k][i], r[k][i] * rstd, dweight[k][i]);
            }
        }
        const float mean = sum_of_row(dot, shared + place * ROWS * WARPS) * (1.0f / WIDTH);
        const float pull = mean * rstd * rstd;
        place ^= 1;
        if (!exists) continue;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            if (!is_column(k)) continue;
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                const float turned = fma(-r[k][i], pull, weight[k][i] * dy[k][i]);
                r[k][i] = INCOMING ? fma(rstd, turned, incoming[k][i]) : rstd * turned;
            }
            if constexpr (DRESIDUAL) put<VEC>(args.dresidual + row + column_of(k), r[k]);
            if constexpr (DX) store<VEC>(row_at(args.dx + column_of(k), t, args.dx_stride), r[k]);
        }
    }

    if (part >= args.parts_rows) return;
#pragma unroll
    for (unsigned k = 0; k < PASSES; ++k)
        if (is_column(k)) put<VEC>(args.dweight_parts + (long long)part * WIDTH + column_of(k), dweight[k]);
}
