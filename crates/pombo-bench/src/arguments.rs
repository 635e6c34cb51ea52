//! The arguments of the scenarios, and the checks of their combinations.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv6Addr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use pombo::descriptors;

use super::BenchError;
use super::inside::Placement;
use super::secure::Identity;
use super::target::{Target, fresh_prefix};
use super::traffic::Targets;
use super::wire::{CONNECTIONS_MAX, STAMP_BYTES};

/// Descriptors that are not connections: standard streams, the poller, files of `/proc`.
const SPARE_DESCRIPTORS: u64 = 32;

/// Bytes that may wait for all sockets of a run at the worst.
pub(super) const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;

/// Lines that a soak may write.
const LINES_MAX: f64 = 10_000.0;

/// One scenario and its arguments.
#[derive(Args, Clone, Debug)]
pub struct ScenarioArgs {
    #[command(subcommand)]
    pub(super) scenario: Scenario,
}

#[derive(Subcommand, Clone, Debug)]
pub(super) enum Scenario {
    /// Open and log in connections: rate, latency, and what an idle connection costs
    Connect(ConnectArgs),
    /// Every connection keeps messages to another in flight
    Unicast(UnicastArgs),
    /// One connection keeps messages to everybody in flight
    Broadcast(BroadcastArgs),
    /// Many connections are idle and some active, one of which broadcasts to all
    Mixed(MixedArgs),
    /// The same for long, while others leave and come back; a line a minute, and whether memory grows
    Soak(SoakArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct ConnectArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Connections to open
    #[arg(long, short, value_name = "N", default_value_t = 1000, value_parser = connections(1))]
    pub(super) connections: u32,
    /// Keep the connections open and idle for so long
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    pub(super) hold: Duration,
}

#[derive(Args, Clone, Debug)]
pub(super) struct UnicastArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Connections to open
    #[arg(long, short, value_name = "N", default_value_t = 64, value_parser = connections(1))]
    pub(super) connections: u32,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) flow: FlowArgs,
    /// Measure a server inside of this process with so many shards, in place of SERVER
    #[arg(long, value_name = "SHARDS", conflicts_with_all = ["server", "pid"], value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) in_process: Option<u16>,
    /// On which shards the two of a pair are [default: wherever their uids put them]
    #[arg(long, value_enum, requires = "in_process")]
    pub(super) placement: Option<Placement>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct BroadcastArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Connections to open; all of them receive, and one of them sends
    #[arg(long, short, value_name = "N", default_value_t = 1000, value_parser = connections(1))]
    pub(super) connections: u32,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Broadcasts in flight
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) window: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct MixedArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Connections that write to each other
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = connections(1))]
    pub(super) active: u32,
    /// Connections that receive broadcasts only
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = connections(0))]
    pub(super) idle: u32,
    /// Broadcasts a second, all from one of the active
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(super) broadcasts: u32,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) flow: FlowArgs,
}

#[derive(Args, Clone, Debug)]
pub(super) struct SoakArgs {
    #[command(flatten)]
    pub(super) mixed: MixedArgs,
    /// Connections that leave and come back
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = connections(0))]
    pub(super) visitors: u32,
    /// How long each stays
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub(super) stay: Duration,
    /// Time between two lines
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(super) every: Duration,
    /// Fail if the server's private memory grows faster than this in an hour; needs --pid
    #[arg(long, value_name = "BYTES", default_value = "16MiB")]
    pub(super) growth_max: ByteSize,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CommonArgs {
    /// The server: HOST:PORT, ws://HOST:PORT/PATH or wss://HOST:PORT/PATH
    #[arg(default_value = "127.0.0.1:1234", value_name = "SERVER")]
    pub(super) server: String,
    /// Trust what the certificates in this PEM file have signed, instead of what the system trusts
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Expect the certificate to be for this name, instead of for the host of the address
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// Connections under way at the same time while logging in
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connecting: u32,
    /// Uids are this and a number [default: one that is new each time, such as bench-k3f9x2-]
    #[arg(long)]
    pub(super) prefix: Option<String>,
    /// Process of the server: report its CPU time and memory, its children's included
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Fail if nothing arrives for so long while something is awaited
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub(super) patience: Duration,
    /// Fail if the whole run takes longer [default: what is asked for and 120 s]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(super) deadline: Option<Duration>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Write a page with plots as well
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// Payload bytes behind `uid:`; the first 24 say who sent what when
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=16 << 20))]
    pub(super) size: u32,
    /// Send text frames (the default)
    #[arg(long, conflicts_with = "binary")]
    pub(super) text: bool,
    /// Send binary frames
    #[arg(long)]
    pub(super) binary: bool,
    /// Measure for so long [default: 5, of soak 600]
    #[arg(long, short, value_parser = parse_seconds)]
    pub(super) seconds: Option<Duration>,
    /// Measure so many messages instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) messages: Option<u64>,
    /// Run for so long before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub(super) warmup: Duration,
}

