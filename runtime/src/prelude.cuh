// What every generated kernel may use. NVRTC alone compiles it: no toolkit header is needed.

constexpr float LOG2E = 1.44269504088896341f;
constexpr float LN2 = 0.693147180559945309f;
constexpr float LARGEST = 3.40282346638528860e38f;

constexpr unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }
constexpr unsigned div_ceil(unsigned a, unsigned b) { return (a + b - 1) / b; }
constexpr unsigned power_of_two_from(unsigned a) { return a <= 1 ? 1 : 2 * power_of_two_from(div_ceil(a, 2)); }

// Storage types. Arithmetic is always in float.
struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline f16 from_float<f16>(float x) { f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
template <> __device__ inline bf16 from_float<bf16>(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }

// One multiprocessor instruction each; PTX ISA states their errors, `Bounded` in the reference crate repeats them.
__device__ inline float ex2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ inline float lg2(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ inline float rcp(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ inline float inverse_sqrt(float x) { float y; asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), without a branch. log1p on [0, 1] is a polynomial fitted for relative
// error: 3 units in the last place of float, evaluation included.
__device__ inline float softplus(float x) {
    const float w = ex2(-fabsf(x) * LOG2E);
    float p = 0x1.56edcep-8f;
    p = fma(p, w, -0x1.e369bap-6f);
    p = fma(p, w, 0x1.4069c8p-4f);
    p = fma(p, w, -0x1.17d2bcp-3f);
    p = fma(p, w, 0x1.874a7ep-3f);
    p = fma(p, w, -0x1.fcc8c6p-3f);
    p = fma(p, w, 0x1.553004p-2f);
    p = fma(p, w, -0x1.fffeacp-2f);
    p = fma(p, w, 0x1.fffffep-1f);
    return fmaxf(x, 0.0f) + p * w;
}

__device__ inline float sigmoid(float x) { return rcp(1.0f + ex2(-x * LOG2E)); }
__device__ inline float silu(float x) { return x * sigmoid(x); }

// The register word that one load or store of `BYTES` bytes moves.
template <unsigned BYTES> struct Word;
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = unsigned; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };

// `WIDTH` neighbouring elements, moved by one instruction: 16 bytes at most.
template <typename T, unsigned WIDTH> struct Packet {
    union {
        typename Word<sizeof(T) * WIDTH>::type word;
        T element[WIDTH];
    };
    __device__ float operator[](unsigned i) const { return to_float(element[i]); }
};

// Loads through the read-only path: nothing in the kernel may write what it reads.
template <unsigned WIDTH, typename T> __device__ inline Packet<T, WIDTH> load(const T* from) {
    Packet<T, WIDTH> packet;
    packet.word = __ldg(reinterpret_cast<const typename Word<sizeof(T) * WIDTH>::type*>(from));
    return packet;
}

// Loads of what the kernel itself may write.
template <unsigned WIDTH, typename T> __device__ inline Packet<T, WIDTH> reload(const T* from) {
    Packet<T, WIDTH> packet;
    packet.word = *reinterpret_cast<const typename Word<sizeof(T) * WIDTH>::type*>(from);
    return packet;
}

template <unsigned WIDTH, typename T> __device__ inline Packet<T, WIDTH> zeros() {
    Packet<T, WIDTH> packet;
    packet.word = {};
    return packet;
}

template <unsigned WIDTH, typename T> __device__ inline void store(T* to, const float (&values)[WIDTH]) {
    Packet<T, WIDTH> packet;
#pragma unroll
    for (unsigned i = 0; i < WIDTH; ++i) packet.element[i] = from_float<T>(values[i]);
    *reinterpret_cast<decltype(packet.word)*>(to) = packet.word;
}

// `WIDTH` neighbouring floats from or to memory, in accesses of up to 16 bytes. Both sides of a pair are aligned to their width.
template <unsigned WIDTH, unsigned SIZE> __device__ inline void get(const float* from, float (&to)[SIZE]) {
    static_assert(SIZE % WIDTH == 0);
    constexpr unsigned STEP = least(WIDTH, 4);
#pragma unroll
    for (unsigned i = 0; i < SIZE; i += STEP) {
        if constexpr (STEP == 4) {
            const float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x; to[i + 1] = v.y; to[i + 2] = v.z; to[i + 3] = v.w;
        } else if constexpr (STEP == 2) {
            const float2 v = *reinterpret_cast<const float2*>(from + i);
            to[i] = v.x; to[i + 1] = v.y;
        } else {
            to[i] = from[i];
        }
    }
}

template <unsigned WIDTH, unsigned SIZE> __device__ inline void put(float* to, const float (&from)[SIZE]) {
    static_assert(SIZE % WIDTH == 0);
    constexpr unsigned STEP = least(WIDTH, 4);
#pragma unroll
    for (unsigned i = 0; i < SIZE; i += STEP) {
        if constexpr (STEP == 4) *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
        else if constexpr (STEP == 2) *reinterpret_cast<float2*>(to + i) = make_float2(from[i], from[i + 1]);
        else to[i] = from[i];
    }
}

// Row `t` of a tensor whose rows lie `stride` elements apart. The host checks that a stride in bytes fits 32 bits, so that one wide
// multiplication makes the address; the compiler, left to itself, would multiply 64 bits by 64.
template <typename T> __device__ inline T* row_at(T* first, unsigned t, long long stride) {
    unsigned long long bytes;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(bytes) : "r"(t), "r"(unsigned(stride) * unsigned(sizeof(T))));
    return (T*)((char*)first + bytes);
}

// Keeps a number in a register from here on, where the compiler would rather compute it again whenever it is needed.
__device__ inline void keep(unsigned& x) { asm("" : "+r"(x)); }

// A block's shared memory as what it holds, its address kept in a register as well.
template <typename T> __device__ inline T& in_shared(uint4* memory) {
    T* whole = reinterpret_cast<T*>(memory);
    asm("" : "+l"(whole));
    __builtin_assume(__isShared(whole));
    return *whole;
}

// A column of a tensor, for a thread that visits many of its rows. The pointer stays in registers, where the compiler would rather
// make it again for every row.
template <typename T> struct Column {
    T* first;
    long long stride;

    __device__ Column(T* tensor, unsigned column, long long stride) : first(tensor + column), stride(stride) {
        asm("" : "+l"(first));
        __builtin_assume(__isGlobal(first));
    }
    __device__ T* row(unsigned t) const { return row_at(first, t, stride); }
};

// Sums COUNT values, a power of two, over the lanes whose numbers differ in the bits HIGH, HIGH/2, .., LOW: the same tree for every value, whichever
// way. While a lane has several values, each exchange halves those that it cares for, so that COUNT sums over as many lanes cost
// COUNT - 1 shuffles. Afterwards the lane has `folded(..)` values in v[0..], those from index `rank * folded(..)` on, where
// rank is its number among the lanes; if lanes outnumber values, `lanes / COUNT` neighbours have the same one.
//
// An exchange chooses what to keep and what to send, two instructions a value. The first SORTED exchanges need no choice: there every lane has
// arranged its values so that it keeps the first half: of COUNT groups of values, group i lies where group i ^ turn(rank, lanes, COUNT) would.
constexpr unsigned folded(unsigned high, unsigned low, unsigned count) {
    for (unsigned mask = high; mask >= low && mask > 0; mask /= 2) count = count > 1 ? count / 2 : 1;
    return count;
}

__device__ inline unsigned turn(unsigned rank, unsigned lanes, unsigned count) {
    return lanes > count ? rank / (lanes / count) : rank * (count / lanes);
}

// What a lane has of SIZE values folded over N neighbouring lanes: how many, and how many neighbours have the same ones.
template <unsigned N, unsigned SIZE> struct Folded {
    static constexpr unsigned COUNT = folded(N / 2, 1, SIZE), SHARE = N * COUNT / SIZE;
};

// The first COUNT of the values, by a template for each exchange, so that every index is a constant and the values stay in registers.
template <unsigned HIGH, unsigned LOW, unsigned SORTED, unsigned COUNT, unsigned SIZE> __device__ inline void fold_first(float (&v)[SIZE]) {
    if constexpr (HIGH >= LOW && HIGH > 0) {
        constexpr unsigned LEFT = COUNT > 1 ? COUNT / 2 : 1;
        if constexpr (COUNT == 1) {
            v[0] += __shfl_xor_sync(0xffffffff, v[0], HIGH);
        } else if constexpr (SORTED > 1) {
#pragma unroll
            for (unsigned j = 0; j < LEFT; ++j) v[j] += __shfl_xor_sync(0xffffffff, v[j + LEFT], HIGH);
        } else {
            const bool upper = threadIdx.x & HIGH;
#pragma unroll
            for (unsigned j = 0; j < LEFT; ++j) {
                const float kept = upper ? v[j + LEFT] : v[j];
                const float sent = upper ? v[j] : v[j + LEFT];
                v[j] = kept + __shfl_xor_sync(0xffffffff, sent, HIGH);
            }
        }
        fold_first<HIGH / 2, LOW, (SORTED > 1 ? SORTED / 2 : 1), LEFT>(v);
    }
}

// SORTED is how many groups of neighbouring values are sorted, a power of two.
template <unsigned HIGH, unsigned LOW, unsigned SORTED = 1, unsigned COUNT> __device__ inline void fold(float (&v)[COUNT]) {
    fold_first<HIGH, LOW, SORTED, COUNT>(v);
}

// Reductions over a block, in an order that depends on its number of threads alone: a butterfly in each warp, whose result is
// `post`ed to shared memory; a barrier; a butterfly over the warps, whose result every thread `collect`s. Each reduction has 32
// floats of shared memory of its own.
struct Sum {
    static constexpr float NEUTRAL = 0.0f;
    __device__ static float of(float a, float b) { return a + b; }
};

// Of numbers; a NaN is passed over.
struct Max {
    static constexpr float NEUTRAL = -LARGEST;
    __device__ static float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Op> __device__ inline float over_warp(float x) {
#pragma unroll
    for (unsigned mask = 16; mask > 0; mask /= 2) x = Op::of(x, __shfl_xor_sync(0xffffffff, x, mask));
    return x;
}

template <typename Op> __device__ inline void post(float x, float* shared) {
    x = over_warp<Op>(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
}

template <typename Op, unsigned THREADS> __device__ inline float collect(const float* shared) {
    const unsigned lane = threadIdx.x % 32;
    return over_warp<Op>(lane < THREADS / 32 ? shared[lane] : Op::NEUTRAL);
}
