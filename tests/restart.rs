//! A restart under a service manager that holds the sockets, while clients and back ends connect all the time.
//!
//! systemd's side is played by the test: it keeps the listening sockets open, passes them to one node after the other, and
//! each of those drains by SIGTERM. Nobody may be refused by that: neither by the kernel, because nobody listens, nor
//! by a reset, because a node that ends held them. Who meets the node at its very end may be told so, and finds the
//! next one when it tries again.
#![cfg(target_os = "linux")]

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{DEADLINE, Request, Response, Sent, eventually, interpreter};

/// Clients that connect again as soon as they are served, and those that stay until they are told to go.
const COMERS: usize = 6;
const STAYERS: usize = 4;
/// Programs that push all the time, a connection for each push.
const PUSHERS: usize = 4;
const ALL: usize = COMERS + STAYERS + PUSHERS;

const RESTARTS: usize = 6;

/// What can pass a descriptor on.
const PYTHON: &str = "python3";

/// Less than a node that drains waits for connections that have said nothing: who was slower may be taken for silent.
const PROMPT: Duration = Duration::from_millis(50);

/// The service manager's sockets, and what the clients have found so far.
struct Sockets {
    clients: TcpListener,
    control: TcpListener,
    /// Whether a node runs: told before it starts, and after it has ended.
    runs: AtomicBool,
    /// Whether the test is over.
    over: AtomicBool,
    served: [AtomicUsize; ALL],
    /// Clients that a node has answered that it ends.
    told: AtomicUsize,
    /// Clients that wait for an answer.
    waiting: AtomicUsize,
    /// What must not happen.
    faults: Mutex<Vec<String>>,
}

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    Told,
}

#[test]
fn who_connects_all_the_time_is_never_refused() {
    if interpreter(PYTHON).is_none() {
        return;
    }
    let bound = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let sockets = Sockets {
        clients: bound(),
        control: bound(),
        runs: AtomicBool::new(false),
        over: AtomicBool::new(false),
        served: Default::default(),
        told: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
        faults: Mutex::default(),
    };
    thread::scope(|threads| {
        for index in 0..ALL {
            let sockets = &sockets;
            threads.spawn(move || sockets.keep_coming(index));
        }
        let _end = Over(&sockets);
        for _ in 0..=RESTARTS {
            eventually("everybody waits for a node", || sockets.waits() == ALL);
            let before = sockets.counts();
            sockets.runs.store(true, SeqCst);
            let mut node = sockets.start();
            eventually("everybody is served by the new node", || {
                assert_eq!(node.0.try_wait().expect("it is ours"), None, "the node has ended");
                sockets.all_beyond(&before, 3)
            });
            sockets.expect_no_fault();
            let told = sockets.told.load(SeqCst);
            kill_process(Pid::from_child(&node.0), Signal::TERM).expect("it runs");
            let status = node.0.wait().expect("it ends");
            assert!(status.success(), "{status}");
            sockets.runs.store(false, SeqCst);
            // A node that drains stops accepting first: a client that is told so doesn't meet it again.
            let told = sockets.told.load(SeqCst) - told;
            assert!(told <= COMERS + STAYERS, "{told} were told to try again");
            sockets.expect_no_fault();
        }
    });
    sockets.expect_no_fault();
}

