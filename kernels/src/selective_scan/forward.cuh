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

// Shared memory of a block; `forward.rs` computes the same size.
struct alignas(16) Staged {
    float2 step[CHUNK][CHANNELS];       // (delta, delta*u)
    Projections projections;
    float y[CHUNK][CHANNELS + SUM_PAD]; // padded so that the lanes of a channel, one row apart, write to different banks
};
static_assert(sizeof(Staged) == SHARED_BYTES, "forward.rs computes another size");

struct Mover : Tile {
    Io u[PASSES], next_u[PASSES], next_delta[PASSES], z[PASSES];

    using Tile::Tile;

    // Step 2: starts the loads of the chunk at `base`. What lies outside the group stays zero and is never used.
    __device__ void prefetch(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned t = base + row_of(k);
            next_u[k] = next_delta[k] = zeros<VEC, io_t>();
            if (has(base, k)) {
                next_u[k] = load<VEC>(row_at(args.u + d, t, args.u_stride));
                next_delta[k] = load<VEC>(row_at(args.delta + d, t, args.delta_stride));
            }
        }
        prefetch_projections(base);
    }

    // Starts the loads of z for the chunk at `base`, which step 4 needs.
    __device__ void prefetch_gate(unsigned base) {
        if constexpr (GATE) {
#pragma unroll
            for (unsigned k = 0; k < PASSES; ++k) {
                z[k] = zeros<VEC, io_t>();
                if (has(base, k)) z[k] = load<VEC>(row_at(args.z + d, base + row_of(k), args.z_stride));
            }
        }
    }

    // Step 1: what was loaded goes to shared memory.
    __device__ void stage(Staged& shared) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            u[k] = next_u[k];
            if (!is_row(k)) continue;
            float steps[2 * VEC];
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                float delta = next_delta[k][i] + bias[i];
                if constexpr (SOFTPLUS) delta = softplus(delta);
                steps[2 * i] = delta;
                steps[2 * i + 1] = delta * u[k][i];
            }
            put<2 * VEC>(&shared.step[row_of(k)][column].x, steps);
        }
        stage_projections(shared.projections);
    }

    // Step 4: out = (y + D*u) * silu(z).
    __device__ void finish(const Staged& shared, unsigned base) const {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            if (!has(base, k)) continue;
            float values[VEC];
            get<SUM_PAD % VEC == 0 ? VEC : 1>(&shared.y[row_of(k)][column], values);
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                if constexpr (SKIP) values[i] = fma(skip[i], u[k][i], values[i]);
                if constexpr (GATE) values[i] = values[i] * silu(z[k][i]);
            }
            store<VEC>(row_at(args.out + d, base + row_of(k), args.out_stride), values);
        }
    }
};

// The states that one lane keeps of its channel, and the sequence that they belong to.
struct Scanner : Channel {
    unsigned begin, end;           // tokens of the group
    unsigned seq, last_seq;        // current sequence; one past the group's last. Before the first: one less
    unsigned ends;                 // token at which the current sequence ends
    bool fresh;                    // the next token starts a sequence that continues nothing
    float a2[LANE_STATES];         // A * log2(e)
    float h[LANE_STATES];

    __device__ Scanner(const Args& args, unsigned first_seq, unsigned last_seq, unsigned begin, unsigned end)
        : Channel(args), begin(begin), end(end), seq(first_seq - 1), last_seq(last_seq), ends(begin), fresh(false) {
        restore(h, args.a, 0);
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            a2[i] = h[i] * LOG2E;
            h[i] = 0.0f;
        }
    }

    // Opens the sequence that starts at token `t`, if one does, and the empty ones before it.
    __device__ void advance(unsigned t) {
        while (t == ends && seq + 1 < last_seq) {
            ++seq;
            ends = args.cu_seqlens[seq + 1];
            fresh = !INITIAL || args.continued[seq] == 0;
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) h[i] = 0.0f;
            if (INITIAL && !fresh) restore(h, args.initial_state, seq);
            if (LAST && t == ends) save(h, args.final_state, seq);
        }
    }

    // One token: updates the states and returns this lane's part of y.
    template <bool FRESH> __device__ float step(const Staged& shared, unsigned r) {
        const float2 step = shared.step[r][channel];
        float y = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN], c[RUN];
            get<RUN>(&shared.projections.b[r][state_of(i)], b);
            get<RUN>(&shared.projections.c[r][state_of(i)], c);
#pragma unroll
            for (unsigned j = 0; j < RUN; ++j) {
                const float x = step.y * b[j];
                h[i + j] = FRESH ? x : fma(ex2(step.x * a2[i + j]), h[i + j], x);
                y = fma(c[j], h[i + j], y);
            }
        }
        return y;
    }

    // A token that may start or end a sequence.
    __device__ void scan_token(Staged& shared, unsigned base, unsigned r) {
        const unsigned t = base + r;
        if (t - begin >= end - begin) return;
        advance(t);
        float y[1] = {fresh ? step<true>(shared, r) : step<false>(shared, r)};
        fresh = false;
        if (LAST && t + 1 == ends) save(h, args.final_state, seq);
        fold<LANES / 2, 1>(y);
        if (lane == 0) shared.y[r][channel] = y[0];
    }

    // GROUP tokens inside a sequence.
    __device__ void scan_group(Staged& shared, unsigned r) {
        float y[GROUP];
#pragma unroll
        for (unsigned j = 0; j < GROUP; ++j) y[j] = step<false>(shared, r + j);
        fold<LANES / 2, 1>(y);
        if (lane % SHARE == 0) {
#pragma unroll
            for (unsigned j = 0; j < OWN; ++j) shared.y[r + lane / SHARE * OWN + j][channel] = y[j];
        }
    }

    // Step 3: the tokens of the chunk at `base`. A boundary is looked for once a group.
    __device__ void scan(Staged& shared, unsigned base) {
#pragma unroll 1
        for (unsigned g = 0; g < CHUNK; g += GROUP) {
            const bool inside = base + g >= begin && base + g + GROUP + LAST <= ends && !fresh;
            if (inside) {
                scan_group(shared, g);
            } else {
#pragma unroll 1
                for (unsigned r = g; r < g + GROUP; ++r) scan_token(shared, base, r);
            }
        }
    }
};

__device__ inline void selective_scan_fwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = *reinterpret_cast<Staged*>(shared_memory);

    const unsigned first_seq = args.group_starts[blockIdx.y], last_seq = args.group_starts[blockIdx.y + 1];
    const unsigned begin = args.cu_seqlens[first_seq], end = args.cu_seqlens[last_seq];

    clear_padding(shared.projections);
    Mover mover(args, begin, end);
    Scanner scanner(args, first_seq, last_seq, begin, end);
    unsigned base = begin - begin % CHUNK;
    if (base < end) mover.prefetch(base);
    for (; base < end; base += CHUNK) {
        mover.stage(shared);
        __syncthreads();
        mover.prefetch(base + CHUNK);
        mover.prefetch_gate(base);
        if (CHECKPOINTS && base >= begin) {
            scanner.advance(base);
            scanner.save(scanner.h, args.checkpoints, base / CHUNK);
        }
        scanner.scan(shared, base);
        __syncthreads();
        mover.finish(shared, base);
    }
    scanner.advance(end);
}
