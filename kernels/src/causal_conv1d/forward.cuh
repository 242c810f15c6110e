// Forward pass of the packed causal convolution.
//
// What. out[t] = silu(b + sum_k w[k] * x[t - (WIDTH-1) + k]) for every channel by itself, over the tokens of t's own sequence (taps.cuh).
// Shapes and options are in mod.rs, the derivation in README.md.
//
// How. A block owns a tile of CHANNELS channels and TILE tokens: PACKETS threads side by side, VEC channels each, and WAYS of them
// behind each other in time, a run of RUN tokens each. A thread slides over its run in groups of AHEAD tokens, as taps.cuh says; while one
// group is computed the next is on its way. The PAST tokens before a run are read by two threads; they come from L1 or L2.
// Blocks are one line, channels first, so that blocks that run together read whole rows; there is no second grid axis to run out of.
//
// Boundaries are found by one search of cu_seqlens a thread, while its first loads are under way, and followed from there. Groups
// that see one sequence only take the path without decisions, in a loop of their own; both paths add the same taps in the same order, so
// a token has the same bits wherever its sequence lies.
//
// Blocks behind the last tile of tokens write the histories, one way a sequence.
//
// Cost an element (t, d): WIDTH fma, 2 special functions with silu; 2 elements moved, (RUN + PAST) / RUN of x from L2. The limit is memory.
//
// Dropped: two sets of packets, one computed and one loaded: the moves between them wait for the loads. Staging x in shared memory. Neighbouring outputs of a channel are one thread's, so there is nothing to share but the seams of
// runs.

// One thread's run.
struct Walker {
    const Args& args;
    const unsigned d, begin, limit; // first channel; first token of the run, and the first that is not of it
    Stream from_x;
    Column<io_t> to_out;
    float x[AHEAD][VEC];            // window
    const Filter f;
    Sequence in;

    __device__ Walker(const Args& args, unsigned d, unsigned begin, unsigned limit)
        : args(args), d(d), begin(begin), limit(limit), from_x(args.x, d, args.x_stride, begin, limit - 1),
          to_out(args.out, d, args.out_stride), f(args, d), in(args, sequence_of(args, begin)) {
#pragma unroll
        for (unsigned back = 1; back <= AHEAD; ++back) {
            const Io before = back < WIDTH ? from_x.fetch(begin - back) : zeros<VEC, io_t>();
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) x[place<AHEAD>(0, back)][v] = before[v];
        }
    }

    // AHEAD tokens from `base` on, those before `limit` exist.
    template <bool EDGE> __device__ void group(unsigned base) {
#pragma unroll
        for (unsigned j = 0; j < AHEAD; ++j) {
            const unsigned t = base + j;
            if constexpr (EDGE) {
                if (t >= limit) break;
                in.advance(t);
            }
            from_x.take(j, t, x[j]);
            float c[VEC];
            convolve<EDGE>(f, in, x, j, t, d, c);
            if constexpr (SILU) {
#pragma unroll
                for (unsigned v = 0; v < VEC; ++v) c[v] = silu(c[v]);
            }
            store<VEC>(to_out.row(t), c);
        }
    }

    // While whole groups see one sequence, they follow one another without decisions.
    __device__ void walk() {
        unsigned base = begin;
        while (base < limit) {
            const unsigned until = in.start + PAST <= base ? least(in.end, limit) : 0;
#pragma unroll 1
            for (; base + AHEAD <= until; base += AHEAD) group<false>(base);
            if (base < limit) group<true>(base);
            base += AHEAD;
        }
    }
};

// The last PAST inputs of sequence `s`: of its own history where it is shorter, zeros where that has none.
__device__ inline void keep_history(const Args& args, unsigned s, unsigned d) {
    const Sequence in(args, s);
    const unsigned length = in.end - in.start;
#pragma unroll
    for (unsigned row = 0; row < PAST; ++row) {
        Io kept = zeros<VEC, io_t>();
        if (length + row >= PAST) kept = load<VEC>(row_at(args.x + d, in.end - PAST + row, args.x_stride));
        else if (in.continued) kept = load<VEC>(in.past(args.history, row + length, d));
        *reinterpret_cast<decltype(kept.word)*>(in.past(args.history_out, row, d)) = kept.word;
    }
}

__device__ inline void causal_conv1d_fwd(const Args& args) {
    const Place at(args.tiles);
    const unsigned d = at.d, tiles = div_ceil(args.tokens, TILE);
    if (d >= args.d) return;
    if constexpr (LAST) {
        if (at.tile >= tiles) {
            const unsigned s = (at.tile - tiles) * WAYS + at.way;
            if (s < args.sequences) keep_history(args, s, d);
            return;
        }
    }
    const unsigned begin = at.begin(), limit = least(begin + RUN, args.tokens);
    if (begin >= limit) return;

    Walker walker(args, d, begin, limit);
    walker.walk();
}
