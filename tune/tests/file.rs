//! The tuning file: shared by processes, never half written, never lost in silence.

use std::fs;
use std::path::Path;
use std::process::Command;

use packscan_tune::file::{Contents, Dropped, Key, RunnerUp, Tuned, TuningFile, digest};

const ID: &str = "cross_entropy-b1024-k7-v8-bf16";

fn tuned(problem: &str, driver: &str) -> Tuned {
    Tuned {
        kernel: "cross_entropy".to_owned(),
        problem: problem.to_owned(),
        tokens: 4096,
        driver: driver.to_owned(),
        digest: digest(ID).unwrap(),
        id: ID.to_owned(),
        ms: 0.516,
        spread_ms: 0.002,
        runner_up: Some(RunnerUp { id: "cross_entropy-b512-k13-v8-bf16".to_owned(), ms: 0.52 }),
        dropped: vec![Dropped {
            id: "cross_entropy-b32-k1-v8-bf16".to_owned(),
            reason: "it leaks \"this\"\n".to_owned(),
        }],
    }
}

fn file(folder: &Path) -> TuningFile {
    TuningFile::of(folder, "NVIDIA H200")
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    assert_eq!(file.path(), folder.path().join("tuned/nvidia-h200.toml"));
    assert_eq!(file.read().unwrap(), (Contents::empty("NVIDIA H200"), None), "no file is an empty one");
    assert!(!file.path().exists(), "reading writes nothing");
    let all = [tuned("v50280 bf16", "580.1"), tuned("v264 bf16", "580.1")];
    assert_eq!(file.add(&all).unwrap(), None);
    let (contents, said) = file.read().unwrap();
    assert_eq!((contents.gpu.as_str(), said), ("NVIDIA H200", None));
    assert_eq!(contents.tuned, [all[1].clone(), all[0].clone()], "in the order of their keys");
    assert!(contents.tuned.iter().all(Tuned::is_fresh));
    let left: Vec<_> = fs::read_dir(folder.path().join("tuned")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the file and its lock, nothing temporary: {left:?}");
}

#[test]
fn an_entry_takes_the_place_of_its_own_key_and_driver_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.add(&[tuned("a", "1"), tuned("a", "2"), tuned("b", "1")]).unwrap();
    file.add(&[Tuned { ms: 0.1, ..tuned("a", "1") }]).unwrap();
    let ms: Vec<f64> = file.read().unwrap().0.tuned.iter().map(|t| t.ms).collect();
    assert_eq!(ms, [0.1, 0.516, 0.516]);
}

#[test]
fn tokens_share_an_entry_up_to_a_power_of_two() {
    let entry = tuned("v264 bf16", "1");
    assert!(entry.is_for(&Key::new("cross_entropy", "v264 bf16", 2049)));
    assert!(entry.is_for(&Key::new("cross_entropy", "v264 bf16", 4096)));
    assert!(!entry.is_for(&Key::new("cross_entropy", "v264 bf16", 4097)));
    assert!(!entry.is_for(&Key::new("cross_entropy", "v264 f16", 4096)));
}

#[test]
fn an_entry_of_another_text_is_not_fresh() {
    assert!(tuned("a", "1").is_fresh());
    assert!(!Tuned { digest: digest("cross_entropy-b512-k13-v8-bf16").unwrap(), ..tuned("a", "1") }.is_fresh());
    assert!(!Tuned { id: "cross_entropy-b1024-k7-v8-q9-bf16".to_owned(), ..tuned("a", "1") }.is_fresh());
    assert_eq!(digest("voodoo"), None);
}

#[test]
fn a_corrupt_file_is_set_aside_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    file.add(&[tuned("a", "1")]).unwrap();
    let whole = fs::read(file.path()).unwrap();
    let later = String::from_utf8(whole.clone()).unwrap().replace("format = 1", "format = 2").into_bytes();
    for broken in [whole[..whole.len() - 20].to_vec(), b"\xff\xfe".to_vec(), later, b"tuned = 3".to_vec()] {
        fs::write(file.path(), &broken).unwrap();
        let (contents, said) = file.read().unwrap();
        assert_eq!(contents, Contents::empty("NVIDIA H200"));
        let said = said.expect("it is said");
        assert!(said.contains("is no tuning file") && said.contains(".corrupt-"), "{said}");
        assert_eq!(file.read().unwrap().1, None, "it is said once");
    }
    let aside: Vec<_> = fs::read_dir(folder.path().join("tuned"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".corrupt-"))
        .collect();
    assert_eq!(aside.len(), 4, "none was overwritten: {aside:?}");
    fs::write(file.path(), "nonsense").unwrap();
    let said = file.add(&[tuned("b", "1")]).unwrap().expect("a writer says so too");
    assert!(said.contains(".corrupt-"), "{said}");
    assert_eq!(file.read().unwrap().0.tuned.len(), 1);
}

#[test]
fn a_file_of_another_gpu_is_passed_over_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mine, other) = (file(folder.path()), TuningFile::of(folder.path(), "NVIDIA A100"));
    other.add(&[tuned("a", "1")]).unwrap();
    fs::copy(other.path(), mine.path()).unwrap();
    let (contents, said) = mine.read().unwrap();
    assert!(contents.tuned.is_empty());
    let said = said.unwrap();
    assert!(said.contains("is of NVIDIA A100, not of NVIDIA H200"), "{said}");
    mine.add(&[tuned("b", "1")]).unwrap();
    let names: Vec<String> = fs::read_dir(folder.path().join("tuned"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.contains("h200.toml.corrupt-")), "it was not overwritten: {names:?}");
    assert_eq!(mine.read().unwrap().0.tuned[0].problem, "b");
}

#[test]
fn threads_that_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let file = file(folder.path());
            scope.spawn(move || {
                for n in 0..5 {
                    file.add(&[tuned(&format!("{writer}-{n}"), "1")]).unwrap();
                    assert_eq!(file.read().unwrap().1, None, "a reader never sees half of it");
                }
            });
        }
    });
    assert_eq!(file(folder.path()).read().unwrap().0.tuned.len(), 40);
}

/// Where a process that this test starts writes to, and what.
const WRITER: &str = "PACKSCAN_TEST_WRITER";

#[test]
fn processes_that_write_at_once_lose_nothing() {
    if let Ok(told) = std::env::var(WRITER) {
        let (folder, name) = told.rsplit_once('|').unwrap();
        for n in 0..10 {
            file(Path::new(folder)).add(&[tuned(&format!("{name}-{n}"), "1")]).unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = |name: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes_that_write_at_once_lose_nothing"]);
        command.env(WRITER, format!("{}|{name}", folder.path().display())).spawn().unwrap()
    };
    let writers: Vec<_> = (0..3).map(start).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(file(folder.path()).read().unwrap().0.tuned.len(), 30);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let error = file(&blocked).add(&[tuned("a", "1")]).unwrap_err().to_string();
    assert!(error.contains("cannot be locked") && error.contains("PACKSCAN_CACHE"), "{error}");
}
