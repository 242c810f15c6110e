//! Real kernels, as NVRTC compiled them, against the same computation in Rust, bit for bit and under several schedules.
//! The `.cu` beside each `.ptx` is its source (`--gpu-architecture=compute_90 -lineinfo --fmad=false --std=c++17`).

mod common;

use common::{Bytes, download, fixture, upload};
use half::bf16;
use packscan_emulator::{Access, Counts, Fault, Launch, Memory, Pipe, View};

const SEEDS: [u64; 4] = [0, 1, 2, 3];

/// Numbers that look random, in [-1, 1).
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The inputs of the scan fixture: T tokens, D channels, 8 states.
struct Scan {
    tokens: usize,
    channels: usize,
    stride: usize,
    u: Vec<bf16>,
    delta: Vec<bf16>,
    a: Vec<f32>,
    b: Vec<bf16>,
    c: Vec<bf16>,
    owners: Vec<u32>,
}

impl Scan {
    fn new(lengths: &[usize], channels: usize, stride: usize) -> Self {
        let owners: Vec<u32> = lengths.iter().enumerate().flat_map(|(s, &n)| vec![s as u32; n]).collect();
        let tokens = owners.len();
        let round = |data: Vec<f32>| data.into_iter().map(bf16::from_f32).collect();
        Scan {
            tokens,
            channels,
            stride,
            u: round(noise(tokens * stride, 1)),
            delta: round(noise(tokens * stride, 2).into_iter().map(|x| 0.5 + 0.4 * x).collect()),
            a: noise(channels * 8, 3).into_iter().map(|x| -1.5 + x).collect(),
            b: round(noise(tokens * 8, 4)),
            c: round(noise(tokens * 8, 5)),
            owners,
        }
    }

    fn starts(&self) -> Vec<u32> {
        (0..self.tokens).map(|t| (t == 0 || self.owners[t] != self.owners[t - 1]) as u32).collect()
    }

    fn run(&self, starts: &[u32], seed: u64) -> Result<(Vec<f32>, Counts), Fault> {
        let mut memory = Memory::new();
        let bits = |data: &[bf16]| data.iter().map(|x| x.to_bits()).collect::<Vec<u16>>();
        let u = upload(&mut memory, "u", &bits(&self.u));
        let delta = upload(&mut memory, "delta", &bits(&self.delta));
        let a = upload(&mut memory, "A", &self.a);
        let b = upload(&mut memory, "B", &bits(&self.b));
        let c = upload(&mut memory, "C", &bits(&self.c));
        let flags = upload(&mut memory, "starts", starts);
        let out = memory.allocate(self.tokens * self.channels * 4, "out");
        let mut params = [u, delta, a, b, c, flags, out, self.stride as u64].bytes();
        params.extend([self.tokens as u32, self.channels as u32].bytes());
        let rows = |name, address, row_bytes, stride_bytes, access| View {
            name,
            address,
            rows: self.tokens,
            row_bytes,
            stride_bytes,
            access,
            owner: Some(&self.owners),
        };
        let views = [
            rows("u", u, self.channels * 2, self.stride * 2, Access::Read),
            rows("delta", delta, self.channels * 2, self.stride * 2, Access::Read),
            rows("B", b, 16, 16, Access::Read),
            rows("C", c, 16, 16, Access::Read),
            rows("out", out, self.channels * 4, self.channels * 4, Access::Write),
            View::flat("A", a, self.a.len() * 4, Access::Read),
            View::flat("starts", flags, self.tokens * 4, Access::Read),
        ];
        let module = fixture("scan");
        let launch = Launch {
            views: &views,
            seed,
            shared_bytes: 2 * 8 * 16 * 4,
            ..Launch::new(
                module.kernel("scan").unwrap(),
                [self.channels.div_ceil(16) as u32, 1, 1],
                [64, 1, 1],
                &params,
            )
        };
        let counts = memory.launch(&launch)?;
        let out = download(&memory, out, self.tokens * self.channels);
        Ok((out.into_iter().map(f32::from_bits).collect(), counts))
    }
}

