// The norm of all gradients from the sums of their parts, and what the gradients are to be multiplied with.
//
// What. norm = sqrt(sum of parts), factor = min(1, max_norm / (norm + 1e-6)); where the norm is infinite or NaN, factor 0 and a flag,
// by which the optimiser leaves its parameters alone.
//
// How. One block. A thread adds every BLOCKth part in order, then a butterfly over the warp and one over the warps: the same
// additions in the same order for the same number of parts.
//
// The result stays on the device, where the optimiser reads it: the host need not wait for the norm between the backward pass and the
// step, and may read it whenever it likes for its log.
//
// Cost: P loads in P / BLOCK rounds of latency, some ten microseconds for 64 thousand parts, which are four billion gradients.
// Dropped: a third level of sums; doing this in the last block of forward.cuh to finish, which takes an atomic counter and a fence to save
// one launch.

__device__ inline void grad_norm_clip(const Args& args) {
    extern __shared__ uint4 shared_memory[];
    float* shared = reinterpret_cast<float*>(shared_memory);

    float sum = 0.0f;
#pragma unroll 8
    for (unsigned i = threadIdx.x; i < args.n; i += BLOCK) sum += args.parts[i];
    post<Sum>(sum, shared);
    __syncthreads();
    sum = collect<Sum, BLOCK>(shared);
    if (threadIdx.x != 0) return;

    const float norm = __fsqrt_rn(sum);
    const bool finite = norm <= LARGEST; // false for NaN
    args.result[0] = finite ? fminf(1.0f, __fdiv_rn(args.max_norm[0], norm + 1e-6f)) : 0.0f;
    args.result[1] = norm;
    args.result[2] = finite ? 0.0f : 1.0f;
}
