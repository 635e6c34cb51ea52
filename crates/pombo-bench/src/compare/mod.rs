//! `pombo bench compare`: several servers, the same scenarios, rounds interleaved so that a noisy machine treats all alike.
//!
//! ```text
//!   for each round: for each scenario: for each server, in reverse order every other round
//!      peer (start it, pin it) ──▶ measure (pinned beside it) ──▶ figures ──▶ statistics ──▶ table or JSON
//! ```
//! A server runs from its first scenario to the end, but has a new process for each `connect`, whose memory nobody has
//! used before. Whatever way the command ends, short of being killed outright, its servers are killed and reaped.

#[cfg(target_os = "linux")]
mod affinity;
#[cfg(not(target_os = "linux"))]
#[path = "no_affinity.rs"]
mod affinity;
mod line;
mod peer;
mod plots;
mod statistics;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use self::affinity::Cores;
use self::line::Line;
use self::peer::{Launcher, Peer, PeerCommand};
use self::statistics::{Figures, Verdict};
use super::arguments::{allow_page, parse_seconds};
use super::{BenchError, Report, save};

/// What is measured unless scenarios are named: the shapes of load that tell servers apart.
const SCENARIOS: &[&str] = &[
    "unicast -c 64 -w 16",
    "unicast -c 1000 -w 4",
    "unicast -c 1000 -w 4 --targets random",
    "unicast -c 64 -w 1",
    "unicast -c 64 -w 16 --size 1024",
    "unicast -c 64 -w 16 --size 16384",
    "broadcast -c 1000",
    "broadcast -c 10000",
    "broadcast -c 1000 -w 8",
    "unicast -c 1000 --rate 30000",
    "connect -c 10000",
];

/// Arguments of `pombo bench compare`.
#[derive(Args, Clone, Debug)]
pub(super) struct CompareArgs {
    /// A server: a name and a line for the shell, in which {port} stands for a free port; repeat for each
    #[arg(long = "server", value_name = "NAME=COMMAND", required = true)]
    servers: Vec<PeerCommand>,
    /// The server that the others are compared with [default: the first]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// What to run, as behind `pombo bench`, perhaps with `against NAME` behind it; repeat for each [default: eleven shapes of load]
    #[arg(long = "scenario", value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// How often to run each scenario against each server
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure for so long, unless the scenario says otherwise
    #[arg(long, short, default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,
    /// Run for so long before measuring, unless the scenario says otherwise
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    warmup: Duration,
    /// Cores for the servers, such as 0 or 0-3,8 [default: the first there is]
    #[arg(long, value_name = "CORES")]
    server_cores: Option<Cores>,
    /// Core for the generator [default: the second there is]
    #[arg(long, value_name = "CORE")]
    generator_core: Option<Cores>,
    /// Fail if a server does not accept connections for so long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    start_patience: Duration,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Write a page with plots as well
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// What a comparison found.
#[derive(Debug, Serialize)]
struct Comparison {
    /// Where the servers ran.
    server_cores: Cores,
    /// Where the generator ran.
    generator_core: Cores,
    rounds: u32,
    baseline: String,
    servers: Vec<PeerCommand>,
    rows: Vec<Row>,
}

/// One scenario.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    /// The server that the others are compared with here.
    baseline: String,
    /// In the order of the servers.
    columns: Vec<Column>,
}

/// One server in one scenario.
#[derive(Debug, Serialize)]
struct Column {
    server: String,
    /// Of each round; none if it failed.
    rounds: Vec<Option<Figures>>,
    /// What the last sound round looked like, for the plots.
    #[serde(skip)]
    curves: Option<Curves>,
    /// Medians of the rounds, each figure for itself; none if all failed.
    median: Option<Figures>,
    /// Against the baseline; none of the baseline itself.
    verdict: Option<Verdict>,
    /// Rounds in which the generator set the pace.
    bottlenecks: u32,
    /// Why rounds failed, one sentence each.
    failures: Vec<String>,
}

/// Lines to plot of one run.
#[derive(Debug)]
struct Curves {
    latency: Vec<(f64, f64)>,
    rate: Vec<(f64, f64)>,
}

