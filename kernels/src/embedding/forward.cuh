// Forward pass of the embedding: a row of the table for each token.
//
// What. out[t] = table[ids[t]], bit for bit: nothing is rounded. Shapes are in mod.rs.
//
// How. A block takes ROWS tokens, LANES threads each. A lane moves packets of VEC columns, LANES packets apart, so that neighbouring lanes
// touch neighbouring memory. The lanes of a token read its id together, one broadcast.
//
// Ids are checked on the host, when they enter, so there is no branch here for an id outside the vocabulary.
//
// Cost an element: read once, written once. The limit is memory; frequent rows of the table come from cache.
//
// Dropped: asynchronous copies through shared memory; a thread has all its loads of a pass in flight without them.

__device__ inline void embedding_fwd(const Args& args) {
    const unsigned t = blockIdx.x * ROWS + threadIdx.x / LANES;
    if (t >= args.tokens) return;
    const io_t* from = row_at(args.table, args.ids[t], args.table_stride);
    io_t* to = row_at(args.out, t, args.out_stride);
#pragma unroll 4
    for (unsigned column = threadIdx.x % LANES * VEC; column < args.width; column += LANES * VEC) {
        const Packet<io_t, VEC> packet = load<VEC>(from + column);
        *reinterpret_cast<decltype(packet.word)*>(to + column) = packet.word;
    }
}
