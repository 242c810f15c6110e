// Rows that LANES threads share: how both passes of the norm cut a row among threads, and how they sum over it.
//
// A row of WIDTH numbers is cut into packets of VEC. Packet k belongs to lane k % LANES, so that neighbouring lanes touch neighbouring
// memory, and a lane keeps its PASSES packets in registers: the row is read once although it is needed twice, before and after the sum
// over it. WIDTH is a number of the variant, so every loop has a known length.
//
// The sum of a row is a fixed tree. A lane adds its own numbers in order; the lanes of a warp are paired by a butterfly, after which all
// of them hold the same bits (addition commutes); where a row has several warps, each writes its sum to shared memory and, one
// barrier later, every thread adds the warps' sums in their order. Nothing of this depends on how many rows there are or on which one it
// is, so a row has the same bits wherever it lies.

constexpr unsigned PASSES = div_ceil(WIDTH / VEC, LANES); // packets of a lane
constexpr unsigned WARPS = LANES / 32;                    // warps of a row

// The first column of the packet that this lane keeps from pass `pass`, and whether there is one.
__device__ inline unsigned column_of(unsigned pass) { return (pass * LANES + threadIdx.x % LANES) * VEC; }
__device__ inline bool is_column(unsigned pass) { return WIDTH % (LANES * VEC) == 0 || column_of(pass) < WIDTH; }

// The sum over the row's lanes, the same in all of them. Every thread of the block comes here. `shared: (ROWS, WARPS)`.
__device__ inline float sum_of_row(float sum, float* shared) {
    sum = over_warp<Sum>(sum);
    if constexpr (WARPS > 1) {
        const unsigned warp = threadIdx.x / 32;
        if (threadIdx.x % 32 == 0) shared[warp] = sum;
        __syncthreads();
        const float* of_row = shared + warp / WARPS * WARPS;
        sum = of_row[0];
#pragma unroll
        for (unsigned w = 1; w < WARPS; ++w) sum += of_row[w];
    }
    return sum;
}
