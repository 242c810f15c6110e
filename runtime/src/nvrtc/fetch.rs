//! Fetching the pinned NVRTC wheel from PyPI through `pip`.

use std::env::consts::{ARCH, OS};
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use fs4::FileExt;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::find::{Environment, Python};
use crate::cache;
use crate::{Error, Result};

/// The oldest of its major version: what it makes loads on every driver of that major version.
const VERSION: &str = "13.0.88";

/// The pinned wheel of a platform.
struct Wheel {
    sha256: &'static str,
    size_bytes: u64,
    /// The members that are unpacked, all into one folder.
    members: [&'static str; 2],
}

fn wheel(os: &str, arch: &str) -> Option<Wheel> {
    const LINUX: [&str; 2] = ["nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0"];
    const WINDOWS: [&str; 2] =
        ["nvidia/cu13/bin/x86_64/nvrtc64_130_0.dll", "nvidia/cu13/bin/x86_64/nvrtc-builtins64_130.dll"];
    let (sha256, size_bytes, members) = match (os, arch) {
        ("linux", "x86_64") => ("ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575", 90_215_200, LINUX),
        ("linux", "aarch64") => ("d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b", 43_015_449, LINUX),
        ("windows", "x86_64") => {
            ("6bcd4e7f8e205cbe644f5a98f2f799bef9556fefc89dd786e79a16312ce49872", 76_807_835, WINDOWS)
        }
        _ => return None,
    };
    Some(Wheel { sha256, size_bytes, members })
}

/// The folder that holds the fetched libraries.
pub(super) fn folder(environment: &Environment) -> PathBuf {
    environment.cache.join("nvrtc").join(VERSION)
}

/// Whether PyPI has NVRTC for this machine.
pub(crate) fn has_wheel() -> bool {
    wheel(OS, ARCH).is_some()
}

/// Puts the pinned NVRTC into [`folder`] and returns the library's file. Of several processes one downloads, and the
/// others wait for it.
pub(super) fn fetch(environment: &Environment, looked: &[String]) -> Result<PathBuf> {
    let absent = |why: String| Error::NoNvrtc { why, looked: looked.to_vec(), cures: cures(environment) };
    if environment.offline {
        return Err(absent("PACKSCAN_OFFLINE forbids to fetch it".to_owned()));
    }
    let Some(wheel) = wheel(OS, ARCH) else {
        return Err(absent(format!("PyPI has no NVRTC for {OS} on {ARCH}")));
    };
    let Some(python) = environment.python() else {
        return Err(absent("there is no Python whose pip could fetch it".to_owned()));
    };

    let target = folder(environment);
    let parent = environment.cache.join("nvrtc");
    let broken = |source| Error::CacheFolder { folder: environment.cache.clone(), source };
    fs::create_dir_all(&parent).map_err(broken)?;
    let _lock = lock(&parent.join("lock")).map_err(broken)?;
    let library = target.join(file_name(wheel.members[0]));
    if library.is_file() && is_whole(&target) {
        return Ok(library);
    }
    if target.exists() {
        eprintln!("packscan: the NVRTC in {} is damaged and is fetched again", target.display());
    }

    let size = cache::readable(wheel.size_bytes);
    eprintln!(
        "packscan: NVRTC not found; fetching nvidia-cuda-nvrtc {VERSION} ({size}) from PyPI into {}",
        target.display()
    );
    let folder = TempDir::new_in(&parent).map_err(broken)?;
    download(&python, folder.path(), &wheel).map_err(absent)?;
    // Leaving early removes the folder and with it the wheel.
    let file = only_wheel(folder.path()).map_err(broken)?;
    let bytes = fs::read(&file).map_err(broken)?;
    verify(&file, &bytes, wheel.sha256)?;
    let unpacked = folder.path().join("unpacked");
    unpack(&bytes, &wheel.members, &unpacked).map_err(broken)?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(broken)?;
    }
    fs::rename(&unpacked, &target).map_err(broken)?;
    eprintln!("packscan: NVRTC {VERSION} is in place");
    Ok(library)
}

fn cures(environment: &Environment) -> Vec<String> {
    let mut out = vec![
        "pip install nvidia-cuda-nvrtc (into the active Python)".to_owned(),
        "PACKSCAN_NVRTC=FILE, the libnvrtc of a CUDA toolkit".to_owned(),
    ];
    if environment.offline {
        out.push("unset PACKSCAN_OFFLINE, and packscan fetches it from PyPI".to_owned());
    } else {
        out.push("python3 -m ensurepip, if the active Python has no pip, so that packscan can fetch it".to_owned());
    }
    out
}

