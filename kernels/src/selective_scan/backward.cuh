// Backward pass of the packed selective scan.
//
// What. From the gradient of out, the inputs and the states that forward saved at chunk starts: the gradients of u, delta, z, B, C for
// every token, and of A, D, the bias of delta and the initial states. Shapes and options are in backward.rs, the derivation in README.md.
//
// How. As in forward a block owns CHANNELS channels of one group of whole sequences, and LANES neighbouring lanes share a channel. It walks
// the group's chunks from the last to the first. For each chunk
//   1. every thread turns the words that it loaded during the previous chunk into (delta, delta*u, dy), B and C in shared memory, with
//      dy = g * silu(z),
//   2. the loads of the next chunk are issued,
//   3. each lane recomputes its states of the chunk, forward from the saved one, and keeps them; then it walks the tokens in
//      reverse with dh = C*dy + carry, carry = exp(delta*A)*dh, and sums over its states what du, ddelta and dz need;
//      what dB and dC need is summed over the channels of the warp,
//   4. every thread finishes du, ddelta and dz of the channels that it loaded, and dB and dC of the chunk are summed over warps.
// Two barriers a chunk: after 1 and after 3. What step 4 reads of step 1 is what the same thread wrote.
//
// Sums over channels do not end with a block: each writes its dB and dC of a token beside those of other blocks, its part of dA, dD
// and the bias beside those of other groups, and `sum_rows` adds them in order. No float atomics, so gradients are repeatable to the bit;
// and since every sum has one order, a sequence's per-token gradients have the same bits wherever it lies.
//
// The trick. Chunks without a boundary, nearly all, run straight-line code with the states of the chunk in registers. The others run
// the same arithmetic token by token, with the states in local memory, so that boundaries cost code once and time rarely.
//
// A boundary is a choice here too: where a token starts a sequence the carry is set, not multiplied, and the decayed
// old state does not enter. Gradients of initial states are the carry that is set aside there.
//
// Cost an element (t, d, n): 11 float instructions and 2 exponentials (the decay is recomputed, which is cheaper than to keep it), about 7
// for the sums over channels. Bytes an element (t, d): u, delta, z, g read, du, ddelta, dz written, 4*N/CHUNK of checkpoints,
// 8*N/CHANNELS of parts of dB and dC.
//
// Dropped: keeping the decays of a chunk in registers as well; half the blocks fit then.

constexpr unsigned WARPS = THREADS / 32;
// Values of dB, then of dC, that a lane has before and after the sum over the channels of its warp, and how many lanes then have
// the same ones.
constexpr unsigned HALF = power_of_two_from(LANE_STATES), PARTS = 2 * HALF;
constexpr unsigned OWN_PARTS = folded(16, LANES, PARTS), SAME_PARTS = 32 / LANES * OWN_PARTS / PARTS;
// Whether the states of a chunk fit registers.
constexpr bool STRAIGHT = CHUNK * LANE_STATES <= 96;
constexpr unsigned NEVER = 0xffffffff;

// Sums over the states of a token and channel.
struct Sums {
    float du[CHANNELS + SUM_PAD];       // sum_n dh*B
    float ddelta[CHANNELS + SUM_PAD];   // sum_n dh*A*a*h[t-1]
    float y[CHANNELS + SUM_PAD];        // sum_n C*h
};

// Shared memory of a block; `backward.rs` computes the same size.
struct alignas(16) Staged {
    float4 step[CHUNK][CHANNELS];       // (delta, delta*u, dy, -)
    Projections projections;
    float parts[WARPS][CHUNK][2][ROW];  // dB and dC, summed over the channels of a warp
    Sums sums[CHUNK];
};
// What is left of a block at its end: parts of the gradients of D and the bias.
struct Leftover {
    float d_skip[ROWS_A_PASS][CHANNELS];
    float d_bias[ROWS_A_PASS][CHANNELS];
};
static_assert(sizeof(Staged) <= SHARED_BYTES && sizeof(Leftover) <= SHARED_BYTES, "backward.rs computes another size");

struct Mover : Tile {
    float d_skip[VEC], d_bias[VEC];  // gradients, summed over the rows of this thread
    Io u[PASSES], delta[PASSES], g[PASSES], z[PASSES];
    Io next_u[PASSES], next_delta[PASSES], next_g[PASSES], next_z[PASSES];

