// States passed from segment to segment: the second of the three launches that cut a sequence along time.
//
// What. For every sequence, d and n: what enters each of its segments, from what each does by itself (`state.cuh`). In forward's direction
// entering[q+1] = exp(A * delta_sums[q]) * entering[q] + states[q], from `given`, the initial state of a continued sequence; what leaves the last
// segment is the final state. REVERSE starts from the gradient of the final state at the last segment and ends with that of the initial state.
//
// How. A thread owns one (d, n) of one sequence (grid x: elements, grid y: sequences) and walks its segments in order. It loads BATCH of
// them at once, so that it waits for memory once a batch; a segment past the end loads the last one again, since a load under a condition
// would be waited for at once.
//
// Where nothing was given, the first segment's own state is what leaves it: a choice, not a product with zero, so that a sequence without a
// past depends on nothing but itself whatever its decays are.
//
// Bytes a segment and element: 4 read, 4 written, and 4/N for the sum of delta, all from the second-level cache: microseconds. Nothing is shared
// and there is no barrier.
//
// Dropped: the same at the start of each block of the main pass, which saves a launch but reads the segments before each segment: their
// square in all.

constexpr unsigned BATCH = 8;

__device__ inline void selective_scan_join(const Args& args) {
    const unsigned long long elements = (unsigned long long)args.d * STATE;
    const unsigned long long i = (unsigned long long)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= elements) return;
    const unsigned s = blockIdx.y, first = args.firsts[s], count = args.firsts[s + 1] - first;
    const bool continued = args.continued[s] != 0;
    const float a2 = args.a[i] * LOG2E;

    bool entered = false;
    float h = 0.0f;
    if constexpr (GIVEN) {
        entered = REVERSE || continued;
        if (entered) h = args.given[s * elements + i];
    }
#pragma unroll 1
    for (unsigned k = 0; k < count; k += BATCH) {
        float own[BATCH], decay[BATCH];
#pragma unroll
        for (unsigned j = 0; j < BATCH; ++j) {
            const unsigned place = least(k + j, count - 1), segment = first + (REVERSE ? count - 1 - place : place);
            own[j] = args.states[segment * elements + i];
            decay[j] = ex2(args.delta_sums[(unsigned long long)segment * args.d + i / STATE] * a2);
        }
#pragma unroll
        for (unsigned j = 0; j < BATCH; ++j) {
            if (k + j >= count) break;
            const unsigned segment = first + (REVERSE ? count - 1 - (k + j) : k + j);
            args.entering[segment * elements + i] = h;
            h = entered ? fma(decay[j], h, own[j]) : own[j];
            entered = true;
        }
    }
    if constexpr (LEFT) args.left[s * elements + i] = REVERSE && !continued ? 0.0f : h;
}
