//! `pombo bench`: puts a server under load, checks every message, and says what it cost.
//!
//! It speaks the plain protocol only, so it measures any server that does. One thread drives all clients; see the
//! drawing. It runs where it is started, and touches the server through its sockets and, with `--pid`, through `/proc`.
//!
//! ```text
//!   scenario ──▶ generator ──▶ client ──▶ socket        generator: the event loop over all clients
//!      │            │  ▲          └─ wire                client: one connection;  wire: frames and stamps
//!      │            ▼  │ who may send
//!      │         traffic ──▶ ledger                      traffic: who says what;  ledger: what is owed
//!      ▼
//!   process, report                                      the server's cost;  what was found
//! ```
//!
//! `compare` starts servers and runs scenarios against each in turn.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's results belong on its standard output")]

mod client;
mod compare;
mod generator;
mod ledger;
mod page;
mod process;
mod progress;
mod report;
mod scenario;
mod traffic;
mod wire;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

pub use self::ledger::Tally;
pub use self::process::ProcessError;
pub use self::progress::Sample;
pub use self::report::{Cpu, GeneratorCost, Latency, Logins, Messages, Parameters, Report, ServerCost};
pub use self::traffic::Targets;

use self::progress::Progress;
use self::wire::{CONNECTIONS_MAX, STAMP_BYTES};

/// Descriptors that are not connections: standard streams, the poller, files of `/proc`.
const SPARE_DESCRIPTORS: u64 = 32;

/// Bytes that may wait for all sockets of a run at the worst.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;

/// Arguments of `pombo bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Start several servers, run scenarios against each in turn, and compare
    Compare(compare::CompareArgs),
}

/// One scenario and its arguments.
#[derive(Args, Clone, Debug)]
pub struct ScenarioArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Clone, Debug)]
enum Scenario {
    /// Open and log in connections: rate, latency, and what an idle connection costs
    Connect(ConnectArgs),
    /// Every connection keeps messages to another in flight
    Unicast(UnicastArgs),
    /// One connection keeps messages to everybody in flight
    Broadcast(BroadcastArgs),
}

#[derive(Args, Clone, Debug)]
struct ConnectArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Connections to open
    #[arg(long, short, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Keep the connections open and idle for so long
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    hold: Duration,
}

#[derive(Args, Clone, Debug)]
struct UnicastArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Connections to open
    #[arg(long, short, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    #[command(flatten)]
    load: LoadArgs,
    /// Messages that each connection keeps in flight
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Send so many messages a second in total, whatever has arrived; latency counts from when each is due
    #[arg(long, value_name = "N", conflicts_with = "window", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Who sends to whom; on which shards they are can't be known from outside
    #[arg(long, value_enum, default_value_t = Targets::Pairs)]
    targets: Targets,
}

#[derive(Args, Clone, Debug)]
struct BroadcastArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Connections to open; all of them receive, and one of them sends
    #[arg(long, short, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    #[command(flatten)]
    load: LoadArgs,
    /// Broadcasts in flight
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
}

#[derive(Args, Clone, Debug)]
struct CommonArgs {
    /// The server: HOST:PORT or ws://HOST:PORT/PATH
    #[arg(default_value = "127.0.0.1:1234", value_name = "SERVER")]
    server: String,
    /// Connections under way at the same time while logging in
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    connecting: u32,
    /// Uids are this and a number
    #[arg(long, default_value = "u")]
    prefix: String,
    /// Process of the server: report its CPU time and memory, its children's included
    #[arg(long)]
    pid: Option<u32>,
    /// Fail if nothing arrives for so long while something is awaited
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    patience: Duration,
    /// Fail if the whole run takes longer [default: what is asked for and 120 s]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    deadline: Option<Duration>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write a page with plots as well
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct LoadArgs {
    /// Payload bytes behind `uid:`; the first 24 say who sent what when
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=16 << 20))]
    size: u32,
    /// Send text frames (the default)
    #[arg(long, conflicts_with = "binary")]
    text: bool,
    /// Send binary frames
    #[arg(long)]
    binary: bool,
    /// Measure for so long
    #[arg(long, short, default_value = "5", value_parser = parse_seconds)]
    seconds: Duration,
    /// Measure so many messages instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Run for so long before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    warmup: Duration,
}

/// Reads seconds, fractions allowed, up to a day.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "expected seconds, such as 5 or 0.5".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0 to 86400 seconds".into())
    }
}

