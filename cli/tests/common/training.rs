//! A folder with a small model, its text and its runs.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

use super::{Ran, command, finish};

/// A workplace that goes away with the test.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// With a model of 2 blocks, `model.toml`, and text of several lengths, `text/`, of this repository.
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("model.toml"), "width = 32\nlayers = 2\nstate = 8\ntied = false\n")
            .expect("a file");
        let text = folder.path().join("text");
        fs::create_dir(&text).expect("a folder");
        for name in ["src/error.rs", "src/lib.rs", "src/machine.rs", "src/output.rs", "src/saved.rs", "Cargo.toml"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            fs::copy(from, text.join(Path::new(name).file_name().expect("a name"))).expect("a committed file");
        }
        Bench { folder }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, to be run in it on the CPU, with arguments that have no space in them.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = command();
        command.current_dir(self.folder.path()).env("PACKSCAN_CACHE", self.path("cache"));
        command.env("CUDA_VISIBLE_DEVICES", "-1");
        command.args(arguments.split_whitespace());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &str) -> Ran {
        finish(self.command(arguments))
    }

    /// The same in a process that can write only so many blocks to a file, of 512 or 1,024 bytes each.
    #[cfg(unix)]
    pub fn limited(&self, blocks: u32, arguments: &str) -> Ran {
        let command = self.command(arguments);
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\""));
        limited.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            value.map(|value| limited.env(name, value));
        }
        limited.current_dir(self.path(""));
        finish(limited)
    }

    /// The same, which must do its work.
    #[track_caller]
    pub fn good(&self, arguments: &str) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments}: {ran:#?}");
        ran
    }

    /// What lies in a folder of it, in order; nothing where there is no folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
