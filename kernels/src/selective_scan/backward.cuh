// Backward pass of the packed selective scan.
//
// What. From the gradient of out, the inputs and the states that forward saved at chunk starts: the gradients of u, delta, z, B, C for
// every token, and of A, D, the bias of delta and the initial states. Shapes and options are in backward.rs, the derivation in README.md.
//
// How. As in forward a block owns CHANNELS channels of one group of whole sequences, and LANES neighbouring lanes share WALK channels. It
// walks the chunks of each of the group's runs from the last to the first. For each chunk
//   1. every thread turns the words that it loaded during the previous chunk into (delta, delta*u, dy), B and C in shared memory, with
//      dy = g * silu(z),
//   2. the loads of the next chunk are issued, whether there is one or not,
//   3. each lane recomputes its states of the chunk, forward from the saved one, and keeps them; then it walks the tokens in
//      reverse with dh = C*dy + carry, carry = exp(delta*A)*dh, and sums over its states what du, ddelta and dz need;
//      what dB and dC need is summed over the channels of the warp. What a token needs of shared memory is loaded while the one after it
//      is walked, for no load passes that one's stores,
//   4. every thread finishes du, ddelta and dz of the channels that it loaded, and dB and dC of the chunk are summed over warps.
// Two barriers a chunk: after 1 and after 3. What step 4 reads of step 1 is what the same thread wrote.
//
// A lane keeps the states of KEPT tokens at a time. Where a chunk has more, it first computes the state before each such part, at the cost of
// forward's arithmetic for all parts but the last. So registers set KEPT, and memory for checkpoints the chunk.
//
// Sums over channels do not end with a block: each writes its dB and dC of a token beside those of other blocks, its part of dA, dD
// and the bias beside those of other groups, and `sum_rows` adds them in order. No float atomics, so gradients are repeatable to the bit;
// and since every sum has one order, a sequence's per-token gradients have the same bits wherever it lies.
//
// The trick. dB and dC are sums over channels of two numbers for each state, and to add them by shuffles costs as much as the rest. Three
// things make it cheap: a lane adds its own WALK channels first; an exchange halves what a lane still cares for (`fold`); and lanes
// keep the states of a run in such orders that an exchange has nothing to choose. For that B and C lie in shared memory in TURNS orders.
// The sums over states do the same with the orders in which lanes walk their channels.
//
// Chunks without a boundary, nearly all, run straight-line code with their states in registers. The others run the same arithmetic token
// by token, with the states in local memory, so that boundaries cost code once and time rarely.
//
// A boundary is a choice here too: where a token starts a sequence the carry is set, not multiplied, and the decayed
// old state does not enter. Gradients of initial states are the carry that is set aside there.
//
// Cost an element (t, d, n), N = 16, LANES 4, WALK 2: 13 float instructions and 2 exponentials (the decay is recomputed, which is cheaper than
// to keep it), 3 for the sums over channels and lanes, 19 in all with loads; 6 more to stage and finish, which a channel's states share. Bytes
// an element (t, d): u, delta, z, g read, du, ddelta, dz written, 4*N/CHUNK of checkpoints, 8*N/CHANNELS of parts of dB and dC.
//
// What limits it (65536 x 4096, N = 16, bf16, chunks of 8, 4.71 ms and 0.15 for the sums): 69 % of issue slots, 61 % of the passes of the load and store
// unit (a shared load takes four where each lane gets 16 bytes, however many share them, and a shuffle one), 45 % of special functions, with two warps a scheduler.
//
// Since a scheduler has two warps, what counts is how many instructions a chunk takes and how soon each finds its operands. At 65536 x 4096 it took 5.48 ms;
// 5.20 with B and C staged by all threads and not by one warp, the thread's places in registers and addresses by one wide multiplication; 4.91 with
// a token's operands loaded before the stores of the one after it; 4.86 with slot and lane in registers as well.
//
// Dropped: keeping the decays of a chunk in registers as well (half the blocks fit); three blocks instead of two (5.84 for 4.91: spills take the place of
// stalls); delta, dy and slopes of step 4 read again from shared memory (5.92 for 5.75); loads issued in the middle of step 3
// (6.57 for 6.40 with chunks of 16); more than two channels a lane (4.95 at best).

