//! A node under a service manager: what it says to it, and the sockets that it takes over from it.
//!
//! systemd itself does not run where tests do; its side of sd_notify(3) and sd_listen_fds(3) is played here. Passing a
//! descriptor takes a program that can: Python, which CI has.
#![cfg(target_os = "linux")]

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use pombo::Listen;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};
use support::{Client, DEADLINE, eventually};
use tempfile::TempDir;

/// A process that ends with the test.
struct Killed(Child);

impl Killed {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Receives what a service says, until `wanted` is among it.
#[track_caller]
fn expect_said(manager: &UnixDatagram, wanted: &str) {
    let mut message = [0; 4096];
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        let length = manager.recv(&mut message).unwrap_or_else(|error| panic!("{wanted} is not said: {error}"));
        let said = String::from_utf8_lossy(&message[..length]).into_owned();
        if said.lines().any(|line| line == wanted) {
            return;
        }
    }
    panic!("{wanted} is not said");
}

#[test]
fn a_service_manager_is_told_of_start_reload_life_and_end() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    expect_told(&manager, path.to_str().expect("an ASCII name"));
}

#[test]
fn a_service_manager_on_an_abstract_socket_is_told_the_same() {
    let name = format!("pombo-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    expect_told(&UnixDatagram::bind_addr(&address).expect("a socket"), &format!("@{name}"));
}

#[track_caller]
fn expect_told(manager: &UnixDatagram, socket: &str) {
    manager.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let node = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["--listen", "127.0.0.1:0", "--control", "off", "--shards", "3", "--log-level", "off"])
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .spawn();
    let mut node = Killed(node.expect("the program runs"));
    expect_said(manager, "READY=1");
    for _ in 0..3 {
        expect_said(manager, "WATCHDOG=1");
    }
    node.signal(Signal::HUP);
    expect_said(manager, "RELOADING=1");
    expect_said(manager, "READY=1");
    node.signal(Signal::TERM);
    expect_said(manager, "STOPPING=1");
    assert_eq!(node.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_service_manager_that_takes_nothing_holds_nobody_up() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let others = UnixDatagram::unbound().expect("a socket");
    others.set_nonblocking(true).expect("a socket can do that");
    while others.send_to(b"X=1", &path).is_ok() {}
    let listen = folder.path().join("listen");
    let node = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["--listen", &format!("unix:{}", listen.display()), "--control", "off", "--shards", "1"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut node = Killed(node.expect("the program runs"));
    let listen = Listen::Unix(listen);
    eventually("the node is up", || Client::try_dial(&listen).is_ok());
    let mut alice = Client::dial(&listen).upgraded();
    alice.log_in("alice");
    alice.expect_silence();
    node.signal(Signal::HUP);
    node.signal(Signal::TERM);
    alice.expect_close(1001, "");
    drop(alice);
    eventually("the node ends", || node.0.try_wait().expect("the child is ours").is_some());
    assert_eq!(node.0.wait().expect("it has ended").code(), Some(0));
}

#[test]
fn a_service_manager_that_was_busy_is_told_late() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let others = UnixDatagram::unbound().expect("a socket");
    others.set_nonblocking(true).expect("a socket can do that");
    while others.send_to(b"X=1", &path).is_ok() {}
    let node = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["--listen", "127.0.0.1:0", "--control", "off", "--shards", "1", "--log-level", "off"])
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::piped())
        .spawn();
    let mut node = Killed(node.expect("the program runs"));
    let mut line = String::new();
    BufReader::new(node.0.stdout.take().expect("it is piped")).read_line(&mut line).expect("text");
    assert!(line.contains("listening"), "{line}");
    expect_said(&manager, "READY=1");
}

