// Several sums of rows in one launch, each with the bits that it has in a launch of its own.
//
// What. For each of six sums, some of which may be empty: out[c] (+)= sum over r of parts[r, c]. A block of a model leaves six: of A, of the skip
// weight and of the bias of delta, of the convolution's weight and bias, and of the norm's weight.
//
// How. Blocks are dealt out to the sums in their order, so a block has one sum, and finds out by its number which. From there it does what
// forward.cuh does: `ways` threads share a packet of VEC columns, way w adds rows w, w + ways, ... in this order, and the first way adds the other ways' sums
// in theirs, from shared memory, one barrier away. How many ways a sum has is a number of the call, since the sums of one launch differ in their
// rows and columns; the order of additions, and so every bit, is that of sum_rows with as many ways.
//
// Why one launch. Each of these sums is a few microseconds for a GPU, most of which is the start and the end of a launch and the latency of one chain of
// loads; side by side they take as long as the longest.
//
// Cost. 4 bytes read and one addition an element of parts, mostly from the L2, where the blocks that wrote them left them. Dropped: a table of sums in memory,
// which would be written for every launch.

constexpr unsigned SUMS = 6;

struct RowSum {
    const float* parts; // (rows, columns)
    float* out;         // (columns)
    unsigned rows, columns, ways;
};

__device__ inline void sum_rows_several(const Args& args) {
    const RowSum sums[SUMS] = {
        {args.parts0, args.out0, args.rows0, args.columns0, args.ways0},
        {args.parts1, args.out1, args.rows1, args.columns1, args.ways1},
        {args.parts2, args.out2, args.rows2, args.columns2, args.ways2},
        {args.parts3, args.out3, args.rows3, args.columns3, args.ways3},
        {args.parts4, args.out4, args.rows4, args.columns4, args.ways4},
        {args.parts5, args.out5, args.rows5, args.columns5, args.ways5},
    };
    RowSum at = sums[0];
    unsigned block = 0, end = 0;
#pragma unroll
    for (unsigned i = 0; i < SUMS; ++i) {
        const unsigned start = end;
        end += div_ceil(sums[i].columns * sums[i].ways, VEC * THREADS);
        if (blockIdx.x >= start && blockIdx.x < end) {
            at = sums[i];
            block = blockIdx.x - start;
        }
    }

    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory); // [ways][packets][VEC]
    const unsigned packets = THREADS / at.ways;
    const unsigned slot = threadIdx.x % packets, way = threadIdx.x / packets;
    const unsigned column = (block * packets + slot) * VEC;
    const bool exists = column < at.columns;
    float sum[VEC];
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) sum[i] = 0.0f;
    if (exists) {
        const float* from = at.parts + column;
#pragma unroll 8
        for (unsigned r = way; r < at.rows; r += at.ways) {
            const Packet<float, VEC> row = load<VEC>(from + (unsigned long long)r * at.columns);
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) sum[i] += row[i];
        }
    }
    put<VEC>(shared + threadIdx.x * VEC, sum);
    __syncthreads();
    if (!exists || way != 0) return;
#pragma unroll 4
    for (unsigned other = 1; other < at.ways; ++other) {
        float theirs[VEC];
        get<VEC>(shared + (other * packets + slot) * VEC, theirs);
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) sum[i] += theirs[i];
    }
    float* out = at.out + column;
    if constexpr (ADD) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) sum[i] = out[i] + sum[i];
    }
    store<VEC>(out, sum);
}