impl Scan {
    /// The fixture's computation, in its order of operations. `-lineinfo --fmad=false` leaves only the written fmas.
    fn reference(&self, starts: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; self.tokens * self.channels];
        for d in 0..self.channels {
            let mut h = [0f32; 8];
            for t in 0..self.tokens {
                let delta = self.delta[t * self.stride + d].to_f32();
                let du = delta * self.u[t * self.stride + d].to_f32();
                let mut y = [0f32; 4];
                for n in 0..8 {
                    let input = du * self.b[t * 8 + n].to_f32();
                    let a = self.a[d * 8 + n] * std::f32::consts::LOG2_E;
                    let decay = packscan_emulator::approx::ex2(delta * a);
                    h[n] = if starts[t] != 0 { input } else { decay.mul_add(h[n], input) };
                    y[n / 2] = self.c[t * 8 + n].to_f32().mul_add(h[n], y[n / 2]);
                }
                out[t * self.channels + d] = (y[0] + y[1]) + (y[2] + y[3]);
            }
        }
        out
    }
}

fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn scan_is_right_under_every_schedule() {
    let scan = Scan::new(&[1, 9, 3, 0, 14], 21, 24);
    let starts = scan.starts();
    for seed in SEEDS {
        let (out, counts) = scan.run(&starts, seed).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert_eq!(bits(&out), bits(&scan.reference(&starts)), "seed {seed}");
        assert_eq!(counts.thread_instructions[Pipe::Special], 2 * 64 * 2 * (27 - 4));
    }
}

