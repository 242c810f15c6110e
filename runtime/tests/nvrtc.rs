//! Finding NVRTC, compiling with it, and what is said when either fails.
//!
//! Machines with NVRTC in one place or another are made of symbolic links and of a Python that is a shell script.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use packscan_runtime::Error;
use packscan_runtime::nvrtc::find::{Environment, Origin};
use packscan_runtime::nvrtc::{self, Arch, Compile, Emit, Nvrtc};
use tempfile::TempDir;

const REVERSE: &str = r#"
extern "C" __global__ void reverse(float* x) {
    __shared__ float staged[64];
    staged[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = staged[63 - threadIdx.x] * BY;
}
"#;

fn reverse(emit: Emit) -> Compile<'static> {
    Compile { name: "reverse-n64", source: REVERSE, arch: Arch::default(), emit, options: &["-DBY=3.0f"] }
}

#[test]
fn ptx_is_text_with_line_numbers() {
    let made = Nvrtc::get().unwrap().compile(&reverse(Emit::Ptx)).unwrap();
    assert_eq!(made.resources(), None);
    let ptx = String::from_utf8(made.bytes).unwrap();
    assert!(ptx.contains(".target sm_90") && ptx.contains(".loc"), "{ptx}");
    assert!(!ptx.contains('\0'));
}

#[test]
fn a_cubin_comes_with_its_resources() {
    let made = Nvrtc::get().unwrap().compile(&reverse(Emit::Cubin)).unwrap();
    assert!(made.bytes.starts_with(b"\x7fELF"));
    let resources = made.resources().expect(&made.log);
    assert!((4..=64).contains(&resources.registers), "{}", made.log);
    assert_eq!((resources.shared_bytes, resources.spill_store_bytes), (64 * 4, 0), "{}", made.log);
}

#[test]
fn spills_are_counted() {
    let source = r#"
extern "C" __global__ void __launch_bounds__(1024) many(float* x) {
    float v[128];
    #pragma unroll
    for (int i = 0; i < 128; ++i) v[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 128; ++i) x[(127 - i) * 1024 + threadIdx.x] = v[i] * v[(i * 37 + 11) % 128];
}
"#;
    let made = Nvrtc::get().unwrap().compile(&Compile { source, ..reverse(Emit::Cubin) }).unwrap();
    let resources = made.resources().expect(&made.log);
    assert_eq!(resources.registers, 64, "{}", made.log);
    assert!(resources.spill_store_bytes > 0 && resources.spill_load_bytes > 0, "{}", made.log);
    assert!(resources.stack_bytes > 0, "{}", made.log);
}

#[test]
fn multiplication_and_addition_stay_apart() {
    let source = "extern \"C\" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; }";
    let made = Nvrtc::get().unwrap().compile(&Compile { source, ..reverse(Emit::Ptx) }).unwrap();
    let ptx = String::from_utf8(made.bytes).unwrap();
    assert!(ptx.contains("mul") && ptx.contains("add") && !ptx.contains("fma"), "{ptx}");
}

#[test]
fn an_error_names_the_file_and_line_of_the_source() {
    let source =
        "#line 40 \"kernels/src/scan/forward.cuh\"\nextern \"C\" __global__ void k() {\n  oops;\n  twice;\n}\n";
    let error = Nvrtc::get().unwrap().compile(&Compile { source, ..reverse(Emit::Ptx) }).unwrap_err();
    let Error::Compile { id, log } = &error else { panic!("{error}") };
    assert_eq!(id, "reverse-n64");
    assert!(log.contains("kernels/src/scan/forward.cuh(41): error"), "{log}");
    let shown = error.to_string();
    assert!(shown.starts_with("reverse-n64 does not compile:\n"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("kernels/src/scan/forward.cuh(42): error")), "{shown}");
}

#[test]
fn a_wrong_option_or_source_is_an_error() {
    let nvrtc = Nvrtc::get().unwrap();
    let error = nvrtc.compile(&Compile { options: &["--no-such-option"], ..reverse(Emit::Ptx) }).unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
    let error = nvrtc.compile(&Compile { arch: Arch::new(55), ..reverse(Emit::Cubin) }).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error}");
    let error = nvrtc.compile(&Compile { source: "a\0b", ..reverse(Emit::Ptx) }).unwrap_err();
    assert!(error.to_string().contains("zero byte"), "{error}");
}

