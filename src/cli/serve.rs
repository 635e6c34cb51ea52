//! `pombo serve`: the life of a node, from its settings to its exit code.
//!
//! Runs on the main thread, which only waits for signals: SIGTERM and SIGINT drain the node, a second one ends the process
//! at once, SIGHUP reads the settings again. Files are read by other threads, since a read may never end.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::flags::Flags;
use super::log::Log;
use super::systemd::NotifySocket;
use super::{REFUSED, trim};
use crate::blocking::{BlockingWork, READ_TIME, Unfinished};
use crate::config::{Auth, Config, ConnectionLimit, Faults, Listen, Origins, Paths, Settings, load, load_toml};
use crate::descriptors;
use crate::log_sink::LogSink;
use crate::server::{Handle, PassedSockets, Server, StartError};

/// Runs the server.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Serve {
    /// Reads settings from this TOML file [env: POMBO_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the settings in effect as TOML, and exits
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: Flags,
}

/// How long to wait at the end for the last lines of each stream, and for the last messages to the service manager.
const END_TIME: Duration = Duration::from_secs(1);

/// Exit code after a second signal: what a shell shows for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

impl Serve {
    /// Runs a node until a signal drains it.
    pub(super) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        let sources =
            Sources { flags: self.flags.0.clone(), file: self.config.clone(), variables: variables.to_owned() };
        if self.print_config {
            return match load_toml(&sources.flags, sources.file.as_deref(), &sources.variables) {
                Ok(toml) => {
                    print(&toml);
                    ExitCode::SUCCESS
                }
                Err(faults) => super::refuse(faults.iter()),
            };
        }
        // Before any thread is started: this removes variables from the environment.
        let passed = PassedSockets::from_env();
        let outlets = match Outlets::open() {
            Ok(outlets) => outlets,
            Err(error) => return super::refuse([format!("cannot start: {error}")]),
        };
        let exit_code = serve(Arc::new(sources), passed, &outlets);
        outlets.settle();
        exit_code
    }
}

/// The sources of settings; a reload reads them again.
struct Sources {
    flags: Settings,
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
}

impl Sources {
    /// Reads the settings; blocks while the file is read.
    fn load(&self) -> Result<Config, Faults> {
        load(&self.flags, self.file.as_deref(), &self.variables)
    }

    fn is_colour_wanted(&self) -> bool {
        !self.variables.iter().any(|(name, value)| name == "NO_COLOR" && !value.is_empty())
    }
}

/// The life of a node. Nothing on this thread reads a file or waits for a stream, so that signals are always heard.
fn serve(sources: Arc<Sources>, passed: io::Result<PassedSockets>, outlets: &Outlets) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().thread_name("pombo-files").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return outlets.refuse([format!("cannot start: {error}")]),
    };
    let exit_code = runtime.block_on(async {
        // Before the node prints that it listens: a program that waits for that line may send a signal at once.
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return outlets.refuse([format!("cannot listen for signals: {error}")]),
        };
        let (reading, stderr, stdout) = (Arc::clone(&sources), outlets.stderr.clone(), outlets.stdout.clone());
        let mut starting = spawn_blocking(move || start(&reading, passed?, stderr, stdout));
        let started = tokio::select! {
            // The start first: a node that runs when the signal comes must drain.
            biased;
            started = &mut starting => Ok(started),
            () = signals.end() => {
                signals.is_over = true;
                // Waits a short time for the start: clients may have connected, and the node must drain them.
                timeout(END_TIME, starting).await
            }
        };
        let Ok(started) = started else {
            outlets.say("ended by a signal, before the node had started");
            return ExitCode::SUCCESS;
        };
        match started.expect("the start does not panic") {
            Ok(mut running) => {
                let exit_code = running.live(&sources, outlets, signals).await;
                running.log.end();
                exit_code
            }
            Err(StartError::Config(faults)) => outlets.refuse(faults.iter()),
            Err(error) => outlets.refuse([error]),
        }
    });
    // Does not wait for a read that hangs.
    runtime.shutdown_background();
    exit_code
}

/// A running node, and the state for reloads.
struct Running {
    config: Config,
    handle: Handle,
    log: Log,
    /// Reads the settings again.
    reading: BlockingWork,
    /// Passes them to the node, one after the other.
    applying: BlockingWork,
}

