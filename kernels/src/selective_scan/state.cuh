// What a segment of a sequence does to whatever enters it: the first of the three launches that cut a sequence along time.
//
// What. A sequence is cut into segments of equal length. In a segment the state is h = a*h + x token by token, a chain of affine maps, so the
// whole segment is one too: h_out = exp(A * sum of delta) * h_in + h_own, with h_own the state that a segment with nothing before it leaves. This
// kernel finds h_own (S, D, N) and the sum of delta (S, D) of every segment; `join.cuh` then passes states from segment to segment, and the main
// pass runs on all segments side by side. REVERSE does the same for gradients: with x = C*dy, the carry that leaves a segment towards
// earlier tokens is exp(A * sum of delta) * carry_in + carry_own. README.md has the derivation.
//
// How. As in forward a block owns CHANNELS channels, LANES neighbouring lanes share one, and tokens are staged in chunks of CHUNK; but a block
// has one segment (grid x: channel tiles, grid y: segments), chunks are counted from its start, and there are no outputs for tokens, so no sums
// over lanes. Two barriers a chunk: after staging, and before the next one overwrites. Nothing branches on data. The first token
// of a segment has no past: a choice, not a product with zero.
//
// Of a sequence's segments the last (REVERSE: the first) hands nothing on, so unless ENDS its block writes zeros and leaves.
//
// Cost an element (t, d, n): 3 float instructions and 1 exponential, plus 1/LANE_STATES to load a step and to sum delta, plus a shared load for
// each 4 states; 1.6 more to stage, which a channel's states share. Bytes an element (t, d): u and delta read; with a gate and REVERSE z as well. The
// limit is the special-function pipe: 16 results a clock and multiprocessor, of which 65,536 tokens x 1,536 channels x 16 states on an H200 need 0.41 ms
// (with a gate and REVERSE 0.46). Forward's states take 0.49 there, with that pipe 85 % and issue slots 60 % busy, and that is what a cut costs a pass.
//
// Loads of the next chunk have no condition, not even that there is one: a load whose result is only taken under a condition is waited for at once,
// by the move that takes it (9 % of all samples stood there). That and chunks of 64 instead of 32 took 0.52 ms to 0.49.
//
// Not built: polynomials of the FMA pipe for some of the exponentials: by count, one in eight would fill the issue slots. Dropped: registers for five
// blocks (a backward pass over segments 2.39 ms for 2.33) and chunks of 128 for three (2.45); writing exp(A * sum of delta) instead of the sum,
// 16 times the bytes for N = 16; one kernel that looks back at the segments before it, which needs blocks that wait for blocks.

// Shared memory of a block; `state.rs` computes the same size.
struct alignas(16) Staged {
    float2 step[CHUNK][CHANNELS];    // (delta, delta*u), or (delta, dy)
    float projection[CHUNK][ROW];    // B, or C
};
static_assert(sizeof(Staged) <= SHARED_BYTES, "state.rs computes another size");

// What a thread moves: channels from `d` on, and rows of the tile from `row` on.
struct Mover {
    const Args& args;
    unsigned begin, end;           // tokens of the segment
    unsigned column, row, d;
    bool exists;                   // whether its channels do
    float bias[VEC];
    Column<const io_t> from_u, from_delta, from_z;
    Io next_u[PASSES], next_delta[PASSES], next_z[PASSES];
    StateIo next_projection[STATE_PASSES];

    __device__ Mover(const Args& args, unsigned begin, unsigned end)
        : args(args), begin(begin), end(end), column(threadIdx.x % (CHANNELS / VEC) * VEC), row(threadIdx.x / (CHANNELS / VEC)),
          d(blockIdx.x * CHANNELS + column), exists(d < args.d), from_u(args.u, d, args.u_stride),
          from_delta(args.delta, d, args.delta_stride), from_z(args.z, d, args.z_stride) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) next_u[k] = next_delta[k] = next_z[k] = zeros<VEC, io_t>();
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) bias[i] = BIAS && exists ? args.delta_bias[d + i] : 0.0f;
    }

    // Token `t`, or the segment's first in place of one outside it.
    __device__ unsigned within(unsigned t) const { return t - begin < end - begin ? t : begin; }

    // Starts the loads of the chunk at `base`, of which there may be nothing. Channels that do not exist stay zero.
    __device__ void prefetch(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = threadIdx.x + k * THREADS;
            const unsigned t = within(base + packet / (STATE / STATE_VEC)), n = packet % (STATE / STATE_VEC) * STATE_VEC;
            next_projection[k] = load<STATE_VEC>(row_at(args.projection + n, t, args.projection_stride));
        }
        if (!exists) return;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned t = within(base + row + k * ROWS_A_PASS);
            next_u[k] = load<VEC>(from_u.row(t));
            next_delta[k] = load<VEC>(from_delta.row(t));
            if constexpr (GATE) next_z[k] = load<VEC>(from_z.row(t));
        }
    }

    // What was loaded goes to shared memory.
    __device__ void stage(Staged& shared) const {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned r = row + k * ROWS_A_PASS;
            if (CHUNK % ROWS_A_PASS != 0 && r >= CHUNK) continue;
            float steps[2 * VEC];
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                float delta = next_delta[k][i] + bias[i], x = next_u[k][i];
                if constexpr (SOFTPLUS) delta = softplus(delta);
                if constexpr (GATE) x = x * silu(next_z[k][i]);
                steps[2 * i] = delta;
                steps[2 * i + 1] = REVERSE ? x : delta * x;
            }
            put<2 * VEC>(&shared.step[r][column].x, steps);
        }
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = threadIdx.x + k * THREADS;
            if (packet >= STATE_PACKETS) continue;
            const unsigned r = packet / (STATE / STATE_VEC), n = packet % (STATE / STATE_VEC) * STATE_VEC;
            float values[STATE_VEC];
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) values[i] = next_projection[k][i];
            put<ROW % STATE_VEC == 0 ? STATE_VEC : 1>(&shared.projection[r][n], values);
        }
    }
};

