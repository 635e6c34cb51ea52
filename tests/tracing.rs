//! A push can be followed from its sender into the log: by the trace that `traceparent` names.

mod support;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use serde_json::{Value, json};
use support::{Ask, Client, DEADLINE, Program, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

fn start(level: &str, arguments: &[&str]) -> Program {
    let arguments = [&["--log-format", "json", "--log-level", level], arguments].concat();
    Program::start_with_control(&[], &arguments)
}

/// Sends a request over a connection of its own; it must be done.
#[track_caller]
fn ask(program: &Program, ask: Ask) {
    let response = ask.over(&mut Client::dial(program.control()));
    assert_eq!(response.status, 200, "{response:?}");
}

/// The lines of the log with this message.
fn lines(program: &Program, message: &str) -> Vec<Value> {
    let log = program.log().into_iter().map(|line| serde_json::from_slice::<Value>(&line).expect("the log is JSON"));
    log.filter(|line| line["message"] == message).collect()
}

/// Waits for a line with this message, in a span with this name.
#[track_caller]
fn line_in(program: &Program, message: &str, span: &str) -> Value {
    let mut found = None;
    eventually(&format!("{message:?} in {span}"), || {
        let is_in = |line: &Value| line["spans"].as_array().and_then(|spans| spans.last()?.get("name").cloned());
        found = lines(program, message).into_iter().find(|line| is_in(line) == Some(span.into()));
        found.is_some()
    });
    found.expect("it was found")
}

#[test]
fn push_is_told_in_the_trace_of_its_sender() {
    let token = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("backend push {token}\n")).expect("it is written");
    let program = start("debug", &["--control-tokens-file", tokens.to_str().expect("a path in UTF-8")]);
    let mut alice = program.dial().upgraded();
    alice.log_in("alice");
    ask(&program, Ask::post("/v1/push/alice").token(token).with("traceparent", &traceparent()).text("hi there"));
    alice.expect_text("hi there");
    let pushed = line_in(&program, "pushed", "push");
    let spans = &pushed["spans"];
    let request = &spans[0];
    assert_eq!((&request["name"], &request["method"]), (&"request".into(), &"POST".into()), "{pushed}");
    assert_eq!(request["route"], "/v1/push/{uid}", "{pushed}");
    assert_eq!((&request["trace_id"], &request["parent"]), (&TRACE.into(), &SPAN.into()), "{pushed}");
    assert_eq!(request["token"], "backend", "{pushed}");
    let own = request["span_id"].as_str().expect("a span has an id");
    assert!(own.len() == 16 && own != SPAN, "{pushed}");
    let push = json!({ "name": "push", "uid": "alice", "bytes": 8, "outcome": "delivered", "sessions": 1 });
    assert_eq!(spans[1], push);
    let answered = line_in(&program, "control request answered", "request");
    assert_eq!(answered["spans"][0]["trace_id"], TRACE, "{answered}");
    for line in program.log() {
        let line = String::from_utf8(line).expect("a log is UTF-8");
        assert!(!line.contains(token) && !line.contains("hi there"), "{line}");
    }
}

#[test]
fn many_messages_are_told_by_their_outcomes() {
    let program = start("trace", &[]);
    let mut alice = program.dial().upgraded();
    alice.log_in("alice");
    let list = json!({ "uids": ["alice", "nobody", "all"], "text": "hi" });
    ask(&program, Ask::post("/v1/push").with("traceparent", &traceparent()).json(&list));
    let spans = line_in(&program, "control request answered", "request")["spans"].clone();
    assert_eq!((&spans[0]["route"], &spans[0]["trace_id"]), (&"/v1/push".into(), &TRACE.into()), "{spans}");
    let lines = || lines(&program, "pushed").into_iter().filter(|line| line["spans"][1]["name"] == "push_list");
    let outcomes: Vec<_> = lines()
        .filter(|line| line["level"] == "TRACE")
        .map(|line| (line["uid"].clone(), line["outcome"].clone()))
        .collect();
    let expected = [("alice", "delivered"), ("nobody", "offline"), ("all", "refused")];
    assert_eq!(outcomes, expected.map(|(uid, outcome)| (uid.into(), outcome.into())));
    let sum = lines().find(|line| line["level"] == "DEBUG").expect("it is told at the end");
    let counts = json!({ "name": "push_list", "uids": 3, "bytes": 2, "delivered": 1, "offline": 1, "refused": 1 });
    assert_eq!(sum["spans"][1], counts);

    ask(&program, Ask::post("/v1/broadcast?except=bob").text("to all"));
    let told = json!({ "name": "broadcast", "bytes": 6, "except": 1, "outcome": "delivered", "sessions": 1 });
    assert_eq!(line_in(&program, "pushed", "broadcast")["spans"][1], told);

    let batch = "{\"uid\":\"alice\",\"text\":\"x\"}\noops\n{\"uid\":\"bob\",\"text\":\"y\"}\n";
    let batch = Ask::post("/v1/batch").with("traceparent", &traceparent()).body("application/x-ndjson", batch);
    let mut client = Client::dial(program.control());
    batch.send(&mut client);
    let sum = || {
        let mut lines = crate::lines(&program, "pushed").into_iter().map(|line| line["spans"].clone());
        lines.rfind(|spans| spans[1]["name"] == "batch")
    };
    let counts = json!({ "name": "batch", "delivered": 1, "offline": 1, "refused": 1 });
    eventually("the batch is told at its end", || sum().is_some_and(|spans| spans[1] == counts));
    assert_eq!(sum().expect("it was there")[0]["trace_id"], TRACE);
}

