//! The tree stays as ARCHITECTURE.md says: names, arrows, sizes.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file of the crates with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    fn walk(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the tree can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                walk(&path, endings, found);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for krate in CRATES {
        walk(&root().join(krate.0), endings, &mut found);
    }
    found
}

/// Each crate and the crates of the workspace that it may see (dev-dependencies aside).
const CRATES: [(&str, &[&str]); 10] = [
    ("cli", &["data", "emulator", "kernels", "runtime", "train", "tune", "verify"]),
    ("train", &["data", "kernels", "runtime"]),
    ("tune", &["kernels", "runtime", "verify"]),
    ("verify", &["emulator", "kernels", "reference", "runtime"]),
    ("kernels", &["macros", "runtime"]),
    ("macros", &[]),
    ("data", &[]),
    ("runtime", &["emulator"]),
    ("emulator", &[]),
    ("reference", &[]),
];

#[test]
fn arrows_point_down() {
    for (krate, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a crate has a manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("[dev-dependencies]").next().unwrap_or_default();
        for line in dependencies.lines() {
            if let Some(name) = line.strip_prefix("packscan-") {
                let name = name.split(['.', ' ', '=']).next().unwrap_or_default();
                assert!(allowed.contains(&name), "{krate} must not depend on {name}");
            }
        }
    }
}

#[test]
fn an_operator_has_its_name_everywhere() {
    let kernels = root().join("kernels/src");
    let folders = fs::read_dir(&kernels).expect("kernels has sources").filter_map(|entry| {
        let path = entry.expect("an entry can be read").path();
        path.is_dir().then(|| path.file_name().expect("a folder has a name").to_string_lossy().into_owned())
    });
    let mut seen = 0;
    for operator in folders {
        seen += 1;
        for file in [
            format!("kernels/src/{operator}/mod.rs"),
            format!("kernels/src/{operator}/forward.cuh"),
            format!("kernels/src/{operator}/cpu.rs"),
            format!("kernels/src/{operator}/faults.rs"),
            format!("kernels/src/{operator}/README.md"),
            format!("reference/src/{operator}.rs"),
            format!("verify/src/operators/{operator}.rs"),
            format!("verify/tests/{operator}.rs"),
            format!("tune/src/workload/{operator}.rs"),
        ] {
            assert!(root().join(&file).is_file(), "operator {operator} has no {file}");
        }
        assert!(
            packscan_verify::operators::names().contains(&operator.replace('_', "-").as_str()),
            "{operator} is not verified"
        );
    }
    assert!(seen >= 1);
}

#[test]
fn files_fit_a_reader() {
    for path in files(&[".rs", ".cuh"]) {
        let lines = fs::read_to_string(&path).expect("a source is text").lines().count();
        assert!(lines <= 500, "{} has {lines} lines; split it", path.display());
    }
}

#[test]
fn a_kernel_opens_with_an_essay() {
    for path in files(&[".cuh"]).into_iter().filter(|path| path.starts_with(root().join("kernels"))) {
        let text = fs::read_to_string(&path).expect("a source is text");
        let essay = text.lines().take_while(|line| line.starts_with("//")).count();
        assert!(essay >= 10, "{} opens with {essay} lines", path.display());
    }
}

#[test]
fn nothing_is_left_undone() {
    let marks =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["unimple", "mented!"].concat(), ["to", "do!("].concat()];
    for path in files(&[".rs", ".cuh", ".md"]) {
        let text = fs::read_to_string(&path).expect("a source is text");
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} has a {mark}", path.display());
        }
    }
}
