// The taps of the causal convolution: what its forward and its backward pass share.
//
// What. An output of token t sees WIDTH inputs: its own and the PAST = WIDTH - 1 before it, as far as its sequence reaches. Before a fresh
// sequence there is nothing, before a continued one its history: PAST rows, the oldest first.
//
// How. A thread owns VEC neighbouring channels and slides over its run in groups of AHEAD tokens. Its window is the last AHEAD tokens as
// floats, converted once for the WIDTH outputs that see them: token base + j of a group takes the place j of the token AHEAD before it. Places
// are constants, so that nothing moves when the window does. What comes next is on its way in as many packets (`Stream`): whoever takes one starts the
// load of the token AHEAD behind into the same registers. Loads have no condition, for the move that takes a load under one waits for it at
// once; in place of a token that is not needed they read one that exists, and nobody uses it.
//
// The tokens before the run are loaded whatever sequence they belong to, since an address must not wait for a search;
// `see` then decides for each tap what it sees. Inside a sequence (EDGE is false) that is always the window, and the decision
// costs nothing: callers ask once for AHEAD tokens whether a boundary is near.
//
// A tap that sees nothing is left out of the sum. It is not multiplied by zero: 0 * NaN is NaN, and what lies before a
// boundary is another sequence's.

constexpr unsigned PAST = WIDTH - 1;

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

// The place in a window of SIZE tokens of the one `back` before that at place `j`.
template <unsigned SIZE> constexpr unsigned place(unsigned j, unsigned back) { return (j + SIZE - back) % SIZE; }

// A tensor's tokens on their way to a thread, AHEAD of them.
struct Stream {
    Column<const io_t> from;
    unsigned last;     // token that is loaded in place of those behind it, and of those before the first, whose numbers wrap around
    Io coming[AHEAD];

    __device__ Stream(const io_t* tensor, unsigned d, long long stride, unsigned base, unsigned last) : from(tensor, d, stride), last(last) {
#pragma unroll
        for (unsigned j = 0; j < AHEAD; ++j) coming[j] = fetch(base + j);
    }

    __device__ Io fetch(unsigned t) const { return load<VEC>(from.row(least(t, last))); }

    // Token `t`, the j-th of its group.
    __device__ void take(unsigned j, unsigned t, float (&to)[VEC]) {
#pragma unroll
        for (unsigned v = 0; v < VEC; ++v) to[v] = coming[j][v];
        coming[j] = fetch(t + AHEAD);
    }
};

// What tap `k` of token `t` sees, and whether it sees anything. `x` is a window with token `t` at place `j`.
template <bool EDGE, unsigned SIZE>
__device__ inline bool see(
    const Sequence& in, const float (&x)[SIZE][VEC], unsigned j, unsigned t, unsigned k, unsigned d, float (&seen)[VEC]) {
    const unsigned back = PAST - k, age = t - in.start;
    if (EDGE && age < back) {
        if (!in.continued) return false;
        const Io row = load<VEC>(in.past(in.args.history, PAST + age - back, d));
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) seen[i] = row[i];
        return true;
    }
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) seen[i] = x[place<SIZE>(j, back)][i];
    return true;
}

// b + sum_k w[k] * x[t - PAST + k], the oldest tap first.
template <bool EDGE, unsigned SIZE>
__device__ inline void convolve(
    const Filter& f, const Sequence& in, const float (&x)[SIZE][VEC], unsigned j, unsigned t, unsigned d, float (&c)[VEC]) {
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) c[i] = f.b[i];
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) {
        float seen[VEC] = {};
        if (!see<EDGE>(in, x, j, t, k, d, seen)) continue;
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) c[i] = fma(f.w[i * WIDTH + k], seen[i], c[i]);
    }
}