impl Running {
    /// Waits for signals until one ends the node.
    async fn live(&mut self, sources: &Arc<Sources>, outlets: &Outlets, mut signals: Signals) -> ExitCode {
        tokio::spawn(trim::after_storms(self.handle.clone()));
        let notify = NotifySocket::find(&sources.variables);
        tokio::spawn(notify.clone().feed_watchdog(self.handle.clone()));
        notify.ready();
        while signals.next().await == SignalAction::Reload {
            notify.reloading();
            tokio::select! {
                () = self.reload(sources) => {}
                () = signals.end() => break,
            }
            notify.ready();
        }
        notify.stopping();
        info!(drain_timeout = ?self.config.drain_timeout, "draining, a second signal ends at once");
        tokio::select! {
            () = self.handle.drain() => {
                info!("drained");
                notify.settle(END_TIME).await;
                ExitCode::SUCCESS
            }
            () = signals.end() => {
                warn!("ended by a second signal");
                outlets.settle();
                process::exit(INTERRUPTED)
            }
        }
    }

    /// Reads the settings again and applies them. If they have faults, it logs the faults and keeps the old settings.
    async fn reload(&mut self, sources: &Arc<Sources>) {
        let sources = Arc::clone(sources);
        match self.reading.run(move || sources.load()).await {
            Ok(Ok(new)) => self.take(&new).await,
            Ok(Err(faults)) => log_kept(&faults),
            Err(error) => error!(error = %error, "settings not reloaded, the old ones stay"),
        }
    }

    /// Applies the settings that can change while the node runs, and logs which changes were applied.
    async fn take(&mut self, new: &Config) {
        let (next, reloaded) = match self.config.reload(new) {
            Ok(taken) => taken,
            Err(faults) => return log_kept(&faults),
        };
        let (handle, settings) = (self.handle.clone(), next.clone());
        // This blocks while a shard has too many requests.
        match self.applying.run(move || handle.reload(&settings)).await {
            Ok(()) => {}
            Err(Unfinished::Late(time)) => {
                warn!(time = ?time, "a shard has not taken the settings yet, it is too busy");
            }
            Err(error) => return error!(error = %error, "settings not reloaded, the old ones stay"),
        }
        self.log.change_level(next.log_level);
        if !reloaded.taken.is_empty() {
            info!(taken = reloaded.taken.join(", "), "settings reloaded");
        } else if reloaded.needs_restart.is_empty() {
            info!("settings reloaded, nothing changed");
        }
        if !reloaded.needs_restart.is_empty() {
            warn!(needs_restart = reloaded.needs_restart.join(", "), "settings changed that a running node keeps");
        }
        self.config = next;
    }
}

/// Logs why a reload changes nothing.
fn log_kept(faults: &Faults) {
    for fault in faults.iter() {
        error!(error = %fault, "settings not reloaded, the old ones stay");
    }
}

/// Standard output and standard error, through sinks: the thread that runs the node never waits for them.
struct Outlets {
    stdout: LogSink,
    stderr: LogSink,
}

impl Outlets {
    fn open() -> io::Result<Self> {
        let stdout = LogSink::start("pombo-stdout", io::stdout())?;
        Ok(Self { stdout, stderr: LogSink::start("pombo-log", io::stderr())? })
    }

    /// Writes to stderr why the node can't run, a line each; returns the exit code.
    fn refuse(&self, lines: impl IntoIterator<Item = impl Display>) -> ExitCode {
        lines.into_iter().for_each(|line| self.say(format_args!("error: {line}")));
        ExitCode::from(REFUSED)
    }

    /// Writes a line to stderr that is not a log event.
    fn say(&self, line: impl Display) {
        self.stderr.clone().write_all(format!("{line}\n").as_bytes()).ok();
    }

    /// Waits a short time until all lines are written.
    fn settle(&self) {
        self.stdout.settle(END_TIME);
        self.stderr.settle(END_TIME);
    }
}

