//! A node whose standard error or standard output takes nothing more: everybody is served all the same, signals are heard,
//! and lines of the log that had no room are counted and reported.
//!
//! Each stream is a pipe that was filled before the node starts and is not read: whoever writes to it waits for ever.

mod support;

use std::io::{ErrorKind, PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use pombo::Listen;
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process};
use support::{Ask, Client, eventually};
use tempfile::TempDir;

/// Makes a pipe that has no room for a byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    ioctl_fionbio(&writer, true).expect("a pipe can do that");
    for length in [4096, 1] {
        let filling = [b'\n'; 4096];
        loop {
            match writer.write(&filling[..length]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the pipe can't be filled: {error}"),
            }
        }
    }
    ioctl_fionbio(&writer, false).expect("a pipe can do that");
    (reader, writer)
}

/// A node on Unix sockets, since it can't report its ports; killed when dropped.
struct Node {
    child: Child,
    folder: TempDir,
}

impl Node {
    /// Starts a node with these streams.
    fn spawn(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| format!("unix:{}", folder.path().join(name).display());
        let child = Command::new(env!("CARGO_BIN_EXE_pombo"))
            .args(["--listen", &at("listen"), "--control", &at("control"), "--shards", "1", "--gateway-threads", "1"])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn();
        Self { child: child.expect("the program starts"), folder }
    }

    /// Starts a node whose log takes nothing, and waits until it serves; returns the log's other end.
    fn with_stuck_log(arguments: &[&str]) -> (Self, PipeReader) {
        let (reader, writer) = full_pipe();
        let node = Self::spawn(Stdio::null(), writer, arguments);
        node.expect_service();
        (node, reader)
    }

    fn listen(&self, name: &str) -> Listen {
        Listen::Unix(self.folder.path().join(name))
    }

    fn expect_service(&self) {
        eventually("the node is up", || {
            ["listen", "control"].iter().all(|name| Client::try_dial(&self.listen(name)).is_ok())
        });
    }

    fn log_in(&self, uid: &str) -> Client {
        let mut client = Client::dial(&self.listen("listen")).upgraded();
        client.log_in(uid);
        client
    }

    fn control(&self) -> Client {
        Client::dial(&self.listen("control")).named("control")
    }

    /// Reads how many lines the log has lost.
    fn lines_dropped(&self) -> u64 {
        let metrics = Ask::get("/metrics").over(&mut self.control()).body;
        let value = metrics.lines().find_map(|line| line.strip_prefix("pombo_log_lines_dropped_total "));
        value.expect("the count is there").parse().expect("a number")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for the end, and returns the exit code.
    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the node ends", || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Logs a line or more at the level `debug`, on the gateway's threads, in the shard, and on the thread of control.
fn cause_lines(node: &Node) {
    let mut client = node.log_in("guest");
    client.expect_silence();
    let refused = Ask::get("/no-such-path").over(&mut node.control());
    assert_eq!(refused.status, 404);
}

#[test]
fn everybody_is_served_while_the_log_takes_nothing() {
    let (mut node, mut log) = Node::with_stuck_log(&["--log-level", "trace"]);
    let (mut alice, mut bob) = (node.log_in("alice"), node.log_in("bob"));
    eventually("the log has no room left", || {
        for _ in 0..100 {
            cause_lines(&node);
        }
        alice.converse(&mut bob);
        assert_eq!(Ask::get("/healthz").over(&mut node.control()).status, 200);
        node.lines_dropped() > 0
    });
    // Whoever was stuck reads again.
    let written = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&written);
    let reading = thread::spawn(move || {
        let mut part = [0; 1 << 16];
        while let Ok(length @ 1..) = log.read(&mut part) {
            taken.lock().expect("no reader panics with it").extend_from_slice(&part[..length]);
        }
    });
    let text =
        || String::from_utf8(written.lock().expect("its writer does not panic").clone()).expect("a log is UTF-8");
    let told = || {
        let text = text();
        let losses =
            text.lines().filter(|line| line.contains("WARN") && line.contains("lines of the log were dropped"));
        let number = |line: &str| line.split("lines=").nth(1)?.split(' ').next()?.parse::<u64>().ok();
        losses.map(|line| number(line).unwrap_or_else(|| panic!("expected a number of lines in {line}"))).sum::<u64>()
    };
    eventually("the log reports every line that it lost", || told() == node.lines_dropped());
    alice.converse(&mut bob);
    node.signal(Signal::TERM);
    alice.expect_close(1001, "");
    bob.expect_close(1001, "");
    drop((alice, bob));
    assert_eq!(node.exit_code(), Some(0));
    reading.join().expect("it does not panic");
    assert!(text().lines().last().is_some_and(|line| line.contains("drained")), "the log's last line is not lost");
}

#[test]
fn a_signal_ends_a_node_whose_log_takes_nothing() {
    let (mut node, _log) = Node::with_stuck_log(&["--log-level", "debug"]);
    let mut alice = node.log_in("alice");
    node.signal(Signal::HUP);
    node.signal(Signal::TERM);
    alice.expect_close(1001, "");
    drop(alice);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_node_whose_log_takes_nothing() {
    let (mut node, _log) = Node::with_stuck_log(&["--drain-timeout", "1h", "--close-timeout", "1h"]);
    let _alice = node.log_in("alice");
    node.signal(Signal::TERM);
    eventually("the node drains", || Ask::get("/readyz").over(&mut node.control()).status == 503);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(130));
}

#[test]
fn a_node_serves_and_ends_while_its_standard_output_takes_nothing() {
    let (_output, writer) = full_pipe();
    let mut node = Node::spawn(writer, Stdio::null(), &[]);
    node.expect_service();
    node.log_in("alice").expect_silence();
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_node_that_cannot_start_ends_while_nobody_hears_why() {
    let (_log, writer) = full_pipe();
    for wrong in [["--control-tokens-file", "/no/such/file"], ["--log-level", "loud"]] {
        let mut node = Node::spawn(Stdio::null(), writer.try_clone().expect("a descriptor can be doubled"), &wrong);
        assert_eq!(node.exit_code(), Some(2), "{wrong:?}");
    }
}
