//! The command line: `pombo serve`, which is also what `pombo` alone does, and the tools beside it.
//!
//! Each command has a file; this one only chooses between them. The command line is the one room that
//! may print. Results go to stdout. Errors go to stderr, a line each, with an exit code: 0 for success,
//! 2 for a caller's mistake or a failed start, and others by command.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line talks to whoever runs it")]

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod bench;
mod connect;
mod control;
mod flags;
#[doc(hidden)]
pub mod generate;
mod input;
mod log;
mod serve;
mod systemd;
mod token;
#[cfg_attr(not(feature = "opentelemetry"), path = "no_traces.rs")]
mod traces;
mod trim;
#[doc(hidden)]
pub mod trust;

/// The version, and the commit if it is known; `pombo-bench` has the same.
#[doc(hidden)]
pub const VERSION: &str = env!("BUILD_VERSION");

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "pombo",
    version = VERSION,
    long_version = concat!(env!("BUILD_VERSION"), "\nfeatures: ", env!("BUILD_FEATURES")),
    about = "A WebSocket push server: delivers a message to one user by uid, or to everybody, on every core",
    after_help = "Without a command, pombo serves. `pombo serve --help` shows all settings, and\n\
                  `pombo COMMAND --help` all arguments of a command; `pombo man FOLDER` writes man pages.",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

/// One variant for each command, each in its own file.
#[derive(Subcommand)]
enum Command {
    /// Runs the server; the default
    #[command(
        after_help = "These are a few of the settings: `pombo serve --help` shows all.",
        after_long_help = "Each setting is a flag, a variable (POMBO_SHARDS) and a key in the file (shards), in this \
                           order of precedence."
    )]
    Serve(serve::Serve),
    Connect(connect::ConnectArgs),
    Push(control::push::Push),
    Online(control::online::Online),
    Kick(control::kick::Kick),
    Health(control::health::Health),
    Top(control::top::Top),
    Bench(bench::Bench),
    Completions(generate::Completions),
    Man(generate::Man),
}

/// Runs the command that `arguments` (the program's name first) ask for, to its end.
///
/// `variables` is the environment; nothing else of the process's environment is read.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    // Completions and man pages are made from the whole command line.
    let matches = flags::shorten(Cli::command()).try_get_matches_from(arguments);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help, version, or an error. A failed write means that nobody reads stdout or stderr.
            answer.print().ok();
            return ExitCode::from(if answer.use_stderr() { REFUSED } else { 0 });
        }
    };
    let variables: Vec<_> = variables.into_iter().collect();
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(serve) => serve.run(&variables),
        Command::Push(push) => push.run(&variables),
        Command::Online(online) => online.run(&variables),
        Command::Kick(kick) => kick.run(&variables),
        Command::Health(health) => health.run(&variables),
        Command::Top(top) => top.run(&variables),
        Command::Connect(connect) => connect::run(connect),
        Command::Bench(bench) => bench.run(),
        Command::Completions(completions) => completions.run(Cli::command()),
        // The load generator writes a page of that name itself.
        Command::Man(man) => man.run(Cli::command().mut_subcommand("bench", |bench| bench.hide(true))),
    }
}

/// Exit code for a caller's mistake, or a failed start.
const REFUSED: u8 = 2;

/// Prints errors to stderr, a line each; returns the exit code.
fn refuse(lines: impl IntoIterator<Item = impl Display>) -> ExitCode {
    let mut stderr = io::stderr().lock();
    for line in lines {
        // Not `eprintln!`, which panics when nobody reads.
        writeln!(stderr, "error: {line}").ok();
    }
    ExitCode::from(REFUSED)
}
