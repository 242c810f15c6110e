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
                    let a = self.a[d * 8 + n] * 1.442_695_04;
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
