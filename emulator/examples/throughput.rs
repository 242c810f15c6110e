//! How many thread instructions a second the emulator runs on one core, with every watch on.
//!
//! `cargo run --release -p packscan-emulator --example throughput`

use std::time::Instant;

use packscan_emulator::{Access, Launch, Memory, Module, View};

/// Eight multiply-adds, an exponential, a shared store and load and a barrier a round.
const BODY: &str = "
    ld.global.f32 %f1, [%d1]; mov.f32 %f2, %f1; mov.u32 %r2, 0; shl.b32 %r3, %r1, 2;
L:  fma.rn.f32 %f2, %f2, %f1, %f1; fma.rn.f32 %f3, %f2, %f1, %f1; fma.rn.f32 %f4, %f3, %f1, %f2; fma.rn.f32 %f5, %f4, %f2, %f1;
    fma.rn.f32 %f2, %f5, %f1, %f1; mul.rn.f32 %f3, %f2, 0fBF000000; add.rn.f32 %f4, %f3, %f2; fma.rn.f32 %f2, %f4, %f3, %f1;
    MORE
    add.s32 %r2, %r2, 1; setp.lt.s32 %p1, %r2, 2000; @%p1 bra L;
    st.global.f32 [%d2], %f2;";

const MEMORY: &str = "st.shared.f32 [%r3], %f2; bar.sync 0; ld.shared.f32 %f6, [%r3+4]; bar.sync 0;";
const SPECIAL: &str = "ex2.approx.ftz.f32 %f2, %f2; min.f32 %f2, %f2, 0f3F800000;";

const SCAN: &str = include_str!("../tests/fixtures/scan.ptx");

fn main() {
    scan();
    for (name, more) in
        [("float", String::new()), ("float + special", SPECIAL.into()), ("float + shared + barriers", MEMORY.into())]
    {
        measure(name, &BODY.replace("MORE", &more));
    }
}

/// The packed selective scan of the tests: 1024 tokens, 64 channels, 8 states, a hundred sequences.
fn scan() {
    let (tokens, channels) = (1024usize, 64usize);
    let owners: Vec<u32> = (0..tokens as u32).map(|t| t / 10).collect();
    let module = Module::parse(SCAN).expect("the fixture parses");
    let mut memory = Memory::new();
    let mut upload = |name, bytes: Vec<u8>| {
        let address = memory.allocate(bytes.len(), name);
        memory.write(address, &bytes);
        address
    };
    let bf16 = |count| [0x80, 0x3E].repeat(count);
    let (u, delta) = (upload("u", bf16(tokens * channels)), upload("delta", bf16(tokens * channels)));
    let a = upload("A", (-1f32).to_le_bytes().repeat(channels * 8));
    let (b, c) = (upload("B", bf16(tokens * 8)), upload("C", bf16(tokens * 8)));
    let starts = upload("starts", (0..tokens).flat_map(|t| ((t % 10 == 0) as u32).to_le_bytes()).collect());
    let out = memory.allocate(tokens * channels * 4, "out");
    let mut params: Vec<u8> =
        [u, delta, a, b, c, starts, out, channels as u64].iter().flat_map(|x| x.to_le_bytes()).collect();
    params.extend([tokens as u32, channels as u32].iter().flat_map(|x| x.to_le_bytes()));
    let rows = |name, address, row_bytes, access| View {
        name,
        address,
        rows: tokens,
        row_bytes,
        stride_bytes: row_bytes,
        access,
        owner: Some(&*owners),
    };
    let views = [
        rows("u", u, channels * 2, Access::Read),
        rows("delta", delta, channels * 2, Access::Read),
        rows("B", b, 16, Access::Read),
        rows("C", c, 16, Access::Read),
        rows("out", out, channels * 4, Access::Write),
        View::flat("A", a, channels * 8 * 4, Access::Read),
        View::flat("starts", starts, tokens * 4, Access::Read),
    ];
    let kernel = module.kernel("scan").expect("the kernel is there");
    let launch = Launch { views: &views, shared_bytes: 1024, ..Launch::new(kernel, [4, 1, 1], [64, 1, 1], &params) };
    report("selective scan", &mut memory, &launch);
}

fn measure(name: &str, body: &str) {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .pred %p<4>; .reg .b32 %r<8>; .reg .f32 %f<8>; .reg .b64 %d<8>; .shared .align 4 .b8 s[516];\n\
         mov.u32 %r1, %tid.x; setp.eq.u32 %p2, %r1, 0; @%p2 st.shared.u32 [512], 0; bar.sync 0;\n\
         ld.param.u64 %d3, [a]; ld.param.u64 %d4, [b]; mad.wide.u32 %d1, %r1, 4, %d3; mad.wide.u32 %d2, %r1, 4, %d4;\n\
         {body}\nret;\n}}\n"
    );
    let module = Module::parse(&text).expect("the example's own PTX");
    let mut memory = Memory::new();
    let (a, b) = (memory.allocate(512, "a"), memory.allocate(512, "b"));
    memory.write(a, &0.25f32.to_le_bytes().repeat(128));
    let owners = [7; 128];
    let view = |name, address, access| View {
        name,
        address,
        rows: 128,
        row_bytes: 4,
        stride_bytes: 4,
        access,
        owner: Some(&owners),
    };
    let views = [view("a", a, Access::Read), view("b", b, Access::Write)];
    let params: Vec<u8> = [a, b].iter().flat_map(|x| x.to_le_bytes()).collect();
    let kernel = module.kernel("k").expect("the kernel is there");
    let launch = Launch { views: &views, ..Launch::new(kernel, [1, 1, 1], [128, 1, 1], &params) };
    report(name, &mut memory, &launch);
}

fn report(name: &str, memory: &mut Memory, launch: &Launch) {
    let start = Instant::now();
    let counts = memory.launch(launch).unwrap_or_else(|fault| panic!("{fault}"));
    let seconds = start.elapsed().as_secs_f64();
    let millions = counts.thread_instructions.total() as f64 / seconds / 1e6;
    println!("{name:28} {millions:7.0} M thread instructions/s");
}
