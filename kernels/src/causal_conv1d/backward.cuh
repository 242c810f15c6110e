// Backward pass of the packed causal convolution.
//
// What. With c the sum before silu and g the gradient of out,
//
//     p[t]  = g * silu'(c)                          c is computed again from x
//     dx[s] = sum_k w[k] * p[s + PAST - k]          over tokens of s's own sequence
//     dw[k] = sum_t p[t] * x[t - PAST + k]          db = sum_t p[t]
//
// and the gradients of a continued sequence's history, of which the rows are inputs like any other, and of the history that the
// sequence left behind, whose rows were inputs of it.
//
// How. Tiles, threads, groups and boundaries as in forward.cuh. A thread keeps p of the last tokens in a window beside that of x, and so has dx of the
// token PAST before each whose p it makes. A first group makes p of the run's first PAST tokens, and the groups that follow lead by PAST:
// they make p of the tokens from begin + PAST on and dx of those from begin on. The PAST tokens behind a run are so worked on
// twice, but the parameters' gradients count only what the groups after the first lead, which cuts the pack just as well: no group
// asks whose a token is. Run 0 alone counts its first tokens too. `in` follows the sequence of the tokens whose dx is made, a group's
// `lead` that of the tokens whose p is.
//
// dw and db are summed in registers along the run, in the order of tokens, then over the WAYS of the block in their order through shared
// memory, one barrier; each tile writes its sums, and sum_rows adds the tiles in their order. No atomics: every bit is repeatable.
//
// Blocks behind the last tile of tokens make the gradients of histories from the first PAST tokens of each sequence.
//
// Cost an element (t, d): 3 * WIDTH fma, 2 special functions and about 7 more with silu, 2 or 3 conversions: 28 instructions in all with 4 taps,
// where 45 would fill the issue slots in the time of its bytes; 3 elements moved, (RUN + 2 * PAST) / RUN of x and (RUN + PAST) / RUN of g
// from L2; 4 * (WIDTH + 1) / TILE bytes of sums. The limit is memory, with issue slots behind.
//
// Dropped: keeping c from forward. It would cost as many bytes again as it saves instructions. A window that is moved, and a question for each
// token whether it is the run's own: 48 instructions.

constexpr unsigned SUMS = WIDTH + BIAS; // that a channel has

// What reaches the sum before silu.
__device__ inline void slopes(const float (&c)[VEC], const float (&g)[VEC], float (&p)[VEC]) {
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) {
        p[i] = g[i];
        if constexpr (SILU) {
            const float s = sigmoid(c[i]);
            p[i] = p[i] * (s * fma(c[i], 1.0f - s, 1.0f));
        }
    }
}

// One thread's run: what it knows and what it sums.
struct Walker {
    const Args& args;
    const unsigned d, begin, limit, last; // first channel; first token of the run, first that is not of it, last whose p is needed
    Stream from_x, from_g;
    Column<io_t> to_dx;
    float x[AHEAD][VEC], p[AHEAD][VEC];   // windows
    float dw[VEC * WIDTH], db[VEC];
    const Filter f;
    Sequence in;                          // of the last token whose dx was made

    // The first group makes p of the run's first PAST tokens and nothing else.
    __device__ unsigned first() const { return begin + PAST - AHEAD; }

