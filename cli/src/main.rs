//! The `packscan` command: generate kernels, verify them, pack text, and look at the machine.
//!
//! Exit codes: 0 all is well, 1 a property did not hold, 2 the input or the machine is at fault, 3 an injected fault was not
//! caught.

mod doctor;
mod error;
mod generate;
mod histogram;
mod output;
mod pack;
mod parse;
mod report;
mod stats;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Packed Mamba kernels: generated for exactly your sizes, and verified.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a kernel: its CUDA text, its PTX, its machine code, or what it costs.
    Gen(generate::Gen),
    /// Check that kernels compute what the textbook says and that nothing passes from one sequence to another.
    Verify(verify::Verify),
    /// Show what packing makes of a text: padding, packs, time and a picture of its lengths.
    Pack(pack::Pack),
    /// Show what was found on this machine, what is missing and how to get it.
    Doctor,
}

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All is well.
    Good,
    /// A property did not hold, or nothing can run here.
    Bad,
    /// An injected fault was not caught.
    Escaped,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(match verdict {
            Verdict::Good => 0,
            Verdict::Bad => 1,
            Verdict::Escaped => 3,
        })
    }
}

fn main() -> ExitCode {
    let verdict = match Cli::parse().command {
        Command::Gen(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Pack(command) => command.run(),
        Command::Doctor => doctor::run(),
    };
    match verdict {
        Ok(verdict) => verdict.into(),
        Err(error) => {
            output::note(&format!("{} {error}", output::red_on_stderr("error:")));
            ExitCode::from(2)
        }
    }
}