/// Runs a node with `listener` as the socket that a service manager passes, descriptor 3.
fn start_with(listener: impl Into<OwnedFd>, arguments: &[&str]) -> Option<Killed> {
    // The manager's side: descriptor 3 is the socket, and the number of the process is only known inside of it.
    let script = "import os, sys; os.dup2(0, 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); \
                  os.execv(sys.argv[1], sys.argv[1:])";
    let socket: OwnedFd = listener.into();
    let spawned = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_pombo"), "--control", "off", "--shards", "1", "--log-level", "off"])
        .args(arguments)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match spawned {
        Ok(child) => Some(Killed(child)),
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            writeln!(std::io::stderr(), "skipped: there is no python3 to pass a socket on").ok();
            None
        }
        Err(error) => panic!("python3 does not run: {error}"),
    }
}

/// Asks for the page; says whether it came.
fn get(address: std::net::SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line == "HTTP/1.1 200 OK\r\n")
}

#[test]
fn a_restart_with_a_passed_socket_refuses_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let listen = address.to_string();
    for _ in 0..3 {
        // Asked before there is a node, and served by it.
        let early = thread::spawn(move || get(address));
        let Some(mut node) = start_with(
            listener.try_clone().expect("a descriptor can be doubled"),
            &["--listen", &listen, "--drain-timeout", "1s"],
        ) else {
            return;
        };
        assert!(early.join().expect("no panic").expect("a connection"), "who came early is served");
        assert!(get(address).expect("a connection"));
        node.signal(Signal::TERM);
        assert_eq!(node.0.wait().expect("it ends").code(), Some(0));
    }
}

#[test]
fn a_passed_socket_that_no_setting_names_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let Some(mut node) =
        start_with(listener.try_clone().expect("a descriptor can be doubled"), &["--listen", "127.0.0.1:0"])
    else {
        return;
    };
    let mut line = String::new();
    BufReader::new(node.0.stderr.take().expect("it is piped")).read_line(&mut line).expect("text");
    assert_eq!(
        line,
        format!(
            "error: the service manager passed a socket on {address}, expected that address in listen, control or text\n"
        )
    );
    assert_eq!(node.0.wait().expect("it ends").code(), Some(2));
}

/// A node that is passed `socket` does not start, and says why.
fn is_refused(socket: impl Into<OwnedFd>, listen: &str, expected: &str) {
    let Some(mut node) = start_with(socket, &["--listen", listen]) else { return };
    let mut line = String::new();
    BufReader::new(node.0.stderr.take().expect("it is piped")).read_line(&mut line).expect("text");
    assert_eq!(line, expected);
    assert_eq!(node.0.wait().expect("it ends").code(), Some(2));
}

#[test]
fn a_passed_socket_that_does_not_listen_is_refused() {
    let fault = |listen: &str| {
        format!(
            "error: cannot start: the service manager passed a socket on {listen} that does not listen, expected one that \
             does\n"
        )
    };
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    bound.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = bound.local_addr().expect("an address").as_socket().expect("of IPv4").to_string();
    is_refused(bound, &address, &fault(&address));

    // As inetd passes one: a connection.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (connection, _) = listener.accept().expect("a connection");
    let address = connection.local_addr().expect("an address").to_string();
    is_refused(connection, &address, &fault(&address));

    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("s");
    let bound = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    bound.bind(&SockAddr::unix(&path).expect("a path")).expect("the path is free");
    let address = format!("unix:{}", path.display());
    is_refused(bound, &address, &fault(&address));
}

#[test]
fn passed_unix_sockets_are_served_by_path_and_by_name() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("s");
    let name = format!("pombo-test-passed-{}", std::process::id());
    let by_name = SocketAddr::from_abstract_name(&name).expect("a name");
    for (listener, listen) in [
        (UnixListener::bind(&path).expect("the path is free"), Listen::Unix(path.clone())),
        (UnixListener::bind_addr(&by_name).expect("the name is free"), Listen::Abstract(name)),
    ] {
        let Some(node) = start_with(listener, &["--listen", &listen.to_string()]) else { return };
        let mut alice = Client::dial(&listen).upgraded();
        alice.log_in("alice");
        alice.expect_silence();
        drop(node);
    }
    assert!(path.exists(), "it is the service manager's");
}