    __device__ Walker(const Args& args, unsigned d, unsigned begin, unsigned limit)
        : args(args), d(d), begin(begin), limit(limit), last(least(begin + RUN + PAST, args.tokens) - 1),
          from_x(args.x, d, args.x_stride, first(), last), from_g(args.g, d, args.g_stride, first(), last),
          to_dx(args.dx, d, args.dx_stride), f(args, d), in(args, sequence_of(args, begin)) {
#pragma unroll
        for (unsigned back = 1; back <= AHEAD; ++back) {
            const bool seen = back + AHEAD <= 2 * PAST;
            const Io before = seen ? from_x.fetch(first() - back) : zeros<VEC, io_t>();
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) {
                x[place<AHEAD>(0, back)][v] = before[v];
                p[place<AHEAD>(0, back)][v] = 0.0f;
            }
        }
#pragma unroll
        for (unsigned i = 0; i < VEC * WIDTH; ++i) dw[i] = 0.0f;
#pragma unroll
        for (unsigned v = 0; v < VEC; ++v) db[v] = 0.0f;
    }

    // p of token `t` of sequence `lead`, the j-th of the group, and what it adds to the parameters' gradients.
    template <bool EDGE> __device__ void lead_token(const Sequence& lead, unsigned j, unsigned t, const float (&g)[VEC]) {
        float c[VEC];
        if constexpr (SILU) convolve<EDGE>(f, lead, x, j, t, d, c);
        slopes(c, g, p[j]);
        if (EDGE && t - begin < PAST && begin > 0) return; // the run before added it
#pragma unroll
        for (unsigned k = 0; k < WIDTH; ++k) {
            float seen[VEC] = {};
            if (!see<EDGE>(lead, x, j, t, k, d, seen)) continue;
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) dw[v * WIDTH + k] = fma(p[j][v], seen[v], dw[v * WIDTH + k]);
        }
#pragma unroll
        for (unsigned v = 0; v < VEC; ++v) db[v] = db[v] + p[j][v];
    }

    // dx of token `s`, PAST before the j-th of the group: the taps that saw it, its own first.
    template <bool EDGE> __device__ void tail_token(unsigned j, unsigned s) {
        float dx[VEC];
#pragma unroll
        for (unsigned v = 0; v < VEC; ++v) dx[v] = 0.0f;
#pragma unroll
        for (unsigned later = 0; later < WIDTH; ++later) {
            if (EDGE && s + later >= in.end) continue;
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) dx[v] = fma(f.w[v * WIDTH + PAST - later], p[place<AHEAD>(j, PAST - later)][v], dx[v]);
        }
        if constexpr (EDGE && LAST) {
            if (s + PAST >= in.end) {
                const Io kept = load<VEC>(in.past(args.d_history_out, s + PAST - in.end, d));
#pragma unroll
                for (unsigned v = 0; v < VEC; ++v) dx[v] = dx[v] + kept[v];
            }
        }
        store<VEC>(to_dx.row(s), dx);
    }

    // AHEAD tokens from `base` on. Before the pack and before the run, differences wrap around.
    template <bool EDGE> __device__ void group(unsigned base) {
        Sequence lead = in;
#pragma unroll
        for (unsigned j = 0; j < AHEAD; ++j) {
            const unsigned t = base + j, s = t - PAST;
            float g[VEC];
            from_x.take(j, t, x[j]);
            from_g.take(j, t, g);
            if (!EDGE || t - begin <= last - begin) {
                if constexpr (EDGE) lead.advance(t);
                lead_token<EDGE>(lead, j, t, g);
            }
            if (!EDGE || s - begin < limit - begin) {
                if constexpr (EDGE) in.advance(s);
                tail_token<EDGE>(j, s);
            }
        }
    }

    // While whole groups see one sequence, they follow one another without decisions.
    __device__ void walk() {
        unsigned base = first();
        do {
            group<true>(base);
            base += AHEAD;
            // `in` is that of token base - PAST - 1 or of the run's first, so it started PAST tokens ago at least.
            const unsigned until = least(in.end, limit + PAST);
#pragma unroll 1
            for (; base + AHEAD <= until; base += AHEAD) group<false>(base);
        } while (base - PAST < limit);
    }

    // This thread's sums to shared memory, [WAYS][SUMS][CHANNELS].
    __device__ void hand_over(float* shared, const Place& at) const {
#pragma unroll
        for (unsigned k = 0; k < WIDTH; ++k) {
            float column[VEC];
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) column[v] = dw[v * WIDTH + k];
            put<VEC>(shared + (at.way * SUMS + k) * CHANNELS + at.slot * VEC, column);
        }
        if constexpr (BIAS) put<VEC>(shared + (at.way * SUMS + WIDTH) * CHANNELS + at.slot * VEC, db);
    }
};

