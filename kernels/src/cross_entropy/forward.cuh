// Loss of each token and, in the place of its logits, their gradient.
//
// What. loss = ln(sum exp(x - m)) + (m - x[k]), dx = (exp(x - m) / sum exp(x - m) - [j = k]) * scale, with m the largest logit and k the
// target; zeros for a token without one. Shapes are in mod.rs.
//
// How. A block takes a row, a token's V logits. It goes over them three times: for the largest, for the sum of exponentials, and to
// write gradients. Each thread always has the same columns, VEC neighbouring ones every BLOCK * VEC, and keeps its first KEEP
// loads in registers as they came; only what a row has beyond them is read again, from the cache. Every thread writes where it
// alone has read, so the one barrier that writing in place needs is that all have the sum, and that the target's logit has been read.
//
// The trick is what is not done. The usual single pass for maximum and sum rescales the sum whenever the maximum grows; each rescaling is
// another exponential with an error of its own. With the row in registers the second look at it is free, and the formula is the textbook's.
//
// Sums have a fixed order: a thread's columns in order, a butterfly over the warp, one over the warps. The target's column is a comparison of
// indices. The only branch is whether there is a target, the same for the whole block: a token without one costs its zeros.
//
// Cost a logit: 2 or 4 bytes read and as many written, two exponentials, about 17 instructions; for 16-bit logits memory and issue
// slots are both near their limits. Dropped: keeping the exponentials instead of the logits, at twice the registers.

constexpr unsigned WIDTH = BLOCK * VEC; // logits that the block loads at once
constexpr unsigned NO_TARGET = 0xffffffffu;

using Io = Packet<io_t, VEC>;

struct Row {
    io_t* logits;
    unsigned length;
    Io kept[KEEP];

    __device__ Row(io_t* logits, unsigned length) : logits(logits), length(length) {
#pragma unroll
        for (unsigned k = 0; k < KEEP; ++k) {
            kept[k] = zeros<VEC, io_t>();
            if (column(k) < length) kept[k] = reload<VEC>(logits + column(k));
        }
    }

    // First column of this thread's load `k`.
    __device__ static unsigned column(unsigned k) { return k * WIDTH + threadIdx.x * VEC; }

    // Gives every packet of this thread, and its first column, to `use`, in order.
    template <typename Use> __device__ void each(Use use) const {
#pragma unroll
        for (unsigned k = 0; k < KEEP; ++k)
            if (column(k) < length) use(kept[k], column(k));
#pragma unroll 4
        for (unsigned c = column(KEEP); c < length; c += WIDTH) use(reload<VEC>(logits + c), c);
    }
};

// What a token without a target gets.
__device__ inline void clear(io_t* logits, unsigned length) {
    const float none[VEC] = {};
    for (unsigned c = threadIdx.x * VEC; c < length; c += WIDTH) store<VEC>(logits + c, none);
}

__device__ inline void cross_entropy(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory); // two times 32

    const unsigned t = blockIdx.x, target = args.targets[t];
    io_t* logits = row_at(args.logits, t, args.logits_stride);
    if (target == NO_TARGET) {
        clear(logits, args.v);
        if (threadIdx.x == 0) args.loss[t] = 0.0f;
        return;
    }

    const Row row(logits, args.v);
    float max = Max::NEUTRAL;
    row.each([&](const Io& x, unsigned) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) max = Max::of(max, x[i]);
    });
    post<Max>(max, shared);
    __syncthreads();
    max = collect<Max, BLOCK>(shared);

    float sum = 0.0f;
    row.each([&](const Io& x, unsigned) {
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) sum += ex2((x[i] - max) * LOG2E);
    });
    post<Sum>(sum, shared + 32);
    // Of a target outside the vocabulary, which the host refuses, NaN.
    const float aim = threadIdx.x == 0 && target < args.v ? to_float(logits[target]) : __int_as_float(0x7fffffff);
    __syncthreads();
    sum = collect<Sum, BLOCK>(shared + 32);

    const float scale = args.scale[0], share = rcp(sum);
    row.each([&](const Io& x, unsigned column) {
        float gradients[VEC];
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) {
            const float p = ex2((x[i] - max) * LOG2E) * share;
            gradients[i] = (column + i == target ? p - 1.0f : p) * scale;
        }
        store<VEC>(logits + column, gradients);
    });
    if (threadIdx.x == 0) args.loss[t] = fma(lg2(sum), LN2, max - aim);
}
