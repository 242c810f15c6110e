// The sum of the squares of each part of a range of gradients.
//
// What. parts[k] = sum of g*g over the PART gradients from k * PART on; the last part may be shorter. clip.cuh adds the parts up.
//
// How. A block owns a part. A thread adds the squares of VEC gradients from each of the block's loads, BLOCK * VEC apart, into VEC sums;
// these are added pairwise, then over the warp by a butterfly, then over the warps by another.
//
// Why in two kernels, without atomics. Every addition has its place: which gradients a thread sums depends on PART, BLOCK and VEC alone,
// not on the GPU, its load or the grid. The norm decides how far every parameter moves, so one bit of it would make two
// runs of a training part for good.
//
// VEC sums a thread are there for precision as much as for speed: with 64 loads a thread no chain of additions is longer than 64.
//
// Cost a gradient: 2 or 4 bytes read and one fma: the limit is memory. Dropped: reading the gradients once for this and for the step
// that follows, which a norm over all of them does not allow.

__device__ inline void grad_norm(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory);

    const unsigned long long begin = (unsigned long long)blockIdx.x * PART;
    const unsigned long long left = args.n - begin;
    const unsigned count = left < PART ? unsigned(left) : PART;
    const unsigned whole = count - count % VEC;
    const io_t* g = args.g + begin;

    float sums[VEC] = {};
#pragma unroll 4
    for (unsigned i = threadIdx.x * VEC; i < whole; i += BLOCK * VEC) {
        const Packet<io_t, VEC> packet = load<VEC>(g + i);
#pragma unroll
        for (unsigned j = 0; j < VEC; ++j) sums[j] = fma(packet[j], packet[j], sums[j]);
    }
    if (threadIdx.x < count - whole) {
        const float last = to_float(g[whole + threadIdx.x]);
        sums[0] = fma(last, last, sums[0]);
    }
#pragma unroll
    for (unsigned width = VEC / 2; width > 0; width /= 2) {
#pragma unroll
        for (unsigned j = 0; j < width; ++j) sums[j] += sums[j + width];
    }
    post<Sum>(sums[0], shared);
    __syncthreads();
    const float sum = collect<Sum, BLOCK>(shared);
    if (threadIdx.x == 0) args.parts[blockIdx.x] = sum;
}