// The sums of the block's ways that were handed over; the first `ways` of them have tokens.
__device__ inline void sum_ways(const Args& args, const float* shared, unsigned tile, unsigned ways) {
    const unsigned first = blockIdx.x % args.tiles * CHANNELS;
    const unsigned long long row = (unsigned long long)tile * args.d + first;
    for (unsigned i = threadIdx.x; i < CHANNELS * SUMS; i += THREADS) {
        // In the order of dw_parts, channel by channel, then those of db_parts.
        const bool bias = i >= CHANNELS * WIDTH;
        const unsigned channel = bias ? i - CHANNELS * WIDTH : i / WIDTH, k = bias ? WIDTH : i % WIDTH;
        if (first + channel >= args.d) continue;
        float sum = 0.0f;
        for (unsigned way = 0; way < ways; ++way) sum += shared[(way * SUMS + k) * CHANNELS + channel];
        if (BIAS && bias) args.db_parts[row + channel] = sum;
        else args.dw_parts[row * WIDTH + i] = sum;
    }
}

// The gradient of the history that sequence `s` started from: zeros if it is fresh.
__device__ inline void history_gradient(const Args& args, unsigned s, unsigned d) {
    const Sequence in(args, s);
    const unsigned length = in.end - in.start;
    float dh[PAST][VEC];
#pragma unroll
    for (unsigned row = 0; row < PAST; ++row) {
#pragma unroll
        for (unsigned v = 0; v < VEC; ++v) dh[row][v] = 0.0f;
    }
    if (in.continued) {
        const Filter f(args, d);
        float x[PAST][VEC] = {}; // what these tokens see of the sequence
        // Token start + n saw row `row` with tap row - n.
#pragma unroll
        for (unsigned n = 0; n < PAST; ++n) {
            if (n >= length) break;
            const Io of_x = load<VEC>(row_at(args.x + d, in.start + n, args.x_stride));
            const Io of_g = load<VEC>(row_at(args.g + d, in.start + n, args.g_stride));
            float c[VEC], g[VEC], p[VEC];
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) {
                x[n][v] = of_x[v];
                g[v] = of_g[v];
            }
            if constexpr (SILU) convolve<true>(f, in, x, n, in.start + n, d, c);
            slopes(c, g, p);
#pragma unroll
            for (unsigned row = n; row < PAST; ++row) {
#pragma unroll
                for (unsigned v = 0; v < VEC; ++v) dh[row][v] = fma(f.w[v * WIDTH + row - n], p[v], dh[row][v]);
            }
        }
        // Of a sequence shorter than that, the newest rows were handed on.
#pragma unroll
        for (unsigned row = 0; row < PAST; ++row) {
            if (!LAST || row < length) continue;
            const Io kept = load<VEC>(in.past(args.d_history_out, row - length, d));
#pragma unroll
            for (unsigned v = 0; v < VEC; ++v) dh[row][v] = dh[row][v] + kept[v];
        }
    }
#pragma unroll
    for (unsigned row = 0; row < PAST; ++row) store<VEC>(in.past(args.d_history, row, d), dh[row]);
}

__device__ inline void causal_conv1d_bwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory);
    const Place at(args.tiles);
    const unsigned d = at.d;
    if constexpr (INITIAL) {
        if (at.tile >= args.parts) {
            const unsigned s = (at.tile - args.parts) * WAYS + at.way;
            if (s < args.sequences && d < args.d) history_gradient(args, s, d);
            return;
        }
    }
    const unsigned begin = at.begin(), limit = least(begin + RUN, args.tokens);
    if (begin < limit && d < args.d) {
        Walker walker(args, d, begin, limit);
        walker.walk();
        walker.hand_over(shared, at);
    }
    __syncthreads();
    sum_ways(args, shared, at.tile, least(WAYS, div_ceil(args.tokens - at.tile * TILE, RUN)));
}