/// How unicasts flow.
#[derive(Args, Clone, Debug)]
pub(super) struct FlowArgs {
    /// Messages that each connection keeps in flight
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) window: u32,
    /// Send so many messages a second in total, whatever has arrived; latency counts from when each is due
    #[arg(long, value_name = "N", conflicts_with = "window", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Who sends to whom [default: pairs, with a fan-out next]
    #[arg(long, value_enum)]
    targets: Option<Targets>,
    /// Each connection writes to so many next ones in turn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    fan_out: Option<u32>,
}

/// Reads a number of connections.
fn connections(least: i64) -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(least..i64::from(CONNECTIONS_MAX))
}

/// Reads seconds, fractions allowed, up to a day.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "expected seconds, such as 5 or 0.5".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0 to 86400 seconds".into())
    }
}

impl LoadArgs {
    /// How long to measure.
    pub(super) fn seconds(&self) -> Duration {
        self.seconds.unwrap_or(Duration::from_secs(5))
    }
}

impl FlowArgs {
    pub(super) fn targets(&self) -> Targets {
        self.targets.unwrap_or(if self.fan_out.is_some() { Targets::Next } else { Targets::Pairs })
    }

    pub(super) fn fan_out(&self) -> u32 {
        self.fan_out.unwrap_or(1)
    }

    /// Messages in flight from so many connections; at a fixed rate the run ends when too many are.
    fn in_flight(&self, connections: u32) -> u64 {
        u64::from(connections) * u64::from(if self.rate.is_some() { 0 } else { self.window })
    }

    fn check(&self, connections: u32) -> Result<(), BenchError> {
        let Some(fan_out) = self.fan_out else { return Ok(()) };
        if self.targets() != Targets::Next {
            return Err(BenchError::Arguments("--fan-out goes with --targets next only".into()));
        }
        if fan_out >= connections.max(2) {
            return Err(BenchError::Arguments(format!(
                "--fan-out is {fan_out}, expected less than the {connections} connections that send"
            )));
        }
        Ok(())
    }
}

impl UnicastArgs {
    fn check(&self) -> Result<(), BenchError> {
        self.flow.check(self.connections)?;
        let Some(placement) = self.placement else { return Ok(()) };
        if self.flow.targets() != Targets::Pairs {
            return Err(BenchError::Arguments("--placement goes with --targets pairs only".into()));
        }
        if placement == Placement::Cross && self.in_process == Some(1) {
            return Err(BenchError::Arguments("--placement cross needs at least two shards: --in-process 2".into()));
        }
        Ok(())
    }
}

impl MixedArgs {
    fn connections(&self) -> u64 {
        u64::from(self.active) + u64::from(self.idle)
    }
}

impl SoakArgs {
    /// How long to measure.
    pub(super) fn seconds(&self) -> Duration {
        self.mixed.load.seconds.unwrap_or(Duration::from_secs(600))
    }

    fn check(&self) -> Result<(), BenchError> {
        let bad = |why: String| Err(BenchError::Arguments(why));
        if self.every < Duration::from_millis(100) {
            return bad(format!("--every is {:?}, expected at least 0.1 seconds", self.every));
        }
        let lines = self.seconds().as_secs_f64() / self.every.as_secs_f64();
        if lines > LINES_MAX {
            return bad(format!("that makes {lines:.0} lines, expected at most {LINES_MAX}: use a longer --every"));
        }
        if self.stay < Duration::from_millis(10) {
            return bad(format!("--stay is {:?}, expected at least 0.01 seconds", self.stay));
        }
        Ok(())
    }
}

impl ScenarioArgs {
    pub(super) fn common(&self) -> &CommonArgs {
        match &self.scenario {
            Scenario::Connect(args) => &args.common,
            Scenario::Unicast(args) => &args.common,
            Scenario::Broadcast(args) => &args.common,
            Scenario::Mixed(args) => &args.common,
            Scenario::Soak(args) => &args.mixed.common,
        }
    }

