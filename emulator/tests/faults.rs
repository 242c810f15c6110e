//! Every fault is seen to fire, and beside each stands a kernel, nearly the same, that is right.

mod common;

use common::{Bytes, Run, ptx};
use packscan_emulator::{Access, Fault, Launch, Memory, Module, View};

const ONES: [u32; 64] = [1; 64];

/// Two warps.
fn two_warps() -> Run<'static> {
    Run { input: &ONES, output_words: 64, block: 64, ..Run::default() }
}

fn one_warp() -> Run<'static> {
    Run { input: &ONES, ..Run::default() }
}

/// The pattern must match the fault of the first body; the second must run.
macro_rules! caught {
    ($name:ident, $run:expr, $wrong:expr, $right:expr, $pattern:pat) => {
        #[test]
        fn $name() {
            for seed in 0..4 {
                let run = Run { seed, ..$run };
                match run.go($wrong) {
                    Err(fault @ $pattern) => {
                        let text = fault.to_string();
                        assert!(text.contains("kernel `k`") && !text.contains('\n'), "{text}");
                    }
                    Err(other) => panic!("another fault: {other}"),
                    Ok(_) => panic!("not caught"),
                }
                run.go($right).unwrap_or_else(|fault| panic!("the right kernel: {fault}"));
            }
        }
    };
}