// What a lane reads of a token: delta, delta*u and dy of its channels, B and C of its states.
struct Token {
    float delta[WALK], delta_u[WALK], dy[WALK];
    float b[LANE_STATES], c[LANE_STATES];
};

// The states that one lane keeps of its channels, walked backwards.
struct Scanner : Walk {
    unsigned begin, end;           // tokens of the run
    unsigned first_seq, seq;       // first sequence of the run; that of the last token not yet walked
    unsigned start;                // first token of `seq`
    States a2;                     // A * log2(e)
    States carry;                  // exp(delta*A) * dh of the token after
    States da;                     // gradient of A so far
    States entering, next_entering;  // the state that the chunk's first token receives

    __device__ Scanner(const Args& args) : Walk(args) {
        keep(slot);
        keep(lane);
        restore(a2, args.a, 0);
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w)
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; ++i) a2[w][i] = a2[w][i] * LOG2E;
        clear(da);
        clear(next_entering);
    }

    // Turns to the end of a run.
    __device__ void enter(unsigned first, unsigned one_past, unsigned from, unsigned to) {
        begin = from;
        end = to;
        first_seq = first;
        seq = one_past;
        enter_previous();
    }

    __device__ bool is_continued(unsigned s) const { return INITIAL && args.continued[s] != 0; }

    // The carry before the start of sequence `seq` is the gradient of its initial state, if it has one.
    __device__ void leave() {
        if (!is_continued(seq)) clear(carry);
        if constexpr (INITIAL) save(carry, args.d_initial_state, seq);
    }

    // Goes to the last token of the sequence before `seq`, past empty ones. Its carry is the gradient of its final state.
    __device__ void enter_previous() {
        while (seq != first_seq) {
            --seq;
            start = args.cu_seqlens[seq];
            if constexpr (LAST) restore(carry, args.d_final_state, seq);
            else clear(carry);
            if (args.cu_seqlens[seq + 1] != start) return;
            leave();
        }
        start = NEVER;
        clear(carry);
    }

    // Starts the load of the state that enters the chunk at `base`. Of a chunk that starts before the run nothing is loaded, and nothing used.
    __device__ void prefetch(unsigned base) {
        if (base >= begin && base < end) fetch(next_entering, args.checkpoints, base / CHUNK);
    }

    __device__ void take_entering() { arrange(entering, next_entering); }

    // The states after token `r`, from those before it.
    template <bool FRESH> __device__ void step(const Staged& shared, unsigned r, States& h) const {
        float delta[WALK], delta_u[WALK];
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            const float4& step = shared.step[r][banked(channel_of(w))];
            delta[w] = step.x;
            delta_u[w] = step.y;
        }
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN];
            get<RUN>(&shared.projections.b[r][order][run_of(i)], b);
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) {
#pragma unroll
                for (unsigned j = 0; j < RUN; ++j) {
                    const float x = delta_u[w] * b[j];
                    h[w][i + j] = FRESH ? x : fma(ex2(delta[w] * a2[w][i + j]), h[w][i + j], x);
                }
            }
        }
    }

    __device__ void get_token(const Staged& shared, unsigned r, Token& token) const {
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            const float4& step = shared.step[r][banked(channel_of(w))];
            token.delta[w] = step.x;
            token.delta_u[w] = step.y;
            token.dy[w] = step.z;
        }
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float b[RUN], c[RUN];
            get<RUN>(&shared.projections.b[r][order][run_of(i)], b);
            get<RUN>(&shared.projections.c[r][order][run_of(i)], c);
#pragma unroll
            for (unsigned j = 0; j < RUN; ++j) {
                token.b[i + j] = b[j];
                token.c[i + j] = c[j];
            }
        }
    }

    // Token `r` in reverse, given the states before and after it: this lane's part of the sums over states of each channel, and through
    // `shared` of those over channels. `ddelta` is to be scaled by ln(2).
    template <bool FRESH> __device__ void step_back(
        Staged& shared, unsigned r, const Token& token, const States& before, const States& after,
        float (&du)[WALK], float (&ddelta)[WALK], float (&y)[WALK]) {
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) du[w] = ddelta[w] = y[w] = 0.0f;
        float parts[PARTS] = {};
