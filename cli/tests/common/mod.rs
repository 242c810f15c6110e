//! Running the command.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(dead_code)] // Each test file uses some of it.

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

/// Runs it with arguments that have no space in them.
pub fn run(arguments: &str) -> Ran {
    let mut command = command();
    command.args(arguments.split_whitespace());
    finish(command)
}
