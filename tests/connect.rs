//! `pombo connect` as its users see it: what it prints where, what it sends, when it ends and with which exit code.

mod support;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use pombo::config::{Auth, Secret};
use pombo::{Config, Handle, Listen, Server};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use support::{Program, SECRET, Signer, seconds_from_now};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, protocol::CloseFrame};

/// How long any step may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running `pombo connect`; killed when dropped.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Client {
    /// Starts with a pipe as standard input.
    fn piped(args: &[&str]) -> Self {
        Self::start(args, Stdio::piped())
    }

    /// Starts with a terminal as standard input, and returns the end where one types.
    fn at_terminal(args: &[&str]) -> (Self, File) {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).expect("a terminal");
        unlockpt(&keyboard).expect("a terminal");
        let name = ptsname(&keyboard, Vec::new()).expect("a terminal has a name").into_string().expect("in ASCII");
        let terminal = File::options().read(true).write(true).open(name).expect("the terminal opens");
        (Self::start(args, terminal.into()), keyboard.as_fd().try_clone_to_owned().expect("a descriptor").into())
    }

    fn start(args: &[&str], input: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pombo"))
            .arg("connect")
            .args(args)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pombo starts");
        let output = lines(child.stdout.take().expect("it is piped"));
        let errors = lines(child.stderr.take().expect("it is piped"));
        Self { input: child.stdin.take(), child, output, errors }
    }

    fn send(&mut self, lines: &str) {
        self.input.as_mut().expect("input has not ended").write_all(lines.as_bytes()).expect("pombo reads");
    }

    fn end_input(&mut self) {
        self.input = None;
    }

    fn interrupt(&self) {
        let id = Pid::from_raw(self.child.id().cast_signed()).expect("a process has an id");
        kill_process(id, Signal::INT).expect("pombo runs");
    }

    /// Waits for the next message printed.
    #[track_caller]
    fn message(&self) -> String {
        self.output.recv_timeout(DEADLINE).expect("a message")
    }

    /// Waits for a line on standard error with `text` in it.
    #[track_caller]
    fn told(&self, text: &str) {
        loop {
            match self.errors.recv_timeout(DEADLINE) {
                Ok(line) if line.contains(text) => return,
                Ok(_) => {}
                Err(error) => panic!("{text:?} was not told: {error}"),
            }
        }
    }

    #[track_caller]
    fn exit_code(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status.code().expect("it was not killed");
            }
            assert!(start.elapsed() < DEADLINE, "pombo connect does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends, and checks that nothing more had been printed.
    #[track_caller]
    fn ends_silently(&mut self, exit_code: i32) {
        assert_eq!(self.exit_code(), exit_code);
        assert_eq!(self.output.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(10_000);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn node() -> (Handle, String) {
    node_with(Config::default())
}

fn node_with(config: Config) -> (Handle, String) {
    let listen = "127.0.0.1:0".parse().expect("a listen address");
    let server = Server::bind(Config { listen: vec![listen], control: None, ..config }).expect("the server binds");
    let Listen::Tcp(address) = server.addresses()[0].clone() else { panic!("not a TCP address") };
    (server.start().expect("the server starts"), address.to_string())
}

fn drain(node: Handle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { node.drain().await });
}

/// A server that does what the test says, step by step.
struct Peer(TcpListener, SocketAddr);

impl Peer {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        Self(listener, address)
    }

    fn accept(&self) -> WebSocket<TcpStream> {
        let (stream, _) = self.0.accept().expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        tungstenite::accept(stream).expect("a handshake")
    }

    /// Accepts a connection and answers its login.
    fn log_in(&self, uid: &str) -> WebSocket<TcpStream> {
        let mut socket = self.accept();
        assert_eq!(socket.read().expect("a login"), Message::text(uid));
        socket.send(Message::text("welcome")).expect("it is read");
        socket
    }
}

fn close(socket: &mut WebSocket<TcpStream>, code: u16, reason: &str) {
    socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).expect("it is sent");
    while socket.read().is_ok() {}
}

fn close_code(message: &Message) -> Option<u16> {
    let Message::Close(Some(frame)) = message else { return None };
    Some(frame.code.into())
}

