//! `pombo-bench`, which `pombo bench` runs: puts a server under load, checks every message, and says what it cost.
//!
//! It speaks the plain protocol only, so it measures any server that does. One thread drives all clients; see the
//! drawing. It runs where it is started, and touches the server through its sockets and, with `--pid`, through `/proc`.
//!
//! ```text
//!   arguments ──▶ scenario                              arguments: the command line
//!                    │  its traffic, its parameters
//!                    ▼
//!   process ◀────── run ──▶ generator ──▶ client ──▶ socket   run: from the first connection to the last, and when to
//!   soak    ◀────────┤        │  ▲          └─ wire            look at what;  generator: the event loop over all clients
//!   progress ◀───────┤        ▼  │ who may send               client: one connection;  wire: frames and stamps
//!                    │      traffic ──▶ ledger                traffic: who says what;  ledger: what is owed
//!                    ▼
//!                  report ──▶ page                            what was found, in figures, as text and with plots
//! ```
//!
//! `compare` starts servers and runs scenarios against each in turn.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's results belong on its standard output")]

mod arguments;
mod client;
mod compare;
mod generator;
mod inside;
mod latency;
mod ledger;
mod numbers;
mod process;
mod progress;
mod report;
mod run;
mod scenario;
mod secure;
mod soak;
mod target;
mod traffic;
mod wire;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use pombo::cli::generate::{Completions, Man};
use pombo_plots::Page;

pub use self::arguments::ScenarioArgs;
pub use self::inside::Placement;
pub use self::latency::Latency;
pub use self::ledger::Tally;
pub use self::process::ProcessError;
pub use self::progress::Sample;
pub use self::report::{Cpu, GeneratorCost, Logins, Messages, Parameters, Report, ServerCost};
pub use self::soak::{Minute, Soak};
pub use self::traffic::Targets;

use self::arguments::Scenario;
use self::progress::Progress;

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "pombo-bench",
    version = pombo::cli::VERSION,
    about = "Puts a server under load, checks every message, and says what it cost",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Start several servers, run scenarios against each in turn, and compare
    Compare(compare::CompareArgs),
    Completions(Completions),
    Man(Man),
}

/// Why a run could not be made, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The arguments contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// The server's process can't be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A server to compare did not come up.
    #[error("cannot start {server}: {why}")]
    Start {
        /// Its name.
        server: String,
        /// Why it did not.
        why: String,
    },
    /// The page can't be written.
    #[error("cannot write the report to {path:?}: {kind}", kind = source.kind())]
    Page {
        /// Where it should be.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The poller failed.
    #[error("cannot poll: {kind}", kind = source.kind())]
    Poll {
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection could not be made.
    #[error("cannot connect to {address}: {kind}", kind = source.kind())]
    Connect {
        /// The server's address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A connection ended before it was logged in.
    #[error("cannot log in as {uid}: the connection was {ending}")]
    Login {
        /// The uid that wanted to log in.
        uid: String,
        /// How the connection ended.
        ending: String,
    },
    /// The server is silent while connections wait for it.
    #[error("no answer from {address} for {patience:?}: {logged_in} of {connections} connections are logged in")]
    Silent {
        /// The server's address.
        address: SocketAddr,
        /// How long the generator waited for it.
        patience: Duration,
        /// Connections that are logged in.
        logged_in: u32,
        /// Connections asked for.
        connections: u32,
    },
    /// The whole run took too long.
    #[error("the run is not over after {deadline:?}")]
    Deadline {
        /// How long it might have taken.
        deadline: Duration,
    },
}

impl BenchError {
    /// The process's exit code: whether the run failed (1) or was never made (2).
    fn exit_code(&self) -> u8 {
        match self {
            BenchError::Arguments(_) | BenchError::Process(_) | BenchError::Start { .. } => 2,
            _ => 1,
        }
    }
}

/// Runs the command that `arguments` (the program's name first) ask for, and prints what it found.
///
/// The exit code is 0 if the run is sound, 1 if not, 2 if it was never made.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::parse_from(arguments).command {
        Command::Scenario(scenario) => run_scenario(&ScenarioArgs { scenario }),
        Command::Compare(args) => compare::run(&args),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
    }
}

fn run_scenario(args: &ScenarioArgs) -> ExitCode {
    match measure(args) {
        Ok(report) => {
            if args.common().json {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            for failure in report.failures.iter().filter(|_| args.common().json) {
                eprintln!("pombo-bench: {failure}");
            }
            if let Err(error) = save(args.common().report.as_deref(), || report.page()) {
                eprintln!("pombo-bench: {error}");
                return ExitCode::from(error.exit_code());
            }
            ExitCode::from(u8::from(!report.is_sound()))
        }
        Err(error) => {
            eprintln!("pombo-bench: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs a scenario on the calling thread, and returns what it found, faults included.
///
/// # Errors
/// When it could not be made, or could not be brought to an end that says something.
pub fn measure(args: &ScenarioArgs) -> Result<Report, BenchError> {
    measure_as(&args.common().server, args)
}

/// As [`measure`], with a title for the progress bar, which is shown if standard error is a terminal.
fn measure_as(title: &str, args: &ScenarioArgs) -> Result<Report, BenchError> {
    args.check()?;
    let progress = Progress::new(title);
    let target = args.common().target()?;
    match &args.scenario {
        Scenario::Connect(args) => scenario::connect(args, target, progress),
        Scenario::Unicast(args) => scenario::unicast(args, target, progress),
        Scenario::Broadcast(args) => scenario::broadcast(args, target, progress),
        Scenario::Mixed(args) => scenario::mixed(args, target, progress),
        Scenario::Soak(args) => scenario::soak(args, target, progress),
    }
}

/// Writes a page, if one is asked for.
fn save(path: Option<&Path>, page: impl FnOnce() -> Page) -> Result<(), BenchError> {
    let Some(path) = path else { return Ok(()) };
    page().save(path).map_err(|source| BenchError::Page { path: path.to_owned(), source })
}
