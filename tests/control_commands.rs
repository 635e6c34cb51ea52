//! `pombo push`, `online`, `kick` and `health` as their callers see them: what is asked, what is printed where, exit codes.
//!
//! In here a node of the test's own answers, so that it can say anything.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};
use support::{Authority, DEADLINE, LOCAL};

const DELIVERED: &str = r#"{"uid":"alice","outcome":"delivered","sessions":2}"#;

type Variables<'a> = &'a [(&'a str, &'a str)];

/// Runs the command with no environment but `variables`; returns its standard output, standard error and exit code.
#[track_caller]
fn pombo(arguments: &[&str], variables: Variables, input: &[u8]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // One that doesn't read it is no fault.
    child.stdin.take().expect("it is piped").write_all(input).ok();
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code().expect("it exits"))
}

/// A node that gives one answer, and tells what it was asked.
struct Fake {
    address: String,
    asked: Receiver<Asked>,
}

/// A request.
struct Asked {
    line: String,
    /// In lower case.
    head: String,
    body: Vec<u8>,
}

impl Fake {
    fn start(status: &'static str, body: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        Self::answer(address, move || listener.accept().map(|(stream, _)| stream), status, body)
    }

    fn answer<S: Read + Write>(
        address: String,
        accept: impl Fn() -> std::io::Result<S> + Send + 'static,
        status: &'static str,
        body: &'static str,
    ) -> Self {
        let (sender, asked) = sync_channel(8);
        thread::spawn(move || {
            while let Ok(mut stream) = accept() {
                let Some(request) = read(&mut stream) else { continue };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).ok();
                sender.send(request).ok();
            }
        });
        Self { address, asked }
    }

    #[track_caller]
    fn asked(&self) -> Asked {
        self.asked.recv_timeout(DEADLINE).expect("it was asked")
    }
}

/// Reads a request with its body; `None` when there is none.
fn read(stream: &mut impl Read) -> Option<Asked> {
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).into_owned();
            let line = head.lines().next().unwrap_or_default().to_owned();
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if received.len() >= end + 4 + length {
                return Some(Asked { line, head, body: received.split_off(end + 4) });
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => received.extend(&buffer[..length]),
        }
    }
}

#[track_caller]
fn check(arguments: &[&str], status: &'static str, answer: &'static str, printed: &str, code: i32) -> Asked {
    let fake = Fake::start(status, answer);
    let (stdout, stderr, exit) = pombo(&[arguments, &["--control", &fake.address]].concat(), &[], b"from stdin\n");
    assert_eq!((stdout.as_str(), exit), (printed, code), "{arguments:?}: {stderr}");
    assert!(stderr.is_empty(), "{stderr}");
    fake.asked()
}

#[test]
fn push_asks_and_tells() {
    let asked = check(&["push", "alice", "olá"], "200 OK", DELIVERED, "taken by 2 sessions\n", 0);
    assert_eq!(asked.line, "POST /v1/push/alice HTTP/1.1");
    assert_eq!(asked.body, "olá".as_bytes());
    assert!(asked.head.contains("\r\ncontent-type: text/plain; charset=utf-8"), "{}", asked.head);
    assert!(asked.head.contains("\r\nhost: 127.0.0.1:"), "{}", asked.head);
    assert!(!asked.head.contains("authorization"), "{}", asked.head);

    let asked = check(&["push", "a/ü ?%", ""], "200 OK", DELIVERED, "taken by 2 sessions\n", 0);
    assert_eq!(asked.line, "POST /v1/push/a%2F%C3%BC%20%3F%25 HTTP/1.1");
    assert_eq!(asked.body, b"");
    for arguments in [&["push", "alice", "-"][..], &["push", "alice"], &["push", "--binary", "alice"]] {
        let asked = check(arguments, "200 OK", DELIVERED, "taken by 2 sessions\n", 0);
        assert_eq!(asked.body, b"from stdin\n");
        let is_binary = asked.head.contains("\r\ncontent-type: application/octet-stream");
        assert_eq!(is_binary, arguments.contains(&"--binary"));
    }
}