#[test]
fn pipe_sends_after_the_login_and_ends_when_the_server_has_taken_it() {
    let (node, address) = node();
    let mut bob = Client::piped(&[&address, "bob"]);
    bob.told("seu uid é bob");
    let mut alice = Client::piped(&[&format!("ws://{address}/"), "alice"]);
    let sent: Vec<_> = (0..2000).map(|number| format!("hi: {number}")).collect();
    let lines: String = sent.iter().map(|text| format!("bob:{text}\n")).collect();
    // The last line lacks its end.
    alice.send(lines.trim_end());
    alice.end_input();
    alice.ends_silently(0);
    // Alice has gone, and with her whatever the server had not taken.
    assert_eq!(sent, (0..2000).map(|_| bob.message()).collect::<Vec<_>>());
    bob.end_input();
    bob.ends_silently(0);
    drain(node);
}

#[test]
fn messages_go_to_output_and_errors_do_not() {
    let (node, address) = node();
    let mut alice = Client::piped(&[&address, "alice"]);
    alice.send("no receiver\nall:hi all\n");
    alice.told("error: ");
    assert_eq!(alice.message(), "hi all");
    alice.end_input();
    alice.ends_silently(0);
    drain(node);
}

#[test]
fn whatever_arrives_is_one_line() {
    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    let mut socket = peer.log_in("alice");
    socket.send(Message::text("two\nlines \u{1b}[2J")).expect("it is read");
    socket.send(Message::binary(b"\x00\xff".to_vec())).expect("it is read");
    socket.send(Message::text("")).expect("it is read");
    assert_eq!(client.message(), "two\\nlines \\u{1b}[2J");
    assert_eq!(client.message(), "[binary, 2 bytes] 00ff");
    assert_eq!(client.message(), "");
    client.input.as_mut().expect("open").write_all(b"bob:ol\xc3\xa1\nbob:\xff\n\n").expect("it is read");
    assert_eq!(socket.read().expect("a message"), Message::text("bob:olá"));
    assert_eq!(socket.read().expect("a message"), Message::binary(b"bob:\xff".to_vec()));
    assert_eq!(socket.read().expect("a message"), Message::text(""));
}

#[test]
fn closing_waits_for_the_answer_and_prints_what_comes_before_it() {
    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    let mut socket = peer.log_in("alice");
    client.end_input();
    // Written below tungstenite, which would answer the close before anything else.
    socket.get_mut().write_all(b"\x81\x04late").expect("it is read");
    assert_eq!(close_code(&socket.read().expect("a close frame")), Some(1000));
    while socket.read().is_ok() {}
    assert_eq!(client.message(), "late");
    client.ends_silently(0);
}

#[test]
fn wait_keeps_listening_after_the_end_of_input() {
    let (node, address) = node();
    let mut bob = Client::piped(&[&address, "bob", "--wait", "1h"]);
    bob.end_input();
    bob.told("seu uid é bob");
    let mut alice = Client::piped(&[&address, "alice"]);
    alice.send("bob:still there?\n");
    alice.end_input();
    assert_eq!(bob.message(), "still there?");
    bob.interrupt();
    bob.ends_silently(0);

    let mut carol = Client::piped(&[&address, "carol", "--wait", "10ms"]);
    carol.end_input();
    carol.ends_silently(0);
    drain(node);
}

#[test]
fn interrupt_closes_cleanly() {
    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    let mut socket = peer.log_in("alice");
    client.told("welcome");
    client.interrupt();
    assert_eq!(close_code(&socket.read().expect("a close frame")), Some(1000));
    while socket.read().is_ok() {}
    client.ends_silently(0);
}

#[test]
fn refused_login_is_exit_code_3() {
    let (node, address) = node();
    for uid in ["", "all", "a:b"] {
        let mut client = Client::piped(&[&address, uid]);
        client.told("login refused: ");
        client.ends_silently(3);
    }
    drain(node);

    // Without a word before it, the code says it.
    for code in [1008, 4002] {
        let peer = Peer::new();
        let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
        close(&mut peer.accept(), code, "taken");
        client.told(&format!("login refused: {code} taken"));
        client.ends_silently(3);
    }
}

