//! Traces reach a collector by OTLP over HTTP, with the feature `opentelemetry`; and nobody waits for one that fails.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Ask, Client, DEADLINE, Program, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A span as it was told.
#[derive(Debug)]
struct Span {
    trace_id: String,
    span_id: String,
    parent: String,
    state: String,
    name: String,
    /// 1 for inside, 2 for a server, 3 for a client.
    kind: u64,
    attributes: Vec<(String, Value)>,
    /// Names and attributes.
    events: Vec<(String, Vec<(String, Value)>)>,
    /// Those of the process.
    resource: Vec<(String, Value)>,
}

impl Span {
    fn attribute(&self, key: &str) -> Option<&Value> {
        find(&self.attributes, key)
    }
}

fn find<'a>(attributes: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|(other, _)| other == key).map(|(_, value)| value)
}

/// A collector that takes everything.
struct Collector {
    url: String,
    spans: Receiver<Span>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, spans) = sync_channel(10_000);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || {
                    while let Some(body) = receive(&mut stream) {
                        decode(&body).into_iter().for_each(|span| sender.send(span).expect("the test waits"));
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok();
                    }
                });
            }
        });
        Self { url, spans }
    }

    /// Waits for a span with this name.
    #[track_caller]
    fn span(&self, name: &str) -> Span {
        loop {
            let span = self.spans.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("no span {name}: {error}"));
            if span.name == name {
                return span;
            }
        }
    }
}

/// Reads a request's body; `None` at the end of the connection.
fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
            assert!(head.contains("\r\ncontent-type: application/x-protobuf"), "{head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
            if received.len() >= end + 4 + length {
                return Some(received.split_off(end + 4));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => received.extend(&buffer[..length]),
        }
    }
}

/// A field of a message of Protocol Buffers.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    #[track_caller]
    fn bytes(&self) -> &'a [u8] {
        let Self::Bytes(bytes) = self else { panic!("expected bytes") };
        bytes
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("a text is UTF-8")
    }

    fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(self.bytes())
    }
}

/// The fields of a message with their numbers, in order (<https://protobuf.dev/programming-guides/encoding/>).
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn number(message: &mut &[u8]) -> u64 {
        let end = message.iter().position(|byte| *byte < 0x80).expect("a number ends");
        let (bytes, rest) = message.split_at(end + 1);
        *message = rest;
        bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    }
    fn bytes<'a>(message: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (bytes, rest) = message.split_at(length);
        *message = rest;
        bytes
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = number(&mut message);
        let field = match tag & 7 {
            0 => Field::Number(number(&mut message)),
            1 => Field::Bytes(bytes(&mut message, 8)),
            2 => {
                let length = usize::try_from(number(&mut message)).expect("it is short");
                Field::Bytes(bytes(&mut message, length))
            }
            5 => Field::Bytes(bytes(&mut message, 4)),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

/// The messages in the fields with this number.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).into_iter().filter(move |(other, _)| *other == number).map(|(_, field)| field.bytes())
}

/// Takes the spans out of an `ExportTraceServiceRequest` (opentelemetry-proto, trace/v1).
fn decode(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for group in messages(request, 1) {
        let resource: Vec<_> = messages(group, 1).flat_map(|resource| attributes(resource, 1)).collect();
        for span in messages(group, 2).flat_map(|scope| messages(scope, 2)) {
            spans.push(decode_span(span, resource.clone()));
        }
    }
    spans
}

fn decode_span(message: &[u8], resource: Vec<(String, Value)>) -> Span {
    let fields = fields(message);
    let field = |number| fields.iter().find(|(other, _)| *other == number).map(|(_, field)| field);
    let hex = |number| field(number).map(Field::hex).unwrap_or_default();
    let text = |number| field(number).map(Field::text).unwrap_or_default();
    let event = |event| {
        (messages(event, 2).map(|name| String::from_utf8_lossy(name).into_owned()).collect(), attributes(event, 3))
    };
    Span {
        trace_id: hex(1),
        span_id: hex(2),
        state: text(3),
        parent: hex(4),
        name: text(5),
        kind: if let Some(Field::Number(kind)) = field(6) { *kind } else { 0 },
        attributes: attributes(message, 9),
        events: messages(message, 11).map(event).collect(),
        resource,
    }
}

