//! Text that is not the PTX we know gives an error with its line, never a panic.

mod common;

use common::ptx;
use packscan_emulator::{Error, Module};

fn unknown(body: &str) -> (u32, String) {
    match Module::parse(&ptx(body)) {
        Err(Error::Unknown { line, what, .. }) => (line, what),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("`{body}` was understood"),
    }
}

#[test]
fn what_is_unknown_is_named() {
    for (body, word) in [
        ("frobnicate.b32 %r0, %r1;", "not known"),
        ("add.s32.funny %r0, %r1, %r2;", "funny"),
        ("add.s32 %r0, %r1, %nothing;", "%nothing"),
        ("add.s32 %r0, %r1, %r32;", "%r32"),
        ("add.s32 %r0, %r1;", "operands"),
        ("add.cc.s32 %r0, %r1, %r2;", "cc"),
        ("bra NOWHERE;", "NOWHERE"),
        ("mov.u32 %r0, %clock;", "%clock"),
        ("shfl.down.b32 %r0, %r1, 1, 31;", ".sync"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0}, {%r0}, {%r1}, {%f1};", "not known"),
        ("ld.global.v4.u64 {%d0, %d1, %d2, %d3}, [%a];", "16 bytes"),
        ("call foo;", "not known"),
    ] {
        let (_, what) = unknown(body);
        assert!(what.contains(word), "`{body}` gave `{what}`");
    }
}

#[test]
fn lines_are_those_of_the_text_and_of_the_source() {
    let (first, _) = unknown("frobnicate.b32 %r0;");
    let (third, _) = unknown("\n\nfrobnicate.b32 %r0;");
    assert_eq!(third, first + 2);
    let text = ptx(".loc 1 77 5\nfrobnicate.b32 %r0;") + ".file 1 \"there.cu\"\n";
    match Module::parse(&text) {
        Err(error @ Error::Unknown { .. }) => assert!(error.to_string().contains("there.cu:77"), "{error}"),
        _ => panic!("it was understood"),
    }
}

/// Every prefix of a real file, and the file with each line left out, gives `Ok` or `Err`.
#[test]
fn broken_files_do_not_panic() {
    let path = format!("{}/tests/fixtures/bits.ptx", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let kernel = text.find(".visible").unwrap();
    let close = text[..text.find(".globl\tcopies").unwrap()].rfind('}').unwrap();
    for end in (kernel + 1..close).filter(|&end| text.is_char_boundary(end)) {
        match Module::parse(&text[..end]) {
            Ok(_) => panic!("a file cut at byte {end} was understood"),
            Err(Error::Syntax { line, .. } | Error::Unknown { line, .. }) => assert!(line > 0),
            Err(other) => panic!("{other}"),
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for skip in 0..lines.len() {
        let mut some = lines.clone();
        some.remove(skip);
        let _ = Module::parse(&some.join("\n"));
    }
}

/// What newer compilers write: `.ptr` parameters, exact block sizes, and the zero that ends a C string.
#[test]
fn other_ways_to_write_a_kernel() {
    let text = ".version 8.7\n.target sm_100\n.address_size 64\n.weak .entry k(.param .u64 .ptr .global .align 16 p,\n\
                .param .align 8 .b8 q[12], .param .u8 r)\n.reqntid 64, 1, 1\n.minnctapersm 2\n{\n\
                .reg .b64 %rd<2>;\n.pragma \"nounroll\";\n\
                .loc 1 3 4, function_name $L__info_string0, inlined_at 1 9 8\n\
                ld.param.u64 %rd1, [p];\nret;\n}\n.section .debug_str { $L__info_string0: .b8 95,0 }\n\0";
    let module = Module::parse(text).unwrap();
    assert_eq!(module.kernel("k").unwrap().param_bytes(), 21);
}

#[test]
fn kernels_are_found_by_name() {
    let module = common::fixture("reduce");
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["sum", "cross_entropy", "tour"]);
    assert_eq!(module.kernel("sum").unwrap().param_bytes(), 36);
    match module.kernel("mean") {
        Err(Error::NoKernel { present, .. }) => assert_eq!(present, "sum, cross_entropy, tour"),
        _ => panic!("found"),
    }
}