#[test]
fn push_tells_what_became_of_it_by_its_exit_code() {
    let offline = r#"{"uid":"bob","outcome":"offline"}"#;
    check(&["push", "bob", "hi"], "200 OK", offline, "bob is offline\n", 3);
    check(&["push", "--json", "bob", "hi"], "200 OK", offline, "{\"outcome\":\"offline\",\"uid\":\"bob\"}\n", 3);
    let shed = r#"{"uid":"bob","outcome":"shed","reason":"outbox-full"}"#;
    check(&["push", "bob", "hi"], "200 OK", shed, "not taken: outbox-full\n", 4);
    check(&["push", "--all", "hi"], "200 OK", r#"{"sessions":0}"#, "everybody is offline\n", 3);
}

#[test]
fn push_to_all_leaves_out_whom_it_is_told() {
    let asked = check(&["push", "--all", "hi"], "200 OK", r#"{"sessions":1}"#, "taken by 1 session\n", 0);
    assert_eq!((asked.line.as_str(), asked.body.as_slice()), ("POST /v1/broadcast HTTP/1.1", &b"hi"[..]));
    let except = ["push", "--all", "--except", "a&b", "--except", "bob"];
    let asked = check(&except, "200 OK", r#"{"sessions":7}"#, "taken by 7 sessions\n", 0);
    assert_eq!(asked.line, "POST /v1/broadcast?except=a%26b&except=bob HTTP/1.1");
    assert_eq!(asked.body, b"from stdin\n");
}

#[test]
fn online_lists_sessions() {
    let answer = r#"{"uid":"alice","online":true,"sessions":[{"since":"2026-11-23T03:00:00.000Z","address":"192.0.2.1:5"},
        {"since":"2026-11-23T03:00:01.000Z","address":null}]}"#;
    let printed = "alice is online, 2 sessions\n  from 192.0.2.1:5 since 2026-11-23T03:00:00.000Z\n  \
                   from a Unix socket since 2026-11-23T03:00:01.000Z\n";
    let asked = check(&["online", "alice"], "200 OK", answer, printed, 0);
    assert_eq!(asked.line, "GET /v1/uids/alice HTTP/1.1");
    let offline = r#"{"uid":"alice","online":false,"sessions":[]}"#;
    check(&["online", "alice"], "200 OK", offline, "alice is offline\n", 3);
    let printed = "{\"online\":false,\"sessions\":[],\"uid\":\"alice\"}\n";
    check(&["online", "--json", "alice"], "200 OK", offline, printed, 3);
}

#[test]
fn kick_says_code_and_reason() {
    let asked = check(&["kick", "alice"], "200 OK", r#"{"uid":"alice","sessions":2}"#, "closed 2 sessions\n", 0);
    assert_eq!(asked.line, "DELETE /v1/uids/alice HTTP/1.1");
    let arguments = ["kick", "alice", "--code", "4000", "--reason", "no & more"];
    let asked = check(&arguments, "200 OK", r#"{"uid":"alice","sessions":0}"#, "alice is offline\n", 3);
    assert_eq!(asked.line, "DELETE /v1/uids/alice?code=4000&reason=no%20%26%20more HTTP/1.1");
}

#[test]
fn health_is_told_by_the_exit_code() {
    assert_eq!(check(&["health"], "200 OK", "ok\n", "healthy\n", 0).line, "GET /healthz HTTP/1.1");
    assert_eq!(check(&["health", "--ready"], "200 OK", "ok\n", "ready\n", 0).line, "GET /readyz HTTP/1.1");
    let told = "pombo health: 503 Service Unavailable: the node drains\n";
    check_failure(&["health", "--ready"], "503 Service Unavailable", "the node drains\n", told);
    // Nobody listens on a port that was just given back.
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string();
    let (stdout, stderr, code) = pombo(&["health"], &[("POMBO_CONTROL", &address)], b"");
    assert!(stdout.is_empty() && stderr.starts_with("pombo health: can't connect to "), "{stderr}");
    assert_eq!(code, 1);
}

#[track_caller]
fn check_failure(arguments: &[&str], status: &'static str, answer: &'static str, complaint: &str) {
    let fake = Fake::start(status, answer);
    let (stdout, stderr, exit) = pombo(&[arguments, &["--control", &fake.address]].concat(), &[], b"");
    assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("", complaint, 1), "{arguments:?}");
}

#[test]
fn refusal_is_told_in_the_nodes_words() {
    let problem = r#"{"type":"about:blank","title":"a token is needed","status":401,"detail":"no\u001b[2J token"}"#;
    let told = "pombo push: 401 Unauthorized: no\\u{1b}[2J token\n";
    check_failure(&["push", "alice", "hi"], "401 Unauthorized", problem, told);
    let untold = "pombo online: 503 Service Unavailable: the node ends\n";
    check_failure(&["online", "alice"], "503 Service Unavailable", r#"{"title":"the node ends"}"#, untold);
}

#[test]
fn refusal_of_another_server_is_told_as_such() {
    let told = "not as a node answers, is this the control listener of a pombo?";
    for (status, answer, shown) in [
        ("404 Not Found", "no such page\n", "404 Not Found, TOLD no such page\n"),
        ("500 Oh", "", "500 Internal Server Error, TOLD\n"),
        ("503 Oh", "<html>\n<b>busy", "503 Service Unavailable, TOLD <html>\\n<b>busy\n"),
        ("401 Oh", "{\"error\":1}", "401 Unauthorized, TOLD {\"error\":1}\n"),
    ] {
        let shown = shown.replace("TOLD", told);
        check_failure(&["kick", "alice"], status, answer, &format!("pombo kick: {shown}"));
        check_failure(&["health"], status, answer, &format!("pombo health: {shown}"));
    }
}

#[test]
fn another_server_is_not_healthy() {
    let told = "pombo health: the answer is not understood, is this the control listener of a pombo? <html>\n";
    check_failure(&["health"], "200 OK", "<html>", told);
    // The WebSocket port in place of the control port.
    let node = support::nodes().start(1);
    let (stdout, stderr, code) = pombo(&["health", "--control", &node.address().to_string()], &[], b"");
    assert_eq!((stdout.as_str(), code), ("", 1), "{stderr}");
    assert!(stderr.contains("404 Not Found, not as a node answers, is this the control"), "{stderr}");
}

#[test]
fn server_that_speaks_no_http_is_told_as_such() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        // The alert of a server that speaks TLS, which most of them send to a request without it.
        read(&mut stream);
        stream.write_all(&[21, 3, 3, 0, 2, 2, 70]).expect("it reads");
    });
    let (stdout, stderr, code) = pombo(&["online", "alice", "--control", &address], &[], b"");
    server.join().expect("it has answered");
    let told = format!(
        "pombo online: the answer is not HTTP, is this the control listener of a pombo? If it speaks TLS, name it as \
         https://{address}\n"
    );
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("", &*told, 1));
}