caught!(
    global_out_of_bounds,
    one_warp(),
    "ld.global.u32 %r0, [%a+-4]; st.global.u32 [%to], %r0;",
    "ld.global.u32 %r0, [%a+4]; st.global.u32 [%to], %r0;",
    Fault::OutOfBounds { access: "read", bytes: 4, .. }
);
caught!(
    global_past_the_end,
    one_warp(),
    "st.global.u32 [%to+4], %t;",
    "st.global.u32 [%to], %t;",
    Fault::OutOfBounds { access: "write", .. }
);
caught!(
    write_to_an_input,
    one_warp(),
    "st.global.u32 [%ta], %t;",
    "st.global.u32 [%to], %t;",
    Fault::NotPermitted { access: "write", .. }
);
caught!(
    shared_out_of_bounds,
    one_warp(),
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0+1156], %t;",
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0+1152], %t;",
    Fault::OutOfBounds { bytes: 4, .. }
);
caught!(
    local_out_of_bounds,
    one_warp(),
    ".local .align 4 .b8 depot[16]; mov.u64 %d0, depot; st.local.u32 [%d0+16], %t;",
    ".local .align 4 .b8 depot[16]; mov.u64 %d0, depot; st.local.u32 [%d0+12], %t;",
    Fault::OutOfBounds { .. }
);
caught!(
    unwritten_local,
    one_warp(),
    ".local .align 4 .b8 depot[16]; mov.u64 %d0, depot; st.local.u32 [%d0+12], %t; ld.local.u32 %r0, [%d0+8];",
    ".local .align 4 .b8 depot[16]; mov.u64 %d0, depot; st.local.u32 [%d0+12], %t; ld.local.u32 %r0, [%d0+12];",
    Fault::UnwrittenMemory { .. }
);
caught!(
    param_out_of_bounds,
    one_warp(),
    "ld.param.u64 %d0, [po+8];",
    "ld.param.u64 %d0, [po];",
    Fault::OutOfBounds { .. }
);
caught!(
    misaligned,
    one_warp(),
    "ld.global.v2.u32 {%r0, %r1}, [%a+4];",
    "ld.global.v2.u32 {%r0, %r1}, [%a+8];",
    Fault::Misaligned { bytes: 8, .. }
);
caught!(
    unwritten_global,
    one_warp(),
    "ld.global.u32 %r0, [%to];",
    "st.global.u32 [%to], %t; ld.global.u32 %r0, [%to];",
    Fault::UnwrittenMemory { .. }
);
caught!(
    unwritten_shared_byte,
    one_warp(),
    "shl.b32 %r0, %t, 2; st.shared.u16 [%r0], 5; st.shared.u8 [%r0+2], 5; ld.shared.u32 %r1, [%r0];",
    "shl.b32 %r0, %t, 2; st.shared.u16 [%r0], 5; st.shared.u16 [%r0+2], 5; ld.shared.u32 %r1, [%r0];",
    Fault::UnwrittenMemory { .. }
);
caught!(
    unwritten_register,
    one_warp(),
    "setp.lt.u32 %p0, %t, 31; @%p0 mov.u32 %r0, 1; add.u32 %r1, %r0, 1;",
    "setp.lt.u32 %p0, %t, 31; @%p0 mov.u32 %r0, 1; @!%p0 mov.u32 %r0, 2; add.u32 %r1, %r0, 1;",
    Fault::UnwrittenRegister { .. }
);
caught!(
    shared_race_between_warps,
    two_warps(),
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; xor.b32 %r1, %r0, 128; ld.shared.u32 %r2, [%r1]; st.global.u32 [%to], %r2;",
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; bar.sync 0; xor.b32 %r1, %r0, 128; ld.shared.u32 %r2, [%r1]; st.global.u32 [%to], %r2;",
    Fault::Race { .. } | Fault::UnwrittenMemory { .. }
);
caught!(
    shared_race_read_then_write,
    two_warps(),
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; bar.sync 0; xor.b32 %r1, %r0, 128; ld.shared.u32 %r2, [%r1]; st.shared.u32 [%r0], %r2;",
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; bar.sync 0; xor.b32 %r1, %r0, 128; ld.shared.u32 %r2, [%r1]; bar.sync 0; st.shared.u32 [%r0], %r2;",
    Fault::Race { .. }
);
caught!(
    shared_race_within_a_warp_despite_a_shuffle,
    one_warp(),
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; shfl.sync.bfly.b32 %r3, %t, 1, 31, -1; xor.b32 %r1, %r0, 4; ld.shared.u32 %r2, [%r1];",
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; bar.warp.sync -1; xor.b32 %r1, %r0, 4; ld.shared.u32 %r2, [%r1];",
    Fault::Race { .. } | Fault::UnwrittenMemory { .. }
);
caught!(
    partial_warp_barrier_orders_its_own_lanes_only,
    one_warp(),
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; shr.u32 %r4, %t, 3; shl.b32 %r4, %r4, 3; shl.b32 %r5, 255, %r4;
     bar.warp.sync %r5; xor.b32 %r1, %r0, 32; ld.shared.u32 %r2, [%r1];",
    "shl.b32 %r0, %t, 2; st.shared.u32 [%r0], %t; shr.u32 %r4, %t, 3; shl.b32 %r4, %r4, 3; shl.b32 %r5, 255, %r4;
     bar.warp.sync %r5; xor.b32 %r1, %r0, 16; ld.shared.u32 %r2, [%r1];",
    Fault::Race { .. } | Fault::UnwrittenMemory { .. }
);
caught!(
    byte_neighbours_do_not_race_but_the_same_byte_does,
    one_warp(),
    "shr.u32 %r0, %t, 1; st.shared.u8 [%r0], 7;",
    "st.shared.u8 [%t], 7;",
    Fault::Race { .. }
);
caught!(
    plain_store_against_atomic,
    two_warps(),
    "setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [s], 0; bar.sync 0; atom.shared.add.u32 %r0, [s], 1; @%p0 st.shared.u32 [s], 3;",
    "setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [s], 0; bar.sync 0; atom.shared.add.u32 %r0, [s], 1; bar.sync 0; @%p0 st.shared.u32 [s], 3;",
    Fault::Race { .. }
);
caught!(
    global_race_between_blocks,
    Run { grid: 2, ..one_warp() },
    "st.global.u32 [%to], %t;",
    "mov.u32 %r0, %ctaid.x; setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%to], %t;",
    Fault::Race { .. }
);
caught!(
    atomic_on_an_input,
    one_warp(),
    "red.global.add.u32 [%ta], 1;",
    "st.global.u32 [%to], 1; red.global.add.u32 [%to], 1;",
    Fault::NotPermitted { access: "atomic", .. }
);
caught!(
    barrier_in_one_warp_only,
    two_warps(),
    "setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 0;",
    "setp.lt.u32 %p0, %t, 64; @%p0 bar.sync 0;",
    Fault::Divergent { .. }
);
caught!(
    barrier_after_an_exit,
    two_warps(),
    "setp.eq.u32 %p0, %t, 40; @%p0 ret; bar.sync 0;",
    "setp.eq.u32 %p0, %t, 80; @%p0 ret; bar.sync 0;",
    Fault::Divergent { .. }
);
caught!(
    two_different_barriers,
    two_warps(),
    "setp.lt.u32 %p0, %t, 32; @%p0 bra A; bar.sync 0; bra B; A: bar.sync 0; B:",
    "setp.lt.u32 %p0, %t, 64; @%p0 bra A; bar.sync 0; bra B; A: bar.sync 0; B:",
    Fault::Divergent { .. }
);
caught!(
    shuffle_mask_names_an_absent_lane,
    one_warp(),
    "setp.lt.u32 %p0, %t, 16; @!%p0 bra W; shfl.sync.bfly.b32 %r0, %t, 1, 31, -1; ret; W: bar.warp.sync -1;",
    "setp.lt.u32 %p0, %t, 16; @!%p0 bra W; shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xFFFF; ret; W: bar.warp.sync 0xFFFF0000;",
    Fault::Divergent { .. }
);
caught!(
    shuffle_mask_without_the_lane_itself,
    one_warp(),
    "shfl.sync.bfly.b32 %r0, %t, 1, 31, 0x7FFFFFFF;",
    "shfl.sync.bfly.b32 %r0, %t, 1, 31, 0xFFFFFFFF;",
    Fault::Divergent { .. }
);
caught!(
    endless_loop,
    one_warp(),
    "mov.u32 %r0, 0; L: add.u32 %r0, %r0, 1; setp.ne.u32 %p0, %r0, 0; @%p0 bra L;",
    "mov.u32 %r0, 0; L: add.u32 %r0, %r0, 1; setp.ne.u32 %p0, %r0, 9; @%p0 bra L;",
    Fault::InstructionLimit { .. }
);
caught!(
    trap,
    one_warp(),
    "setp.eq.u32 %p0, %t, 3; @%p0 trap;",
    "setp.eq.u32 %p0, %t, 32; @%p0 trap;",
    Fault::Trap { .. }
);
caught!(
    copy_read_before_the_wait,
    one_warp(),
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.commit_group; ld.shared.u32 %r1, [%r0];",
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r1, [%r0];",
    Fault::UnwrittenMemory { .. }
);
caught!(
    copy_read_by_another_without_a_barrier,
    one_warp(),
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.wait_all; xor.b32 %r2, %r0, 4; ld.shared.u32 %r1, [%r2];",
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.wait_all; bar.sync 0; xor.b32 %r2, %r0, 4; ld.shared.u32 %r1, [%r2];",
    Fault::Race { .. } | Fault::UnwrittenMemory { .. }
);

