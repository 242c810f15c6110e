// Forward pass of the residual addition and the root-mean-square norm, in one kernel.
//
// What. r = residual + x, or the residual alone, y = r * rstd * weight with rstd = 1/sqrt(mean(r^2) + epsilon), row by row. Shapes and options are in mod.rs, the
// derivation of both passes in README.md.
//
// How. A block takes ROWS rows, LANES threads each (rows.cuh has the cut and the sum). A thread first starts all its loads of x and
// residual, then adds them, stores r and sums its squares; after the sum over the row it scales what it still holds.
//
// Why one kernel. The norm needs a row twice and the sum r is needed by the next block and by the backward pass. Apart, addition and
// norm would read r once more: 16 bytes an element in place of 12.
//
// Cost an element: x and residual read, r and y written, 12 bytes in bf16, and 4 float operations. The limit is memory. The weight is
// read once a row, from cache.
//
// Dropped: blocks that stay and keep the weight in registers; the weight is a small part of what the caches serve.

__device__ inline void rms_norm_fwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    const unsigned t = blockIdx.x * ROWS + threadIdx.x / LANES;
    const bool exists = t < args.tokens;
    const long long row = (long long)t * WIDTH;

    Packet<io_t, VEC> x[PASSES];
    float r[PASSES][VEC];
#pragma unroll
    for (unsigned k = 0; k < PASSES; ++k) {
        x[k] = zeros<VEC, io_t>();
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) r[k][i] = 0.0f;
        if (!exists || !is_column(k)) continue;
        if constexpr (!ALONE) x[k] = load<VEC>(row_at(args.x + column_of(k), t, args.x_stride));
        if constexpr (RESIDUAL) get<VEC>(args.residual + row + column_of(k), r[k]);
    }
    float squares = 0.0f;
#pragma unroll
    for (unsigned k = 0; k < PASSES; ++k) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            r[k][i] = RESIDUAL ? r[k][i] + x[k][i] : x[k][i];
            squares = fma(r[k][i], r[k][i], squares);
        }
        if (SUM && exists && is_column(k)) put<VEC>(args.residual_out + row + column_of(k), r[k]);
    }

    const float mean = sum_of_row(squares, reinterpret_cast<float*>(shared_memory)) * (1.0f / WIDTH);
    const float rstd = inverse_sqrt(mean + args.epsilon[0]);
    if (!exists) return;
    if (STATS && threadIdx.x % LANES == 0) args.rstd[t] = rstd;
#pragma unroll
    for (unsigned k = 0; k < PASSES; ++k) {
        if (!is_column(k)) continue;
        float weight[VEC];
        get<VEC>(args.weight + column_of(k), weight);
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) r[k][i] = r[k][i] * rstd * weight[i];
        store<VEC>(row_at(args.y + column_of(k), t, args.y_stride), r[k]);
    }
}
