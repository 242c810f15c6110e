// What both passes of the packed selective scan share: how a block's threads are laid over channels, states and tokens.
//
// A block owns CHANNELS channels of one group of whole sequences. It uses its THREADS = CHANNELS * LANES threads in two ways.
//
// To move data, a thread always has the same VEC neighbouring channels and every ROWS_A_PASS-th token of a chunk (`Tile`), so that a warp
// reads whole rows and each thread keeps what belongs to its channels, the bias of delta and the skip weight, in registers.
//
// To compute, LANES neighbouring lanes share a channel (`Channel`). Each keeps LANE_STATES of its N states in registers, in runs of RUN
// neighbours: register i of lane l holds state (i / RUN) * LANES * RUN + l * RUN + i % RUN, so that one wide access serves a run and
// the lanes of a channel together read consecutive banks. Where LANES do not divide N the last states are padding: B and C are zero
// there, so they stay zero and add nothing.

constexpr unsigned ROWS_A_PASS = LANES * VEC;            // rows of a (CHUNK, CHANNELS) tile that the block moves at once
constexpr unsigned PASSES = div_ceil(CHUNK, ROWS_A_PASS);
constexpr unsigned STATE_PACKETS = CHUNK * (STATE / STATE_VEC);
constexpr unsigned STATE_PASSES = div_ceil(STATE_PACKETS, THREADS);
constexpr unsigned RUN = LANE_STATES % 4 == 0 ? 4 : LANE_STATES % 2 == 0 ? 2 : 1;
// Sums over the lanes of a channel for GROUP tokens at once: how many of them a lane then has, and how many lanes have the same.
constexpr unsigned OWN = folded(LANES / 2, 1, GROUP), SHARE = LANES * OWN / GROUP;

using Io = Packet<io_t, VEC>;
using StateIo = Packet<io_t, STATE_VEC>;

// B and C of a chunk in shared memory, ROW states a token with the padding.
struct Projections {
    float b[CHUNK][ROW];
    float c[CHUNK][ROW];
};

// States that only pad a row are zero for good; the next barrier shows them to everyone.
__device__ inline void clear_padding(Projections& shared) {
    if constexpr (ROW != STATE) {
        for (unsigned i = threadIdx.x; i < CHUNK * (ROW - STATE); i += THREADS) {
            const unsigned r = i / (ROW - STATE), n = STATE + i % (ROW - STATE);
            shared.b[r][n] = 0.0f;
            shared.c[r][n] = 0.0f;
        }
    }
}

// What a thread moves between global and shared memory.
struct Tile {
    const Args& args;
    unsigned begin, count;         // tokens of the group; none for a thread whose channels do not exist
    unsigned state_count;          // tokens of the group, for B and C
    unsigned column, row;          // of the tile: first channel and first row of this thread
    unsigned d;                    // first channel of this thread in the tensors
    float bias[VEC], skip[VEC];
    StateIo next_b[STATE_PASSES], next_c[STATE_PASSES];

    __device__ Tile(const Args& args, unsigned begin, unsigned end) : args(args), begin(begin), state_count(end - begin) {
        column = threadIdx.x % (CHANNELS / VEC) * VEC;
        row = threadIdx.x / (CHANNELS / VEC);
        d = blockIdx.x * CHANNELS + column;
        count = d < args.d ? end - begin : 0;
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            bias[i] = BIAS && d < args.d ? args.delta_bias[d + i] : 0.0f;
            skip[i] = SKIP && d < args.d ? args.d_skip[d + i] : 0.0f;
        }
    }

    // Row of the tile that pass `k` of this thread moves, and whether there is one.
    __device__ unsigned row_of(unsigned k) const { return row + k * ROWS_A_PASS; }
    __device__ bool is_row(unsigned k) const { return CHUNK % ROWS_A_PASS == 0 || row_of(k) < CHUNK; }

    // Whether pass `k` has something to move for the chunk at `base`: a token of the group, of channels that exist.
    __device__ bool has(unsigned base, unsigned k) const { return is_row(k) && base + row_of(k) - begin < count; }

    // Starts the loads of B and C of the chunk at `base`. What lies outside the group stays zero.
    __device__ void prefetch_projections(unsigned base) {
#pragma unroll
        for (unsigned k = 0; k < STATE_PASSES; ++k) {
            const unsigned packet = threadIdx.x + k * THREADS;
            const unsigned t = base + packet / (STATE / STATE_VEC);
            const unsigned n = packet % (STATE / STATE_VEC) * STATE_VEC;
            next_b[k] = next_c[k] = zeros<STATE_VEC, io_t>();
            if (packet < STATE_PACKETS && t - begin < state_count) {
                next_b[k] = load<STATE_VEC>(row_at(args.b + n, t, args.b_stride));
                next_c[k] = load<STATE_VEC>(row_at(args.c + n, t, args.c_stride));
            }
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
            float b[STATE_VEC], c[STATE_VEC];
#pragma unroll
            for (unsigned i = 0; i < STATE_VEC; ++i) {
                b[i] = next_b[k][i];
                c[i] = next_c[k][i];
            }
            put<ROW % STATE_VEC == 0 ? STATE_VEC : 1>(&shared.b[r][n], b);
            put<ROW % STATE_VEC == 0 ? STATE_VEC : 1>(&shared.c[r][n], c);
        }
    }
};

// The channel that a lane shares, and the states of it that the lane keeps.
struct Channel {
    const Args& args;
    unsigned channel, lane;        // of the tile, of the channel
    unsigned d;                    // channel in the tensors

    __device__ Channel(const Args& args) : args(args) {
        channel = threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        d = blockIdx.x * CHANNELS + channel;
    }

    // The state in register `i`; for the first of a run also that of the run.
    __device__ unsigned state_of(unsigned i) const { return (i - i % RUN) * LANES + lane * RUN + i % RUN; }

    // States of this channel from row `row` of a (_, D, STATE) tensor, zeros where there are none, and back.
    __device__ void restore(float (&h)[LANE_STATES], const float* from, unsigned row) const {
        const float* states = from + ((long long)row * args.d + d) * STATE;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) {
            const unsigned n = state_of(i);
            h[i] = d < args.d && n < STATE ? states[n] : 0.0f;
        }
    }

    __device__ void save(const float (&h)[LANE_STATES], float* to, unsigned row) const {
        if (d >= args.d) return;
        float* states = to + ((long long)row * args.d + d) * STATE;
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; i += RUN) {
            float run[RUN];
#pragma unroll
            for (unsigned j = 0; j < RUN; ++j) run[j] = h[i + j];
            if constexpr (STATE % RUN == 0) {
                if (state_of(i) < STATE) put<RUN>(states + state_of(i), run);
            } else {
#pragma unroll
                for (unsigned j = 0; j < RUN; ++j)
                    if (state_of(i + j) < STATE) states[state_of(i + j)] = run[j];
            }
        }
    }
};