    __device__ Mover(const Args& args, unsigned begin, unsigned end) : Tile(args, begin, end) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) d_skip[i] = d_bias[i] = 0.0f;
    }

    // Step 2: starts the loads of the chunk at `base`. What lies outside the group stays zero and adds nothing.
    __device__ void prefetch(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned t = base + row_of(k);
            next_u[k] = next_delta[k] = next_g[k] = next_z[k] = zeros<VEC, io_t>();
            if (has(base, k)) {
                next_u[k] = load<VEC>(row_at(args.u + d, t, args.u_stride));
                next_delta[k] = load<VEC>(row_at(args.delta + d, t, args.delta_stride));
                next_g[k] = load<VEC>(row_at(args.g + d, t, args.g_stride));
                if constexpr (GATE) next_z[k] = load<VEC>(row_at(args.z + d, t, args.z_stride));
            }
        }
        prefetch_projections(base);
    }

    // Step 1: what was loaded goes to shared memory.
    __device__ void stage(Staged& shared) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            u[k] = next_u[k];
            delta[k] = next_delta[k];
            g[k] = next_g[k];
            z[k] = next_z[k];
            if (!is_row(k)) continue;
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                float step = delta[k][i] + bias[i];
                if constexpr (SOFTPLUS) step = softplus(step);
                float dy = g[k][i];
                if constexpr (GATE) dy = dy * silu(z[k][i]);
                shared.step[row_of(k)][column + i] = make_float4(step, step * u[k][i], dy, 0.0f);
            }
        }
        stage_projections(shared.projections);
    }

    // Step 4, channels: du, ddelta and dz from the sums over states.
    __device__ void finish(const Staged& shared, unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            if (!has(base, k)) continue;
            const unsigned r = row_of(k), t = base + r;
            float du[VEC], ddelta[VEC], dz[VEC];
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                const float4 step = shared.step[r][column + i];
                const float u = this->u[k][i], dy = step.z;
                const float over_b = shared.sums[r].du[column + i];
                du[i] = step.x * over_b;
                if constexpr (SKIP) {
                    du[i] = fma(skip[i], dy, du[i]);
                    d_skip[i] = fma(dy, u, d_skip[i]);
                }
                ddelta[i] = fma(u, over_b, shared.sums[r].ddelta[column + i]);
                if constexpr (SOFTPLUS) ddelta[i] = ddelta[i] * sigmoid(delta[k][i] + bias[i]);
                if constexpr (BIAS) d_bias[i] += ddelta[i];
                if constexpr (GATE) {
                    float y = shared.sums[r].y[column + i];
                    if constexpr (SKIP) y = fma(skip[i], u, y);
                    const float gate = z[k][i], s = sigmoid(gate);
                    dz[i] = g[k][i] * y * (s * fma(gate, 1.0f - s, 1.0f));
                }
            }
            store<VEC>(row_at(args.du + d, t, args.du_stride), du);
            store<VEC>(row_at(args.ddelta + d, t, args.ddelta_stride), ddelta);
            if constexpr (GATE) store<VEC>(row_at(args.dz + d, t, args.dz_stride), dz);
        }
    }

    // Step 4, states: dB and dC of this block, summed over its warps.
    __device__ void finish_states(const Staged& shared, unsigned base) const {
        for (unsigned i = threadIdx.x; i < CHUNK * STATE; i += THREADS) {
            const unsigned r = i / STATE, n = i % STATE, t = base + r;
            if (t - begin >= state_count) continue;
            float db = shared.parts[0][r][0][n], dc = shared.parts[0][r][1][n];
#pragma unroll
            for (unsigned w = 1; w < WARPS; ++w) {
                db += shared.parts[w][r][0][n];
                dc += shared.parts[w][r][1][n];
            }
            const unsigned long long at = ((unsigned long long)t * args.tiles + blockIdx.x) * STATE + n;
            args.db_parts[at] = db;
            args.dc_parts[at] = dc;
        }
    }

    // The gradients of D and the bias of this block's channels, summed over the threads of a channel in order.
    __device__ void finish_parameters(Leftover& left) const {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            left.d_skip[row][column + i] = d_skip[i];
            left.d_bias[row][column + i] = d_bias[i];
        }
        __syncthreads();
        const unsigned tid = threadIdx.x, channel = blockIdx.x * CHANNELS + tid;
        if (tid >= CHANNELS || channel >= args.d) return;
        float skip = 0.0f, bias = 0.0f;
        for (unsigned r = 0; r < ROWS_A_PASS; ++r) {
            skip += left.d_skip[r][tid];
            bias += left.d_bias[r][tid];
        }
        const unsigned long long at = (unsigned long long)blockIdx.y * args.d + channel;
        if constexpr (SKIP) args.dd_skip_parts[at] = skip;
        if constexpr (BIAS) args.ddelta_bias_parts[at] = bias;
    }
};