const OWNERS: [u32; 32] = {
    let mut owners = [0; 32];
    let mut i = 16;
    while i < 32 {
        owners[i] = 1;
        i += 1;
    }
    owners
};

/// Rows 0 to 15 of input and output belong to owner 0, the rest to owner 1.
fn owned() -> Run<'static> {
    Run { input: &ONES[..32], owners: Some((&OWNERS, &OWNERS)), ..Run::default() }
}

caught!(
    a_product_with_zero_leaks_and_a_select_does_not,
    owned(),
    "xor.b32 %r0, %t, 16; mad.wide.u32 %d0, %r0, 4, %a; ld.global.f32 %f0, [%d0]; ld.global.f32 %f1, [%ta];
     fma.rn.f32 %f2, %f0, 0f00000000, %f1; st.global.f32 [%to], %f2;",
    "xor.b32 %r0, %t, 16; mad.wide.u32 %d0, %r0, 4, %a; ld.global.f32 %f0, [%d0]; ld.global.f32 %f1, [%ta];
     setp.eq.u32 %p0, %t, 99; selp.f32 %f2, %f0, %f1, %p0; st.global.f32 [%to], %f2;",
    Fault::Leak { .. }
);
caught!(
    a_shuffle_carries_origin,
    owned(),
    "ld.global.u32 %r0, [%ta]; shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1; st.global.u32 [%to], %r1;",
    "ld.global.u32 %r0, [%ta]; shfl.sync.bfly.b32 %r1, %r0, 8, 31, -1; st.global.u32 [%to], %r1;",
    Fault::Leak { .. }
);
caught!(
    shared_memory_carries_origin,
    owned(),
    "ld.global.u32 %r0, [%ta]; shl.b32 %r1, %t, 2; st.shared.u32 [%r1], %r0; bar.sync 0; xor.b32 %r1, %r1, 64;
     ld.shared.u32 %r2, [%r1]; st.global.u32 [%to], %r2;",
    "ld.global.u32 %r0, [%ta]; shl.b32 %r1, %t, 2; st.shared.u32 [%r1], %r0; bar.sync 0; xor.b32 %r1, %r1, 32;
     ld.shared.u32 %r2, [%r1]; st.global.u32 [%to], %r2;",
    Fault::Leak { .. }
);
caught!(
    an_asynchronous_copy_carries_origin,
    owned(),
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.wait_all; bar.sync 0; xor.b32 %r2, %r0, 64;
     ld.shared.u32 %r1, [%r2]; st.global.u32 [%to], %r1;",
    "shl.b32 %r0, %t, 2; cp.async.ca.shared.global [%r0], [%ta], 4; cp.async.wait_all; bar.sync 0; xor.b32 %r2, %r0, 32;
     ld.shared.u32 %r1, [%r2]; st.global.u32 [%to], %r1;",
    Fault::Leak { .. }
);
caught!(
    a_vote_joins_everybody,
    owned(),
    "ld.global.u32 %r0, [%ta]; setp.eq.u32 %p0, %r0, 1; vote.sync.ballot.b32 %r1, %p0, -1; st.global.u32 [%to], %r1;",
    "setp.eq.u32 %p0, %t, 1; vote.sync.ballot.b32 %r1, %p0, -1; st.global.u32 [%to], %r1;",
    Fault::Leak { .. }
);
caught!(
    a_predicate_of_a_select_leaves_its_trace,
    owned(),
    "xor.b32 %r0, %t, 16; mad.wide.u32 %d0, %r0, 4, %a; ld.global.u32 %r1, [%d0]; setp.eq.u32 %p0, %r1, 1;
     selp.u32 %r2, 1, 2, %p0; st.global.u32 [%to], %r2;",
    "ld.global.u32 %r1, [%ta]; setp.eq.u32 %p0, %r1, 1; selp.u32 %r2, 1, 2, %p0; st.global.u32 [%to], %r2;",
    Fault::Leak { .. }
);
caught!(
    a_guarded_move_takes_its_guards_origin,
    owned(),
    "xor.b32 %r0, %t, 16; mad.wide.u32 %d0, %r0, 4, %a; ld.global.u32 %r1, [%d0]; setp.eq.u32 %p0, %r1, 1;
     mov.u32 %r2, 0; @%p0 mov.u32 %r2, 1; st.global.u32 [%to], %r2;",
    "ld.global.u32 %r1, [%ta]; setp.eq.u32 %p0, %r1, 1; mov.u32 %r2, 0; @%p0 mov.u32 %r2, 1; st.global.u32 [%to], %r2;",
    Fault::Leak { .. }
);
caught!(
    a_branch_on_data,
    owned(),
    "ld.global.u32 %r0, [%ta]; setp.eq.u32 %p0, %r0, 1; @%p0 bra E; st.global.u32 [%to], %r0; E:",
    "ld.global.u32 %r0, [%ta]; setp.eq.u32 %p0, %t, 1; @%p0 bra E; st.global.u32 [%to], %r0; E:",
    Fault::DataDependent { what: "branch", .. }
);
caught!(
    an_address_from_data,
    owned(),
    "ld.global.u32 %r0, [%ta]; mad.wide.u32 %d0, %r0, 4, %a; ld.global.u32 %r1, [%d0];",
    "ld.global.u32 %r0, [%ta]; mad.wide.u32 %d0, %t, 4, %a; ld.global.u32 %r1, [%d0];",
    Fault::DataDependent { what: "address", .. }
);
caught!(
    a_store_guarded_by_data,
    owned(),
    "ld.global.u32 %r0, [%ta]; setp.eq.u32 %p0, %r0, 1; @%p0 st.global.u32 [%to], %r0;",
    "ld.global.u32 %r0, [%ta]; setp.lt.u32 %p0, %t, 9; @%p0 st.global.u32 [%to], %r0;",
    Fault::DataDependent { .. }
);

