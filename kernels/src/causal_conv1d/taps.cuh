// The taps of the causal convolution: what its forward and its backward pass share.
//
// What. An output of token t sees WIDTH inputs: its own and the PAST = WIDTH - 1 before it, as far as its sequence reaches. Before a fresh
// sequence there is nothing, before a continued one its history: PAST rows, the oldest first.
//
// How. A thread owns VEC neighbouring channels and a run of RUN tokens, and keeps the inputs that it still needs in registers as they were
// loaded. The tokens before the run are loaded whatever sequence they belong to, since an address must not wait for a search;
// `see` then decides for each tap what it sees. Inside a sequence (EDGE is false) that is always the register, and the decision
// costs nothing: callers ask once for AHEAD tokens whether a boundary is near.
//
// A tap that sees nothing is left out of the sum. It is not multiplied by zero: 0 * NaN is NaN, and what lies before a
// boundary is another sequence's.

constexpr unsigned PAST = WIDTH - 1;
constexpr unsigned SPAN = PAST + AHEAD; // tokens in registers: those that AHEAD tokens see

using Io = Packet<io_t, VEC>;

// Where a thread works.
struct Place {
    unsigned slot, way; // packet of the block, and which of its threads
    unsigned tile;      // of tokens; behind the last of them, of sequences
    unsigned d;         // first channel

    __device__ explicit Place(unsigned tiles)
        : slot(threadIdx.x % PACKETS), way(threadIdx.x / PACKETS), tile(blockIdx.x / tiles) {
        d = blockIdx.x % tiles * CHANNELS + slot * VEC;
    }

    // First token of the run.
    __device__ unsigned begin() const { return tile * TILE + way * RUN; }
};

// Weights and biases of a thread's channels.
struct Filter {
    float w[VEC * WIDTH]; // (VEC, WIDTH)
    float b[VEC];

    __device__ Filter(const Args& args, unsigned d) {
        get<VEC>(args.w + (unsigned long long)d * WIDTH, w);
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) b[i] = 0.0f;
        if constexpr (BIAS) get<VEC>(args.b + d, b);
    }
};

// A sequence of the pack.
struct Sequence {
    const Args& args;
    unsigned index, start, end;
    bool continued;

    __device__ Sequence(const Args& args, unsigned index) : args(args) { enter(index); }

    __device__ void enter(unsigned s) {
        index = s;
        start = args.cu_seqlens[s];
        end = args.cu_seqlens[s + 1];
        continued = INITIAL && args.continued[s] != 0;
    }

    // Goes on to the sequence of token `t` of the pack, past empty ones.
    __device__ void advance(unsigned t) {
        while (t >= end) enter(index + 1);
    }

    // Where these channels are in row `row` of a (S, PAST, D) tensor's part for this sequence.
    template <typename T> __device__ T* past(T* tensor, unsigned row, unsigned d) const {
        return tensor + ((unsigned long long)index * PAST + row) * args.d + d;
    }
};

// The sequence of token `t`: the last that starts there or before. Empty ones come before it.
__device__ inline unsigned sequence_of(const Args& args, unsigned t) {
    unsigned low = 0, high = args.sequences;
    while (high - low > 1) {
        const unsigned middle = low + (high - low) / 2;
        if (args.cu_seqlens[middle] <= t) low = middle;
        else high = middle;
    }
    return low;
}

// Loads token `t` if there is one before `limit`; else what is never used.
__device__ inline Io load_token(const io_t* from, unsigned t, unsigned limit, long long stride) {
    return t < limit ? load<VEC>(row_at(from, t, stride)) : zeros<VEC, io_t>();
}

// What tap `k` of token `t` sees, and whether it sees anything. `x` are tokens in order, `x[j + PAST]` is token `t`.
template <bool EDGE, unsigned SIZE>
__device__ inline bool see(const Sequence& in, const Io (&x)[SIZE], unsigned j, unsigned t, unsigned k, unsigned d, Io& seen) {
    const unsigned back = PAST - k, age = t - in.start;
    if (EDGE && age < back) {
        if (!in.continued) return false;
        seen = load<VEC>(in.past(in.args.history, PAST + age - back, d));
        return true;
    }
    seen = x[j + k];
    return true;
}

// b + sum_k w[k] * x[t - PAST + k], the oldest tap first.
template <bool EDGE, unsigned SIZE>
__device__ inline void convolve(const Filter& f, const Sequence& in, const Io (&x)[SIZE], unsigned j, unsigned t, unsigned d, float (&c)[VEC]) {
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) c[i] = f.b[i];
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) {
        Io seen;
        if (!see<EDGE>(in, x, j, t, k, d, seen)) continue;
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) c[i] = fma(f.w[i * WIDTH + k], seen[i], c[i]);
    }
}