#pragma unroll
        for (unsigned n = 0; n < LANE_STATES; ++n) {
            float& db = parts[(n % RUN * RUNS + n / RUN) * 2];
            float& dc = parts[(n % RUN * RUNS + n / RUN) * 2 + 1];
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) {
                const float decay = ex2(token.delta[w] * a2[w][n]);
                const float dh = fma(token.c[n], token.dy[w], carry[w][n]);
                carry[w][n] = decay * dh;
                db = w == 0 ? dh * token.delta_u[w] : fma(dh, token.delta_u[w], db);
                dc = w == 0 ? token.dy[w] * after[w][n] : fma(token.dy[w], after[w][n], dc);
                du[w] = fma(dh, token.b[n], du[w]);
                if constexpr (!FRESH) {
                    const float decayed = carry[w][n] * before[w][n];
                    ddelta[w] = fma(a2[w][n], decayed, ddelta[w]);
                    da[w][n] = fma(token.delta[w], decayed, da[w][n]);
                }
                if constexpr (GATE) y[w] = fma(token.c[n], after[w][n], y[w]);
            }
        }
        fold<16, LANES, TURNS>(parts);
        using Own = Folded<RANKS, PARTS>;
        if (rank % Own::SHARE == 0) {
#pragma unroll
            for (unsigned k = 0; k < Own::COUNT; ++k) {
                const unsigned part = rank / Own::SHARE * Own::COUNT + k, run = part / 2 % RUNS;
                if (RUNS * RUN == LANE_STATES || run < LANE_STATES / RUN)
                    shared.parts[threadIdx.x / 32][r][part % 2][run_of(run * RUN) + part / 2 / RUNS] = parts[k];
            }
        }
    }

    // TOKENS tokens from `r` on in reverse, of which none but a FRESH one starts a sequence; h[j] and h[j + 1] are the states around each. `token` is
    // the last of them, and afterwards the one before the first if AHEAD: it is loaded before anything is stored, for no load passes a store
    // that might, for all the compiler knows, be to the same place.
    template <bool FRESH, bool AHEAD, unsigned TOKENS, unsigned SIZE>
    __device__ void walk_back(Staged& shared, unsigned r, Token& token, const States (&h)[SIZE], unsigned first) {
        float du[WALK * TOKENS], ddelta[WALK * TOKENS], y[WALK * TOKENS];
#pragma unroll
        for (unsigned j = TOKENS; j-- > 0;) {
            float token_du[WALK], token_ddelta[WALK], token_y[WALK];
            const Token now = token;
            if (j > 0 || AHEAD) get_token(shared, r + j - 1, token);
            step_back<FRESH>(shared, r + j, now, h[first + j], h[first + j + 1], token_du, token_ddelta, token_y);
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) {
                du[w * TOKENS + j] = token_du[w];
                ddelta[w * TOKENS + j] = token_ddelta[w];
                y[w * TOKENS + j] = token_y[w];
            }
        }
        fold<LANES / 2, 1, SWAPS>(du);
        fold<LANES / 2, 1, SWAPS>(ddelta);
        if constexpr (GATE) fold<LANES / 2, 1, SWAPS>(y);
        using Own = Folded<LANES, WALK * TOKENS>;
        if (lane % Own::SHARE == 0) {
#pragma unroll
            for (unsigned j = 0; j < Own::COUNT; ++j) {
                const unsigned k = lane / Own::SHARE * Own::COUNT + j, channel = slot * WALK + k / TOKENS;
                Sums& sums = shared.sums[r + k % TOKENS];
                sums.du[channel] = du[j];
                sums.ddelta[channel] = ddelta[j];
                if constexpr (GATE) sums.y[channel] = y[j];
            }
        }
    }

    // Step 3 for a chunk inside one sequence.
    __device__ void scan_straight(Staged& shared) {
        States starts[CHUNK / KEPT];
        copy(starts[0], entering);
#pragma unroll 1
        for (unsigned part = 1; part < CHUNK / KEPT; ++part) {
#pragma unroll
            for (unsigned r = 0; r < KEPT; ++r) step<false>(shared, (part - 1) * KEPT + r, entering);
            copy(starts[part], entering);
        }
#pragma unroll 1
        for (unsigned part = CHUNK / KEPT; part-- > 0;) {
            const unsigned first = part * KEPT;
            States h[KEPT + 1];
            copy(h[0], starts[part]);
#pragma unroll
            for (unsigned r = 0; r < KEPT; ++r) {
                copy(h[r + 1], h[r]);
                step<false>(shared, first + r, h[r + 1]);
            }
            Token token;
            get_token(shared, first + KEPT - 1, token);
#pragma unroll
            for (unsigned g = KEPT; g > GROUP; g -= GROUP) walk_back<false, true, GROUP>(shared, first + g - GROUP, token, h, g - GROUP);
            walk_back<false, false, GROUP>(shared, first, token, h, 0);
        }
    }

    // Step 3 for a chunk with boundaries, token by token.
    __device__ void scan_tokens(Staged& shared, unsigned base) {
        States received[CHUNK], h[2];
        copy(h[0], entering);
        unsigned s = seq;
        while (s > first_seq && args.cu_seqlens[s] > base) --s;
#pragma unroll 1
        for (unsigned r = 0; r < CHUNK; ++r) {
            const unsigned t = base + r;
            if (t - begin >= end - begin) continue;
            while (args.cu_seqlens[s + 1] <= t) ++s;
            const bool starts = t == args.cu_seqlens[s];
            if (INITIAL && starts && is_continued(s)) restore(h[0], args.initial_state, s);
            copy(received[r], h[0]);
            if (starts && !is_continued(s)) step<true>(shared, r, h[0]);
            else step<false>(shared, r, h[0]);
        }
#pragma unroll 1
        for (unsigned r = CHUNK; r-- > 0;) {
            const unsigned t = base + r;
            if (t - begin >= end - begin) continue;
            const bool starts = t == start;
            Token token;
            get_token(shared, r, token);
            copy(h[0], received[r]);
            copy(h[1], h[0]);
            if (starts && !is_continued(seq)) {
                step<true>(shared, r, h[1]);
                walk_back<true, false, 1>(shared, r, token, h, 0);
            } else {
                step<false>(shared, r, h[1]);
                walk_back<false, false, 1>(shared, r, token, h, 0);
            }
            if (starts) {
                leave();
                enter_previous();
            }
        }
    }

    // Whether the chunk at `base` is the first of a continued sequence: no boundary inside either, and its saved state is the initial one.
    __device__ bool opens(unsigned base) const { return INITIAL && start == base && is_continued(seq); }

    // Step 3: the chunk at `base`.
    __device__ void scan(Staged& shared, unsigned base) {
        if constexpr (STRAIGHT) {
            if ((start < base || opens(base)) && base + CHUNK <= end) {
                scan_straight(shared);
                if (INITIAL && start == base) {
                    leave();
                    enter_previous();
                }
                return;
            }
        }
        scan_tokens(shared, base);
    }
};

__device__ inline void selective_scan_bwd(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    Staged& shared = in_shared<Staged>(shared_memory);

    clear_padding(shared.projections);
    Mover mover(args);
    Scanner scanner(args);
    const unsigned first_run = args.group_starts[blockIdx.y];
    for (unsigned run = args.group_starts[blockIdx.y + 1]; run-- > first_run;) {
        const unsigned first_seq = args.runs[2 * run], last_seq = args.runs[2 * run + 1];
        const unsigned begin = args.cu_seqlens[first_seq], end = args.cu_seqlens[last_seq];
        mover.enter(begin, end);
        scanner.enter(first_seq, last_seq, begin, end);
        if (begin == end) continue;
        const unsigned lowest = begin - begin % CHUNK;
        unsigned base = (end - 1) / CHUNK * CHUNK;
        mover.prefetch(base);
        scanner.prefetch(base);
        while (true) {
            mover.stage(shared);
            scanner.take_entering();
            __syncthreads();
            mover.prefetch(base - CHUNK);
            scanner.prefetch(base - CHUNK);
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