caught!(
    being_passed_over_leaves_the_guards_trace,
    owned(),
    "xor.b32 %r0, %t, 16; mad.wide.u32 %d0, %r0, 4, %a; ld.global.u32 %r1, [%d0]; setp.ne.u32 %p0, %r1, 1;
     mov.u32 %r2, 0; @%p0 mov.u32 %r2, 1; st.global.u32 [%to], %r2;",
    "ld.global.u32 %r1, [%ta]; setp.ne.u32 %p0, %r1, 1; mov.u32 %r2, 0; @%p0 mov.u32 %r2, 1; st.global.u32 [%to], %r2;",
    Fault::Leak { .. }
);
caught!(
    an_atomic_joins_what_was_there,
    owned(),
    "st.global.u32 [%to], 0; ld.global.u32 %r1, [%ta]; bar.sync 0; red.global.add.u32 [%o], %r1;",
    "st.global.u32 [%to], 0; ld.global.u32 %r1, [%ta]; bar.sync 0; red.global.add.u32 [%to], %r1;",
    Fault::Leak { row: 0, owner: 0, .. }
);

#[test]
fn data_dependence_that_is_allowed_joins_origins() {
    let body =
        "ld.global.u32 %r0, [%ta]; mad.wide.u32 %d0, %r0, 4, %a; ld.global.u32 %r1, [%d0]; st.global.u32 [%to], %r1;";
    let allowed = Run { data_dependent: true, ..owned() };
    assert!(matches!(allowed.go(body), Err(Fault::Leak { row: 16, owner: 1, .. })));
}