// The states that one lane keeps of its channel, walked backwards.
struct Scanner : Channel {
    unsigned begin, end;           // tokens of the group
    unsigned first_seq, seq;       // first sequence of the group; that of the last token not yet walked
    unsigned start;                // first token of `seq`
    float a[LANE_STATES], a2[LANE_STATES];  // A, A * log2(e)
    float carry[LANE_STATES];      // exp(delta*A) * dh of the token after
    float da[LANE_STATES];         // gradient of A so far
    float entering[LANE_STATES], next_entering[LANE_STATES];  // the state that the chunk's first token receives

    __device__ Scanner(const Args& args, unsigned first_seq, unsigned last_seq, unsigned begin, unsigned end)
        : Channel(args), begin(begin), end(end), first_seq(first_seq), seq(last_seq), start(NEVER) {
        restore(a, args.a, 0);
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            a2[i] = a[i] * LOG2E;
            carry[i] = da[i] = next_entering[i] = 0.0f;
        }
        enter_previous();
    }

    __device__ bool is_continued(unsigned s) const { return INITIAL && args.continued[s] != 0; }

    __device__ void clear_carry() {
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) carry[i] = 0.0f;
    }

    // The carry before the start of sequence `seq` is the gradient of its initial state, if it has one.
    __device__ void leave() {
        if (!is_continued(seq)) clear_carry();
        if constexpr (INITIAL) save(carry, args.d_initial_state, seq);
    }

    // Goes to the last token of the sequence before `seq`, past empty ones. Its carry is the gradient of its final state.
    __device__ void enter_previous() {
        while (seq != first_seq) {
            --seq;
            start = args.cu_seqlens[seq];
            if constexpr (LAST) restore(carry, args.d_final_state, seq);
            else clear_carry();
            if (args.cu_seqlens[seq + 1] != start) return;
            leave();
        }
        start = NEVER;
        clear_carry();
    }

    // Starts the load of the state that enters the chunk at `base`.
    __device__ void prefetch(unsigned base) {
        if (base >= begin && base < end) restore(next_entering, args.checkpoints, base / CHUNK);
    }

    __device__ void take_entering() {
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) entering[i] = next_entering[i];
    }

    // The states after token `r`, from those before it.
    template <bool FRESH> __device__ void step(const Staged& shared, unsigned r, float (&h)[LANE_STATES]) const {
        const float4 step = shared.step[r][channel];
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN];
            get<RUN>(&shared.projections.b[r][state_of(i)], b);
#pragma unroll
            for (unsigned j = 0; j < RUN; ++j) {
                const float x = step.y * b[j];
                h[i + j] = FRESH ? x : fma(ex2(step.x * a2[i + j]), h[i + j], x);
            }
        }
    }

    // Token `r` in reverse, given the states before and after it: this lane's part of the sums over states, and through `shared` of
    // those over channels.
    template <bool FRESH> __device__ void step_back(
        Staged& shared, unsigned r, const float (&before)[LANE_STATES], const float (&after)[LANE_STATES],
        float& du, float& ddelta, float& y) {
        const float4 step = shared.step[r][channel];
        float parts[PARTS] = {};
        du = ddelta = y = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN], c[RUN];
            get<RUN>(&shared.projections.b[r][state_of(i)], b);
            get<RUN>(&shared.projections.c[r][state_of(i)], c);
#pragma unroll
            for (unsigned j = 0; j < RUN; ++j) {
                const unsigned n = i + j;
                const float decay = ex2(step.x * a2[n]);
                const float dh = fma(c[j], step.z, carry[n]);
                parts[n] = dh * step.y;
                parts[HALF + n] = step.z * after[n];
                du = fma(dh, b[j], du);
                if constexpr (!FRESH) {
                    const float dh_decayed = dh * (decay * before[n]);
                    ddelta = fma(a[n], dh_decayed, ddelta);
                    da[n] = fma(step.x, dh_decayed, da[n]);
                }
                if constexpr (GATE) y = fma(c[j], after[n], y);
                carry[n] = decay * dh;
            }
        }
        fold<16, LANES>(parts);
        const unsigned rank = threadIdx.x % 32 / LANES;
        if (rank % SAME_PARTS == 0) {
#pragma unroll
            for (unsigned j = 0; j < OWN_PARTS; ++j) {
                const unsigned k = rank / SAME_PARTS * OWN_PARTS + j, i = k % HALF;
                if (HALF == LANE_STATES || i < LANE_STATES) shared.parts[threadIdx.x / 32][r][k / HALF][state_of(i)] = parts[j];
            }
        }
    }

    // Step 3 for a chunk inside one sequence.
    __device__ void scan_straight(Staged& shared) {
        float h[CHUNK + 1][LANE_STATES];
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) h[0][i] = entering[i];
#pragma unroll
        for (unsigned r = 0; r < CHUNK; ++r) {
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) h[r + 1][i] = h[r][i];
            step<false>(shared, r, h[r + 1]);
        }