#[test]
fn close_by_the_server_is_told_with_code_and_reason() {
    let (node, address) = node();
    let mut client = Client::piped(&[&address, "alice"]);
    client.told("seu uid é alice");
    drain(node);
    client.told("closed by the server: 1001 ");
    client.ends_silently(1);

    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    close(&mut peer.log_in("alice"), 1000, "bye");
    client.ends_silently(0);
}

#[test]
fn lost_connection_is_exit_code_1() {
    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    drop(peer.log_in("alice"));
    client.told("connection lost");
    client.ends_silently(1);
}

#[test]
fn a_forgotten_port_is_told() {
    let mut client = Client::piped(&["127.99.98.97", "alice"]);
    client.told("no port was given, and ws:// means 80; a pombo listens on 1234 by default: 127.99.98.97:1234");
    client.ends_silently(1);
}

#[test]
fn nobody_there_is_exit_code_1() {
    let address = Peer::new().1.to_string();
    let mut client = Client::piped(&[&address, "alice"]);
    client.told(&format!("can't connect to {address}"));
    client.ends_silently(1);

    let silent = Peer::new();
    let mut client = Client::piped(&[&silent.1.to_string(), "alice", "--connect-timeout", "50ms"]);
    client.told("not connected and logged in within 50ms");
    client.ends_silently(1);
}

#[test]
fn address_of_control_is_told_from_one_of_clients() {
    let node = support::nodes().with_control().start(1);
    let control = node.control_addresses().control.as_ref().expect("it is on").to_string();
    let mut client = Client::piped(&[&control, "alice"]);
    client.told("(is this the address of control? clients connect to one of listen, port 1234 by default)");
    client.ends_silently(1);
}

#[test]
fn refused_upgrade_is_told_with_its_status() {
    let peer = Peer::new();
    let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
    let (mut stream, _) = peer.0.accept().expect("a connection");
    // Before the request was read, as a server does that is too busy for that.
    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\nfull\r\n";
    stream.write_all(answer).expect("it is read");
    client.told("the server answered HTTP 503 Service Unavailable");
    client.ends_silently(1);
}

/// Accepts a connection and reads the head of its request.
#[track_caller]
fn asked(peer: &Peer) -> (TcpStream, String) {
    let (mut stream, _) = peer.0.accept().expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        head.extend(byte);
    }
    (stream, String::from_utf8(head).expect("a head in ASCII"))
}

#[test]
fn address_is_asked_for_as_rfc_3986_writes_it() {
    let peer = Peer::new();
    for (rest, target) in [
        ("", "/"),
        ("/", "/"),
        ("?x=1", "/?x=1"),
        ("/a?x=1&y=/?", "/a?x=1&y=/?"),
        ("/a b/\u{e9}?q={\"x\"}|[1]", "/a%20b/%C3%A9?q=%7B%22x%22%7D%7C%5B1%5D"),
        ("/%20%2f%zz", "/%20%2f%25zz"),
        ("/~a-b._c!$&'()*+,;=:@", "/~a-b._c!$&'()*+,;=:@"),
    ] {
        let client = Client::piped(&[&format!("ws://{}{rest}", peer.1), "alice"]);
        let (_stream, head) = asked(&peer);
        assert_eq!(head.lines().next(), Some(&*format!("GET {target} HTTP/1.1")), "{rest}");
        let host = format!("Host: {}", peer.1);
        assert!(head.lines().any(|line| line.eq_ignore_ascii_case(&host)), "{head}");
        drop(client);
    }
}

/// Answers the upgrade with these lines in place of `Upgrade` and `Connection`; `ACCEPT` among them is the key's answer.
#[track_caller]
fn answer(peer: &Peer, lines: &[&str]) -> TcpStream {
    let (mut stream, head) = asked(peer);
    let header = |line: &str| line.to_ascii_lowercase().strip_prefix("sec-websocket-key: ").map(str::len);
    let key = head.lines().find_map(|line| header(line).map(|length| line[line.len() - length..].to_owned()));
    let accept = tungstenite::handshake::derive_accept_key(key.expect("a key").as_bytes());
    let lines: String = lines.iter().map(|line| format!("{}\r\n", line.replace("ACCEPT", &accept))).collect();
    stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n").as_bytes()).expect("it is read");
    stream
}

const ACCEPTED: &str = "Sec-WebSocket-Accept: ACCEPT";