/// Reads the settings, opens the listeners, starts the threads, and prints the addresses. Blocks while files are read.
fn start(
    sources: &Sources,
    passed: PassedSockets,
    stderr: LogSink,
    mut stdout: LogSink,
) -> Result<Running, StartError> {
    let config = sources.load()?;
    let colour = sources.is_colour_wanted();
    let log = Log::start(&stderr, config.log_format, config.log_level, colour, &sources.variables);
    descriptors::raise_limit();
    check_backlog(&config);
    // A socket that the service manager passed may be dual-stack.
    let are_ours = passed.left().next().is_none();
    let server = Server::bind_with(config.clone(), passed)?.with_log(stderr);
    let addresses = server.addresses().to_vec();
    let others = server.control_addresses().clone();
    let handle = server.start()?;
    log_ceiling(&config, &handle);
    for listen in addresses.iter().filter(|listen| config.auth == Auth::None && !listen.is_local()) {
        warn!(%listen, "other machines can reach this address, and log in as anybody");
    }
    for listen in addresses.iter().filter(|listen| are_ours && is_only_ipv6(listen, &addresses)) {
        info!(%listen, "IPv6 only, clients over IPv4 are refused; listen on 0.0.0.0 as well for them");
    }
    if config.gateway().admission.origins == Origins::Any {
        warn!("pages of every web site may connect from their visitors' browsers, see the setting origins");
    }
    if others.control.as_ref().is_some_and(|listen| !listen.is_local()) && !config.control_speaks_tls() {
        warn!(
            "tokens of other programs cross the network in the clear, see the settings control, control_tls and \
             tls_certificate"
        );
    }
    // The node runs on even if nobody reads stdout.
    let text = others.text.as_ref().map(text_line).unwrap_or_default();
    let control = invite(others.control.as_ref(), &config);
    stdout.write_all(format!("{}{control}{text}", welcome(&addresses, &config)).as_bytes())?;
    let (reading, applying) = (BlockingWork::reading(), BlockingWork::new(READ_TIME, 1));
    Ok(Running { config, handle, log, reading, applying })
}

/// Returns whether `listen` is every IPv6 address of the machine, and `addresses` lacks every IPv4 address.
fn is_only_ipv6(listen: &Listen, addresses: &[Listen]) -> bool {
    let Listen::Tcp(SocketAddr::V6(all)) = listen else { return false };
    let over_ipv4 = Listen::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, all.port())));
    all.ip().is_unspecified() && !addresses.contains(&over_ipv4)
}

/// The signals that a node acts on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// Whether a signal to end came before the node ran.
    is_over: bool,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            is_over: false,
        })
    }

    /// Waits for the next signal.
    async fn next(&mut self) -> SignalAction {
        if self.is_over {
            return SignalAction::End;
        }
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::End,
            _ = self.interrupt.recv() => SignalAction::End,
            _ = self.reload.recv() => SignalAction::Reload,
        }
    }

    /// Waits for the next signal to end; a signal to reload stays pending.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignalAction {
    End,
    Reload,
}

/// Logs the ceiling of connections if it is below `connections_max`.
fn log_ceiling(config: &Config, handle: &Handle) {
    /// Fewer connections than this are hardly meant, whatever the settings say.
    const FEW: u64 = 500;

    let (limit, ceiling) = handle.connections_ceiling();
    let (descriptors, connections_max) = (descriptors::limit(), config.connections_max);
    // Few machines allow as many as the default, so an operator who has set no number is warned of hardly any only.
    let is_warning = connections_max != Config::default().connections_max || ceiling < FEW;
    match limit {
        ConnectionLimit::ConnectionsMax => {}
        ConnectionLimit::Descriptors if is_warning => {
            warn!(descriptors, ceiling, connections_max, "open files allow fewer connections, raise `ulimit -n`");
        }
        ConnectionLimit::Memory if is_warning => {
            warn!(ceiling, connections_max, "plan fewer connections, memory has no room for more");
        }
        ConnectionLimit::Descriptors => {
            info!(descriptors, ceiling, "room for this many connections, by the limit on open files");
        }
        ConnectionLimit::Memory => info!(ceiling, "room for this many connections, as planned by memory"),
    }
}

/// Logs if the kernel's backlog is shorter than `handshakes_max`: a storm of reconnects may come faster than the node
/// accepts, and each client beyond the backlog waits a second before its next attempt.
fn check_backlog(config: &Config) {
    let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let Some(backlog) = somaxconn.and_then(|text| text.trim().parse::<usize>().ok()) else { return };
    let handshakes_max = config.handshakes_max;
    if backlog < handshakes_max {
        info!(backlog, handshakes_max, "for more than this many connections in one moment, raise net.core.somaxconn");
    }
}

