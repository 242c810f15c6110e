// Backward pass of the embedding: the gradient of the table.
//
// What. dtable[v] += sum of dout[t] over the tokens t with id v, in the order of the tokens. Shapes are in mod.rs.
//
// How. The host has sorted the tokens by id, stably. A block takes one id that occurs (grid x, the most frequent first) and a tile of
// columns (grid y); a thread takes VEC columns and adds the rows of the id's tokens one after the other, eight loads in flight. So
// every row of dtable has one owner and no atomic is needed, and the order of additions is that of the tokens, in every run.
//
// The order depends on the ids alone: sorting is structure, as boundaries are. Gradients go only into additions.
//
// Cost: dout read once, each row of an id that occurs read and written once. The limit is memory, unless one id has so many tokens that
// its chain outlasts everything else; its columns are spread over blocks and it starts first.
//
// Dropped: splitting the tokens of a frequent id over blocks, which needs a workspace and a second pass.

__device__ inline void embedding_bwd(const Args& args) {
    const unsigned column = (blockIdx.y * PACKETS + threadIdx.x) * VEC;
    if (column >= args.width) return;
    const unsigned begin = args.starts[blockIdx.x], end = args.starts[blockIdx.x + 1];
    float sum[VEC];
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) sum[i] = 0.0f;
#pragma unroll 8
    for (unsigned k = begin; k < end; ++k) {
        const Packet<io_t, VEC> row = load<VEC>(row_at(args.dout + column, args.order[k], args.dout_stride));
#pragma unroll
        for (unsigned i = 0; i < VEC; ++i) sum[i] += row[i];
    }
    float* to = row_at(args.dtable + column, args.distinct_ids[blockIdx.x], args.dtable_stride);
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) sum[i] = to[i] + sum[i];
    put<VEC>(to, sum);
}