#[test]
fn answer_that_upgrades_is_taken_in_all_its_forms() {
    let peer = Peer::new();
    for lines in [
        &["Upgrade: websocket", "Connection: Upgrade", ACCEPTED][..],
        &["upgrade: WebSocket", "connection: keep-alive, upgrade", "sec-websocket-accept:ACCEPT"],
        &["Connection: keep-alive", "Connection: ,UPGRADE", "Upgrade: websocket", ACCEPTED, "Server: x"],
        &["Upgrade: websocket", "Connection: Upgrade", ACCEPTED, "Sec-WebSocket-Extensions:"],
    ] {
        let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
        let mut stream = answer(&peer, lines);
        // The answer to the login comes with the head's end, so to say.
        stream.write_all(b"\x81\x07welcome\x81\x02hi").expect("it is read");
        client.told("welcome");
        assert_eq!(client.message(), "hi", "{lines:?}");
        drop(stream);
        client.ends_silently(1);
    }
}

#[test]
fn answer_that_rfc_6455_does_not_allow_fails_the_connection() {
    let peer = Peer::new();
    for (lines, told) in [
        (&["Connection: Upgrade", ACCEPTED][..], "Upgrade is (absent), expected websocket"),
        (&["Upgrade: h2c", "Connection: Upgrade", ACCEPTED], "Upgrade is h2c, expected websocket"),
        (&["Upgrade: websocket", ACCEPTED], "Connection is (absent), expected Upgrade"),
        (&["Upgrade: websocket", "Connection: close", ACCEPTED], "Connection is close, expected Upgrade"),
        (&["Upgrade: websocket", "Connection: Upgrade"], "Sec-WebSocket-Accept is (absent), expected "),
        (
            &["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI="],
            "Sec-WebSocket-Accept is ICX+Yqv66kxgM0FcWaLWlFLwTAI=, expected ",
        ),
        (
            &["Upgrade: websocket", "Connection: Upgrade", ACCEPTED, "Sec-WebSocket-Extensions: permessage-deflate"],
            "Sec-WebSocket-Extensions is permessage-deflate, expected none, since none was offered",
        ),
        (
            &["Upgrade: websocket", "Connection: Upgrade", ACCEPTED, "Sec-WebSocket-Protocol: chat"],
            "Sec-WebSocket-Protocol is chat, expected none, since none was offered",
        ),
    ] {
        let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
        let _stream = answer(&peer, lines);
        client.told(&format!("the server's answer is no upgrade: {told}"));
        client.ends_silently(1);
    }
}

#[test]
fn refusal_is_told_with_its_body_and_nothing_of_its_coding() {
    for (answer, told) in [
        (
            &b"Transfer-Encoding: chunked\r\n\r\n8\r\nfull, co\r\nb\r\nme \xc3\xa0 six\r\n\r\n0\r\n\r\n"[..],
            "full, come \u{e0} six",
        ),
        (b"Content-Length: 5\r\n\r\nfull\nand what is no part of it", "full"),
        (b"Connection: close\r\n\r\nfull", "full"),
        // The body does not come; the status is told all the same.
        (b"Content-Length: 5\r\n\r\n", ""),
    ] {
        let peer = Peer::new();
        let mut client = Client::piped(&[&peer.1.to_string(), "alice"]);
        let (mut stream, _) = asked(&peer);
        stream.write_all(&[b"HTTP/1.1 503 Service Unavailable\r\n", answer].concat()).expect("it is read");
        stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
        let line = client.errors.recv_timeout(DEADLINE).expect("a line");
        let told = if told.is_empty() { String::new() } else { format!(": {told}") };
        let expected = format!("pombo connect: the server answered HTTP 503 Service Unavailable{told}");
        assert_eq!(line.trim_end(), expected);
        client.ends_silently(1);
    }
}

#[test]
fn bad_arguments_are_exit_code_2() {
    for (args, told) in [
        (&["http://localhost:1", "alice"][..], "http:// is not supported"),
        (&["wss://localhost:1", "alice", "--ca", "no/such/file"], "cannot read --ca no/such/file"),
        (&["wss://localhost:1", "alice", "--ca", "Cargo.toml"], "--ca Cargo.toml holds no certificate"),
        (&["localhost:port", "alice"], "is not an address"),
        (&["ws://localhost:1/a#b", "alice"], "has a fragment, expected none"),
        (&["localhost:1"], "<UID>"),
        (&["localhost:1", "alice", "--wait", "long"], "--wait"),
    ] {
        let mut client = Client::piped(args);
        client.told(told);
        client.ends_silently(2);
    }
}

