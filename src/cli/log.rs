//! The log of the process: its stream, its format, and its level, which a reload can change.
//!
//! Log lines go to stderr, so that stdout has the results only. No thread that emits an event waits for stderr:
//! see [`LogSink`]. There is one subscriber in the process, started by `serve`; the library itself only emits events.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing::field::display;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber, error, warn};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use super::traces::Traces;
use crate::config::{LogFormat, LogLevel};
use crate::log_sink::LogSink;

/// The running log of the process.
pub(super) struct Log {
    level: reload::Handle<LevelFilter, Registry>,
    /// The export of traces to a collector, if the environment names one.
    traces: Option<Traces>,
}

impl Log {
    /// Starts logging to `sink`, which writes to stderr, in colour if `colour` and stderr is a terminal. Starts the export of
    /// traces if `variables` configure it. Panics are logged from now on.
    ///
    /// A process has one log: if another was started before, that one stays and this one is idle.
    pub(super) fn start(
        sink: &LogSink,
        format: LogFormat,
        level: LogLevel,
        colour: bool,
        variables: &[(OsString, OsString)],
    ) -> Self {
        let (traces, fault) = match Traces::start(variables) {
            Ok(traces) => (traces, None),
            Err(fault) => (None, Some(fault)),
        };
        let (subscriber, level) = subscriber(sink, format, level, colour, traces.as_ref());
        subscriber.try_init().ok();
        let last_resort = sink.clone();
        // Replaces the standard library's hook, which waits for stderr.
        panic::set_hook(Box::new(move |panic| report_panic(panic, last_resort.clone())));
        match fault {
            Some(fault) => warn!(error = fault, "traces are not exported"),
            None => Traces::explain(variables),
        }
        Self { level, traces }
    }

    /// Sends the last traces, and waits for that a short time.
    pub(super) fn end(&self) {
        if let Some(traces) = &self.traces {
            traces.end();
        }
    }

    /// Changes the least severe event that is logged.
    pub(super) fn change_level(&self, level: LogLevel) {
        // Fails only if the subscriber has gone; then there is nothing to change.
        self.level.reload(filter(level)).ok();
    }
}

/// Logs a panic; if the level excludes errors, it writes a plain line instead.
fn report_panic(panic: &PanicHookInfo<'_>, mut sink: LogSink) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // The text may quote input of a client.
    let reason = text.unwrap_or("(no text)").escape_debug();
    let thread = thread::current();
    let (thread, location) = (thread.name(), panic.location());
    if tracing::enabled!(Level::ERROR) {
        // Requested by RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
        error!(thread, location = location.map(display), reason = %reason, backtrace, "panic");
    } else {
        let location = location.map(|location| format!(" at {location}")).unwrap_or_default();
        let line = format!("thread {} panicked{location}: {reason}\n", thread.unwrap_or("(no name)"));
        sink.write_all(line.as_bytes()).ok();
    }
}

