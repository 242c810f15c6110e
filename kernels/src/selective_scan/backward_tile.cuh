// What a block of the backward pass has in shared memory, and what a thread moves there and back.
//
// What. `Mover` turns the words that a thread loaded into (delta, delta*u, dy), and afterwards the sums over states that lanes left into du, ddelta and
// dz of its channels, the sums over the channels of a warp into those of the block, and keeps what D and the bias gather over all tokens.
//
// How. Steps 1, 2 and 4 of backward.cuh; tile.cuh says which channels and tokens are a thread's own. What step 4 needs of step 1 is the same thread's, so it
// stays in registers: delta, dy and the slopes of softplus and silu, for 5.75 ms instead of 5.92 when they were read again.
//
// Every sum has one order: those over warps that of their numbers, those over tokens from the last to the first, whatever the chunk.
//
// Cost an element (t, d): some 50 instructions to stage and 30 to finish, the softplus a polynomial of nine terms, the sigmoids two special functions each.

constexpr unsigned WARPS = THREADS / 32, RANKS = 32 / LANES;
// What dB and dC of a token need of a lane: for each place in a run, for each run and, to make their number a power of two, some more, two values.
constexpr unsigned RUNS = power_of_two_from(LANE_STATES / RUN), PARTS = RUN * RUNS * 2;
// Whether the states of a chunk fit registers.
constexpr bool STRAIGHT = KEPT * WALK * LANE_STATES <= 96;
constexpr unsigned NEVER = 0xffffffff;
constexpr unsigned SUM_PASSES = div_ceil(CHUNK * STATE, THREADS);

// Where a row of `step` has a channel. Threads that move VEC neighbouring channels each would meet in the same banks; so the channels of eight
// are in another order in each of eight such neighbours.
__device__ constexpr unsigned banked(unsigned channel) { return CHANNELS % 8 == 0 ? channel ^ channel / 8 % 8 : channel; }

// Sums over the states of a token and channel.
struct Sums {
    float du[CHANNELS + SUM_PAD];       // sum_n dh*B
    float ddelta[CHANNELS + SUM_PAD];   // sum_n dh*A*a*h[t-1]
    float y[CHANNELS + SUM_PAD];        // sum_n C*h
};

// Shared memory of a block; `backward.rs` computes the same size.
struct alignas(16) Staged {
    float parts[WARPS][CHUNK][2][ROW];  // dB and dC, summed over the channels of a warp
    float4 step[CHUNK][CHANNELS];       // (delta, delta*u, dy, u): u fills the word, a zero would take an instruction, and nobody reads it
    Projections projections;
    Sums sums[CHUNK];
};
// What is left of a block at its end: parts of the gradients of D and the bias.
struct Leftover {
    float d_skip[ROWS_A_PASS][CHANNELS];
    float d_bias[ROWS_A_PASS][CHANNELS];
};
static_assert(sizeof(Staged) <= SHARED_BYTES && sizeof(Leftover) <= SHARED_BYTES, "backward.rs computes another size");

struct Mover : Tile {
    Column<const io_t> from_u, from_delta, from_g, from_z;
    Column<io_t> to_du, to_ddelta, to_dz;
    float d_skip[VEC], d_bias[VEC];  // gradients, summed over the rows of this thread
    // Of the chunk in shared memory, for step 4: delta, dy, and the slopes that delta and z came through, times the gradients where they are known.
    Io u[PASSES];
    float delta[PASSES][VEC], dy[PASSES][VEC], delta_slope[PASSES][VEC], z_slope[PASSES][VEC];
    Io next_u[PASSES], next_delta[PASSES], next_g[PASSES], next_z[PASSES];