fn attributes(message: &[u8], number: u64) -> Vec<(String, Value)> {
    let pair = |pair: &[u8]| {
        let mut found = (String::new(), Value::Null);
        for (number, field) in fields(pair) {
            match number {
                1 => found.0 = field.text(),
                _ => {
                    found.1 = match fields(field.bytes()).first() {
                        Some((1, text)) => text.text().into(),
                        Some((3, Field::Number(number))) => (*number).into(),
                        _ => Value::Null,
                    }
                }
            }
        }
        found
    };
    messages(message, number).map(pair).collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// Starts a node that tells its traces soon.
fn start(collector: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Program {
    let soon = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    // Of two with a name the last one counts.
    Program::start_with_control(&[&soon, variables].concat(), &[&["--log-format", "json"], arguments].concat())
}

#[track_caller]
fn ask(program: &Program, ask: Ask) {
    let response = ask.over(&mut Client::dial(program.control()));
    assert_eq!(response.status, 200, "{response:?}");
}

#[test]
fn push_is_in_the_trace_of_its_sender() {
    let collector = Collector::start();
    let program = start(&collector.url, &[], &[]);
    let mut alice = program.dial().upgraded();
    alice.log_in("alice");
    let push = Ask::post("/v1/push/alice").with("traceparent", &traceparent("01")).with("tracestate", "a=1, b=2");
    ask(&program, push.text("hi"));
    let push = collector.span("push");
    let request = collector.span("POST /v1/push/{uid}");
    assert_eq!((request.trace_id.as_str(), request.parent.as_str(), request.kind), (TRACE, SPAN, 2), "{request:?}");
    assert_eq!(request.state.replace(' ', ""), "a=1,b=2");
    assert_eq!(request.attribute("http.route"), Some(&"/v1/push/{uid}".into()), "{request:?}");
    assert_eq!(request.attribute("http.response.status_code"), Some(&200.into()), "{request:?}");
    assert!(request.attribute("trace_id").is_none(), "{request:?}");
    assert_eq!(find(&request.resource, "service.name"), Some(&"pombo".into()), "{request:?}");
    assert_eq!((&push.trace_id, &push.parent), (&request.trace_id, &request.span_id), "{push:?}");
    assert_eq!(push.attribute("pombo.uid"), Some(&"alice".into()), "{push:?}");
    assert_eq!(push.attribute("pombo.outcome"), Some(&"delivered".into()), "{push:?}");
    assert_eq!(push.attribute("pombo.sessions"), Some(&1.into()), "{push:?}");
    assert_eq!(program.logged("pushed"), 0, "the log's level is as before");
}

#[test]
fn outcome_of_each_uid_of_a_list_is_told() {
    let collector = Collector::start();
    let program = start(&collector.url, &[("OTEL_SERVICE_NAME", "doves")], &[]);
    ask(&program, Ask::post("/v1/push").json(&json!({ "uids": ["7", "all"], "text": "hi" })));
    let list = collector.span("push_list");
    assert_eq!(find(&list.resource, "service.name"), Some(&"doves".into()), "{list:?}");
    let told = |(_, attributes): &(String, Vec<_>)| {
        Some((find(attributes, "uid")?.clone(), find(attributes, "outcome")?.clone()))
    };
    let outcomes: Vec<_> = list.events.iter().filter_map(told).collect();
    assert_eq!(outcomes, [("7".into(), "offline".into()), ("all".into(), "refused".into())], "{list:?}");
}

#[test]
fn log_and_trace_have_the_same_ids() {
    let collector = Collector::start();
    let program = start(&collector.url, &[], &["--log-level", "debug"]);
    ask(&program, Ask::get("/v1/uids/alice"));
    let span = collector.span("GET /v1/uids/{uid}");
    program.expect_logged("control request answered");
    let log = program.log().into_iter().map(|line| serde_json::from_slice::<Value>(&line).expect("the log is JSON"));
    let line = log.into_iter().find(|line| line["message"] == "control request answered").expect("it was logged");
    let told = (&line["spans"][0]["trace_id"], &line["spans"][0]["span_id"]);
    assert_eq!(told, (&span.trace_id.clone().into(), &span.span_id.clone().into()), "{line} {span:?}");
}

#[test]
fn sender_decides_what_is_sampled() {
    let collector = Collector::start();
    let program = start(&collector.url, &[], &[]);
    ask(&program, Ask::post("/v1/push/no").with("traceparent", &traceparent("00")).text("hi"));
    ask(&program, Ask::post("/v1/push/yes").with("traceparent", &traceparent("01")).text("hi"));
    assert_eq!(collector.span("push").attribute("pombo.uid"), Some(&"yes".into()));
    let never = start(&collector.url, &[("OTEL_TRACES_SAMPLER", "always_off")], &[]);
    ask(&never, Ask::post("/v1/push/never").with("traceparent", &traceparent("01")).text("hi"));
    ask(&program, Ask::post("/v1/push/again").text("hi"));
    assert_eq!(collector.span("push").attribute("pombo.uid"), Some(&"again".into()));
}

#[test]
fn last_spans_are_told_before_the_end() {
    let collector = Collector::start();
    let mut program = start(&collector.url, &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")], &[]);
    ask(&program, Ask::post("/v1/push/alice").text("hi"));
    program.terminate();
    assert_eq!(program.wait(), Some(0));
    collector.span("push");
}

#[test]
fn hook_is_told_the_trace_that_is_exported() {
    let collector = Collector::start();
    let hook = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/hook", hook.local_addr().expect("an address"));
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").expect("it is written");
    let secret = secret.to_str().expect("a path in UTF-8");
    let program = start(&collector.url, &[], &["--hook-url", &url, "--hook-secret-file", secret, "--hook-delay", "0s"]);
    let mut alice = program.dial().upgraded();
    alice.log_in("alice");
    let (mut stream, _) = hook.accept().expect("the service is told");
    let mut head = [0; 4096];
    let length = stream.read(&mut head).expect("it is told");
    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("it listens");
    let span = collector.span("hook");
    let expected = format!("\r\ntraceparent: 00-{}-{}-01\r\n", span.trace_id, span.span_id);
    assert!(head.contains(&expected), "{expected} is not in {head}");
    assert_eq!((span.kind, span.attribute("http.response.status_code")), (3, Some(&204.into())), "{span:?}");
}

#[test]
fn nobody_waits_for_a_collector_that_does_not_answer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "10"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")];
    let mut program = start(&url, &small, &[]);
    let mut client = Client::dial(program.control());
    for _ in 0..200 {
        assert_eq!(Ask::post("/v1/push/alice").text("hi").over(&mut client).status, 200);
    }
    program.expect_logged("due to queue full");
    let begun = Instant::now();
    program.terminate();
    assert_eq!(program.wait(), Some(0));
    // It was given three seconds; the rest is a busy machine's.
    assert!(begun.elapsed() < Duration::from_secs(30), "it ended after {:?}", begun.elapsed());
    program.expect_logged("the last traces were not delivered");
}

#[test]
fn collector_that_fails_is_told_once_and_comes_back() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, answers) = sync_channel::<&str>(1);
    thread::spawn(move || {
        let mut answer = "400 No";
        for mut stream in listener.incoming().map_while(Result::ok) {
            while receive(&mut stream).is_some() {
                answer = answers.try_recv().unwrap_or(answer);
                stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok();
            }
        }
    });
    let program = start(&format!("http://{address}"), &[], &[]);
    let push = || ask(&program, Ask::post("/v1/push/alice").text("hi"));
    let mut client = Client::dial(program.control());
    eventually("the failure is told", || {
        assert_eq!(Ask::post("/v1/push/alice").text("hi").over(&mut client).status, 200);
        program.logged("the collector of traces fails") > 0
    });
    assert_eq!(program.logged("status 400"), 1);
    push();
    sender.send("200 OK").expect("it listens");
    eventually("the recovery is told", || {
        assert_eq!(Ask::post("/v1/push/alice").text("hi").over(&mut client).status, 200);
        program.logged("traces are delivered again") > 0
    });
    assert_eq!(program.logged("the collector of traces fails"), 1);
}

#[test]
fn environment_that_cannot_be_followed_is_told() {
    let collector = Collector::start();
    let program = start(&collector.url, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], &[]);
    ask(&program, Ask::post("/v1/push/alice").text("hi"));
    program.expect_logged("traces are not exported");
    program.expect_logged("expected http/protobuf");
    let off = start(&collector.url, &[("OTEL_SDK_DISABLED", "true")], &[]);
    ask(&off, Ask::post("/v1/push/alice").text("hi"));
    assert_eq!(off.logged("traces"), 0);
}