/// Returns the text that a running node prints: its addresses, its shards, and a command to try.
fn welcome(addresses: &[Listen], config: &Config) -> String {
    let (http, ws) = if config.tls_certificate.is_some() { ("https", "wss") } else { ("http", "ws") };
    let places: Vec<String> = addresses.iter().map(|listen| url(http, listen)).collect();
    let shards = config.shards.get();
    let plural = if shards == 1 { "" } else { "s" };
    let version = env!("CARGO_PKG_VERSION");
    let head = format!("pombo {version} listening on {} ({shards} shard{plural})\n", places.join(", "));
    let tcp = addresses.iter().find(|listen| matches!(listen, Listen::Tcp(_)));
    let Some(listen) = tcp.map(reachable) else { return head };
    let path = match &config.paths {
        Paths::Any => "",
        Paths::List(paths) => paths.first().map_or("", String::as_str),
    };
    let page = if config.page { format!("open {}/ in a browser, or: ", url(http, &listen)) } else { String::new() };
    let who = if config.auth == Auth::None { "alice" } else { "--token-file FILE" };
    // The certificate is for the name that clients use, and hardly ever for this address.
    let unchecked = if ws == "wss" { "--insecure " } else { "" };
    format!("{head}try: {page}pombo connect {unchecked}{}{path} {who}\n", url(ws, &listen))
}

/// Returns the text about the control listener: its address, how to push, and the console's URL.
fn invite(control: Option<&Listen>, config: &Config) -> String {
    let Some(listen) = control else { return String::new() };
    let http = if config.control_speaks_tls() { "https" } else { "http" };
    let place = url(http, listen);
    let (socket, base, console) = match reachable(listen) {
        // No browser opens a Unix socket.
        Listen::Unix(path) => {
            (format!("--unix-socket {} ", path.display()), "http://localhost".to_owned(), String::new())
        }
        Listen::Abstract(name) => {
            (format!("--abstract-unix-socket {name} "), "http://localhost".to_owned(), String::new())
        }
        tcp @ Listen::Tcp(_) => {
            let base = url(http, &tcp);
            (String::new(), base.clone(), format!("watch the node: open {base}/ in a browser\n"))
        }
    };
    let has_tokens = !config.control_tokens.is_empty() || config.control_tokens_file.is_some();
    let token = if has_tokens { "--oauth2-bearer TOKEN " } else { "" };
    // The certificate of a test is of an authority that nobody trusts yet.
    let authority = if http == "https" { "--cacert CA.pem " } else { "" };
    // No `--json`, which needs curl 7.82 and sends the quotes of a JSON text as part of the message.
    let message = "-H 'Content-Type: text/plain' -d hi";
    format!(
        "push from other programs on {place}: curl {authority}{socket}{token}{message} {base}/v1/push/alice\n{console}"
    )
}

/// Returns the line about the text port: its address, and how to push there.
fn text_line(listen: &Listen) -> String {
    let netcat = match reachable(listen) {
        Listen::Tcp(address) => format!("nc -N {} {}", address.ip(), address.port()),
        Listen::Unix(path) => format!("nc -N -U {}", path.display()),
        // Few programs connect to an abstract socket.
        Listen::Abstract(name) => format!("socat - ABSTRACT-CONNECT:{name}"),
    };
    let line = r#"{"uid":"alice","percent":"88%"}"#;
    format!("push by lines of JSON on {listen}: echo '{line}' | {netcat}\n")
}

fn url(scheme: &str, listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => format!("{scheme}://{address}"),
        Listen::Unix(_) | Listen::Abstract(_) => listen.to_string(),
    }
}

/// Replaces an unspecified address, which means every address of this machine, by one that a client can connect to.
fn reachable(listen: &Listen) -> Listen {
    match listen {
        Listen::Tcp(address) if address.ip().is_unspecified() => {
            let loopback: IpAddr =
                if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            Listen::Tcp(SocketAddr::new(loopback, address.port()))
        }
        other => other.clone(),
    }
}

