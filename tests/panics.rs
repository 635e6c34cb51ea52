//! A panic anywhere but in the code of one session ends the process: half a node is worse than none.
//!
//! The panic comes from a layer of tracing, which sees the node's events on the threads that emit them. A panic in the code
//! of one session is tested inside the library, in `src/shard/tests/turn.rs` and `src/cli/log.rs`.

mod support;

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use pombo::{Config, Listen, LogSink, Server};
use support::{Client, eventually};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Whose login makes a shard panic, in the process that is made for it.
const DOOMED: &str = "doomed";

/// A node in a process of its own, which is made to panic.
struct Doomed {
    child: Child,
    errors: BufReader<ChildStderr>,
    address: Listen,
}

impl Doomed {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().expect("a process has a program"));
        command.args(["--ignored", "--exact", "node_that_panics", "--nocapture"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut errors = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(errors.read_line(&mut line).expect("its output is text") > 0, "the node does not start");
            if let Some(address) = line.trim().strip_prefix("listening on ") {
                break address.parse().expect("an address");
            }
        };
        Self { child, errors, address }
    }

    /// Waits until the process has aborted, with these texts in its log.
    #[track_caller]
    fn expect_abort(mut self, texts: &[&str]) {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        let status = status.expect("it has ended");
        assert_eq!(status.signal(), Some(6), "it aborts: {status}");
        let mut log = String::new();
        self.errors.read_to_string(&mut log).expect("its output is text");
        for text in texts {
            assert!(log.contains(text), "expected {text:?} in {log}");
        }
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// tokio ended the task alone: the node would have gone on without whoever accepts on control, or keeps its tokens.
#[test]
fn panic_in_a_task_that_the_node_needs_ends_the_process_loudly() {
    let mut node = Doomed::start();
    // Held open, since the process ends with it.
    let mut stdin = node.child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(b"reload\n").expect("it reads");
    node.expect_abort(&[
        "a test asked for it",
        "a task that the node needs panicked, the process ends",
        "control tokens",
    ]);
}

#[test]
fn panic_anywhere_else_in_a_shard_ends_the_process_loudly() {
    let node = Doomed::start();
    let address = &node.address;
    let mut others: Vec<_> = (0..10)
        .map(|number| {
            let mut other = Client::dial(address).upgraded();
            other.log_in(&format!("other{number}"));
            other
        })
        .collect();
    let mut doomed = Client::dial(address).upgraded();
    doomed.send_text(DOOMED);
    // Not one of them, whichever shard it is on, is left with half a node.
    for other in &mut others {
        let ends = thread::scope(|threads| threads.spawn(|| other.receive_to_end()).join());
        assert!(ends.is_err() || ends.is_ok_and(|rest| rest.is_empty()), "nothing was sent to it");
    }
    node.expect_abort(&["a test asked for it", "a thread of the node panicked, the process ends", "pombo-shard-"]);
}

/// A process of its own, see [`Doomed`].
#[test]
#[ignore = "other tests run it, and it aborts"]
fn node_that_panics() {
    // As `pombo serve` has it: the last line waits for a thread to write it when the process is about to abort.
    let sink = LogSink::start("log", io::stderr()).expect("a thread");
    let lines = sink.clone();
    let log = tracing_subscriber::fmt::layer().with_writer(move || lines.clone()).with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(Trap).with(log);
    tracing::subscriber::set_global_default(subscriber).expect("this process has none yet");
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let shards = NonZeroUsize::new(2).expect("two");
    let control = Some("127.0.0.1:0".parse().expect("an address"));
    let mut config = Config { listen, shards, control, ..Config::default() };
    let server = Server::bind(config.clone()).expect("it binds").with_log(sink);
    let address = server.addresses()[0].clone();
    let node = server.start().expect("it starts");
    writeln!(io::stderr(), "listening on {address}").expect("it is read");
    let mut line = String::new();
    if io::stdin().read_line(&mut line).is_ok_and(|length| length > 0) {
        config.control_tokens = vec![format!("other push {}", "x".repeat(32)).parse().expect("a token")];
        node.reload(&config);
    }
    // Until the process ends, or who started it.
    io::stdin().read_to_end(&mut Vec::new()).ok();
}

/// Panics in the shard that says that [`DOOMED`] has logged in, and where control says that its tokens changed.
struct Trap;

impl<S: Subscriber> Layer<S> for Trap {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let thread = thread::current().name().unwrap_or_default().to_owned();
        let is_doomed = thread.starts_with("pombo-shard-") && seen.uid == DOOMED;
        let is_of_tokens = thread == "pombo-control" && seen.message == "control tokens changed";
        assert!(!is_doomed && !is_of_tokens, "a test asked for it");
    }
}

/// What an event says, and which uid it is about.
#[derive(Default)]
struct Seen {
    uid: String,
    message: String,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "uid" {
            self.uid = value.to_owned();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