    /// Checks what depends on more than one argument, or on the machine.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        let mixed = |args: &MixedArgs, visitors: u32| {
            args.flow.check(args.active)?;
            let connections = args.connections() + u64::from(visitors);
            Ok::<_, BenchError>((connections, Some(args.load.size), args.flow.in_flight(args.active)))
        };
        let (connections, size, in_flight) = match &self.scenario {
            Scenario::Connect(args) => (args.connections.into(), None, 0_u64),
            Scenario::Unicast(args) => {
                args.check()?;
                (args.connections.into(), Some(args.load.size), args.flow.in_flight(args.connections))
            }
            Scenario::Broadcast(args) => (args.connections.into(), Some(args.load.size), u64::from(args.window)),
            Scenario::Mixed(args) => mixed(args, 0)?,
            Scenario::Soak(args) => {
                args.check()?;
                mixed(&args.mixed, args.visitors)?
            }
        };
        if connections >= u64::from(CONNECTIONS_MAX) {
            return Err(BenchError::Arguments(format!(
                "{connections} connections, expected less than {CONNECTIONS_MAX}"
            )));
        }
        if let Some(size) = size
            && in_flight * u64::from(size) > IN_FLIGHT_BYTES_MAX
        {
            let asked = in_flight * u64::from(size);
            return Err(BenchError::Arguments(format!(
                "all windows together hold {asked} bytes, expected at most {IN_FLIGHT_BYTES_MAX}: \
                 use fewer connections, a smaller --window or a smaller --size"
            )));
        }
        if let Some(prefix) = &self.common().prefix
            && (prefix.len() > 200 || prefix.contains(':'))
        {
            return Err(BenchError::Arguments(format!(
                "--prefix is {prefix:?}, expected at most 200 bytes without a colon"
            )));
        }
        self.common().report.as_deref().map_or(Ok(()), allow_page)?;
        allow_descriptors(connections + SPARE_DESCRIPTORS)
    }
}

const EXPECTED: &str = "expected HOST:PORT, ws://HOST:PORT/PATH or wss://HOST:PORT/PATH";

impl CommonArgs {
    pub(super) fn target(&self) -> Result<Target, BenchError> {
        let bad = |why: &str| BenchError::Arguments(format!("server is {:?}, {why}", self.server));
        let (rest, is_secure) = match self.server.strip_prefix("wss://") {
            Some(rest) => (rest, true),
            None => (self.server.strip_prefix("ws://").unwrap_or(&self.server), false),
        };
        let port = if is_secure { 443 } else { 80 };
        if rest.contains("://") {
            return Err(bad(EXPECTED));
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let mut addresses = match authority.to_socket_addrs() {
            // Not HOST:PORT: a host, or an IPv6 address, without a port.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let is_host = !authority.contains(':') || authority.parse::<Ipv6Addr>().is_ok();
                let host = is_host.then_some(authority).filter(|host| !host.is_empty()).ok_or_else(|| bad(EXPECTED))?;
                (host, port).to_socket_addrs()
            }
            resolved => resolved,
        }
        .map_err(|error| bad(&format!("whose host has no address: {error}")))?;
        let address = addresses.next().ok_or_else(|| bad("whose host has no address"))?;
        let secure = if is_secure {
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            let name = self.server_name.as_deref().unwrap_or_else(|| host.trim_matches(['[', ']']));
            Some(Identity::load(name, self.ca.as_deref())?)
        } else {
            None
        };
        Ok(Target {
            address,
            authority: authority.to_owned(),
            path: path.to_owned(),
            secure,
            uid_prefix: self.prefix.clone().unwrap_or_else(fresh_prefix),
            uids: Vec::new(),
            is_inside: false,
        })
    }
}

/// Makes sure that a page can be written, before the run that fills it. A run that fails leaves no file behind.
pub(super) fn allow_page(path: &Path) -> Result<(), BenchError> {
    let opened = match OpenOptions::new().append(true).create_new(true).open(path) {
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    };
    opened.map_err(|source| BenchError::Arguments(format!("cannot write the report to {path:?}: {}", source.kind())))
}

/// Raises the limit of open files to what the run needs, and makes room for them.
fn allow_descriptors(needed: u64) -> Result<(), BenchError> {
    if let Some(limit) = descriptors::raise_limit().filter(|limit| *limit < needed) {
        return Err(BenchError::Arguments(format!(
            "the run needs {needed} open files and the limit is {limit}: use fewer --connections or raise `ulimit -n`"
        )));
    }
    descriptors::make_room(needed as usize);
    Ok(())
}
