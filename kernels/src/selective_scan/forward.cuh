// Forward pass of the packed selective scan.
//
// What. For every channel d and state n of every sequence, h[t] = exp(delta*A) * h[t-1] + delta*u*B, y = sum_n C*h, with
// h[t] = delta*u*B where t starts a sequence. Shapes and options are in mod.rs, the derivation in README.md.
//
// How. A block owns CHANNELS channels of one group of whole sequences (grid x: channel tiles, grid y: groups) and walks
// the group's runs of neighbouring sequences in chunks of CHUNK tokens, aligned to absolute multiples of CHUNK so that checkpoints do not
// depend on the grouping. A checkpoint is what every DISTANCE-th token receives, saved between two groups of tokens by the block that has the token. For each chunk
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
// 3 shared loads for each 4 states. Bytes an element (t, d): u, delta, z read, out written, 4*N/DISTANCE for a checkpoint.
// The limit is the special-function pipe: 16 exponentials a clock and multiprocessor.
//
// A load whose result is only taken under a condition is waited for at once, by the move that takes it. So loads here have no condition: a
// token outside the run reads the run's first (65536 x 4096, N = 16 on an H200: 1.79 ms for 2.05, with 8 tokens summed at once instead of 4). Only whether there is
// a next chunk is a condition here, unlike in backward: without it the pass took 1.76 ms for 1.63, why is not known.
//
// A group's sequences need not be neighbours: which blocks have which is decided so that all end together (1.66 ms for 1.79, and
// 12 to 17 % where 27 sequences are shared out to six or eight groups).
//
// Dropped: saving exponentials at padded states (LANES that do not divide STATE waste some; the tuner sees it); lanes that walk two channels
// together as in backward (2.29 ms for 2.05: registers).

// Shared memory of a block; `forward.rs` computes the same size.
struct alignas(16) Staged {
    float2 step[CHUNK][CHANNELS];       // (delta, delta*u)
    Projections projections;
    float y[CHUNK][CHANNELS + SUM_PAD]; // padded so that the lanes of a channel, one row apart, write to different banks
};
static_assert(sizeof(Staged) == SHARED_BYTES, "forward.rs computes another size");

struct Mover : Tile {
    Column<const io_t> from_u, from_delta, from_z;
    Column<io_t> to_out;
    Io u[PASSES], next_u[PASSES], next_delta[PASSES], z[PASSES];

    __device__ Mover(const Args& args)
        : Tile(args), from_u(args.u, d, args.u_stride), from_delta(args.delta, d, args.delta_stride),
          from_z(args.z, d, args.z_stride), to_out(args.out, d, args.out_stride) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) next_u[k] = next_delta[k] = z[k] = zeros<VEC, io_t>();
    }

    // Step 2: starts the loads of a chunk at `base` that has tokens of the run. Channels that do not exist stay zero.
    __device__ void prefetch(unsigned base) {
        prefetch_projections(base);
        if (count == 0) return;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            next_u[k] = load<VEC>(from_u.row(token_of(base, k)));
            next_delta[k] = load<VEC>(from_delta.row(token_of(base, k)));
        }
    }

    // Starts the loads of z for the chunk at `base`, which step 4 needs.
    __device__ void prefetch_gate(unsigned base) {
        if (!GATE || count == 0) return;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) z[k] = load<VEC>(from_z.row(token_of(base, k)));
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
            store<VEC>(to_out.row(base + row_of(k)), values);
        }
    }
};

// The states that one lane keeps of its channels, and the sequence that they belong to.
struct Scanner : Walk {
    unsigned begin, end;           // tokens of the run
    unsigned seq, last_seq;        // current sequence; one past the run's last. Before the first: one less
    unsigned ends;                 // token at which the current sequence ends
    bool fresh;                    // the next token starts a sequence that continues nothing
    States a2;                     // A * log2(e)
    States h;