#[test]
fn answer_of_another_server_is_no_success() {
    for (answer, why) in [("<html>", "expected value at line 1 column 1"), ("{\"ok\":true}", "{\"ok\":true}")] {
        let told = format!("the answer is not understood, is this the control listener of a pombo? {why}\n");
        check_failure(&["push", "alice", "hi"], "200 OK", answer, &format!("pombo push: {told}"));
        check_failure(&["online", "alice"], "200 OK", answer, &format!("pombo online: {told}"));
        check_failure(&["kick", "alice"], "200 OK", answer, &format!("pombo kick: {told}"));
    }
}

#[test]
fn nobody_there_is_an_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let (stdout, stderr, exit) = pombo(&["push", "alice", "hi", "--control", &address], &[], b"");
    assert_eq!((stdout.as_str(), exit), ("", 1));
    let mend = "expected the address of the node's setting control: name it with --control or POMBO_CONTROL, or its file \
                with --config";
    let told = format!(
        "pombo push: can't connect to {address}: Connection refused (os error 111): nobody listens there (from --control), \
         {mend}\n"
    );
    assert_eq!(stderr, told);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("none").display());
    let (_, stderr, exit) = pombo(&["health"], &[("POMBO_CONTROL", &socket)], b"");
    let told = format!(
        "pombo health: can't connect to {socket}: No such file or directory (os error 2): nobody listens there (from \
         POMBO_CONTROL), {mend}\n"
    );
    assert_eq!((stderr, exit), (told, 1));
}