#[test]
fn request_with_a_key_is_told_in_its_trace_and_once() {
    let program = start("debug", &[]);
    let push = || Ask::post("/v1/push/bob").with("Idempotency-Key", "k1").text("hi");
    ask(&program, push().with("traceparent", &traceparent()));
    ask(&program, push());
    eventually("both are answered", || lines(&program, "control request answered").len() == 2);
    let pushed = lines(&program, "pushed");
    assert_eq!((pushed.len(), &pushed[0]["spans"][0]["trace_id"]), (1, &TRACE.into()), "{pushed:?}");
}

#[test]
fn what_is_no_traceparent_is_passed_over() {
    let program = start("debug", &[]);
    let no_version = traceparent().replacen("00", "ff", 1);
    let shouted = traceparent().to_ascii_uppercase();
    let longer = traceparent() + "-more";
    for value in [no_version.as_str(), &shouted, &longer, "", "x", "00-0-0-01"] {
        ask(&program, Ask::get("/v1/uids/alice").with("traceparent", value));
    }
    let twice = Ask::get("/v1/uids/alice").with("traceparent", &traceparent()).with("traceparent", &traceparent());
    ask(&program, twice);
    ask(&program, Ask::get("/v1/uids/alice"));
    ask(&program, Ask::get("/v1/uids/alice").with("traceparent", &traceparent().replacen("00", "cc", 1)));
    eventually("all are answered", || lines(&program, "control request answered").len() == 9);
    let requests: Vec<_> =
        lines(&program, "control request answered").iter().map(|line| line["spans"][0].clone()).collect();
    let (strange, last) = (&requests[..8], &requests[8]);
    assert_eq!((&last["trace_id"], &last["parent"]), (&TRACE.into(), &SPAN.into()), "a later version is understood");
    let drawn: HashSet<_> = strange.iter().map(|request| request["trace_id"].as_str().expect("an id")).collect();
    assert!(drawn.len() == 8 && !drawn.contains(TRACE), "each has a trace of its own: {drawn:?}");
    assert!(strange.iter().all(|request| request.get("parent").is_none()), "{strange:?}");
}

#[test]
fn refused_requests_are_told_in_their_trace() {
    let program = start("debug", &[]);
    let foreign = Ask::get("/v1/counts").replacing("Host", "example.com").with("traceparent", &traceparent());
    assert_eq!(foreign.over(&mut Client::dial(program.control())).status, 403);
    let refused = line_in(&program, "control request refused", "request");
    assert_eq!((&refused["reason"], &refused["spans"][0]["trace_id"]), (&"foreign-page".into(), &TRACE.into()));
}

#[test]
fn nothing_is_told_of_requests_by_default() {
    let program = start("info", &[]);
    ask(&program, Ask::post("/v1/push/alice").with("traceparent", &traceparent()).text("hi"));
    ask(&program, Ask::delete("/v1/uids/alice"));
    program.expect_logged("sessions closed on request");
    assert_eq!(program.logged(TRACE), 0);
}

/// A service that takes what it is posted, and tells the head of each request in lower case.
fn hook() -> (String, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (sender, heads) = sync_channel(64);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut received = Vec::new();
            while !received.windows(4).any(|window| window == b"\r\n\r\n") {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => received.extend(&buffer[..length]),
                }
            }
            let answer = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).ok();
            sender.send(String::from_utf8_lossy(&received).to_ascii_lowercase()).ok();
        }
    });
    (url, heads)
}

/// The trace that a request names.
#[track_caller]
fn trace_in(head: &str) -> String {
    let mut values = head.lines().filter_map(|line| line.strip_prefix("traceparent: "));
    let value = values.next().unwrap_or_else(|| panic!("no traceparent in {head}"));
    let parts: Vec<_> = value.split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len(), parts[3]), (4, "00", 32, 16, "00"), "{value}");
    assert!(values.next().is_none());
    parts[1].to_owned()
}

#[test]
fn services_that_are_asked_are_told_a_trace_that_the_log_has() {
    let (url, heads) = hook();
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("it is written");
    let secret = secret.to_str().expect("a path in UTF-8");
    let program = start("info", &["--hook-url", &url, "--hook-secret-file", secret, "--hook-delay", "0s"]);
    let mut alice = program.dial().upgraded();
    alice.log_in("alice");
    let first = trace_in(&heads.recv_timeout(DEADLINE).expect("the service is told"));
    eventually("the failure is logged with its trace", || program.logged(&first) > 0);
    let second = trace_in(&heads.recv_timeout(DEADLINE).expect("the service is told again"));
    assert_ne!(first, second, "each attempt is a trace of its own");
}

#[test]
fn service_that_authenticates_is_told_a_trace_that_the_log_has() {
    let (url, heads) = hook();
    let program = start("debug", &["--auth", "http", "--auth-url", &url]);
    program.dial().upgraded().send_text("credential");
    let trace = trace_in(&heads.recv_timeout(DEADLINE).expect("the service is asked"));
    let failed = line_in(&program, "the service of auth_url fails, nobody gets in", "ask");
    assert_eq!((&failed["spans"][0]["trace_id"], &failed["spans"][0]["status"]), (&trace.into(), &500.into()));
}

#[cfg(not(feature = "opentelemetry"))]
#[test]
fn program_that_can_not_export_says_so() {
    let program = Program::start_with_control(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")], &[]);
    program.expect_logged("built without the feature opentelemetry");
}
