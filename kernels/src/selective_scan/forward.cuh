// Forward pass of the packed selective scan.
//
// What. For every channel d and state n of every sequence, h[t] = exp(delta*A) * h[t-1] + delta*u*B, y = sum_n C*h, with
// h[t] = delta*u*B where t starts a sequence. Shapes and options are in mod.rs, the derivation in README.md.
//
// How. A block owns CHANNELS channels of one group of whole sequences (grid x: channel tiles, grid y: groups) and walks
// the group's tokens in chunks of CHUNK, aligned to absolute multiples of CHUNK so that checkpoints do not depend on the
// grouping. For each chunk
//   1. every thread turns the words that it loaded during the previous chunk into (delta, delta*u), B and C in shared memory,
//   2. the loads of the next chunk are issued, to be waited for one chunk later,
//   3. LANES neighbouring lanes share a channel and keep LANE_STATES states each in registers: they walk the tokens,
//   4. every thread gates and stores the outputs whose u it still holds.
// Two barriers a chunk: after 1, so that step 3 reads what others staged; after 3, so that step 4 reads what others summed
// and the next step 1 overwrites what nobody reads any more.
//
// The trick. Summing y over the lanes of a channel costs log2(LANES) shuffles a token if done token by token. Done for
// GROUP tokens at once it is a transposition: each exchange halves the tokens that a lane still cares for, so GROUP tokens
// cost GROUP - 1 shuffles. Every token's tree pairs the same lanes in the same order, so a token's bits do not depend on its
// place in the group, and a sequence has the same bits wherever it lies.
//
// A boundary is a branch on cu_seqlens, the same for the whole block, so a reset costs nothing between boundaries; and it is a
// choice: at a fresh start neither the old state nor its decay enters an instruction. Nothing else branches on data.
//
// Cost an element (t, d, n): 4 float instructions and 1 exponential, plus (LANES-1)/LANES/LANE_STATES shuffles and their selects, plus
// 3 shared loads for each 4 states. Bytes an element (t, d): u, delta, z read, out written, 4*N/CHUNK for a checkpoint.
// The limit is the special-function pipe: 16 exponentials a clock and multiprocessor.
//
// Dropped: saving exponentials at padded states (LANES that do not divide STATE waste some; the tuner sees it).

constexpr unsigned WARP = 32;
constexpr unsigned ROW = LANES * LANE_STATES;            // states of a channel, padded
constexpr unsigned ROWS_A_PASS = LANES * VEC;            // rows of a (CHUNK, CHANNELS) tile that the block moves at once
constexpr unsigned PASSES = div_ceil(CHUNK, ROWS_A_PASS);
constexpr unsigned STATE_PACKETS = CHUNK * (STATE / STATE_VEC);
constexpr unsigned STATE_PASSES = div_ceil(STATE_PACKETS, THREADS);
// Neighbouring states that a lane keeps, so that B and C come in wide loads from neighbouring banks.
constexpr unsigned RUN = LANE_STATES % 4 == 0 ? 4 : LANE_STATES % 2 == 0 ? 2 : 1;

using Io = Packet<io_t, VEC>;
using StateIo = Packet<io_t, STATE_VEC>;

// Shared memory of a block; `mod.rs` computes the same size.
struct Staged {
    float2 step[CHUNK][CHANNELS];       // (delta, delta*u)
    float b[CHUNK][ROW];
    float c[CHUNK][ROW];
    float y[CHUNK][CHANNELS + SUM_PAD]; // padded so that the lanes of a channel, one row apart, write to different banks
};

// The state that lane `lane` keeps in its register `i`.
__device__ inline unsigned state_of(unsigned lane, unsigned i) { return (i / RUN) * (LANES * RUN) + lane * RUN + i % RUN; }

// This lane's share of a padded row of B or C.
__device__ inline void load_row(const float* row, unsigned lane, float (&to)[LANE_STATES]) {
#pragma unroll
    for (unsigned i = 0; i < LANE_STATES; i += RUN) {
        const float* from = row + state_of(lane, i);
        if constexpr (RUN == 4) {
            const float4 v = *reinterpret_cast<const float4*>(from);
            to[i] = v.x; to[i + 1] = v.y; to[i + 2] = v.z; to[i + 3] = v.w;
        } else if constexpr (RUN == 2) {
            const float2 v = *reinterpret_cast<const float2*>(from);
            to[i] = v.x; to[i + 1] = v.y;
        } else {
            to[i] = *from;
        }
    }
}

static_assert(sizeof(Staged) == SHARED_BYTES, "mod.rs computes another size");

// What a thread moves between global and shared memory: always the same VEC channels, rows ROWS_A_PASS apart.
struct Mover {
    const Args& args;
    unsigned begin, end;           // tokens of the group
    unsigned tid, column, row;     // of the tile: first channel and first row of this thread
    unsigned d;                    // first channel of this thread in the tensors
    float bias[VEC], skip[VEC];
    Io u[PASSES], next_u[PASSES], next_delta[PASSES], z[PASSES];
    StateIo next_b[STATE_PASSES], next_c[STATE_PASSES];