#[test]
fn silent_node_is_not_waited_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let begun = Instant::now();
    let (_, stderr, exit) = pombo(&["online", "alice", "--control", &address, "--timeout", "50ms"], &[], b"");
    assert_eq!((stderr.as_str(), exit), ("pombo online: no answer within 50ms\n", 1));
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn address_is_that_of_the_nodes_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pombo.toml");
    let path = file.to_str().expect("a path in UTF-8");
    let fake = Fake::start("200 OK", DELIVERED);
    // Whatever else stands there is the node's business.
    fs::write(&file, format!("shards = 0\ncontrol = '{}'\nlisten = '127.0.0.1:1'", fake.address))
        .expect("it is written");
    let wrong = "127.0.0.1:1";
    let ways: [(&[&str], Variables); 4] = [
        (&["push", "alice", "hi", "--config", path], &[]),
        (&["push", "alice", "hi"], &[("POMBO_CONFIG", path)]),
        (&["push", "alice", "hi"], &[("POMBO_CONTROL", &fake.address), ("POMBO_LISTEN", wrong), ("POMBO_SHARDS", "x")]),
        (
            &["push", "alice", "hi", "--control", &fake.address],
            &[("POMBO_CONTROL", wrong), ("POMBO_CONFIG", "no/such")],
        ),
    ];
    for (arguments, variables) in ways {
        let (stdout, stderr, exit) = pombo(arguments, variables, b"");
        assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("taken by 2 sessions\n", "", 0), "{arguments:?}");
        fake.asked();
    }
}

#[test]
fn wrong_settings_are_told_with_their_place() {
    let form = "expected HOST:PORT, http://HOST:PORT, https://HOST:PORT, unix:/PATH or, on Linux, unix:@NAME";
    let cases: [(&[&str], Variables, String); 7] = [
        (&["--control", "off"], &[], format!("control = off (from --control): {form}")),
        (&[], &[("POMBO_CONTROL", "off")], format!("control = off (from POMBO_CONTROL): {form}")),
        (
            &["--config", "no/such.toml"],
            &[],
            "cannot read the settings in no/such.toml: No such file or directory (os error 2)".to_owned(),
        ),
        (
            &["--token-file", "no/such"],
            &[],
            "can't read the token in no/such: No such file or directory (os error 2)".to_owned(),
        ),
        (
            &[],
            &[("POMBO_CONTROL_TOKEN", "two words")],
            "POMBO_CONTROL_TOKEN holds no token, expected one word of printable ASCII".to_owned(),
        ),
        (
            &["--control", "https://localhost:1", "--ca", "no/such.pem"],
            &[],
            "cannot read --ca no/such.pem: No such file or directory (os error 2)".to_owned(),
        ),
        (&["--all"], &[], "--all and a uid don't go together, expected --all and the message".to_owned()),
    ];
    for (arguments, variables, complaint) in cases {
        let (stdout, stderr, exit) = pombo(&[&["push", "alice", "hi"], arguments].concat(), variables, b"");
        assert_eq!((stdout.as_str(), stderr, exit), ("", format!("pombo push: {complaint}\n"), 2), "{arguments:?}");
    }
    let (_, stderr, exit) = pombo(&["push", "alice"], &[], b"\xff");
    assert_eq!((stderr.as_str(), exit), ("pombo push: the message is not UTF-8, expected text, or --binary\n", 2));
    for arguments in
        [&["push"][..], &["push", "--except", "a", "b"], &["push", "a", "b", "c"], &["kick", "a", "--code", "x"]]
    {
        assert_eq!(pombo(arguments, &[], b"").2, 2, "{arguments:?}");
    }
}

