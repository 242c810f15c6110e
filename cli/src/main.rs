//! The `packscan` command: train models, use and convert them, pack text, generate kernels, verify and time them,
//! and look at the machine.
//!
//! Exit codes: 0 all is well, 1 a property did not hold, 2 the input or the machine is at fault, 3 an injected fault was not
//! caught, 130 interrupted.

mod bench;
mod convert;
mod doctor;
mod error;
mod evaluate;
mod generate;
mod generate_text;
mod machine;
mod memory;
mod output;
mod pack;
mod parse;
mod products;
mod report;
mod respawn;
mod saved;
mod stats;
mod train;
mod tune;
mod variants;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Packed Mamba kernels: generated for exactly your sizes, and verified.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model on packed text.
    Train(Box<train::Train>),
    /// Go on from a prompt with a trained model.
    Generate(generate_text::Generate),
    /// Loss and perplexity of a trained model on text.
    Eval(evaluate::Eval),
    /// Show a kernel: its CUDA text, its PTX, its machine code, or what it costs.
    Gen(generate::Gen),
    /// Check that kernels compute what the textbook says and that nothing passes from one sequence to another.
    Verify(verify::Verify),
    /// Find the fastest verified variant of every kernel of a model on this GPU, and remember it.
    Tune(tune::Tune),
    /// Time kernels at the sizes of a model against what the GPU could do, or whole training steps.
    Bench(Box<bench::Bench>),
    /// Write a model in another layout, type or number of files: Hugging Face's or the original one's.
    Convert(convert::Convert),
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
    /// Ctrl-C, after which all is saved.
    Interrupted,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(match verdict {
            Verdict::Good => 0,
            Verdict::Bad => 1,
            Verdict::Escaped => 3,
            Verdict::Interrupted => 130,
        })
    }
}

/// The command, in which what follows an option is its value, a negative number too: what is wrong with that is then told of the option.
fn parsed() -> Cli {
    fn signed(command: clap::Command) -> clap::Command {
        let option = |arg: &clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
        let signed_arg = |arg: clap::Arg| if option(&arg) { arg.allow_negative_numbers(true) } else { arg };
        command.mut_args(signed_arg).mut_subcommands(signed)
    }
    let matches = signed(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What would write more to a file than the user's limit (`ulimit -f`) is told so, as by a full disk, instead of being ended without a word.
fn survive_limits() {
    #[cfg(unix)]
    // SAFETY: no handler runs; that a signal is ignored changes nothing of this process but what its writes give.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn main() -> ExitCode {
    survive_limits();
    let verdict = match parsed().command {
        Command::Train(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Gen(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Tune(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Convert(command) => command.run(),
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