/// Why a run could not be made, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// What is asked for makes no sense.
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
        /// What happened to it.
        why: String,
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
        /// Who wanted to log in.
        uid: String,
        /// How the connection ended.
        ending: String,
    },
    /// The server is silent while connections wait for it.
    #[error("no answer from {address} for {patience:?}: {logged_in} of {connections} connections are logged in")]
    Silent {
        /// The server's address.
        address: SocketAddr,
        /// How long it was waited for.
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

/// Runs a scenario and prints what it found; the exit code is 0 if it is sound, 1 if not, 2 if it was never made.
pub fn run(args: BenchArgs) -> ExitCode {
    let args = match args.command {
        Command::Scenario(scenario) => ScenarioArgs { scenario },
        Command::Compare(args) => return compare::run(&args),
    };
    match measure(&args) {
        Ok(report) => {
            if args.common().json {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            for failure in report.failures.iter().filter(|_| args.common().json) {
                eprintln!("pombo: {failure}");
            }
            if let Some(path) = &args.common().report
                && let Err(error) = page::save(&report, path)
            {
                eprintln!("pombo: {error}");
                return ExitCode::from(1);
            }
            ExitCode::from(u8::from(!report.is_sound()))
        }
        Err(error) => {
            eprintln!("pombo: {error}");
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

/// Does the same under a title for its progress, which is shown if the standard error is a terminal.
fn measure_as(title: &str, args: &ScenarioArgs) -> Result<Report, BenchError> {
    args.check()?;
    let progress = Progress::new(title);
    let target = args.common().target()?;
    match &args.scenario {
        Scenario::Connect(args) => scenario::connect(args, target, progress),
        Scenario::Unicast(args) => scenario::unicast(args, target, progress),
        Scenario::Broadcast(args) => scenario::broadcast(args, target, progress),
    }
}

impl ScenarioArgs {
    fn common(&self) -> &CommonArgs {
        match &self.scenario {
            Scenario::Connect(args) => &args.common,
            Scenario::Unicast(args) => &args.common,
            Scenario::Broadcast(args) => &args.common,
        }
    }

    /// Checks what depends on more than one argument, or on the machine.
    fn check(&self) -> Result<(), BenchError> {
        let (connections, load, in_flight) = match &self.scenario {
            Scenario::Connect(args) => (args.connections, None, 0_u64),
            Scenario::Unicast(args) => {
                // At a fixed rate the run ends when too many are in flight.
                let window = if args.rate.is_some() { 0 } else { args.window };
                (args.connections, Some(&args.load), u64::from(args.connections) * u64::from(window))
            }
            Scenario::Broadcast(args) => (args.connections, Some(&args.load), u64::from(args.window)),
        };
        if let Some(load) = load
            && in_flight * u64::from(load.size) > IN_FLIGHT_BYTES_MAX
        {
            let asked = in_flight * u64::from(load.size);
            return Err(BenchError::Arguments(format!(
                "all windows together hold {asked} bytes, expected at most {IN_FLIGHT_BYTES_MAX}: \
                 use fewer connections, a smaller --window or a smaller --size"
            )));
        }
        let prefix = &self.common().prefix;
        if prefix.len() > 200 || prefix.contains(':') {
            return Err(BenchError::Arguments(format!(
                "--prefix is {prefix:?}, expected at most 200 bytes without a colon"
            )));
        }
        allow_descriptors(u64::from(connections) + SPARE_DESCRIPTORS)
    }
}

impl CommonArgs {
    fn target(&self) -> Result<generator::Target, BenchError> {
        let bad = |why: &str| BenchError::Arguments(format!("server is {:?}, {why}", self.server));
        let rest = self.server.strip_prefix("ws://").unwrap_or(&self.server);
        if rest.contains("://") {
            return Err(bad("expected HOST:PORT or ws://HOST:PORT/PATH"));
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let mut addresses = authority
            .to_socket_addrs()
            .or_else(|_| (authority, 80).to_socket_addrs())
            .map_err(|_| bad("expected HOST:PORT or ws://HOST:PORT/PATH"))?;
        let address = addresses.next().ok_or_else(|| bad("which has no address"))?;
        Ok(generator::Target {
            address,
            authority: authority.to_owned(),
            path: path.to_owned(),
            uid_prefix: self.prefix.clone(),
        })
    }
}

/// Raises the limit of open files to what the run needs.
fn allow_descriptors(needed: u64) -> Result<(), BenchError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < needed) {
        return Err(BenchError::Arguments(format!(
            "the run needs {needed} open files and the limit is {maximum}: use fewer --connections or raise `ulimit -n`"
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| BenchError::Arguments(format!("cannot raise the limit of open files: {error}")))
}
