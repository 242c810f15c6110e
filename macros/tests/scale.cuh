// Multiplies every row by the weight of its sequence: one block a tile of CHANNELS channels and a token.
__device__ void scale(const Args& args) {
    unsigned t = blockIdx.y, sequence = 0;
    while (args.cu_seqlens[sequence + 1] <= t) ++sequence;
    for (unsigned i = threadIdx.x; i < CHANNELS; i += THREADS) {
        unsigned d = blockIdx.x * CHANNELS + i;
        if (d >= args.d) break;
        float x = to_float(args.x[t * args.x_stride + d]) * args.weight[sequence];
        if (BIAS) x += args.bias_of[d];
        args.out[t * args.out_stride + d] = from_float<io_t>(x);
    }
}
