//! Running the command.
#![allow(dead_code, reason = "each test uses a part")]

pub mod training;

use assert_cmd::Command;

/// What a run of the command left behind.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The command, as built for this test.
pub fn command() -> Command {
    let mut command = Command::cargo_bin("packscan").expect("the binary is built with its tests");
    command.env_remove("RUST_BACKTRACE").env("NO_COLOR", "1");
    command
}

/// Runs it to its end.
pub fn finish(mut command: Command) -> Ran {
    let output = command.output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().expect("an exit code"), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Asserts that the command refuses, in words that contain all of these.
#[track_caller]
pub fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.err.contains("error:"), "{ran:#?}");
    for word in words {
        assert!(ran.err.contains(word), "{word:?} is not in\n{}", ran.err);
    }
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    assert_eq!(ran.out, "", "nothing is printed that could be taken for a result");
}

/// Runs it with arguments that have no space in them.
pub fn run(arguments: &str) -> Ran {
    let mut command = command();
    command.args(arguments.split_whitespace());
    finish(command)
}
