// The state matrix from its logarithm.
//
// What. a = -exp(a_log) over N elements.
//
// How. A thread owns VEC neighbouring elements, a block BLOCK * VEC; nothing is shared. The last elements, fewer than VEC, are moved
// one by one by the thread that they fall to.
//
// The exponential is the special-function unit's 2^x, as in the scan, so what a model trains with is as exact as what the scan makes of it.
// Where a_log is below -87, a is 0 and the state never decays; NaN stays NaN.
//
// Cost an element: 4 bytes read, 4 written, one special-function result; the limit is memory, and of a whole model it is microseconds.
// Dropped: folding this into the scan, which would take the exponential once a sequence and a block instead of once a step.

template <unsigned WIDTH> __device__ inline void negative_exponential(const Args& args, unsigned long long first) {
    const Packet<float, WIDTH> a_log = load<WIDTH>(args.a_log + first);
    float a[WIDTH];
#pragma unroll
    for (unsigned i = 0; i < WIDTH; ++i) a[i] = -ex2(a_log[i] * LOG2E);
    store<WIDTH>(args.a + first, a);
}

__device__ inline void neg_exp_fwd(const Args& args) {
    const unsigned long long first = ((unsigned long long)blockIdx.x * BLOCK + threadIdx.x) * VEC;
    if (first + VEC <= args.n) {
        negative_exponential<VEC>(args, first);
    } else {
        for (unsigned long long i = first; i < args.n; ++i) negative_exponential<1>(args, i);
    }
}