/// Writes `%t` to the first word of each of 32 rows of `stride` bytes.
fn strided(row_bytes: usize, access: Access, offset: u32) -> Result<(), Fault> {
    let text = ptx(&format!("mad.wide.u32 %d0, %t, 16, %o; st.global.u32 [%d0+{offset}], %t;"));
    let module = Module::parse(&text).unwrap();
    let mut memory = Memory::new();
    let out = memory.allocate(32 * 16, "out");
    let views = [View { name: "out", address: out, rows: 32, row_bytes, stride_bytes: 16, access, owner: None }];
    let params = [out, out].bytes();
    let launch = Launch { views: &views, ..Launch::new(module.kernel("k").unwrap(), [1, 1, 1], [32, 1, 1], &params) };
    memory.launch(&launch).map(|_| ())
}

#[test]
fn a_write_into_the_gap_between_rows_is_named() {
    strided(4, Access::Write, 0).unwrap();
    let fault = strided(4, Access::Write, 8).unwrap_err();
    assert!(matches!(fault, Fault::NotPermitted { .. }));
    assert!(fault.to_string().contains("nearest view `out` (Write) row 0 of 32 byte 8 of 4"), "{fault}");
}

#[test]
fn an_output_with_a_hole_is_named() {
    strided(8, Access::ReadWrite, 0).unwrap();
    match strided(8, Access::Write, 0) {
        Err(Fault::UnwrittenOutput { view, row, byte, .. }) => assert_eq!((&*view, row, byte), ("out", 0, 4)),
        other => panic!("{other:?}"),
    }
}