// The states, or carries, that one lane keeps of its channels.
struct Scanner : Walk {
    States a2;                     // A * log2(e)
    States h;
    float sum[WALK];               // of delta

    __device__ Scanner(const Args& args) : Walk(args) {
        restore(a2, args.a, 0);
        clear(h);
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            sum[w] = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) a2[w][i] = a2[w][i] * LOG2E;
        }
    }

    // Token `r` of the chunk; FIRST has no past.
    template <bool FIRST> __device__ void step(const Staged& shared, unsigned r) {
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            const float2 step = shared.step[r][channel_of(w)];
            sum[w] += step.x;
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; i += RUN) {
                float p[RUN];
                get<RUN>(&shared.projection[r][run_of(i)], p);
#pragma unroll
                for (unsigned j = 0; j < RUN; ++j) {
                    float& state = h[w][i + j];
                    const float decay = ex2(step.x * a2[w][i + j]);
                    if constexpr (REVERSE) {
                        state = decay * fma(p[j], step.y, state);
                    } else {
                        const float x = step.y * p[j];
                        state = FIRST ? x : fma(decay, state, x);
                    }
                }
            }
        }
    }

    // `count` tokens of the chunk, the last of them first if REVERSE.
    __device__ void scan(const Staged& shared, unsigned count, bool first) {
        if (REVERSE || !first) {
            if (count == CHUNK) {
#pragma unroll 8
                for (unsigned r = 0; r < CHUNK; ++r) step<false>(shared, REVERSE ? CHUNK - 1 - r : r);
                return;
            }
        }
        if (!REVERSE && first && count > 0) step<true>(shared, 0);
#pragma unroll 1
        for (unsigned r = !REVERSE && first; r < count; ++r) step<false>(shared, REVERSE ? count - 1 - r : r);
    }

    __device__ void save_sums(unsigned segment) const {
        if (lane != 0) return;
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w)
            if (d_of(w) < args.d) args.delta_sums[(unsigned long long)segment * args.d + d_of(w)] = sum[w];
    }
};

// Whether a segment is the last of its sequence in the direction of the walk.
__device__ inline bool is_outermost(const Args& args, unsigned segment) {
    if (REVERSE) return segment == 0 || args.sequence_of[segment - 1] != args.sequence_of[segment];
    return segment + 1 == args.sequences || args.sequence_of[segment + 1] != args.sequence_of[segment];
}

__device__ inline void selective_scan_state(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = in_shared<Staged>(shared_memory);

    const unsigned segment = blockIdx.y, begin = args.cu_seqlens[segment], end = args.cu_seqlens[segment + 1];
    Scanner scanner(args);
    if (begin < end && (ENDS || !is_outermost(args, segment))) {
        if constexpr (ROW != STATE) {
            for (unsigned i = threadIdx.x; i < CHUNK * (ROW - STATE); i += THREADS)
                shared.projection[i / (ROW - STATE)][STATE + i % (ROW - STATE)] = 0.0f;
        }
        Mover mover(args, begin, end);
        const unsigned chunks = (end - begin - 1) / CHUNK + 1;
        mover.prefetch(begin + (REVERSE ? chunks - 1 : 0) * CHUNK);
#pragma unroll 1
        for (unsigned k = 0; k < chunks; ++k) {
            const unsigned base = begin + (REVERSE ? chunks - 1 - k : k) * CHUNK;
            mover.stage(shared);
            __syncthreads();
            mover.prefetch(REVERSE ? base - CHUNK : base + CHUNK);
            scanner.scan(shared, least(CHUNK, end - base), k == 0);
            __syncthreads();
        }
    }
    scanner.save(scanner.h, args.states, segment);
    scanner.save_sums(segment);
}