/// Prints to stdout, and waits for that; ignores that nobody reads it.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).ok();
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], change: impl FnOnce(&mut Config), lines: &str) {
        let mut config = Config { shards: NonZeroUsize::MIN, ..Config::default() };
        change(&mut config);
        let addresses: Vec<Listen> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let expected = lines.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(welcome(&addresses, &config), expected);
    }

    #[test]
    fn knows_who_is_left_out() {
        #[track_caller]
        fn check(addresses: &[&str], expected: &[bool]) {
            let addresses: Vec<Listen> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
            let found = addresses.iter().map(|listen| is_only_ipv6(listen, &addresses));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{addresses:?}");
        }
        check(&["[::]:1"], &[true]);
        check(&["[::]:1", "0.0.0.0:1"], &[false, false]);
        check(&["[::]:1", "0.0.0.0:2", "127.0.0.1:1"], &[true, false, false]);
        check(&["[::1]:1", "0.0.0.0:2", "unix:/x"], &[false, false, false]);
    }

    #[test]
    fn invites_other_programs() {
        #[track_caller]
        fn check(control: &str, change: impl FnOnce(&mut Config), line: &str) {
            let mut config = Config::default();
            change(&mut config);
            assert_eq!(invite(Some(&control.parse().expect("an address")), &config), format!("{line}\n"));
        }
        assert_eq!(invite(None, &Config::default()), "");
        check(
            "127.0.0.1:1235",
            |_| {},
            "push from other programs on http://127.0.0.1:1235: \
             curl -H 'Content-Type: text/plain' -d hi http://127.0.0.1:1235/v1/push/alice\n\
             watch the node: open http://127.0.0.1:1235/ in a browser",
        );
        check(
            "0.0.0.0:1",
            |config| {
                config.control = Some("0.0.0.0:1".parse().expect("an address"));
                config.tls_certificate = Some("chain.pem".into());
                config.control_tokens_file = Some("tokens".into());
            },
            "push from other programs on https://0.0.0.0:1: \
             curl --cacert CA.pem --oauth2-bearer TOKEN -H 'Content-Type: text/plain' -d hi https://127.0.0.1:1/v1/push/alice\n\
             watch the node: open https://127.0.0.1:1/ in a browser",
        );
        // On loopback control is plain beside a certificate.
        check(
            "127.0.0.1:1235",
            |config| config.tls_certificate = Some("chain.pem".into()),
            "push from other programs on http://127.0.0.1:1235: \
             curl -H 'Content-Type: text/plain' -d hi http://127.0.0.1:1235/v1/push/alice\n\
             watch the node: open http://127.0.0.1:1235/ in a browser",
        );
        check(
            "unix:/x",
            |_| {},
            "push from other programs on unix:/x: \
             curl --unix-socket /x -H 'Content-Type: text/plain' -d hi http://localhost/v1/push/alice",
        );
        #[cfg(target_os = "linux")]
        check(
            "unix:@x",
            |_| {},
            "push from other programs on unix:@x: \
             curl --abstract-unix-socket x -H 'Content-Type: text/plain' -d hi http://localhost/v1/push/alice",
        );
    }

    #[test]
    fn welcomes_with_something_that_works() {
        check(
            &["127.0.0.1:1234"],
            |_| {},
            "pombo VERSION listening on http://127.0.0.1:1234 (1 shard)\n\
             try: open http://127.0.0.1:1234/ in a browser, or: pombo connect ws://127.0.0.1:1234 alice\n",
        );
        check(
            &["unix:/x", "0.0.0.0:80"],
            |config| config.page = false,
            "pombo VERSION listening on unix:/x, http://0.0.0.0:80 (1 shard)\n\
             try: pombo connect ws://127.0.0.1:80 alice\n",
        );
        check(
            &["[::]:80"],
            |config| {
                config.page = false;
                config.paths = Paths::List(vec!["/ws".to_owned()]);
                config.shards = NonZeroUsize::MIN.saturating_add(1);
            },
            "pombo VERSION listening on http://[::]:80 (2 shards)\ntry: pombo connect ws://[::1]:80/ws alice\n",
        );
        check(
            &["127.0.0.1:80"],
            |config| (config.page, config.auth) = (false, Auth::Jwt),
            "pombo VERSION listening on http://127.0.0.1:80 (1 shard)\n\
             try: pombo connect ws://127.0.0.1:80 --token-file FILE\n",
        );
        check(&["unix:/x"], |_| {}, "pombo VERSION listening on unix:/x (1 shard)\n");
        check(
            &["127.0.0.1:443", "unix:/x"],
            |config| config.tls_certificate = Some("chain.pem".into()),
            "pombo VERSION listening on https://127.0.0.1:443, unix:/x (1 shard)\n\
             try: open https://127.0.0.1:443/ in a browser, or: pombo connect --insecure wss://127.0.0.1:443 alice\n",
        );
    }
}