/// Waits until no other process holds the file.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    if FileExt::try_lock(&file).is_err() {
        eprintln!("packscan: waiting for another process that is fetching NVRTC");
        FileExt::lock(&file)?;
    }
    Ok(file)
}

/// Runs pip; the error is what happened, with pip's last lines.
fn download(python: &Python, folder: &Path, wheel: &Wheel) -> Result<(), String> {
    let log = folder.join("pip.log");
    let run = || {
        let out = File::create(&log)?;
        // pip downloads into TMPDIR first, and the progress is read from the size of the folder.
        let child = Command::new(&python.program)
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "-d"])
            .arg(folder)
            .arg(format!("nvidia-cuda-nvrtc=={VERSION}"))
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, folder)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        watch(child, folder, wheel.size_bytes)
    };
    let status = run().map_err(|error| format!("{} does not run: {error}", python.program.display()))?;
    if status.success() {
        return Ok(());
    }
    let log = fs::read(&log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(6)..].join("\n  ");
    Err(format!("pip could not fetch it ({status}):\n  {last}"))
}

/// Waits for the process, with a bar on a terminal.
fn watch(mut child: Child, folder: &Path, size_bytes: u64) -> io::Result<ExitStatus> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(size_bytes) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {decimal_bytes} of {decimal_total_bytes}, {elapsed}");
    bar.set_style(style.expect("the template is constant and valid"));
    loop {
        if let Some(status) = child.try_wait()? {
            bar.finish_and_clear();
            return Ok(status);
        }
        bar.set_position(cache::folder_bytes(folder).min(size_bytes));
        thread::sleep(Duration::from_millis(100));
    }
}

fn only_wheel(folder: &Path) -> io::Result<PathBuf> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let wheel = paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "pip has succeeded, but has left no wheel"))
}

fn verify(file: &Path, bytes: &[u8], expected: &'static str) -> Result<()> {
    let got = cache::hex(&Sha256::digest(bytes));
    if got == expected {
        return Ok(());
    }
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::Checksum { file, expected, got })
}

fn unpack(wheel: &[u8], members: &[&str], target: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(io::Cursor::new(wheel))?;
    fs::create_dir(target)?;
    let mut sizes = String::new();
    for member in members {
        let name = file_name(member);
        let size = io::copy(&mut archive.by_name(member)?, &mut File::create(target.join(name))?)?;
        sizes += &format!("{size} {name}\n");
    }
    fs::write(target.join(SIZES), sizes)
}

/// Beside the fetched libraries: their sizes in bytes and names, a line each.
const SIZES: &str = "sizes";

/// Whether the fetched libraries have the sizes that they were unpacked with: loading a file that was cut short would kill the process.
pub(super) fn is_whole(folder: &Path) -> bool {
    let Ok(sizes) = fs::read_to_string(folder.join(SIZES)) else { return true };
    sizes.lines().all(|line| {
        let Some((size, name)) = line.split_once(' ') else { return false };
        fs::metadata(folder.join(name)).is_ok_and(|file| size.parse() == Ok(file.len()))
    })
}

fn file_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

#[cfg(test)]
mod tests {
    use super::{SIZES, is_whole, wheel};

    #[test]
    fn every_platform_with_a_wheel_has_a_whole_hash() {
        for (os, arch) in [("linux", "x86_64"), ("linux", "aarch64"), ("windows", "x86_64")] {
            let wheel = wheel(os, arch).expect("a wheel");
            assert_eq!(wheel.sha256.len(), 64, "{os} {arch}");
            assert!(wheel.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{os} {arch}");
        }
        assert!(wheel("macos", "aarch64").is_none());
    }

    #[test]
    fn a_library_that_was_cut_short_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SIZES), "5 liba.so\n").unwrap();
        assert!(!is_whole(folder.path()), "the library is missing");
        std::fs::write(folder.path().join("liba.so"), "12345").unwrap();
        assert!(is_whole(folder.path()));
        std::fs::write(folder.path().join("liba.so"), "1234").unwrap();
        assert!(!is_whole(folder.path()));
    }
}
