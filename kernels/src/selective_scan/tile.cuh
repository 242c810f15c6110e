// What the passes that see every token share: how a block's threads move a chunk between global and shared memory.
//
// A thread always has the same VEC neighbouring channels and every ROWS_A_PASS-th token of a chunk, so that a warp reads whole rows and each
// thread keeps what belongs to its channels, the bias of delta and the skip weight, in registers. B and C are read as packets of
// STATE_VEC states by whichever threads there are; neighbouring threads read neighbouring packets.
//
// Loads of the next chunk are issued while this one is computed and wait in registers. None has a condition: a load whose result is only taken
// under a condition is waited for at once, by the move that takes it. A token outside the run of sequences reads the run's first instead.
//
// B and C lie in shared memory in every order in which lanes keep the states of a run (`Walk`), so that a lane reads its run as one word. Where
// LANES do not divide N, the states that pad a row are zero for good: whoever has them in registers adds zeros.

// B and C of a chunk in shared memory, ROW states a token with the padding, in every order in which lanes keep a run.
struct Projections {
    float b[CHUNK][TURNS][ROW];
    float c[CHUNK][TURNS][ROW];
};

// States that only pad a row are zero for good; the next barrier shows them to everyone.
__device__ inline void clear_padding(Projections& shared) {
    if constexpr (ROW != STATE) {
        for (unsigned i = threadIdx.x; i < CHUNK * (ROW - STATE); i += THREADS) {
            const unsigned r = i / (ROW - STATE), n = STATE + i % (ROW - STATE);
#pragma unroll
            for (unsigned k = 0; k < TURNS; ++k) {
                shared.b[r][k][turned_state(n, k)] = 0.0f;
                shared.c[r][k][turned_state(n, k)] = 0.0f;
            }
        }
    }
}

// What a thread moves between global and shared memory.
struct Tile {
    const Args& args;
    unsigned begin, count;         // tokens of the run; none for a thread whose channels do not exist
    unsigned state_count;          // tokens of the run, for B and C
    unsigned column, row;          // of the tile: first channel and first row of this thread
    unsigned d;                    // first channel of this thread in the tensors
    float bias[VEC], skip[VEC];
    StateIo next_b[STATE_PASSES], next_c[STATE_PASSES];

    __device__ Tile(const Args& args) : args(args), begin(0), count(0), state_count(0) {
        column = threadIdx.x % (CHANNELS / VEC) * VEC;
        row = threadIdx.x / (CHANNELS / VEC);
        d = blockIdx.x * CHANNELS + column;
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) next_b[k] = next_c[k] = zeros<STATE_VEC, io_t>();
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            bias[i] = BIAS && d < args.d ? args.delta_bias[d + i] : 0.0f;
            skip[i] = SKIP && d < args.d ? args.d_skip[d + i] : 0.0f;
        }
    }

    // Turns to a run.
    __device__ void enter(unsigned from, unsigned end) {
        begin = from;
        state_count = end - from;
        count = d < args.d ? state_count : 0;
    }

    // Row of the tile that pass `k` of this thread moves, and whether there is one.
    __device__ unsigned row_of(unsigned k) const { return row + k * ROWS_A_PASS; }
    __device__ bool is_row(unsigned k) const { return CHUNK % ROWS_A_PASS == 0 || row_of(k) < CHUNK; }

    // Whether pass `k` has something to move for the chunk at `base`: a token of the run, of channels that exist.
    __device__ bool has(unsigned base, unsigned k) const { return is_row(k) && base + row_of(k) - begin < count; }

    // The token that pass `k` loads for the chunk at `base`: its own, or in place of one outside the run the run's first, so that loads
    // need no condition, which would have to wait for them. Nobody uses what is loaded there.
    __device__ unsigned token_of(unsigned base, unsigned k) const { return within(base + row_of(k)); }
    __device__ unsigned within(unsigned t) const { return t - begin < state_count ? t : begin; }

    // Starts the loads of B and C of a chunk at `base` that has tokens of the run.
    __device__ void prefetch_projections(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = threadIdx.x + k * THREADS;
            const unsigned t = within(base + packet / (STATE / STATE_VEC));
            const unsigned n = packet % (STATE / STATE_VEC) * STATE_VEC;
            next_b[k] = load<STATE_VEC>(row_at(args.b + n, t, args.b_stride));
            next_c[k] = load<STATE_VEC>(row_at(args.c + n, t, args.c_stride));
        }
    }

    // B and C that were loaded go to shared memory.
    __device__ void stage_projections(Projections& shared) const {
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = threadIdx.x + k * THREADS;
            if (packet >= STATE_PACKETS) continue;
            const unsigned r = packet / (STATE / STATE_VEC);
            const unsigned n = packet % (STATE / STATE_VEC) * STATE_VEC;
#pragma unroll
            for (unsigned k_turn = 0; k_turn < TURNS; ++k_turn) {
                put_turned(shared.b[r][k_turn], next_b[k], n, k_turn);
                put_turned(shared.c[r][k_turn], next_c[k], n, k_turn);
            }
        }
    }

    // States from `n` on into a row that has them in order `k_turn`.
    __device__ static void put_turned(float (&row)[ROW], const StateIo& states, unsigned n, unsigned k_turn) {
        if constexpr (ROW % STATE_VEC == 0 && (TURNS == 1 || STATE_VEC % RUN == 0)) {
            float values[STATE_VEC];
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) values[i] = states[turned_state(i, k_turn)];
            put<STATE_VEC>(&row[n], values);
        } else {
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) row[turned_state(n + i, k_turn)] = states[i];
        }
    }
};
