// Sums of rows, in an order that is fixed by the sizes and the variant alone.
//
// What. out[b, c] (+)= sum over r of parts[b, r, c], for rows that belong to nobody (sum_rows) or to a token (sum_rows_tokens, of two tensors
// of one shape, grid y: dB and dC in one launch).
//
// How. All (b, c) lie in one line, cut into packets of VEC neighbouring columns. A block takes PACKETS of them and WAYS threads for
// each: way w adds rows w, w + WAYS, w + 2*WAYS, ... in this order, so that neighbouring threads read neighbouring
// columns and many rows are in flight where columns are few. Then the first way adds the other ways' sums in their order, from shared
// memory, one barrier away.
//
// Why no atomics. An atomic adds in the order in which blocks come to it, which is another one each run; here the order of
// additions is the same in every run, on every GPU, for every grid.
//
// Cost. 4 bytes read and one addition an element of parts; the limit is memory. Dropped: a tree in place of the last way's chain, at most
// 31 additions a packet.

constexpr unsigned WIDTH = PACKETS * VEC; // columns of a block

// Where one thread stands.
struct Place {
    unsigned slot, way;             // packet of the block, and which of its threads
    unsigned long long packet;      // of all
    unsigned long long group;
    unsigned column;

    __device__ explicit Place(unsigned columns) {
        slot = threadIdx.x % PACKETS;
        way = threadIdx.x / PACKETS;
        packet = (unsigned long long)blockIdx.x * PACKETS + slot;
        group = packet / (columns / VEC);
        column = unsigned(packet % (columns / VEC)) * VEC;
    }
};

// The sum of all rows of this thread's packet; whole only in the first way. Every thread of the block comes here.
__device__ inline void sum_packet(const Place& at, const float* parts, unsigned rows, unsigned columns, bool exists, float (&sum)[VEC]) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory); // [WAYS][WIDTH]
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) sum[i] = 0.0f;
    if (exists) {
        const float* from = parts + at.group * rows * columns + at.column;
#pragma unroll 8
        for (unsigned r = at.way; r < rows; r += WAYS) {
            const Packet<float, VEC> row = load<VEC>(from + (unsigned long long)r * columns);
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) sum[i] += row[i];
        }
    }
    if constexpr (WAYS > 1) {
        put<VEC>(shared + at.way * WIDTH + at.slot * VEC, sum);
        __syncthreads();
        if (at.way == 0) {
#pragma unroll 4
            for (unsigned way = 1; way < WAYS; ++way) {
                float other[VEC];
                get<VEC>(shared + way * WIDTH + at.slot * VEC, other);
#pragma unroll
                for (unsigned i = 0; i < VEC; ++i) sum[i] += other[i];
            }
        }
    }
}

// Templates, because `Args` has the sizes and the strides of one of the two kernels only.
template <typename A> __device__ inline void sum_rows(const A& args) {
    const Place at(args.columns);
    const bool exists = at.group < args.groups;
    float sum[VEC];
    sum_packet(at, args.parts, args.rows, args.columns, exists, sum);
    if (!exists || at.way != 0) return;
    auto* out = args.out + at.packet * VEC;
    if constexpr (ADD) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) sum[i] = to_float(out[i]) + sum[i];
    }
    store<VEC>(out, sum);
}

template <typename A> __device__ inline void sum_rows_tokens(const A& args) {
    const Place at(args.columns);
    const bool exists = at.group < args.tokens, is_second = blockIdx.y == 1;
    float sum[VEC];
    sum_packet(at, is_second ? args.second_parts : args.first_parts, args.rows, args.columns, exists, sum);
    if (!exists || at.way != 0) return;
    const auto stride = is_second ? args.second_stride : args.first_stride;
    store<VEC>(row_at((is_second ? args.second : args.first) + at.column, unsigned(at.group), stride), sum);
}