/// Compares, and prints what it found; the exit code is 0 if all runs are sound, 1 if not, 2 if none was made.
pub(super) fn run(args: &CompareArgs) -> ExitCode {
    match compare(args) {
        Ok(comparison) => {
            if args.json {
                println!("{}", comparison.to_json());
            } else {
                print!("{comparison}");
            }
            if let Err(error) = save(args.report.as_deref(), || comparison.page()) {
                eprintln!("pombo-bench: {error}");
                return ExitCode::from(error.exit_code());
            }
            ExitCode::from(u8::from(!comparison.is_sound()))
        }
        Err(error) => {
            eprintln!("pombo-bench: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn compare(args: &CompareArgs) -> Result<Comparison, BenchError> {
    let baseline = args.baseline()?;
    let lines = args.lines(baseline)?;
    args.report.as_deref().map_or(Ok(()), allow_page)?;
    let allowed = affinity::allowed()?;
    let server_cores = args.server_cores.clone().unwrap_or_else(|| allowed.one(0));
    let generator_core = args.generator_core.clone().unwrap_or_else(|| allowed.one(1));
    let launcher = Launcher::new(server_cores.clone(), generator_core.clone(), args.start_patience)?;
    let mut rows: Vec<Row> = lines.iter().map(|line| line.row(&args.servers)).collect();
    // Servers that are up, in the order of the arguments.
    let mut running: Vec<Option<Peer>> = args.servers.iter().map(|_| None).collect();
    for round in 0..args.rounds {
        for (line, row) in lines.iter().zip(&mut rows) {
            let mut order: Vec<usize> = (0..args.servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let fresh = line.is_connect();
                let kept = if fresh { None } else { running[index].take().and_then(Peer::still_running) };
                let peer = match kept.map_or_else(|| launcher.start(&args.servers[index]), Ok) {
                    // Most likely the command is wrong: there is no use in trying it for hours.
                    Err(error) if round == 0 => return Err(error),
                    peer => peer,
                };
                let outcome = peer.and_then(|peer| {
                    let name = &args.servers[index].name;
                    let title = format!("round {} of {}, {name}: {}", round + 1, args.rounds, line.text);
                    let report = line.measure(&title, &peer);
                    if !fresh {
                        running[index] = Some(peer);
                    }
                    report
                });
                row.columns[index].enter(outcome);
            }
        }
    }
    for (row, line) in rows.iter_mut().zip(&lines) {
        row.judge(line.baseline);
    }
    let baseline = args.servers[baseline].name.clone();
    Ok(Comparison { server_cores, generator_core, rounds: args.rounds, baseline, servers: args.servers.clone(), rows })
}

impl CompareArgs {
    /// Index of the server that the others are compared with.
    fn baseline(&self) -> Result<usize, BenchError> {
        let names: Vec<&str> = self.servers.iter().map(|server| server.name.as_str()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(BenchError::Arguments(format!("two servers have the name {:?}", twice.1)));
        }
        self.baseline.as_ref().map_or(Ok(0), |wanted| self.place_of(wanted, "--baseline"))
    }

    /// Index of a server that an argument names.
    fn place_of(&self, wanted: &str, argument: &str) -> Result<usize, BenchError> {
        self.servers.iter().position(|server| server.name == wanted).ok_or_else(|| {
            let names: Vec<&str> = self.servers.iter().map(|server| server.name.as_str()).collect();
            BenchError::Arguments(format!("{argument} is {wanted:?}, expected one of {}", names.join(", ")))
        })
    }

    /// The scenarios, checked as far as they can be without a server.
    fn lines(&self, baseline: usize) -> Result<Vec<Line>, BenchError> {
        let defaults = SCENARIOS.iter().map(|text| (*text).to_owned());
        let texts = if self.scenarios.is_empty() { defaults.collect() } else { self.scenarios.clone() };
        let times = ["--seconds".to_owned(), self.seconds.as_secs_f64().to_string()];
        let warmup = ["--warmup".to_owned(), self.warmup.as_secs_f64().to_string()];
        // The same in each round, since its length is part of the cost; the servers have no other users.
        let prefix = ["--prefix".to_owned(), "u".to_owned()];
        texts
            .into_iter()
            .map(|text| {
                let (text, baseline) = match text.split_once(" against ") {
                    Some((scenario, name)) => (scenario.to_owned(), self.place_of(name.trim(), "against")?),
                    None => (text, baseline),
                };
                let mut defaults = prefix.to_vec();
                if !text.starts_with("connect") {
                    defaults.extend(warmup.clone());
                    // They exclude each other.
                    defaults.extend(times.clone().into_iter().filter(|_| !text.contains("--messages")));
                }
                let line = Line { text, defaults, baseline };
                line.arguments("127.0.0.1:1", None)?.check()?;
                Ok(line)
            })
            .collect()
    }
}

impl Column {
    /// Enters what a round found; figures of a run that is not sound are worth nothing.
    fn enter(&mut self, outcome: Result<Report, BenchError>) {
        let round = self.rounds.len() + 1;
        let figures = match outcome {
            Ok(report) if report.is_sound() => {
                self.curves = report.messages.as_ref().map(|messages| Curves {
                    latency: messages.latency_curve.clone(),
                    rate: messages.over_time.iter().map(|at| (at.at_seconds, at.per_second)).collect(),
                });
                self.bottlenecks += u32::from(report.generator.bottleneck);
                Some(Figures::of(&report))
            }
            Ok(report) => {
                self.failures.extend(report.failures.iter().map(|failure| format!("round {round}: {failure}")));
                None
            }
            Err(error) => {
                self.failures.push(format!("round {round}: {error}"));
                None
            }
        };
        self.rounds.push(figures);
    }
}

impl Row {
    fn is_connect(&self) -> bool {
        self.scenario.trim_start().starts_with("connect")
    }

    /// Draws the conclusions, once all rounds are entered.
    fn judge(&mut self, baseline: usize) {
        let reference = self.columns[baseline].rounds.clone();
        let logins = self.is_connect();
        for (index, column) in self.columns.iter_mut().enumerate() {
            column.median = Figures::median(&column.rounds);
            if index != baseline {
                column.verdict = Verdict::of(&column.rounds, &reference, logins);
            }
        }
    }
}

impl Comparison {
    /// One JSON object on one line.
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings always serialize")
    }

    fn is_sound(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.columns).all(|column| column.failures.is_empty())
    }
}