    __device__ Mover(const Args& args, unsigned begin, unsigned end) : args(args), begin(begin), end(end), tid(threadIdx.x) {
        column = tid % (CHANNELS / VEC) * VEC;
        row = tid / (CHANNELS / VEC);
        d = blockIdx.x * CHANNELS + column;
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            const bool inside = d + i < args.d;
            bias[i] = BIAS && inside ? args.delta_bias[d + i] : 0.0f;
            skip[i] = SKIP && inside ? args.d_skip[d + i] : 0.0f;
        }
    }

    // Whether row `r` of the chunk at `base` is a token of the group, and this thread's channels exist.
    __device__ bool has(unsigned base, unsigned r) const {
        return r < CHUNK && base + r >= begin && base + r < end && d < args.d;
    }

    __device__ static Io fetch(const io_t* from, long long stride, unsigned t, unsigned d, bool wanted) {
        return wanted ? load<VEC>(from + t * stride + d) : zeros<VEC, io_t>();
    }

    // Step 2: starts the loads of the chunk at `base`.
    __device__ void prefetch(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned r = row + k * ROWS_A_PASS;
            next_u[k] = fetch(args.u, args.u_stride, base + r, d, has(base, r));
            next_delta[k] = fetch(args.delta, args.delta_stride, base + r, d, has(base, r));
        }
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = tid + k * THREADS;
            const unsigned t = base + packet / (STATE / STATE_VEC);
            const unsigned n = packet % (STATE / STATE_VEC) * STATE_VEC;
            const bool inside = packet < STATE_PACKETS && t >= begin && t < end;
            next_b[k] = inside ? load<STATE_VEC>(args.b + t * args.b_stride + n) : zeros<STATE_VEC, io_t>();
            next_c[k] = inside ? load<STATE_VEC>(args.c + t * args.c_stride + n) : zeros<STATE_VEC, io_t>();
        }
    }

    // Starts the loads of z for the chunk at `base`, which step 4 needs.
    __device__ void prefetch_gate(unsigned base) {
        if constexpr (GATE) {
#pragma unroll
            for (unsigned k = 0; k < PASSES; ++k) {
                const unsigned r = row + k * ROWS_A_PASS;
                z[k] = fetch(args.z, args.z_stride, base + r, d, has(base, r));
            }
        }
    }

    // Step 1: what was loaded for the chunk at `base` goes to shared memory. Rows that are no token of the group become zeros,
    // which leave every state as it is.
    __device__ void stage(Staged& shared, unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned r = row + k * ROWS_A_PASS;
            u[k] = next_u[k];
            if (r >= CHUNK) continue;
            const bool inside = has(base, r);
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                float delta = next_delta[k][i] + bias[i];
                if constexpr (SOFTPLUS) delta = softplus(delta);
                delta = inside ? delta : 0.0f;
                shared.step[r][column + i] = make_float2(delta, delta * u[k][i]);
            }
        }
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = tid + k * THREADS;
            if (packet >= STATE_PACKETS) continue;
            const unsigned r = packet / (STATE / STATE_VEC);
            const unsigned n = packet % (STATE / STATE_VEC) * STATE_VEC;
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) {
                shared.b[r][n + i] = next_b[k][i];
                shared.c[r][n + i] = next_c[k][i];
            }
        }
    }

    // Step 4: out = (y + D*u) * silu(z).
    __device__ void finish(const Staged& shared, unsigned base) const {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned r = row + k * ROWS_A_PASS;
            if (!has(base, r)) continue;
            float values[VEC];
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                values[i] = shared.y[r][column + i];
                if constexpr (SKIP) values[i] = fma(skip[i], u[k][i], values[i]);
                if constexpr (GATE) values[i] = values[i] * silu(z[k][i]);
            }
            store<VEC>(args.out + (base + r) * args.out_stride + d, values);
        }
    }
};

// The LANE_STATES states of one channel that one lane keeps, and the sequence that they belong to.
struct Scanner {
    const Args& args;
    unsigned channel, lane;        // of the tile, of the channel
    unsigned d;                    // channel in the tensors
    unsigned seq, last_seq;        // current sequence; one past the group's last. Before the first: one less
    unsigned begin;                // first token of the group
    unsigned ends;                 // token at which the current sequence ends
    bool fresh;                    // the next token starts a sequence that continues nothing
    float a2[LANE_STATES];         // A * log2(e)
    float h[LANE_STATES];

