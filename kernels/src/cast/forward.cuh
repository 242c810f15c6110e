// Copies of rows in another type.
//
// What. out[t, c] = x[t, c], rounded to nearest, ties to even, where the type of out is the narrower one.
//
// How. All (t, c) lie in one line of packets of VEC neighbouring columns; a thread takes one, so that neighbouring threads move
// neighbouring packets and short rows fill blocks as well as long ones. Rows may lie apart on both sides.
//
// The conversion is the machine's: NaN stays NaN, what is too large for f16 becomes infinite, subnormal numbers are kept.
//
// Cost an element: its bytes read and written, one conversion, and one division of 64-bit integers a packet for the row; the limit is
// memory. Dropped: a block a row, which wastes most of its threads on rows shorter than BLOCK * VEC.

__device__ inline void cast(const Args& args) {
    const unsigned packets = args.columns / VEC;
    const unsigned long long packet = (unsigned long long)blockIdx.x * BLOCK + threadIdx.x;
    if (packet >= (unsigned long long)args.tokens * packets) return;
    const unsigned t = unsigned(packet / packets), column = unsigned(packet % packets) * VEC;
    const Packet<from_t, VEC> x = load<VEC>(row_at(args.x + column, t, args.x_stride));
    float values[VEC];
#pragma unroll
    for (unsigned i = 0; i < VEC; ++i) values[i] = x[i];
    store<VEC>(row_at(args.out + column, t, args.out_stride), values);
}
