//! Writing to the terminal, to a pipe, or to one that was closed.

use std::io::{self, Write};

use console::style;

use crate::error::{Error, Result};

/// Writes results to standard output. A reader that has gone away (`packscan gen | head`) is no error.
pub fn results(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(error)),
        _ => Ok(()),
    }
}

/// Writes a line for people to standard error.
pub fn note(line: &str) {
    // Nobody is left to tell if that fails.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Red where standard error is a terminal that shows colours.
pub fn red_on_stderr(text: &str) -> String {
    style(text).for_stderr().red().bold().to_string()
}

/// Red where standard output is a terminal that shows colours.
pub fn red(text: &str) -> String {
    style(text).red().bold().to_string()
}

/// Green where standard output is a terminal that shows colours.
pub fn green(text: &str) -> String {
    style(text).green().bold().to_string()
}

/// `1 document`, `1,234 documents`
pub fn counted(number: usize, one: &str) -> String {
    packscan_train::report::number::counted(number as u64, one)
}

/// `1,234,567`
pub fn thousands(number: usize) -> String {
    packscan_train::report::number::thousands(number as u64)
}
