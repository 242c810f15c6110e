// What the passes that see every token share: how a block's threads move a chunk between global and shared memory.
//
// A thread always has the same VEC neighbouring channels and every ROWS_A_PASS-th token of a chunk, so that a warp reads whole rows and each
// thread keeps what belongs to its channels, the bias of delta and the skip weight, in registers. B and C are read as packets of STATE_VEC
// states, first those of B, then those of C; neighbouring threads read neighbouring packets, which are so narrow that every thread has one
// where there are enough.
//
// A thread's column and row of the tile are kept in registers (`keep`): the compiler would make them again from the thread's number wherever they
// are needed, at every chunk and behind every barrier.
//
// Loads of the next chunk are issued while this one is computed and wait in registers. None has a condition of its own: a load whose result is only taken
// under a condition is waited for at once, by the move that takes it. A token outside the run of sequences reads the run's first instead.
//
// B and C lie in shared memory in every order in which lanes keep the states of a run (`Walk`), so that a lane reads its run as one word. Where
// LANES do not divide N, the states that pad a row are zero for good: whoever has them in registers adds zeros.

constexpr unsigned PROJECTION_PASSES = div_ceil(2 * STATE_PACKETS, THREADS);

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
    unsigned thread;               // of the block
    unsigned begin, count;         // tokens of the run; none for a thread whose channels do not exist
    unsigned state_count;          // tokens of the run, for B and C
    unsigned column, row;          // of the tile: first channel and first row of this thread
    unsigned d;                    // first channel of this thread in the tensors
    float bias[VEC], skip[VEC];
    StateIo next_states[PROJECTION_PASSES];

    __device__ Tile(const Args& args) : args(args), thread(threadIdx.x), begin(0), count(0), state_count(0) {
        column = thread % (CHANNELS / VEC) * VEC;
        row = thread / (CHANNELS / VEC);
        d = blockIdx.x * CHANNELS + column;
        keep(column);
        keep(row);
#pragma unroll
        for (unsigned k = 0; k < PROJECTION_PASSES; ++k) next_states[k] = zeros<STATE_VEC, io_t>();
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

    // Packet `k` of this thread; those of C come after those of B. Where whole passes are of one or the other, that is known here.
    __device__ unsigned packet_of(unsigned k) const { return thread + k * THREADS; }
    __device__ bool is_c(unsigned k) const { return (STATE_PACKETS % THREADS == 0 ? k * THREADS : packet_of(k)) >= STATE_PACKETS; }
    __device__ unsigned packet_of_either(unsigned k) const { return packet_of(k) - (is_c(k) ? STATE_PACKETS : 0); }
    // Its first state, and its row of the tile.
    __device__ unsigned state_of(unsigned k) const { return packet_of_either(k) % (STATE / STATE_VEC) * STATE_VEC; }
    __device__ unsigned state_row_of(unsigned k) const { return packet_of_either(k) / (STATE / STATE_VEC); }

    // Starts the loads of B and C of a chunk at `base`.
    __device__ void prefetch_projections(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < PROJECTION_PASSES; ++k) {
            const io_t* first = (is_c(k) ? args.c : args.b) + state_of(k);
            next_states[k] = load<STATE_VEC>(row_at(first, within(base + state_row_of(k)), is_c(k) ? args.c_stride : args.b_stride));
        }
    }

    // B and C that were loaded go to shared memory.
    __device__ void stage_projections(Projections& shared) const {
#pragma unroll
        for (unsigned k = 0; k < PROJECTION_PASSES; ++k) {
            if (PROJECTION_PASSES * THREADS != 2 * STATE_PACKETS && packet_of(k) >= 2 * STATE_PACKETS) continue;
            float(&row)[TURNS][ROW] = (is_c(k) ? shared.c : shared.b)[state_row_of(k)];
#pragma unroll
            for (unsigned order = 0; order < TURNS; ++order) put_turned(row[order], next_states[k], state_of(k), order);
        }
    }

    // States from `n` on into a row that has them in order `order`, which shifts packets of a run and the states of each.
    __device__ static void put_turned(float (&row)[ROW], const StateIo& states, unsigned n, unsigned order) {
        if constexpr (ROW % STATE_VEC == 0) {
            const unsigned shift = turned_state(0, order), inside = shift % STATE_VEC;
            float values[STATE_VEC];
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) values[i] = states[i ^ inside];
            put<STATE_VEC>(&row[n ^ (shift - inside)], values);
        } else {
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) row[turned_state(n + i, order)] = states[i];
        }
    }
};