#[test]
fn at_a_terminal_a_lost_connection_is_made_anew() {
    let peer = Peer::new();
    let (mut client, mut keyboard) = Client::at_terminal(&[&peer.1.to_string(), "alice"]);
    // No close frame: what a killed server leaves.
    drop(peer.log_in("alice"));
    client.told("connection lost; next attempt in ");
    close(&mut peer.log_in("alice"), 1001, "restarting");
    client.told("closed by the server: 1001 restarting; next attempt in ");
    let mut socket = peer.log_in("alice");
    keyboard.write_all(b"bob:hi\n").expect("it is read");
    assert_eq!(socket.read().expect("a message"), Message::text("bob:hi"));
    socket.send(Message::text("hi back")).expect("it is read");
    assert_eq!(client.message(), "hi back");
    // A newer login must not be pushed out.
    close(&mut socket, 4001, "replaced by a newer login");
    client.told("closed by the server: 4001 replaced by a newer login");
    client.ends_silently(1);
}

#[test]
fn at_a_terminal_a_killed_server_is_come_back_to() {
    let program = Program::start(&[]);
    let address = program.address().to_string();
    let (client, mut keyboard) = Client::at_terminal(&[&address, "alice"]);
    client.told("seu uid é alice");
    keyboard.write_all(b"alice:before\n").expect("it is read");
    assert_eq!(client.message(), "before");
    // By SIGKILL: nobody is told.
    drop(program);
    client.told("connection lost; next attempt in ");
    let _program = Program::start_on(&address, &[]);
    client.told("seu uid é alice");
    keyboard.write_all(b"alice:behind\n").expect("it is read");
    assert_eq!(client.message(), "behind");
}

#[test]
fn no_reconnect_ends_at_a_terminal_too() {
    let peer = Peer::new();
    let (mut client, _keyboard) = Client::at_terminal(&[&peer.1.to_string(), "alice", "--no-reconnect"]);
    drop(peer.log_in("alice"));
    client.told("connection lost");
    client.ends_silently(1);
}

#[test]
fn end_of_output_ends_the_client() {
    let peer = Peer::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    let mut child = command
        .args(["connect", &peer.1.to_string(), "alice"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("pombo starts");
    let mut socket = peer.log_in("alice");
    drop(child.stdout.take());
    socket.send(Message::text("for nobody")).expect("it is read");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn token_in_a_file_logs_in_and_a_bad_one_is_a_refusal() {
    let secret = Some(Secret::new(SECRET));
    let (node, address) = node_with(Config { auth: Auth::Jwt, jwt_secret: secret, ..Config::default() });
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let file = path.to_str().expect("a path in UTF-8");
    let connect = || Client::piped(&[&address, "--token-file", file]);

    fs::write(&path, Signer::secret().token_for("alice") + "\n").expect("it can be written");
    let mut alice = connect();
    alice.told("seu uid é alice");
    alice.send("alice:hi\n");
    assert_eq!(alice.message(), "hi");
    alice.end_input();
    alice.ends_silently(0);

    let expired = json!({"sub": "alice", "exp": seconds_from_now(-60)});
    fs::write(&path, Signer::secret().token(&expired)).expect("it can be written");
    let mut late = connect();
    late.told("login refused: the server answered HTTP 401 Unauthorized: credential has expired");
    late.ends_silently(3);

    for content in ["", "two\nlines", "ol\u{e1}"] {
        fs::write(&path, content).expect("it can be written");
        let mut client = connect();
        client.told("holds no token");
        client.ends_silently(2);
    }
    fs::remove_file(&path).expect("it is there");
    let mut client = connect();
    client.told("can't read the token");
    client.ends_silently(2);
    // Either a uid, or a token that says it.
    Client::piped(&[&address]).ends_silently(2);
    Client::piped(&[&address, "alice", "--token-file", file]).ends_silently(2);
    drain(node);
}