/// Returns the subscriber for events and spans, and the handle that changes the log level.
fn subscriber(
    sink: &LogSink,
    format: LogFormat,
    level: LogLevel,
    colour: bool,
    traces: Option<&Traces>,
) -> (impl Subscriber + Send + Sync, reload::Handle<LevelFilter, Registry>) {
    let (filter, level) = reload::Layer::new(filter(level));
    let sink = sink.clone();
    // Otherwise an event that can't be formatted would be reported on stderr, past the sink.
    let lines = fmt::layer().log_internal_errors(false);
    let lines = match format {
        LogFormat::Human => {
            lines.with_writer(move || sink.clone()).with_ansi(colour && io::stderr().is_terminal()).boxed()
        }
        // The event's own span is the last one in its list of spans.
        LogFormat::Json => {
            let lines = lines.with_writer(move || Escaping(sink.clone())).json();
            lines.flatten_event(true).with_current_span(false).boxed()
        }
    };
    // With a level hint; without one, events that are not logged would no longer be skipped by their level alone.
    let is_for_the_log = filter_fn(is_for_the_log).with_max_level_hint(LevelFilter::TRACE);
    let lines = lines.with_filter(filter.and(is_for_the_log));
    (tracing_subscriber::registry().with(lines).with(traces.map(Traces::layer)), level)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Excludes the events of the OpenTelemetry SDK: its routine work, and its failures, which `traces` logs itself.
fn is_for_the_log(metadata: &Metadata<'_>) -> bool {
    let is_of_the_sdk = metadata.target().starts_with("opentelemetry");
    !is_of_the_sdk || *metadata.level() <= Level::WARN && !metadata.name().starts_with("Export.")
}

/// Writes JSON, and escapes every non-ASCII character that is invisible or changes how others are shown. JSON itself
/// does not escape DEL, the controls from U+0080 on, or changes of the reading direction.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    /// Accepts whole lines, as the subscriber writes them.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let is_harmless = |byte: &u8| byte.is_ascii() && *byte != b'\x7f';
        match std::str::from_utf8(lines) {
            Ok(text) if !lines.iter().all(is_harmless) => self.0.write_all(escaped(text).as_bytes())?,
            _ => self.0.write_all(lines)?,
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Escapes by RFC 8259, section 7; outside of strings JSON has no character that needs it.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() * 2);
    for character in json.chars() {
        // Printable by the rule of Rust's own `Debug`.
        let is_raw = character.is_ascii() && character != '\x7f' || character.escape_debug().len() == 1;
        if is_raw {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(escaped, "\\u{unit:04x}").expect("a String takes all");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};
    use std::{env, fs};

    use tempfile::{NamedTempFile, TempDir};
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

    use super::*;
    use crate::shard::PANIC_PAYLOAD;

    /// How long a node on a busy machine may take to start, to answer, or to write a line.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A node of one shard in a process of its own, since a process has one log and one panic hook. It is the tests' own
    /// program, which knows [`PANIC_PAYLOAD`]. Killed when dropped.
    struct Node {
        child: Child,
        folder: TempDir,
    }

    impl Node {
        fn start(level: &str, stderr: impl Into<Stdio>) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let child = Command::new(env::current_exe().expect("a process has a program"))
                .args(["--ignored", "--nocapture", "--exact", "cli::log::tests::node_in_a_process_of_its_own"])
                .env_clear()
                .env("POMBO_LISTEN", format!("unix:{}", folder.path().join("listen").display()))
                .env("POMBO_CONTROL", "off")
                .env("POMBO_SHARDS", "1")
                .env("POMBO_LOG_LEVEL", level)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(stderr)
                .spawn();
            Self { child: child.expect("it starts"), folder }
        }

        fn log_in(&self, uid: &str) -> WebSocket<UnixStream> {
            let stream =
                within_patience("the node listens", || UnixStream::connect(self.folder.path().join("listen")).ok());
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket can do that");
            let (mut client, _) = client("ws://localhost/", stream).expect("the node upgrades");
            client.send(Message::text(uid)).expect("the node reads");
            let answer = client.read().expect("the login is answered");
            assert!(answer.to_text().is_ok_and(|text| text.ends_with(uid)), "{answer:?}");
            client
        }

        /// Makes a session's code panic, and waits until the session was closed and another was served after it.
        fn endure_a_panic(&self) {
            let mut alice = self.log_in("alice");
            alice.send(Message::binary(PANIC_PAYLOAD)).expect("the node reads");
            let close = CloseFrame { code: 1011.into(), reason: "internal error".into() };
            assert_eq!(alice.read().expect("the session is closed"), Message::Close(Some(close)));
            let mut bob = self.log_in("bob");
            bob.send(Message::text("bob:hi")).expect("the node reads");
            assert_eq!(bob.read().expect("bob is served"), Message::text("hi"));
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }

    #[track_caller]
    fn within_patience<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(result) = attempt() {
                return result;
            }
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Checks that a node with this level reports a panic by a line with each of these texts.
    #[track_caller]
    fn check_panic(level: &str, texts: &[&str]) {
        let log = NamedTempFile::new().expect("a file");
        let node = Node::start(level, log.reopen().expect("the file is there"));
        node.endure_a_panic();
        for text in texts {
            within_patience(text, || {
                fs::read_to_string(log.path()).expect("a log is UTF-8").contains(text).then_some(())
            });
        }
    }

    /// The process of a [`Node`]; its settings are in its environment.
    #[test]
    #[ignore = "other tests run it, with settings in its environment; it serves until it is killed"]
    fn node_in_a_process_of_its_own() {
        // Run by hand with all ignored tests, it has nothing to do.
        if env::var_os("POMBO_LISTEN").is_none() {
            return;
        }
        crate::cli::run(["pombo".into()], env::vars_os());
    }

    #[test]
    fn a_panic_in_a_sessions_code_is_logged_and_the_node_goes_on() {
        let panic = "panic thread=\"pombo-shard-0\" location=src/shard/";
        check_panic("info", &[panic, "a session's code panicked, the session ends"]);
    }

    #[test]
    fn a_panic_is_reported_where_nothing_is_logged() {
        check_panic("off", &["thread pombo-shard-0 panicked at src/shard/"]);
    }

    #[test]
    fn a_panic_holds_nobody_up_while_stderr_takes_nothing() {
        let (_reader, mut writer) = UnixStream::pair().expect("two sockets");
        writer.set_nonblocking(true).expect("a socket can do that");
        for part in [&[b'\n'; 4096][..], b"\n"] {
            while writer.write(part).is_ok() {}
        }
        writer.set_nonblocking(false).expect("a socket can do that");
        Node::start("info", OwnedFd::from(writer)).endure_a_panic();
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let json = serde_json::to_string(text).expect("a text");
        let mut written = Vec::new();
        Escaping(&mut written).write_all(json.as_bytes()).expect("a Vec takes all");
        let written = String::from_utf8(written).expect("JSON is UTF-8");
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_str::<String>(&written).expect("it is still JSON"), text);
    }

    #[test]
    fn what_is_not_logged_is_skipped_by_its_level() {
        for (level, hint) in [(LogLevel::Off, LevelFilter::OFF), (LogLevel::Info, LevelFilter::INFO)] {
            let sink = LogSink::start("sink", io::sink()).expect("it starts");
            let (subscriber, _) = subscriber(&sink, LogFormat::Human, level, false, None);
            assert_eq!(subscriber.max_level_hint(), Some(hint));
        }
    }

    #[test]
    fn json_shows_what_it_says() {
        check("alice", r#""alice""#);
        check("a\"\\\n", r#""a\"\\\n""#);
        check("é 日 😀", "\"é 日 😀\"");
        check("\x7f\u{9b}31m", r#""\u007f\u009b31m""#);
        check("\u{202e}\u{2066}\u{200f}\u{2028}", r#""\u202e\u2066\u200f\u2028""#);
        check("\u{e0001}", r#""\udb40\udc01""#);
    }
}