#[test]
fn token_is_sent_and_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "from-the-file\n").expect("it is written");
    let fake = Fake::start("401 Unauthorized", "");
    let arguments = ["push", "alice", "hi", "--control", &fake.address];
    let (stdout, stderr, _) = pombo(&arguments, &[("POMBO_CONTROL_TOKEN", "from-the-variable")], b"");
    assert!(fake.asked().head.contains("\r\nauthorization: bearer from-the-variable"));
    assert!(!stdout.contains("from-the") && !stderr.contains("from-the"), "{stdout} {stderr}");
    let token_file = ["--token-file", file.to_str().expect("a path in UTF-8")];
    pombo(&[&arguments[..], &token_file].concat(), &[("POMBO_CONTROL_TOKEN", "from-the-variable")], b"");
    assert!(fake.asked().head.contains("\r\nauthorization: bearer from-the-file"));
}

#[test]
fn unix_socket_is_an_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let accept = move || listener.accept().map(|(stream, _)| stream);
    let fake = Fake::answer(format!("unix:{}", path.display()), accept, "200 OK", DELIVERED);
    let (stdout, stderr, exit) = pombo(&["push", "alice", "hi"], &[("POMBO_CONTROL", &fake.address)], b"");
    assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("taken by 2 sessions\n", "", 0));
    assert!(fake.asked().head.contains("\r\nhost: localhost"));
}

#[test]
fn server_over_tls_has_to_be_vouched_for() {
    let authority = Authority::new();
    let config = authority.server(&LOCAL);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let accept = move || {
        let connection = ServerConnection::new(config.clone()).expect("the config makes connections");
        listener.accept().map(|(stream, _)| StreamOwned::new(connection, stream))
    };
    let fake = Fake::answer(format!("https://localhost:{port}"), accept, "200 OK", DELIVERED);
    let arguments = ["push", "alice", "hi", "--control", &fake.address];
    let ca = authority.root_file();
    let ca = ["--ca", ca.to_str().expect("a path in UTF-8")];
    let (stdout, stderr, exit) = pombo(&[&arguments[..], &ca].concat(), &[], b"");
    assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("taken by 2 sessions\n", "", 0));
    assert_eq!(fake.asked().line, "POST /v1/push/alice HTTP/1.1");
    let stranger = Authority::new();
    let other = stranger.root_file();
    let other = ["--ca", other.to_str().expect("a path in UTF-8")];
    let (stdout, stderr, exit) = pombo(&[&arguments[..], &other].concat(), &[], b"");
    assert_eq!((stdout.as_str(), exit), ("", 1));
    assert!(stderr.contains("no TLS with localhost"), "{stderr}");
}

#[test]
fn completions_are_scripts_that_their_shells_take() {
    for (shell, check) in [("bash", &["bash", "-n"][..]), ("zsh", &["zsh", "-n"]), ("fish", &["fish", "-n"])] {
        let (script, stderr, exit) = pombo(&["completions", shell], &[], b"");
        assert_eq!((stderr.as_str(), exit), ("", 0));
        for word in ["push", "online", "kick", "top", "outbox-bytes-max"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        let child = Command::new(check[0]).args(&check[1..]).stdin(Stdio::piped()).spawn();
        // Only bash is everywhere that this runs.
        let Ok(mut child) = child else { continue };
        child.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success(), "{shell} does not take it");
    }
    assert_eq!(pombo(&["completions", "tcsh"], &[], b"").2, 2);
}

#[test]
fn man_pages_are_of_each_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("share/man1");
    let (stdout, stderr, exit) = pombo(&["man", pages.to_str().expect("a path in UTF-8")], &[], b"");
    assert_eq!((stdout.as_str(), stderr.as_str(), exit), ("", "", 0));
    for name in ["pombo", "pombo-serve", "pombo-push", "pombo-online", "pombo-kick", "pombo-top"] {
        let page =
            fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{page}");
    }
    assert!(!pages.join("pombo-bench.1").exists(), "the load generator writes its page itself");
    let push = fs::read_to_string(pages.join("pombo-push.1")).expect("it was there");
    assert!(push.contains("Exit codes:") && push.contains("POMBO_CONTROL"), "{push}");
    assert_eq!(pombo(&["man", "/dev/null/x"], &[], b"").2, 2);
}
