// What both passes of the packed selective scan share: how a block's threads are laid over channels, states and tokens.
//
// A block owns CHANNELS channels of one group of whole sequences. It uses its THREADS = CHANNELS / WALK * LANES threads in two ways.
//
// To move data, a thread always has the same VEC neighbouring channels and every ROWS_A_PASS-th token of a chunk (`Tile`), so that a warp
// reads whole rows and each thread keeps what belongs to its channels, the bias of delta and the skip weight, in registers.
//
// To compute, LANES neighbouring lanes, a slot, share WALK neighbouring channels (`Walk`). Of each a lane keeps LANE_STATES of its N states
// in registers, in runs of RUN neighbours: register i of lane l holds state (i / RUN) * LANES * RUN + l * RUN + i % RUN, so that one wide
// access serves a run and the lanes of a channel together read consecutive banks. Where LANES do not divide N the last states are padding:
// B and C are zero there, so they stay zero and add nothing.
//
// Sums over lanes are cheaper where lanes have arranged their values (`fold`). So lanes walk their channels in different orders, and
// in backward, where states are summed over channels, lanes of different channels keep the states of a run in different orders: TURNS of them.

constexpr unsigned ROWS_A_PASS = LANES * VEC / WALK;     // rows of a (CHUNK, CHANNELS) tile that the block moves at once
constexpr unsigned PASSES = div_ceil(CHUNK, ROWS_A_PASS);
constexpr unsigned STATE_PACKETS = CHUNK * (STATE / STATE_VEC);
constexpr unsigned STATE_PASSES = div_ceil(STATE_PACKETS, THREADS);
constexpr unsigned SWAPS = least(WALK, LANES);           // orders in which the lanes of a slot walk its channels

using Io = Packet<io_t, VEC>;
using StateIo = Packet<io_t, STATE_VEC>;

// Where order `k` has state `n`.
constexpr unsigned turned_state(unsigned n, unsigned k) { return n ^ k * (RUN / TURNS); }

// States of the channels that a lane walks.
using States = float[WALK][LANE_STATES];

__device__ inline void clear(States& h) {
#pragma unroll
    for (unsigned w = 0; w < WALK; ++w)
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) h[w][i] = 0.0f;
}

__device__ inline void copy(States& to, const States& from) {
#pragma unroll
    for (unsigned w = 0; w < WALK; ++w)
#pragma unroll
        for (unsigned i = 0; i < LANE_STATES; ++i) to[w][i] = from[w][i];
}

// The channels that a lane walks together with its neighbours, and the states of them that it keeps.
struct Walk {
    const Args& args;
    unsigned slot, lane;           // of the block, of the slot
    unsigned swap;                 // the lane's order of the channels: its w-th one is number w ^ swap of the slot
    unsigned rank;                 // of the slot in its warp
    unsigned order;                // in which the lane keeps the states of a run

    __device__ Walk(const Args& args) : args(args) {
        slot = threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        swap = turn(lane, LANES, WALK);
        rank = threadIdx.x % 32 / LANES;
        order = TURNS == 1 ? 0 : rank / (32 / LANES / TURNS);
    }

    // Number in the tile, and in the tensors, of channel `w` of the lane.
    __device__ unsigned channel_of(unsigned w) const { return slot * WALK + (w ^ swap); }
    __device__ unsigned d_of(unsigned w) const { return blockIdx.x * CHANNELS + channel_of(w); }

    // Where the run of register `i` starts in a row.
    __device__ unsigned run_of(unsigned i) const { return (i - i % RUN) * LANES + lane * RUN; }
    // The state in register `i`.
    __device__ unsigned state_of(unsigned i) const { return run_of(i) + turned_state(i % RUN, order); }

    // States of the lane's channels from row `row` of a (_, D, STATE) tensor, zeros where there are none.
    __device__ void restore(States& h, const float* from, unsigned row) const {
        States raw;
        clear(raw);
        fetch(raw, from, row);
        arrange(h, raw);
    }

    // The same in the tensor's order; where there are none, `raw` is left as it is.
    __device__ void fetch(States& raw, const float* from, unsigned row) const {
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            if (d_of(w) >= args.d) continue;
            const float* states = row_at(row_at(from, row, args.d * STATE), d_of(w), STATE);
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; i += RUN) {
                if constexpr (STATE % RUN == 0) {
                    float run[RUN];
                    if (ROW != STATE && run_of(i) >= STATE) continue;
                    get<RUN>(states + run_of(i), run);
#pragma unroll
                    for (unsigned j = 0; j < RUN; ++j) raw[w][i + j] = run[j];
                } else {
#pragma unroll
                    for (unsigned j = 0; j < RUN; ++j)
                        if (run_of(i) + j < STATE) raw[w][i + j] = states[run_of(i) + j];
                }
            }
        }
    }

    // From the tensor's order to the lane's: pairs of halves of a run change places, of quarters, and so on.
    __device__ void arrange(States& h, const States& raw) const {
        copy(h, raw);
#pragma unroll
        for (unsigned bit = RUN / 2; bit >= RUN / TURNS && bit > 0; bit /= 2) {
            const bool swapped = order * (RUN / TURNS) & bit;
#pragma unroll
            for (unsigned w = 0; w < WALK; ++w) {
#pragma unroll
                for (unsigned i = 0; i < LANE_STATES; ++i) {
                    if (i & bit) continue;
                    const float low = h[w][i], high = h[w][i | bit];
                    h[w][i] = swapped ? high : low;
                    h[w][i | bit] = swapped ? low : high;
                }
            }
        }
    }

    __device__ void save(const States& h, float* to, unsigned row) const {
#pragma unroll
        for (unsigned w = 0; w < WALK; ++w) {
            if (d_of(w) >= args.d) continue;
            float* states = to + ((long long)row * args.d + d_of(w)) * STATE;
#pragma unroll
            for (unsigned i = 0; i < LANE_STATES; i += RUN) {
                if constexpr (STATE % RUN == 0 && TURNS == 1) {
                    float run[RUN];
#pragma unroll
                    for (unsigned j = 0; j < RUN; ++j) run[j] = h[w][i + j];
                    if (run_of(i) < STATE) put<RUN>(states + run_of(i), run);
                } else {
#pragma unroll
                    for (unsigned j = 0; j < RUN; ++j)
                        if (state_of(i + j) < STATE) states[state_of(i + j)] = h[w][i + j];
                }
            }
        }
    }
};