#[test]
fn threads_compile_at_the_same_time() {
    let nvrtc = Nvrtc::get().unwrap();
    let ptx = |n: usize| {
        let option = format!("-DBY={n}.0f");
        nvrtc.compile(&Compile { options: &[&option], ..reverse(Emit::Ptx) }).unwrap().bytes
    };
    let alone: Vec<Vec<u8>> = (0..16).map(ptx).collect();
    assert!(alone[1..].iter().all(|ptx| *ptx != alone[0]), "the option reaches the compiler");
    let together: Vec<Vec<u8>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|n| scope.spawn(move || ptx(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn what_was_compiled_is_kept() {
    // The log of a cubin states how long it took to compile, so that a second compilation would show.
    let first = nvrtc::compile_cached(&reverse(Emit::Cubin)).unwrap();
    assert_eq!(nvrtc::compile_cached(&reverse(Emit::Cubin)).unwrap(), first);
    let ptx = nvrtc::compile_cached(&reverse(Emit::Ptx)).unwrap();
    assert!(ptx.bytes.starts_with(b"//"), "another kind is another entry");
    let other = nvrtc::compile_cached(&Compile { options: &["-DBY=5.0f"], ..reverse(Emit::Ptx) }).unwrap();
    assert_ne!(other.bytes, ptx.bytes, "other options are another entry");
}

/// A text that nobody compiled before, so that nothing of it is in the cache.
#[test]
fn ptx_made_on_the_way_to_machine_code_is_the_same() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let source = format!("// {now}\n#define BY 2.0f\n{REVERSE}");
    let request = Compile { source: &source, options: &[], ..reverse(Emit::Ptx) };
    nvrtc::compile_both(request.name, &source, request.arch).unwrap();
    let kept = nvrtc::compile_cached(&request).unwrap();
    assert_eq!(kept, Nvrtc::get().unwrap().compile(&request).unwrap());
    let cubin = Compile { emit: Emit::Cubin, ..request };
    assert!(nvrtc::compile_cached(&cubin).unwrap().resources().is_some());
}

#[test]
fn architectures_are_read_and_shown() {
    for (text, shown) in
        [("sm_90", "sm_90"), ("90", "sm_90"), ("sm_90a", "sm_90a"), ("120", "sm_120"), ("sm_100f", "sm_100f")]
    {
        assert_eq!(text.parse::<Arch>().unwrap().to_string(), shown);
    }
    assert_eq!("sm_90".parse::<Arch>().unwrap(), Arch::default());
    for text in
        ["", "sm_", "hopper", "sm_9", "9.0", "sm_90b", "sm_90aa", "sm_-9", "sm_1000", "compute_90", "sm_+90", "10"]
    {
        let error = text.parse::<Arch>().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("sm_80"), "{text}: {error}");
    }
}

/// A machine with nothing on it, and a folder of its own.
fn bare() -> (TempDir, Environment) {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment {
        nvrtc: None,
        cublaslt: None,
        nccl: None,
        loader: false,
        toolkits: Vec::new(),
        pythons: Vec::new(),
        cache: folder.path().join("cache"),
        offline: false,
    };
    (folder, environment)
}

#[test]
fn offline_the_error_names_the_places_and_the_cures() {
    let (folder, environment) = bare();
    let toolkit = folder.path().join("toolkit");
    let environment = Environment { offline: true, toolkits: vec![toolkit.clone()], ..environment };
    let error = Nvrtc::provide(&environment).unwrap_err();
    let shown = error.to_string();
    let (toolkit, cache) = (toolkit.display().to_string(), environment.cache.display().to_string());
    for part in [&*toolkit, &*cache, "pip install nvidia-cuda-nvrtc", "PACKSCAN_NVRTC=", "unset PACKSCAN_OFFLINE"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(!environment.cache.exists(), "nothing is written");
}

#[test]
fn a_wrong_setting_is_an_error_even_if_nvrtc_is_elsewhere() {
    let (folder, environment) = bare();
    let toolkits = vec![toolkit(folder.path())];
    for (value, part) in [(folder.path().join("nowhere"), "nothing is there"), (folder.path().to_owned(), "none of")] {
        let environment = Environment { nvrtc: Some(value.clone()), toolkits: toolkits.clone(), ..environment.clone() };
        let shown = Nvrtc::provide(&environment).unwrap_err().to_string();
        assert!(shown.contains("PACKSCAN_NVRTC is ") && shown.contains(part), "{shown}");
        assert!(shown.contains(&value.display().to_string()), "{shown}");
    }
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let (folder, environment) = bare();
    let file = folder.path().join("libnvrtc.so.13");
    fs::write(&file, "not a library").unwrap();
    let shown = Nvrtc::provide(&Environment { nvrtc: Some(file.clone()), ..environment }).unwrap_err().to_string();
    assert!(shown.contains(&file.display().to_string()) && shown.contains("PACKSCAN_NVRTC"), "{shown}");
}

/// A toolkit folder that borrows the NVRTC of this process.
fn toolkit(folder: &Path) -> PathBuf {
    let root = folder.join("toolkit");
    borrow_nvrtc(&root.join("lib64"));
    root
}

fn borrow_nvrtc(link: &Path) {
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(Nvrtc::get().unwrap().path().parent().unwrap(), link).unwrap();
}

/// A Python that answers where its packages lie, and whose pip is a piece of shell.
fn python(folder: &Path, pip: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = folder.join("python3");
    let packages = folder.join("site-packages");
    let text =
        format!("#!/bin/sh\nif [ \"$1\" = -I ]; then echo 3.12.0; echo '{}'; exit; fi\n{pip}\n", packages.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn the_places_are_looked_at_in_order() {
    let (folder, environment) = bare();
    let library = Nvrtc::get().unwrap().path().to_owned();
    borrow_nvrtc(&environment.cache.join("nvrtc/13.0.88"));
    let in_cache = environment;
    borrow_nvrtc(&folder.path().join("site-packages/nvidia/cu13/lib"));
    let in_python =
        Environment { pythons: vec!["/no/python".into(), python(folder.path(), "exit 1")], ..in_cache.clone() };
    let in_toolkit = Environment { toolkits: vec![toolkit(folder.path())], ..in_python.clone() };
    let set = Environment { nvrtc: Some(library.clone()), ..in_toolkit.clone() };
    let set_to_folder = Environment { nvrtc: library.parent().map(Path::to_owned), ..in_toolkit.clone() };
    for (environment, origin) in [
        (in_cache, Origin::Cache),
        (in_python, Origin::Python),
        (in_toolkit, Origin::Toolkit),
        (set, Origin::Setting),
        (set_to_folder, Origin::Setting),
    ] {
        let nvrtc = nvrtc::find_without_download(&environment).unwrap().expect("NVRTC");
        assert_eq!(nvrtc.origin(), origin);
        assert_eq!(nvrtc.version(), Nvrtc::get().unwrap().version());
    }
}

#[test]
fn pips_last_words_are_in_the_error() {
    let (folder, environment) = bare();
    let pip = "echo 'Collecting nvidia-cuda-nvrtc'\necho 'ERROR: No matching distribution found' >&2\nexit 1";
    let environment = Environment { pythons: vec![python(folder.path(), pip)], ..environment };
    let error = Nvrtc::provide(&environment).unwrap_err();
    assert!(matches!(error, Error::NoNvrtc { .. }));
    let shown = error.to_string();
    assert!(shown.contains("ERROR: No matching distribution found") && shown.contains("ensurepip"), "{shown}");
}

#[test]
fn a_wheel_that_is_not_the_pinned_one_is_thrown_away() {
    let (folder, environment) = bare();
    let pip = "while [ $# -gt 1 ]; do [ \"$1\" = -d ] && echo changed > \"$2/nvrtc.whl\"; shift; done";
    let environment = Environment { pythons: vec![python(folder.path(), pip)], ..environment };
    let error = Nvrtc::provide(&environment).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert!(error.to_string().contains("nvrtc.whl"), "{error}");
    let left: Vec<_> = fs::read_dir(environment.cache.join("nvrtc")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
#[ignore = "downloads 90 MB from PyPI"]
fn two_that_fetch_at_once_download_once() {
    let (_folder, environment) = bare();
    let environment = Environment { pythons: vec!["python3".into()], ..environment };
    let fetched = || {
        let nvrtc = Nvrtc::provide(&environment).unwrap();
        assert_eq!((nvrtc.version(), nvrtc.path().starts_with(&environment.cache)), ((13, 0), true));
        nvrtc.compile(&reverse(Emit::Cubin)).unwrap()
    };
    let made = thread::scope(|scope| [scope.spawn(fetched), scope.spawn(fetched)].map(|t| t.join().unwrap().bytes));
    assert_eq!(made[0], made[1]);
}
