// Forward pass of the packed causal convolution.
//
// What. out[t] = silu(b + sum_k w[k] * x[t - (WIDTH-1) + k]) for every channel by itself, over the tokens of t's own sequence (taps.cuh).
// Shapes and options are in mod.rs, the derivation in README.md.
//
// How. A block owns a tile of CHANNELS channels and TILE tokens: PACKETS threads side by side, VEC channels each, and WAYS of them
// behind each other in time, a run of RUN tokens each. A thread slides over its run AHEAD tokens at a time; the next AHEAD are
// loaded while these are computed. The PAST tokens before a run are read by two threads; they come from L1 or L2.
// Blocks are one line, channels first, so that blocks that run together read whole rows; there is no second grid axis to run out of.
//
// Boundaries are found by one search of cu_seqlens a thread, while its first loads are under way, and followed from there. AHEAD
// tokens that see one sequence only take the path without decisions; both paths add the same taps in the same order, so
// a token has the same bits wherever its sequence lies.
//
// Blocks behind the last tile of tokens write the histories, one way a sequence.
//
// Cost an element (t, d): WIDTH fma, 2 special functions with silu; 2 elements moved, (RUN + PAST) / RUN of x from L2. The limit is memory.
//
// Dropped: staging x in shared memory. Neighbouring outputs of a channel are one thread's, so there is nothing to share but the seams of
// runs.

// AHEAD tokens from `base` on, those before `limit` exist.
template <bool EDGE>
__device__ inline void convolve_group(
    const Args& args, const Filter& f, Sequence& in, const Io (&x)[SPAN], unsigned base, unsigned limit, unsigned d) {
#pragma unroll
    for (unsigned j = 0; j < AHEAD; ++j) {
        const unsigned t = base + j;
        if constexpr (EDGE) {
            if (t >= limit) break;
            in.advance(t);
        }
        float c[VEC];
        convolve<EDGE>(f, in, x, j, t, d, c);
        if constexpr (SILU) {
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) c[i] = silu(c[i]);
        }
        store<VEC>(row_at(args.out + d, t, args.out_stride), c);
    }
}

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

    // Before token 0 the index wraps around to what lies behind every limit.
    Io x[SPAN];
#pragma unroll
    for (unsigned i = 0; i < SPAN; ++i) x[i] = load_token(args.x + d, begin + i - PAST, limit, args.x_stride);
    const Filter filter(args, d);
    Sequence in(args, sequence_of(args, begin));

#pragma unroll 1
    for (unsigned base = begin; base < limit; base += AHEAD) {
        Io next[AHEAD];
#pragma unroll
        for (unsigned j = 0; j < AHEAD; ++j) next[j] = load_token(args.x + d, base + AHEAD + j, limit, args.x_stride);

        if (in.start + PAST <= base && base + AHEAD <= in.end) convolve_group<false>(args, filter, in, x, base, limit, d);
        else convolve_group<true>(args, filter, in, x, base, limit, d);

#pragma unroll
        for (unsigned i = 0; i < PAST; ++i) x[i] = x[i + AHEAD];
#pragma unroll
        for (unsigned j = 0; j < AHEAD; ++j) x[PAST + j] = next[j];
    }
}
