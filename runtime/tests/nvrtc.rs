//! Finding NVRTC, compiling with it, and what is said when either fails.

use packscan_runtime::nvrtc::{Arch, Compile, Emit, Nvrtc};

const SCALE: &str = r#"
extern "C" __global__ void scale(float* x, float by) {
    __shared__ float staged[64];
    staged[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = staged[63 - threadIdx.x] * by;
}
"#;

fn compile(source: &str, emit: Emit) -> Compile<'_> {
    Compile { name: "scale-n16", source, arch: Arch::default(), emit, options: &[] }
}

#[test]
fn ptx_is_text_for_the_architecture() {
    let made = Nvrtc::get().unwrap().compile(&compile(SCALE, Emit::Ptx)).unwrap();
    let ptx = String::from_utf8(made.bytes).unwrap();
    assert!(ptx.contains(".target sm_90"), "{ptx}");
    assert!(ptx.contains(".loc"), "line numbers are asked for: {ptx}");
    assert!(!ptx.contains('\0'));
}

#[test]
fn a_cubin_comes_with_its_resources() {
    let made = Nvrtc::get().unwrap().compile(&compile(SCALE, Emit::Cubin)).unwrap();
    assert!(made.bytes.starts_with(b"\x7fELF"));
    let resources = made.resources().expect(&made.log);
    assert!((4..=64).contains(&resources.registers), "{}", made.log);
    assert_eq!(resources.shared_bytes, 256, "{}", made.log);
    assert_eq!(resources.spill_store_bytes, 0, "{}", made.log);
}