    __device__ Mover(const Args& args)
        : Tile(args), from_u(args.u, d, args.u_stride), from_delta(args.delta, d, args.delta_stride),
          from_g(args.g, d, args.g_stride), from_z(args.z, d, args.z_stride), to_du(args.du, d, args.du_stride),
          to_ddelta(args.ddelta, d, args.ddelta_stride), to_dz(args.dz, d, args.dz_stride) {
        keep(thread);
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) d_skip[i] = d_bias[i] = 0.0f;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) next_u[k] = next_delta[k] = next_g[k] = next_z[k] = zeros<VEC, io_t>();
    }

    // Step 2: starts the loads of a chunk at `base`, of which the run may have nothing. Channels that do not exist stay zero and add nothing.
    __device__ void prefetch(unsigned base) {
        prefetch_projections(base);
        if (count == 0) return;
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            const unsigned t = token_of(base, k);
            next_u[k] = load<VEC>(from_u.row(t));
            next_delta[k] = load<VEC>(from_delta.row(t));
            next_g[k] = load<VEC>(from_g.row(t));
            if constexpr (GATE) next_z[k] = load<VEC>(from_z.row(t));
        }
    }

    // Step 1: what was loaded goes to shared memory.
    __device__ void stage(Staged& shared) {
#pragma unroll
        for (unsigned k = 0; k < PASSES; ++k) {
            u[k] = next_u[k];
            if (!is_row(k)) continue;
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                const float raw = next_delta[k][i] + bias[i], g = next_g[k][i];
                delta[k][i] = SOFTPLUS ? softplus(raw) : raw;
                if constexpr (SOFTPLUS) delta_slope[k][i] = sigmoid(raw);
                dy[k][i] = g;
                if constexpr (GATE) {
                    const float gate = next_z[k][i], s = sigmoid(gate);
                    dy[k][i] = g * (gate * s);
                    z_slope[k][i] = g * (s * fma(gate, 1.0f - s, 1.0f));
                }
                shared.step[row_of(k)][banked(column) ^ i] = make_float4(delta[k][i], delta[k][i] * u[k][i], dy[k][i], u[k][i]);
            }
        }
        stage_projections(shared.projections);
    }

    // Step 4, channels: du, ddelta and dz from the sums over states.
    // Tokens from the last to the first, so that sums over them do not depend on the chunk.
    __device__ void finish(const Staged& shared, unsigned base) {
#pragma unroll
        for (unsigned k = PASSES; k-- > 0;) {
            if (!has(base, k)) continue;
            const unsigned r = row_of(k), t = base + r;
            float over_b[VEC], over_a[VEC], y[VEC], du[VEC], ddelta[VEC], dz[VEC];
            constexpr unsigned WIDE = SUM_PAD % VEC == 0 ? VEC : 1;
            get<WIDE>(&shared.sums[r].du[column], over_b);
            get<WIDE>(&shared.sums[r].ddelta[column], over_a);
            if constexpr (GATE) get<WIDE>(&shared.sums[r].y[column], y);
#pragma unroll
            for (unsigned i = 0; i < VEC; ++i) {
                const float u = this->u[k][i];
                du[i] = delta[k][i] * over_b[i];
                if constexpr (SKIP) {
                    du[i] = fma(skip[i], dy[k][i], du[i]);
                    d_skip[i] = fma(dy[k][i], u, d_skip[i]);
                }
                ddelta[i] = fma(u, over_b[i], LN2 * over_a[i]);
                if constexpr (SOFTPLUS) ddelta[i] = ddelta[i] * delta_slope[k][i];
                if constexpr (BIAS) d_bias[i] += ddelta[i];
                if constexpr (GATE) {
                    if constexpr (SKIP) y[i] = fma(skip[i], u, y[i]);
                    dz[i] = z_slope[k][i] * y[i];
                }
            }
            store<VEC>(to_du.row(t), du);
            store<VEC>(to_ddelta.row(t), ddelta);
            if constexpr (GATE) store<VEC>(to_dz.row(t), dz);
        }
    }

    // Step 4, states: dB and dC of this block, summed over its warps.
    __device__ void finish_states(const Staged& shared, unsigned base) const {
#pragma unroll(least(SUM_PASSES, 4))
        for (unsigned k = 0; k < SUM_PASSES; ++k) {
            const unsigned i = thread + k * THREADS, r = i / STATE, n = i % STATE, t = base + r;
            if (SUM_PASSES * THREADS != CHUNK * STATE && r >= CHUNK) break;
            if (t - begin >= state_count) continue;
            float db = shared.parts[0][r][0][n], dc = shared.parts[0][r][1][n];
#pragma unroll
            for (unsigned w = 1; w < WARPS; ++w) {
                db += shared.parts[w][r][0][n];
                dc += shared.parts[w][r][1][n];
            }
            const unsigned column = blockIdx.x * STATE + n;
            *row_at(args.db_parts + column, t, args.tiles * STATE) = db;
            *row_at(args.dc_parts + column, t, args.tiles * STATE) = dc;
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
        for (unsigned c = threadIdx.x; c < CHANNELS; c += THREADS) {
            const unsigned channel = blockIdx.x * CHANNELS + c;
            if (channel >= args.d) return;
            float skip = 0.0f, bias = 0.0f;
            for (unsigned r = 0; r < ROWS_A_PASS; ++r) {
                skip += left.d_skip[r][c];
                bias += left.d_bias[r][c];
            }
            const unsigned long long at = (unsigned long long)blockIdx.y * args.d + channel;
            if constexpr (SKIP) args.dd_skip_parts[at] = skip;
            if constexpr (BIAS) args.ddelta_bias_parts[at] = bias;
        }
    }
};