#pragma unroll
        for (unsigned g = CHUNK; g > 0; g -= GROUP) {
            float du[GROUP], ddelta[GROUP], y[GROUP];
#pragma unroll
            for (unsigned j = GROUP; j-- > 0;) {
                const unsigned r = g - GROUP + j;
                step_back<false>(shared, r, h[r], h[r + 1], du[j], ddelta[j], y[j]);
            }
            fold<LANES / 2, 1>(du);
            fold<LANES / 2, 1>(ddelta);
            if constexpr (GATE) fold<LANES / 2, 1>(y);
            if (lane % SHARE == 0) {
#pragma unroll
                for (unsigned j = 0; j < OWN; ++j) {
                    Sums& sums = shared.sums[g - GROUP + lane / SHARE * OWN + j];
                    sums.du[channel] = du[j];
                    sums.ddelta[channel] = ddelta[j];
                    if constexpr (GATE) sums.y[channel] = y[j];
                }
            }
        }
    }

    // Step 3 for a chunk with boundaries, token by token.
    __device__ void scan_tokens(Staged& shared, unsigned base) {
        float received[CHUNK][LANE_STATES], h[LANE_STATES];
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) h[i] = entering[i];
        unsigned s = seq;
        while (s > first_seq && args.cu_seqlens[s] > base) --s;
#pragma unroll 1
        for (unsigned r = 0; r < CHUNK; ++r) {
            const unsigned t = base + r;
            if (t - begin >= end - begin) continue;
            while (args.cu_seqlens[s + 1] <= t) ++s;
            const bool starts = t == args.cu_seqlens[s];
            if (INITIAL && starts && is_continued(s)) restore(h, args.initial_state, s);
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) received[r][i] = h[i];
            if (starts && !is_continued(s)) step<true>(shared, r, h);
            else step<false>(shared, r, h);
        }
#pragma unroll 1
        for (unsigned r = CHUNK; r-- > 0;) {
            const unsigned t = base + r;
            if (t - begin >= end - begin) continue;
            const bool starts = t == start;
            float before[LANE_STATES], after[LANE_STATES];
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) before[i] = after[i] = received[r][i];
            float du[1], ddelta[1], y[1];
            if (starts && !is_continued(seq)) {
                step<true>(shared, r, after);
                step_back<true>(shared, r, before, after, du[0], ddelta[0], y[0]);
            } else {
                step<false>(shared, r, after);
                step_back<false>(shared, r, before, after, du[0], ddelta[0], y[0]);
            }
            fold<LANES / 2, 1>(du);
            fold<LANES / 2, 1>(ddelta);
            if constexpr (GATE) fold<LANES / 2, 1>(y);
            if (lane == 0) {
                Sums& sums = shared.sums[r];
                sums.du[channel] = du[0];
                sums.ddelta[channel] = ddelta[0];
                if constexpr (GATE) sums.y[channel] = y[0];
            }
            if (starts) {
                leave();
                enter_previous();
            }
        }
    }

    // Step 3: the chunk at `base`.
    __device__ void scan(Staged& shared, unsigned base) {
        if constexpr (STRAIGHT) {
            if (start < base && base + CHUNK <= end) return scan_straight(shared);
        }
        scan_tokens(shared, base);
    }
};

__device__ inline void selective_scan_bwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = *reinterpret_cast<Staged*>(shared_memory);

    const unsigned first_seq = args.group_starts[blockIdx.y], last_seq = args.group_starts[blockIdx.y + 1];
    const unsigned begin = args.cu_seqlens[first_seq], end = args.cu_seqlens[last_seq];

    clear_padding(shared.projections);
    Mover mover(args, begin, end);
    Scanner scanner(args, first_seq, last_seq, begin, end);
    const unsigned lowest = begin - begin % CHUNK;
    if (begin < end) {
        unsigned base = (end - 1) / CHUNK * CHUNK;
        mover.prefetch(base);
        scanner.prefetch(base);
        while (true) {
            mover.stage(shared);
            scanner.take_entering();
            __syncthreads();
            if (base != lowest) {
                mover.prefetch(base - CHUNK);
                scanner.prefetch(base - CHUNK);
            }
            scanner.scan(shared, base);
            __syncthreads();
            mover.finish(shared, base);
            mover.finish_states(shared, base);
            if (base == lowest) break;
            base -= CHUNK;
        }
    }
    scanner.save(scanner.da, args.da_parts, blockIdx.y);
    __syncthreads();
    mover.finish_parameters(*reinterpret_cast<Leftover*>(shared_memory));
}
