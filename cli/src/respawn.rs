//! This command once more, in a process of its own: what a kernel that went astray leaves of a GPU is of no use to the one that launched it.

use std::ffi::OsString;
use std::process::{Command, exit};

use crate::error::{Error, Result};
use crate::output;

/// Runs this command again with more arguments, and ends with its exit code.
pub fn again(more: &[String], why: &str) -> Result<()> {
    output::note(&format!("{why}; once more with {}", more.join(" ")));
    let mut command = Command::new(std::env::current_exe().map_err(Error::Respawn)?);
    command.args(arguments(std::env::args_os().skip(1), more));
    let status = command.status().map_err(Error::Respawn)?;
    // Killed by a signal, as the system's shells tell it.
    exit(status.code().unwrap_or(130))
}

/// The arguments that there were, and more: before what follows `--`, which are no options.
fn arguments(given: impl Iterator<Item = OsString>, more: &[String]) -> Vec<OsString> {
    let mut all: Vec<OsString> = given.collect();
    let end = all.iter().position(|word| word == "--").unwrap_or(all.len());
    all.splice(end..end, more.iter().map(OsString::from));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_what_are_none() {
        let of = |words: &str| arguments(words.split_whitespace().map(OsString::from), &["--no-tune".to_owned()]);
        assert_eq!(of("train a --tokens 4"), ["train", "a", "--tokens", "4", "--no-tune"]);
        assert_eq!(of("train -- --odd"), ["train", "--no-tune", "--", "--odd"]);
    }
}
