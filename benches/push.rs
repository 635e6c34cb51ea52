//! The cost of a push by another program, through each interface, compared with a message from a client over WebSocket; and
//! the time of a push while clients saturate the shards.
//!
//! `cargo bench --bench push [-- SECONDS]`. A `pombo serve` with one shard, 16 users, and for each a sender of its own that
//! keeps 64 messages in flight (one, where the way in takes one at a time) and compares every byte that arrives. CPU is the
//! server's, by its threads; the ways take turns, and medians are printed.

#![allow(clippy::print_stdout, reason = "a benchmark talks to whoever runs it")]

#[path = "support/load_generator.rs"]
mod load_generator;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load_generator::load_generator;

const USERS: usize = 16;
const WINDOW: usize = 64;
const ROUNDS: usize = 5;
/// What each message says, but on the text port, where it is the line.
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running node, which ends with the benchmark.
struct Node {
    child: Child,
    clients: String,
    control: String,
    text: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Node {
    fn start() -> Self {
        let [clients, control, text] = [(); 3].map(|()| {
            let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            free.expect("a free port").to_string()
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_pombo"))
            .args(["--shards", "1", "--listen", &clients, "--control", &control, "--text", &text, "--log-level", "off"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        Self { child, clients, control, text }
    }

    /// CPU time of the threads of this name so far, of all for an empty one, in nanoseconds.
    fn cpu(&self, name: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let spent = |path: std::path::PathBuf| {
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let stat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let ns = stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            if comm.starts_with(name) { ns } else { 0 }
        };
        tasks.map(|task| spent(task.expect("a thread").path())).sum()
    }

    fn log_in(&self, uid: &str) -> TcpStream {
        let mut stream = connect(&self.clients);
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.clients
        );
        stream.write_all(upgrade.as_bytes()).expect("a connection");
        read_until(&mut stream, b"\r\n\r\n", 1);
        stream.write_all(&client_frame(uid.as_bytes())).expect("a connection");
        read_until(&mut stream, uid.as_bytes(), 1);
        stream
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// A text frame as a client sends it, masked with zeros.
fn client_frame(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126, "short");
    [&[0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn server_frame(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126, "short");
    [&[0x81, payload.len() as u8], payload].concat()
}

/// Reads until `mark` has come so often.
fn read_until(stream: &mut TcpStream, mark: &[u8], times: usize) {
    let (mut got, mut buffer) = (Vec::new(), [0; 64 << 10]);
    while got.windows(mark.len()).filter(|window| *window == mark).count() < times {
        let length = stream.read(&mut buffer).expect("a connection");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..length]);
    }
}

/// An interface for pushes: the bytes that a sender writes, the answer that it reads, and the bytes that the user gets.
struct Way {
    name: &'static str,
    address: fn(&Node) -> String,
    messages: usize,
    /// Makes what is written, the messages for each of these uids in turn.
    request: fn(&[String]) -> Vec<u8>,
    /// What answers a message, and what ends the answer to all.
    answer: Option<(&'static [u8], &'static [u8])>,
    payload: fn(&str) -> String,
}

const WAYS: [Way; 4] = [
    Way {
        name: "WebSocket",
        address: |node| node.clients.clone(),
        messages: WINDOW,
        request: |uids| in_turn(uids, |uid| client_frame(format!("{uid}:{PAYLOAD}").as_bytes())),
        answer: None,
        payload: |_| PAYLOAD.to_owned(),
    },
    Way {
        name: "HTTP, batch of 64",
        address: |node| node.control.clone(),
        messages: WINDOW,
        request: |uids| {
            let lines = in_turn(uids, line);
            let head = "POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n";
            [format!("{head}Content-Length: {}\r\n\r\n", lines.len()).into_bytes(), lines].concat()
        },
        answer: Some((b"\"delivered\"", b"0\r\n\r\n")),
        payload: |_| PAYLOAD.to_owned(),
    },
    Way {
        name: "text port, 64 lines",
        address: |node| node.text.clone(),
        messages: WINDOW,
        request: |uids| in_turn(uids, line),
        answer: Some((b"ok\n", b"ok\n")),
        payload: |uid| format!("{{\"uid\":\"{uid}\",\"text\":\"{PAYLOAD}\"}}"),
    },
    Way {
        name: "HTTP, one by one",
        address: |node| node.control.clone(),
        messages: 1,
        request: |uids| {
            let uid = &uids[0];
            let head = "HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n";
            format!("POST /v1/push/{uid} {head}{PAYLOAD}").into_bytes()
        },
        answer: Some((b"\"delivered\"", b"}\n")),
        payload: |_| PAYLOAD.to_owned(),
    },
];

/// What is written for a window of messages, to each uid in turn.
fn in_turn(uids: &[String], message: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    (0..WINDOW).flat_map(|number| message(&uids[number % uids.len()])).collect()
}

fn line(uid: &str) -> Vec<u8> {
    format!("{{\"uid\":\"{uid}\",\"text\":\"{PAYLOAD}\"}}\n").into_bytes()
}

/// Pushes a second, and microseconds of CPU for each: of all threads, of control, of the shard.
///
/// Each sender writes to `spread` users of its own in turn.
fn measure(node: &Node, way: &Way, spread: usize, time: Duration) -> [f64; 4] {
    let names = ["", "pombo-control", "pombo-shard"];
    let (pushed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut pairs: Vec<_> = (0..USERS)
        .map(|user| {
            let uids: Vec<_> = (0..spread).map(|place| format!("user{user}-{place}")).collect();
            let receivers: Vec<_> = uids.iter().map(|uid| node.log_in(uid)).collect();
            let sender =
                if way.answer.is_none() { node.log_in(&format!("s{user}")) } else { connect(&(way.address)(node)) };
            (uids, sender, receivers)
        })
        .collect();
    let before = names.map(|name| node.cpu(name));
    let start = Instant::now();
    thread::scope(|threads| {
        for (uids, sender, receivers) in &mut pairs {
            let (pushed, is_over) = (&pushed, &is_over);
            threads.spawn(move || {
                let request = (way.request)(uids);
                let expected = |uid: &String| server_frame((way.payload)(uid).as_bytes()).repeat(way.messages / spread);
                let expected: Vec<_> = uids.iter().map(expected).collect();
                let mut got = Vec::new();
                // Relaxed: a flag and a count, nothing is ordered by them.
                while !is_over.load(Ordering::Relaxed) {
                    sender.write_all(&request).expect("a connection");
                    if let Some((each, last)) = way.answer {
                        read_answers(sender, each, last, way.messages);
                    }
                    for (receiver, expected) in receivers.iter_mut().zip(&expected) {
                        got.resize(expected.len(), 0);
                        receiver.read_exact(&mut got).expect("a connection");
                        assert!(got == *expected, "{}: other bytes arrived", way.name);
                    }
                    // Relaxed, as above.
                    pushed.fetch_add(way.messages as u64, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(time);
        // Relaxed, as above.
        is_over.store(true, Ordering::Relaxed);
    });
    // Relaxed: the threads have ended.
    let (elapsed, pushed) = (start.elapsed().as_secs_f64(), pushed.load(Ordering::Relaxed) as f64);
    let spent = [0, 1, 2].map(|place| (node.cpu(names[place]) - before[place]) as f64 / 1000.0 / pushed);
    [pushed / elapsed, spent[0], spent[1], spent[2]]
}

/// Reads answers, all of which must be good, to the end of the last.
fn read_answers(stream: &mut TcpStream, each: &[u8], last: &[u8], messages: usize) {
    let (mut got, mut buffer) = (Vec::new(), [0; 64 << 10]);
    let is_whole = |got: &[u8]| got.windows(each.len()).filter(|window| *window == each).count() == messages;
    while !(got.ends_with(last) && is_whole(&got)) {
        let length = stream.read(&mut buffer).expect("a connection");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&buffer[..length]);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Pushes one after the other while clients keep the shard busy; returns median, 99th percentile and most in milliseconds.
fn latency(node: &Node, time: Duration) -> [f64; 3] {
    let _receiver = node.log_in("user0");
    let seconds = (time.as_secs_f64() + 3.0).to_string();
    let load = ["unicast", "-c", "1000", "-w", "16", "--targets", "random", "--seconds", &seconds];
    let mut load = Command::new(load_generator())
        .args(load)
        .arg(&node.clients)
        .stdout(Stdio::null())
        .spawn()
        .expect("the load runs");
    thread::sleep(Duration::from_secs(2));
    let way = &WAYS[3];
    let (mut sender, request) = (connect(&node.control), (way.request)(&["user0".to_owned()]));
    let (mut times, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        let start = Instant::now();
        sender.write_all(&request).expect("a connection");
        read_answers(&mut sender, b"\"delivered\"", b"}\n", 1);
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        thread::sleep(Duration::from_millis(2));
    }
    let ended = load.try_wait().expect("a child of this process");
    assert!(ended.is_none(), "the load ended before the measurement: {ended:?}");
    load.kill().ok();
    load.wait().ok();
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
}

fn main() {
    // Cargo gives `--bench`.
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse::<f64>().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    // Before anything is measured.
    load_generator();
    let node = Node::start();
    let cases: Vec<_> = WAYS
        .iter()
        .flat_map(|way| [1, WINDOW].map(|spread| (way, spread)))
        .filter(|(way, spread)| way.messages >= *spread)
        .collect();
    let mut rows: Vec<Vec<[f64; 4]>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((way, spread), row) in cases.iter().zip(&mut rows) {
            row.push(measure(&node, way, *spread, time));
        }
    }
    println!("| way in | to users in turn | pushes a second | CPU µs a push | of which control | of which the shard |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for ((way, spread), row) in cases.iter().zip(&rows) {
        let [rate, all, control, shard] = [0, 1, 2, 3].map(|place| median(row.iter().map(|of| of[place]).collect()));
        println!("| {} | {spread} | {rate:.0} | {all:.2} | {control:.2} | {shard:.2} |", way.name);
    }
    let [p50, p99, most] = latency(&node, time * 5);
    println!("one push while 1,000 clients saturate the shard: p50 {p50:.2} ms, p99 {p99:.2} ms, most {most:.2} ms");
}