#[test]
fn scan_without_a_reset_leaks() {
    let scan = Scan::new(&[4, 7], 5, 5);
    let mut starts = scan.starts();
    starts[4] = 0;
    match scan.run(&starts, 0) {
        Err(Fault::Leak { view, row, owner, .. }) => assert_eq!((&*view, row, owner), ("out", 4, 1)),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn scan_counts_are_those_of_the_schedule_free_kernel() {
    let scan = Scan::new(&[8], 16, 16);
    let (_, counts) = scan.run(&scan.starts(), 0).unwrap();
    assert_eq!(counts.barriers, 2 * 2);
    assert_eq!(counts.global_stored_bytes, 8 * 16 * 4);
    assert_eq!(counts.global_store_requests, 8 * 2);
    assert_eq!(counts.bank_conflicts, 0);
}

/// The block sums as the kernel forms them: four lanes of a float4, a grid-wide stride, butterflies of 32, then of the warps.
#[test]
fn reductions_are_exact() {
    let (blocks, threads, n) = (2usize, 128usize, 4 * 700);
    let x = noise(n, 7);
    let tree = |values: &mut Vec<f32>| {
        let mut width = 16;
        while width > 0 {
            let old = values.clone();
            for (lane, value) in values.iter_mut().enumerate() {
                *value = old[lane] + if lane + width < 32 { old[lane + width] } else { old[lane] };
            }
            width /= 2;
        }
    };
    let mut expected = Vec::new();
    for block in 0..blocks {
        let mut warps = vec![0f32; 32];
        for (warp, sum) in warps[..threads / 32].iter_mut().enumerate() {
            let mut lanes = vec![0f32; 32];
            for (lane, sum) in lanes.iter_mut().enumerate() {
                for i in (block * threads + warp * 32 + lane..n / 4).step_by(blocks * threads) {
                    *sum += (x[4 * i] + x[4 * i + 1]) + (x[4 * i + 2] + x[4 * i + 3]);
                }
            }
            tree(&mut lanes);
            *sum = lanes[0];
        }
        let mut width = 16;
        while width > 0 {
            warps = (0..32).map(|lane| warps[lane] + warps[lane ^ width]).collect();
            width /= 2;
        }
        expected.push(warps[0]);
    }
    let positive = x.iter().filter(|x| **x > 0.0).count() as u32;
    let module = fixture("reduce");
    for seed in SEEDS {
        let mut memory = Memory::new();
        let input = upload(&mut memory, "x", &x);
        let out = memory.allocate(4 * blocks, "out");
        let wide = memory.allocate(8 * blocks, "wide");
        let counts = upload(&mut memory, "counts", &[0u32; 2]);
        let mut params = [input, out, wide, counts].bytes();
        params.extend([(n / 4) as u32].bytes());
        let views = [
            View::flat("x", input, 4 * n, Access::Read),
            View::flat("out", out, 4 * blocks, Access::Write),
            View::flat("wide", wide, 8 * blocks, Access::Write),
            View::flat("counts", counts, 8, Access::ReadWrite),
        ];
        let kernel = module.kernel("sum").unwrap();
        let launch = Launch {
            views: &views,
            seed,
            ..Launch::new(kernel, [blocks as u32, 1, 1], [threads as u32, 1, 1], &params)
        };
        memory.launch(&launch).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert_eq!(download(&memory, out, blocks), bits(&expected), "seed {seed}");
        assert_eq!(download(&memory, counts, 2)[0], positive);
        let mut wides = vec![0; 8];
        memory.read(wide, &mut wides);
        let first = f64::from_le_bytes(wides.try_into().unwrap());
        let truth: f64 = (0..n / 4).filter(|i| i % 256 < 32).map(|i| x[4 * i] as f64 * x[4 * i + 1] as f64).sum();
        assert!((first - truth).abs() < 1e-12, "{first} is not {truth}");
    }
}

#[test]
fn cross_entropy_agrees_with_f64() {
    let (rows, vocabulary) = (5, 300);
    let logits: Vec<f32> = noise(rows * vocabulary, 9).iter().map(|x| x * 20.0).collect();
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 61 % 300).collect();
    let module = fixture("reduce");
    let mut first: Option<Vec<u32>> = None;
    for seed in SEEDS {
        let mut memory = Memory::new();
        let input = upload(&mut memory, "logits", &logits);
        let target = upload(&mut memory, "targets", &targets);
        let loss = memory.allocate(4 * rows, "loss");
        let mut params = [input, target, loss].bytes();
        params.extend([vocabulary as u32].bytes());
        let owners: Vec<u32> = (0..rows as u32).collect();
        let row = |name, address, row_bytes, access| View {
            name,
            address,
            rows,
            row_bytes,
            stride_bytes: row_bytes,
            access,
            owner: Some(&*owners),
        };
        let views = [
            row("logits", input, 4 * vocabulary, Access::Read),
            View::flat("targets", target, 4 * rows, Access::Read),
            row("loss", loss, 4, Access::Write),
        ];
        let kernel = module.kernel("cross_entropy").unwrap();
        let launch = Launch { views: &views, seed, ..Launch::new(kernel, [rows as u32, 1, 1], [128, 1, 1], &params) };
        // `logf` branches on its argument.
        let strict = memory.launch(&launch);
        assert!(matches!(strict, Err(Fault::DataDependent { what: "branch", .. })), "{strict:?}");
        let launch = Launch { data_dependent_control: true, ..launch };
        memory.launch(&launch).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let found = download(&memory, loss, rows);
        for row in 0..rows {
            let line = &logits[row * vocabulary..(row + 1) * vocabulary];
            let most = line.iter().copied().fold(f32::MIN, f32::max) as f64;
            let sum: f64 = line.iter().map(|x| (*x as f64 - most).exp()).sum();
            let truth = sum.ln() + most - line[targets[row] as usize] as f64;
            let found = f32::from_bits(found[row]) as f64;
            assert!((found - truth).abs() < 1e-5, "row {row}: {found} is not {truth}");
        }
        assert_eq!(first.get_or_insert(found.clone()), &found, "seed {seed}");
    }
}

#[test]
fn integers_functions_and_local_arrays() {
    let values: Vec<i32> = (0..32).map(|i| i * 37 - 300).collect();
    let module = fixture("reduce");
    for seed in SEEDS {
        let mut memory = Memory::new();
        let input = upload(&mut memory, "in", &values);
        let (out, floats) = (memory.allocate(128, "out"), memory.allocate(128, "fout"));
        let big = memory.allocate(256, "big");
        let params = [input, out, floats, big].bytes();
        let kernel = module.kernel("tour").unwrap();
        let launch = Launch { seed, ..Launch::new(kernel, [1, 1, 1], [32, 1, 1], &params) };
        memory.launch(&launch).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let (out, floats) = (download(&memory, out, 32), download(&memory, floats, 32));
        let big = download(&memory, big, 64);
        for (i, &v) in values.iter().enumerate() {
            assert_eq!(out[i], tour(v) as u32, "{v}");
            let wide = (v as i64 as u64).wrapping_mul(0x123456789abcdef) / (i as u64 + 3);
            let wide = wide.wrapping_add(((v as i64 as u64 as u128 * 0xfedcba9876543210u128) >> 64) as u64);
            assert_eq!([big[2 * i], big[2 * i + 1]], [wide as u32, (wide >> 32) as u32], "{v}");
            let (f, a) = (v as f64, (v as f64).abs());
            let truth = f.sin()
                + (f * 0.01f32 as f64).tanh()
                + a.sqrt()
                + 1.0 / (a + 1.0).sqrt()
                + f / 3.0
                + a.powf(0.3f32 as f64);
            let found = f32::from_bits(floats[i]) as f64;
            assert!((found - truth - a.ln_1p()).abs() < 1e-4, "{v}: {found}");
        }
    }
}

/// The integer part of the fixture `tour`.
fn tour(v: i32) -> i32 {
    let mut acc = (0..16).fold(0i32, |acc, k| acc.wrapping_add(v.wrapping_mul(v.wrapping_add(k) & 15) ^ k));
    let bytes = [v.to_le_bytes(), acc.to_le_bytes()].concat();
    let permuted = i32::from_le_bytes([bytes[0], bytes[4], bytes[1], bytes[5]]);
    let ffs = if v == 0 { 0 } else { v.trailing_zeros() as i32 + 1 };
    acc = acc.wrapping_add(v.leading_zeros() as i32).wrapping_add(v.reverse_bits()).wrapping_add(ffs);
    acc = acc.wrapping_add(permuted).wrapping_add(v / 7 + v % 13);
    match v & 7 {
        0 => acc.wrapping_add(3),
        1 => acc.wrapping_mul(5),
        2 => acc ^ 77,
        3 => acc.wrapping_sub(9),
        4 => acc << 2,
        5 => 0,
        _ => acc,
    }
}

#[test]
fn halves_and_vector_stores() {
    use half::f16;
    let values: Vec<f32> = noise(2 * 40, 11).iter().map(|x| x * 100.0).collect();
    let mut memory = Memory::new();
    let input = upload(&mut memory, "in", &values);
    let [bf, hf] = ["bf", "hf"].map(|name| memory.allocate(160, name));
    let (wide, single) = (memory.allocate(640, "wide"), memory.allocate(80, "single"));
    let mut params = [input, bf, hf, wide, single].bytes();
    params.extend([40u32].bytes());
    let module = fixture("bits");
    let launch = Launch::new(module.kernel("halves").unwrap(), [2, 1, 1], [32, 1, 1], &params);
    memory.launch(&launch).unwrap_or_else(|fault| panic!("{fault}"));
    let (bf, hf, wide) = (download(&memory, bf, 40), download(&memory, hf, 40), download(&memory, wide, 160));
    let single = download(&memory, single, 20);
    let pack = |low: u16, high: u16| low as u32 | (high as u32) << 16;
    for i in 0..40 {
        let b = [0, 1].map(|k| bf16::from_f32(values[2 * i + k]));
        let h = [0, 1].map(|k| f16::from_f32(values[2 * i + k]));
        let fused = b.map(|b| bf16::from_f64(b.to_f64() * b.to_f64() + b.to_f64()).to_bits());
        let doubled = h.map(|h| f16::from_f32(h.to_f32() * 2.0).to_bits());
        assert_eq!(bf[i], pack(b[0].to_bits(), b[1].to_bits()));
        assert_eq!(hf[i], pack(h[0].to_bits(), h[1].to_bits()));
        assert_eq!(wide[4 * i..4 * i + 4], [bf[i], hf[i], pack(fused[0], fused[1]), pack(doubled[0], doubled[1])]);
        let product = bf16::from_f32(b[0].to_f32() * b[1].to_f32()).to_bits();
        assert_eq!((single[i / 2] >> (16 * (i % 2))) as u16, product);
    }
}

#[test]
fn asynchronous_copies_arrive_in_their_groups() {
    let values = noise(256, 13);
    let module = fixture("bits");
    for seed in SEEDS {
        let mut memory = Memory::new();
        let (input, out) = (upload(&mut memory, "in", &values), memory.allocate(1024, "out"));
        let params = [input, out].bytes();
        let launch = Launch { seed, ..Launch::new(module.kernel("copies").unwrap(), [1, 1, 1], [32, 1, 1], &params) };
        memory.launch(&launch).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let expected: Vec<f32> = (0..256).map(|i| values[i / 128 * 128 + 127 - i % 128] * 2.0).collect();
        assert_eq!(download(&memory, out, 256), bits(&expected));
    }
}