    __device__ Scanner(const Args& args) : Walk(args) {
        restore(a2, args.a, 0);
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w)
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) a2[w][i] = a2[w][i] * LOG2E;
    }

    // Turns to a run; its first token opens its first sequence.
    __device__ void enter(unsigned first_seq, unsigned one_past, unsigned from, unsigned to) {
        begin = ends = from;
        end = to;
        seq = first_seq - 1;
        last_seq = one_past;
        fresh = false;
        clear(h);
    }

    // Opens the sequence that starts at token `t`, if one does, and the empty ones before it.
    __device__ void advance(unsigned t) {
        while (t == ends && seq + 1 < last_seq) {
            ++seq;
            ends = args.cu_seqlens[seq + 1];
            fresh = !INITIAL || args.continued[seq] == 0;
            clear(h);
            if (INITIAL && !fresh) restore(h, args.initial_state, seq);
            if (LAST && t == ends) save(h, args.final_state, seq);
        }
    }

    // One token: updates the states and finds this lane's part of y of each channel.
    template <bool FRESH> __device__ void step(const Staged& shared, unsigned r, float (&y)[WALK]) {
        float2 step[WALK];
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            step[w] = shared.step[r][channel_of(w)];
            y[w] = 0.0f;
        }
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN], c[RUN];
            get<RUN>(&shared.projections.b[r][0][run_of(i)], b);
            get<RUN>(&shared.projections.c[r][0][run_of(i)], c);
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) {
#pragma unroll
                for (unsigned j = 0; j < RUN; ++j) {
                    float& state = h[w][i + j];
                    const float x = step[w].y * b[j];
                    state = FRESH ? x : fma(ex2(step[w].x * a2[w][i + j]), state, x);
                    y[w] = fma(c[j], state, y[w]);
                }
            }
        }
    }

    // TOKENS tokens from `r` on, of which none but a FRESH one starts a sequence.
    template <bool FRESH, unsigned TOKENS> __device__ void scan_inside(Staged& shared, unsigned r) {
        float sums[WALK * TOKENS];
#pragma unroll
        for (unsigned j = 0; j < TOKENS; ++j) {
            float y[WALK];
            step<FRESH>(shared, r + j, y);
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) sums[w * TOKENS + j] = y[w];
        }
        fold<LANES / 2, 1, SWAPS>(sums);
        using Own = Folded<LANES, WALK * TOKENS>;
        if (lane % Own::SHARE == 0) {
#pragma unroll
            for (unsigned j = 0; j < Own::COUNT; ++j) {
                const unsigned k = lane / Own::SHARE * Own::COUNT + j;
                shared.y[r + k % TOKENS][slot * WALK + k / TOKENS] = sums[j];
            }
        }
    }

    // A token that may start or end a sequence.
    __device__ void scan_token(Staged& shared, unsigned base, unsigned r) {
        const unsigned t = base + r;
        if (t - begin >= end - begin) return;
        advance(t);
        if (fresh) scan_inside<true, 1>(shared, r);
        else scan_inside<false, 1>(shared, r);
        fresh = false;
        if (LAST && t + 1 == ends) save(h, args.final_state, seq);
    }

    // Saves what token `t` receives, if the run has it.
    __device__ void save_checkpoint(unsigned t) {
        if (t - begin >= end - begin) return;
        advance(t);
        save(h, args.checkpoints, t / DISTANCE);
    }

    // Step 3: the tokens of the chunk at `base`. A boundary is looked for once a group.
    __device__ void scan(Staged& shared, unsigned base) {
#pragma unroll 1
        for (unsigned g = 0; g < CHUNK; g += GROUP) {
            if (CHECKPOINTS && g % DISTANCE == 0) save_checkpoint(base + g);
            const bool inside = base + g >= begin && base + g + GROUP + LAST <= ends && !fresh;
            if (inside) {
                scan_inside<false, GROUP>(shared, g);
            } else {
#pragma unroll 1
                for (unsigned r = g; r < g + GROUP; ++r) scan_token(shared, base, r);
            }
        }
    }
};

__device__ inline void selective_scan_fwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = in_shared<Staged>(shared_memory);

    clear_padding(shared.projections);
    Mover mover(args);
    Scanner scanner(args);
    const unsigned last_run = args.group_starts[blockIdx.y + 1];
    for (unsigned run = args.group_starts[blockIdx.y]; run < last_run; ++run) {
        const unsigned first_seq = args.runs[2 * run], last_seq = args.runs[2 * run + 1];
        const unsigned begin = args.cu_seqlens[first_seq], end = args.cu_seqlens[last_seq];
        mover.enter(begin, end);
        scanner.enter(first_seq, last_seq, begin, end);
        unsigned base = begin < end ? begin - begin % CHUNK : end;
        if (base < end) mover.prefetch(base);
        for (; base < end; base += CHUNK) {
            mover.stage(shared);
            __syncthreads();
            if (base + CHUNK < end) mover.prefetch(base + CHUNK);
            mover.prefetch_gate(base);
            scanner.scan(shared, base);
            __syncthreads();
            mover.finish(shared, base);
        }
        scanner.advance(end);
    }
}
