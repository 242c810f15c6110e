// One step of AdamW over a range of parameters.
//
// What. Moments, decoupled decay, bias correction and the rounded copy for the next forward pass; formulas in mod.rs.
//
// How. A thread owns VEC neighbouring parameters, a block BLOCK * VEC; nothing is shared. The numbers of the step are eight floats in
// memory, computed on the host, because they differ each step while the kernel stays compiled. The factor that clips the
// gradients comes from memory too, where `grad_norm` left it: no step waits for the host to know the norm.
//
// The trick is to do it all at once: the copies cost two bytes a parameter here and ten as a pass of their own.
//
// Gradients that are not finite update nothing. That is a choice, not a factor of 0, for 0 * NaN is NaN; the copies are written
// all the same. The flag is one for all threads, so the branch costs nothing.
//
// Parameters in halves are what their copies are, and the 16 bits that f32 has more: split and joined in registers, they save the two bytes. Why
// that is exact is in halves.rs.
//
// Cost a parameter: 16 bytes read and 12 written in halves (f32 gradients), 14 written with 16-bit copies; about 20 instructions, among them a square root and a
// division, both correctly rounded: the limit is memory, so exactness is free. Dropped: several packets a thread, since the four loads of one
// already keep memory busy.

struct Step {
    float rate, beta1, beta2, eps, decay, correction1, correction2, scale;
    bool skipped;

    __device__ explicit Step(const Args& args) {
        const Packet<float, 4> first = load<4>(args.scalars), second = load<4>(args.scalars + 4);
        rate = first[0]; beta1 = first[1]; beta2 = first[2]; eps = first[3];
        decay = second[0]; correction1 = second[1]; correction2 = second[2]; scale = second[3];
        skipped = false;
        if constexpr (CLIP) {
            scale = scale * args.clip_by[0];
            skipped = args.clip_by[2] != 0.0f;
        }
    }

    __device__ void update(float& p, float& m, float& v, float raw) const {
        const float g = raw * scale;
        m = fma(beta1, m, (1.0f - beta1) * g);
        v = fma(beta2, v, (1.0f - beta2) * g * g);
        const float move = __fdiv_rn(m * correction1, __fsqrt_rn(v * correction2) + eps);
        p = fma(-rate, move, fma(-(rate * decay), p, p));
    }
};

__device__ inline float join(bf16 rounded, unsigned short rest) {
    return __uint_as_float((unsigned(rounded.bits) - (rest >> 15)) << 16 | rest);
}

// The bits of a float that is about to be split; of any NaN those of the quiet one.
__device__ inline unsigned splittable(float p) {
    const unsigned bits = __float_as_uint(p);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
}

__device__ inline unsigned short* rests_at(const Args& args, unsigned long long first) { return (unsigned short*)args.rests + first; }

// WIDTH parameters from `first` on.
template <unsigned WIDTH> __device__ inline void read(const Args& args, unsigned long long first, float (&p)[WIDTH]) {
    if constexpr (SPLIT) {
        const Packet<bf16, WIDTH> rounded = reload<WIDTH>(args.rounded + first);
        const Packet<unsigned short, WIDTH> rests = reload<WIDTH>(rests_at(args, first));
#pragma unroll
        for (unsigned i = 0; i < WIDTH; ++i) p[i] = join(rounded.element[i], rests.element[i]);
    } else {
        const Packet<float, WIDTH> old = reload<WIDTH>(args.p + first);
#pragma unroll
        for (unsigned i = 0; i < WIDTH; ++i) p[i] = old[i];
    }
}

template <unsigned WIDTH> __device__ inline void write(const Args& args, unsigned long long first, const float (&p)[WIDTH]) {
    if constexpr (SPLIT) {
        Packet<bf16, WIDTH> rounded;
        Packet<unsigned short, WIDTH> rests;
#pragma unroll
        for (unsigned i = 0; i < WIDTH; ++i) {
            const unsigned bits = splittable(p[i]);
            rounded.element[i].bits = (unsigned short)((bits + 0x8000) >> 16);
            rests.element[i] = (unsigned short)bits;
        }
        *reinterpret_cast<decltype(rounded.word)*>(args.rounded + first) = rounded.word;
        *reinterpret_cast<decltype(rests.word)*>(rests_at(args, first)) = rests.word;
    } else {
        store<WIDTH>(args.p + first, p);
    }
}

template <unsigned WIDTH> __device__ inline void update(const Args& args, const Step& step, unsigned long long first) {
    float p[WIDTH], m[WIDTH], v[WIDTH];
    read<WIDTH>(args, first, p);
    if (!step.skipped) {
        const Packet<float, WIDTH> old_m = reload<WIDTH>(args.m + first), old_v = reload<WIDTH>(args.v + first);
        const Packet<grad_t, WIDTH> g = load<WIDTH>(args.g + first);
#pragma unroll
        for (unsigned i = 0; i < WIDTH; ++i) {
            m[i] = old_m[i];
            v[i] = old_v[i];
            step.update(p[i], m[i], v[i], g[i]);
        }
        write<WIDTH>(args, first, p);
        store<WIDTH>(args.m + first, m);
        store<WIDTH>(args.v + first, v);
    }
    if constexpr (COPY) store<WIDTH>(args.copy_to + first, p);
}

__device__ inline void adamw(const Args& args) {
    const unsigned long long first = ((unsigned long long)blockIdx.x * BLOCK + threadIdx.x) * VEC;
    const Step step(args);
    if (first + VEC <= args.n) {
        update<VEC>(args, step, first);
    } else {
        for (unsigned long long i = first; i < args.n; ++i) update<1>(args, step, i);
    }
}
