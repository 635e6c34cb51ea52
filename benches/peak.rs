//! The lasting cost of a peak of connections: CPU of a broadcast, and memory, for the few connections that stay after it,
//! compared with as many on a node that has had no peak.
//!
//! `cargo bench --bench peak [-- PEAK]` (default 18,000; 100 stay, spread evenly over the peak). Each is a
//! `pombo serve` with one shard. CPU is its shard's; memory is the process's private memory when it has been quiet for some
//! seconds. Rounds take turns, and medians are printed. Needs room for PEAK and some more open files in each of two processes.

#![allow(clippy::print_stdout, reason = "a benchmark talks to whoever runs it")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

const STAY: usize = 100;
const BROADCASTS: usize = 500;
const ROUNDS: usize = 5;
/// Pause before a node's memory is read: it gives back the memory of a storm within a second or two.
const QUIET: Duration = Duration::from_secs(6);

/// A running node, which ends with the benchmark.
struct Node {
    child: Child,
    address: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Node {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pombo"))
            .args(["--shards", "1", "--listen", "127.0.0.1:0", "--control", "off", "--log-level", "off"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says where it is");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
        Self { address: address.to_owned(), child }
    }

    fn log_in(&self, uid: usize) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.address
        );
        stream.write_all(upgrade.as_bytes()).expect("it is read");
        read_until(&mut stream, b"\r\n\r\n");
        let uid = format!("user{uid}");
        stream.write_all(&client_frame(uid.as_bytes())).expect("it is read");
        read_until(&mut stream, uid.as_bytes());
        stream
    }

    /// CPU time of the shard so far, in nanoseconds.
    fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let spent = |path: std::path::PathBuf| {
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let stat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let ns = stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            if comm.starts_with("pombo-shard") { ns } else { 0 }
        };
        tasks.map(|task| spent(task.expect("a thread").path())).sum()
    }

    /// Private memory of the process, in KiB.
    fn private_kib(&self) -> u64 {
        let maps = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("it runs");
        let private = maps.lines().filter(|line| line.starts_with("Private_"));
        private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    }
}

/// A text frame as a client sends it, masked with zeros.
fn client_frame(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126, "short");
    [&[0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// Reads until the received bytes end with `mark`.
fn read_until(stream: &mut TcpStream, mark: &[u8]) {
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while !got.ends_with(mark) {
        let length = stream.read(&mut buffer).expect("a connection");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..length]);
    }
}

/// What was measured of a node.
#[derive(Clone, Copy)]
struct Measured {
    /// CPU of the shard for a broadcast, in microseconds.
    broadcast_us: f64,
    private_kib: u64,
}

/// Has `peak` users log in, of whom [`STAY`] stay, and measures.
fn measure(peak: usize) -> Measured {
    let node = Node::start();
    let all: Vec<_> = (0..peak).map(|uid| node.log_in(uid)).collect();
    let step = peak / STAY;
    let stays = |(index, stream)| if index % step == 0 { Some(stream) } else { None };
    let mut stay: Vec<TcpStream> = all.into_iter().enumerate().filter_map(stays).collect();
    stay.truncate(STAY);
    thread::sleep(QUIET);
    let private_kib = node.private_kib();
    let (frame, mark) = (client_frame(b"all:0123456789abcdef"), b"0123456789abcdef");
    let before = node.cpu();
    for _ in 0..BROADCASTS {
        stay[0].write_all(&frame).expect("it is read");
        stay.iter_mut().for_each(|stream| read_until(stream, mark));
    }
    Measured { broadcast_us: (node.cpu() - before) as f64 / 1000.0 / BROADCASTS as f64, private_kib }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let peak = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(18_000);
    assert!(peak >= STAY, "expected a peak of {STAY} or more, not {peak}");
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (measure(STAY), measure(peak))).collect();
    let of = |pick: fn(&(Measured, Measured)) -> f64| median(rounds.iter().map(pick).collect());
    println!("{STAY} users, {ROUNDS} rounds, medians       CPU of a broadcast   private memory");
    println!(
        "on a node that has had no peak       {:>10.1} µs   {:>10.0} KiB",
        of(|(fresh, _)| fresh.broadcast_us),
        of(|(fresh, _)| fresh.private_kib as f64)
    );
    println!(
        "after a peak of {peak:<6}               {:>10.1} µs   {:>10.0} KiB",
        of(|(_, after)| after.broadcast_us),
        of(|(_, after)| after.private_kib as f64)
    );
    println!(
        "ratio within rounds                  {:>10.2}",
        of(|(fresh, after)| after.broadcast_us / fresh.broadcast_us)
    );
}
