// The gradient of the logarithm of the state matrix, in place.
//
// What. g = g * a over N elements: dL/dA_log = dL/dA * dA/dA_log, and A = -exp(A_log) is its own derivative.
//
// How. A thread owns VEC neighbouring elements, a block BLOCK * VEC; nothing is shared. The last elements, fewer than VEC, are moved
// one by one by the thread that they fall to. Each element is read and written by one thread, so in place is safe.
//
// The trick is to multiply what has been summed over all packs, once a step, instead of each pack's share: the product distributes, and g
// needs no second buffer.
//
// Cost an element: 8 bytes read, 4 written, one product, rounded once; the limit is memory. Dropped: taking the exponential again from a_log,
// which would read as many bytes and could disagree with the forward pass's a in the last place.

template <unsigned WIDTH> __device__ inline void multiply(const Args& args, unsigned long long first) {
    const Packet<float, WIDTH> old_g = reload<WIDTH>(args.g + first), a = load<WIDTH>(args.a + first);
    float g[WIDTH];
#pragma unroll
    for (unsigned i = 0; i < WIDTH; ++i) g[i] = old_g[i] * a[i];
    store<WIDTH>(args.g + first, g);
}

__device__ inline void neg_exp_bwd(const Args& args) {
    const unsigned long long first = ((unsigned long long)blockIdx.x * BLOCK + threadIdx.x) * VEC;
    if (first + VEC <= args.n) {
        multiply<VEC>(args, first);
    } else {
        for (unsigned long long i = first; i < args.n; ++i) multiply<1>(args, i);
    }
}