/// Everybody reads the first word, then one thread of block 0 writes it behind a barrier: other blocks are not ordered by it.
#[test]
fn readers_of_other_blocks_are_remembered() {
    let module = Module::parse(&ptx("ld.global.u32 %r0, [%a]; bar.sync 0; ld.global.u32 %r0, [%a]; bar.sync 0;
        mov.u32 %r1, %ctaid.x; or.b32 %r1, %r1, %t; setp.eq.u32 %p0, %r1, 0; @%p0 st.global.u32 [%a], 5;"))
    .unwrap();
    for seed in 0..8 {
        let mut memory = Memory::new();
        let a = memory.allocate(4, "a");
        memory.write(a, &[0; 4]);
        let params = [a, a].bytes();
        let launch =
            |blocks| Launch { seed, ..Launch::new(module.kernel("k").unwrap(), [blocks, 1, 1], [96, 1, 1], &params) };
        memory.launch(&launch(1)).unwrap_or_else(|fault| panic!("one block: {fault}"));
        let fault = memory.launch(&launch(4)).unwrap_err();
        assert!(matches!(fault, Fault::Race { .. }), "seed {seed}: {fault}");
    }
}

#[test]
fn launches_can_run_on_any_thread() {
    fn check<T: Send>() {}
    check::<Memory>();
    check::<Module>();
    fn shared<T: Sync>() {}
    shared::<Module>();
}

#[test]
fn freed_memory_is_recognised() {
    let module = Module::parse(&ptx("st.global.u32 [%to], %t;")).unwrap();
    let mut memory = Memory::new();
    let out = memory.allocate(128, "out");
    let params = [out, out].bytes();
    let launch = Launch::new(module.kernel("k").unwrap(), [1, 1, 1], [32, 1, 1], &params);
    memory.launch(&launch).unwrap();
    memory.free(out);
    assert!(matches!(memory.launch(&launch), Err(Fault::Freed { .. })));
}

#[test]
fn host_writes_and_poison() {
    let mut memory = Memory::new();
    let address = memory.allocate(8, "x");
    assert_eq!(address % 256, 0);
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes);
    assert_eq!(bytes, [0xFF; 8]);
    memory.write(address + 2, &[1, 2]);
    memory.read(address, &mut bytes);
    assert_eq!(bytes, [0xFF, 0xFF, 1, 2, 0xFF, 0xFF, 0xFF, 0xFF]);
    memory.unwrite(address, 8);
    memory.read(address, &mut bytes);
    assert_eq!(bytes, [0xFF; 8]);
}

#[test]
fn launches_that_make_no_sense() {
    let module = Module::parse(&ptx("")).unwrap();
    let mut memory = Memory::new();
    let kernel = module.kernel("k").unwrap();
    for (block, params) in [([1025, 1, 1], 16), ([0, 1, 1], 16), ([32, 1, 1], 8)] {
        let params = vec![0; params];
        let result = memory.launch(&Launch::new(kernel, [1, 1, 1], block, &params));
        assert!(matches!(result, Err(Fault::BadLaunch { .. })), "{block:?}");
    }
    let views = [View::flat("nowhere", 0x1234, 4, Access::Read)];
    let launch = Launch { views: &views, ..Launch::new(kernel, [1, 1, 1], [32, 1, 1], &[0; 16]) };
    assert!(matches!(memory.launch(&launch), Err(Fault::BadLaunch { .. })));
}