impl Sockets {
    /// Runs a node with the sockets as descriptors 3 and 4.
    fn start(&self) -> Killed {
        // The number of the process is only known inside of it; descriptors pass as its standard streams.
        let script = "import os, sys; os.dup2(0, 3); os.dup2(1, 4); nothing = os.open('/dev/null', os.O_RDWR); \
                      os.dup2(nothing, 0); os.dup2(nothing, 1); os.set_inheritable(3, True); \
                      os.set_inheritable(4, True); os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid())); \
                      os.execv(sys.argv[1], sys.argv[1:])";
        let socket = |listener: &TcpListener| {
            Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().expect("a descriptor can be doubled")))
        };
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
        let child = Command::new(PYTHON)
            .args(["-c", script, env!("CARGO_BIN_EXE_pombo"), "--shards", "2", "--drain-timeout", "500ms"])
            .args(["--log-level", "warn", "--listen", &address(&self.clients), "--control", &address(&self.control)])
            .stdin(socket(&self.clients))
            .stdout(socket(&self.control))
            .spawn();
        Killed(child.expect("python runs"))
    }

    #[track_caller]
    fn expect_no_fault(&self) {
        let faults = self.faults.lock().expect("no client panics with it").clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    fn waits(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    fn counts(&self) -> Vec<usize> {
        self.served.iter().map(|count| count.load(SeqCst)).collect()
    }

    /// Whether each client has been served so many times more; a fault ends the wait, too.
    fn all_beyond(&self, before: &[usize], times: usize) -> bool {
        let is_beyond = |index: usize| self.served[index].load(SeqCst) >= before[index] + self.times(index, times);
        (0..ALL).all(is_beyond) || !self.faults.lock().expect("no client panics with it").is_empty()
    }

    /// A stayer is served once by each node.
    fn times(&self, index: usize, times: usize) -> usize {
        if Self::stays(index) { 1 } else { times }
    }

    fn stays(index: usize) -> bool {
        (COMERS..COMERS + STAYERS).contains(&index)
    }

    /// One client: connects, is served, and comes again, until the test is over.
    fn keep_coming(&self, index: usize) {
        while !self.over.load(SeqCst) {
            let has_node = self.runs.load(SeqCst);
            self.waiting.fetch_add(1, SeqCst);
            let began = Instant::now();
            let tried = if index < COMERS + STAYERS { self.log_in(index, began) } else { self.push(began) };
            self.waiting.fetch_sub(1, SeqCst);
            match tried {
                Ok((Outcome::Served, stream)) => {
                    self.served[index].fetch_add(1, SeqCst);
                    if Self::stays(index) {
                        self.stay(stream);
                    }
                }
                Ok((Outcome::Told, _)) if has_node => {
                    // Control answers to the end, to tell of the drain; clients wait for the next node instead.
                    self.told.fetch_add(usize::from(index < COMERS + STAYERS), SeqCst);
                }
                Ok((Outcome::Told, _)) => {
                    self.fault(format!("{index} was told of the end of a node that it never met"));
                }

                // Nothing went out in time: a node may close it, as it closes who is silent.
                Err(Failed { is_late: true, .. }) => {}
                Err(Failed { what, .. }) if !self.over.load(SeqCst) => self.fault(format!("{index}: {what}")),
                Err(_) => {}
            }
        }
    }

    fn fault(&self, what: String) {
        self.faults.lock().expect("no client panics with it").push(what);
    }

    /// Logs in, and writes to itself.
    fn log_in(&self, index: usize, began: Instant) -> Result<(Outcome, TcpStream), Failed> {
        let uid = format!("user{index}");
        let mut request = Request::upgrade().bytes();
        for message in [uid.clone(), format!("{uid}:hi")] {
            request.extend(Sent::text(message).bytes());
        }
        let (mut stream, is_late) = connect(&self.clients, &request, began)?;
        let mut received = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = stream.read(&mut part).map_err(|error| Failed { what: error.to_string(), is_late })?;
            received.extend(&part[..length]);
            let is_end = length == 0;
            if received.ends_with(b"\x81\x02hi") {
                return Ok((Outcome::Served, stream));
            }
            // Refused by HTTP, or by a close frame with 1001 in its first two bytes.
            let is_refused = received.starts_with(b"HTTP/1.1 503 ");
            let is_closed = received.starts_with(b"HTTP/1.1 101 ")
                && received.windows(4).any(|bytes| bytes[0] == 0x88 && bytes[2..] == 1001_u16.to_be_bytes());
            if is_end && (is_refused || is_closed) {
                return Ok((Outcome::Told, stream));
            }
            if is_end {
                let what = format!("the end, after {}", received.escape_ascii());
                return Err(Failed { what, is_late });
            }
        }
    }

    /// Waits for the node's farewell.
    fn stay(&self, mut stream: TcpStream) {
        let mut received = Vec::new();
        match stream.read_to_end(&mut received) {
            Ok(_) if received.get(2..4) == Some(&1001_u16.to_be_bytes()) => {}
            found => self.fault(format!("a session ended without a word: {found:?} {}", received.escape_ascii())),
        }
    }

    /// Pushes to somebody who may be there.
    fn push(&self, began: Instant) -> Result<(Outcome, TcpStream), Failed> {
        let body = r#""hi""#;
        let request = format!(
            "POST /v1/push/nobody HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.control.local_addr().expect("it is bound"),
            body.len(),
        );
        let (mut stream, is_late) = connect(&self.control, request.as_bytes(), began)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).map_err(|error| Failed { what: error.to_string(), is_late })?;
        match Response::decode_head(&received) {
            Some((Response { status: 200, .. }, _)) => Ok((Outcome::Served, stream)),
            Some((Response { status: 503, .. }, _)) => Ok((Outcome::Told, stream)),
            _ => Err(Failed { what: format!("a push: {:?}", received.escape_ascii().to_string()), is_late }),
        }
    }
}

/// Why an attempt came to nothing.
struct Failed {
    what: String,
    /// Whether the client was slow to say anything.
    is_late: bool,
}

/// Connects and sends a request at once; tells whether that took long.
fn connect(listener: &TcpListener, request: &[u8], began: Instant) -> Result<(TcpStream, bool), Failed> {
    let address = listener.local_addr().expect("it is bound");
    let send = |stream: &mut TcpStream| -> io::Result<()> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(request)
    };
    // Refused here by the kernel: never late.
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)
        .map_err(|error| Failed { what: format!("cannot connect: {error}"), is_late: false })?;
    let sent = send(&mut stream);
    let is_late = began.elapsed() > PROMPT;
    sent.map_err(|error| Failed { what: format!("cannot send: {error}"), is_late })?;
    Ok((stream, is_late))
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Tells the clients that the test is over, however it ends, and ends those that wait for one more node.
struct Over<'a>(&'a Sockets);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
        for listener in [&self.0.clients, &self.0.control] {
            rustix::net::shutdown(listener, rustix::net::Shutdown::Both).ok();
        }
    }
}