    __device__ Scanner(const Args& args, unsigned first_seq, unsigned last_seq, unsigned begin)
        : args(args), seq(first_seq - 1), last_seq(last_seq), begin(begin), ends(begin), fresh(false) {
        channel = threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        d = blockIdx.x * CHANNELS + channel;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            const unsigned n = state_of(lane, i);
            a2[i] = d < args.d && n < STATE ? args.a[(long long)d * STATE + n] * LOG2E : 0.0f;
            h[i] = 0.0f;
        }
    }

    // Offset of state 0 of this channel in row `row` of a (_, D, STATE) tensor.
    __device__ long long states_at(unsigned row) const { return ((long long)row * args.d + d) * STATE; }

    __device__ void save(float* to, unsigned row) const {
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            const unsigned n = state_of(lane, i);
            if (d < args.d && n < STATE) to[states_at(row) + n] = h[i];
        }
    }

    // Opens the sequence that starts at token `t`, if one does, and the empty ones before it.
    __device__ void advance(unsigned t) {
        while (t == ends && seq + 1 < last_seq) {
            ++seq;
            ends = args.cu_seqlens[seq + 1];
            fresh = !INITIAL || args.continued[seq] == 0;
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) {
                const unsigned n = state_of(lane, i);
                h[i] = 0.0f;
                if constexpr (INITIAL) {
                    if (!fresh && d < args.d && n < STATE) h[i] = args.initial_state[states_at(seq) + n];
                }
            }
            if (LAST && t == ends) save(args.final_state, seq);
        }
    }

    // One token: updates the states and returns this lane's part of y.
    template <bool FRESH> __device__ float step(const Staged& shared, unsigned r) {
        const float2 step = shared.step[r][channel];
        float b[LANE_STATES], c[LANE_STATES];
        load_row(shared.b[r], lane, b);
        load_row(shared.c[r], lane, c);
        float y = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            const float x = step.y * b[i];
            h[i] = FRESH ? x : fma(ex2(step.x * a2[i]), h[i], x);
            y = fma(c[i], h[i], y);
        }
        return y;
    }

    // The sum over the lanes of a channel, for GROUP tokens at once: lane l returns that of token l / (LANES / GROUP).
    __device__ float sum_over_lanes(float (&y)[GROUP]) const {
        unsigned tokens = GROUP;
#pragma unroll
        for (unsigned mask = LANES / 2; mask > 0; mask /= 2) {
            if (tokens == 1) {
                y[0] += __shfl_xor_sync(0xffffffff, y[0], mask);
                continue;
            }
            tokens /= 2;
            const bool upper = lane & mask;
#pragma unroll
            for (unsigned j = 0; j < tokens; ++j) {
                const float kept = upper ? y[j + tokens] : y[j];
                const float sent = upper ? y[j] : y[j + tokens];
                y[j] = kept + __shfl_xor_sync(0xffffffff, sent, mask);
            }
        }
        return y[0];
    }

    // Step 3: the tokens of the chunk at `base`.
    __device__ void scan(Staged& shared, unsigned base) {
#pragma unroll 1
        for (unsigned g = 0; g < CHUNK; g += GROUP) {
            float y[GROUP];
#pragma unroll
            for (unsigned j = 0; j < GROUP; ++j) {
                const unsigned t = base + g + j;
                advance(t);
                y[j] = fresh ? step<true>(shared, g + j) : step<false>(shared, g + j);
                fresh = false;
                if (LAST && t >= begin && t + 1 == ends) save(args.final_state, seq);
            }
            const float sum = sum_over_lanes(y);
            if (lane % (LANES / GROUP) == 0) shared.y[g + lane / (LANES / GROUP)][channel] = sum;
        }
    }
};

__device__ inline void selective_scan_fwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = *reinterpret_cast<Staged*>(shared_memory);

    const unsigned first_seq = args.group_starts[blockIdx.y], last_seq = args.group_starts[blockIdx.y + 1];
    const unsigned begin = args.cu_seqlens[first_seq], end = args.cu_seqlens[last_seq];

    // States that only pad a row of B and C stay zero in shared memory for good.
    if constexpr (ROW != STATE) {
        for (unsigned i = threadIdx.x; i < CHUNK * (ROW - STATE); i += THREADS) {
            const unsigned r = i / (ROW - STATE), n = STATE + i % (ROW - STATE);
            shared.b[r][n] = 0.0f;
            shared.c[r][n] = 0.0f;
        }
    }

    Mover mover(args, begin, end);
    Scanner scanner(args, first_seq, last_seq, begin);
    unsigned base = begin - begin % CHUNK;
    if (base < end) mover.prefetch(base);
    for (; base < end; base += CHUNK) {
        mover.stage(shared, base);
        __syncthreads();
        mover.prefetch(base + CHUNK);
        mover.prefetch_gate(base);
        if (CHECKPOINTS && base >= begin) {
            scanner.advance(base);
            scanner.save(args.checkpoints_out, base / CHUNK);
        }
        scanner.scan(shared, base);
        __syncthreads();
        mover.finish(shared, base);
    }
    scanner.advance(end);
}
