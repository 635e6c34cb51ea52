//! A batch over HTTP: streamed both ways, in order, within bounds.

mod support;

use std::thread;
use std::time::Duration;

use pombo::Config;
use serde_json::{Value, json};
use support::{Ask, Client, Node, nodes};

/// A batch that is being sent.
struct Batch {
    client: Client,
    /// Answers that were received, and not taken as lines yet.
    received: Vec<u8>,
    is_over: bool,
}

impl Batch {
    /// Sends the head, and a first piece.
    fn begin(node: &Node, first: &str) -> Self {
        let mut client = node.dial_control();
        let head = Ask::post("/v1/batch").with("Content-Type", "application/x-ndjson");
        head.with("Transfer-Encoding", "chunked").send(&mut client);
        let mut batch = Self { client, received: Vec::new(), is_over: false };
        batch.send(first);
        let head = batch.client.receive_head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")), "{head:?}");
        batch
    }

    fn send(&mut self, piece: &str) {
        self.client.send_bytes(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
    }

    fn end(&mut self) {
        self.client.send_bytes(b"0\r\n\r\n");
    }

    /// Takes the next answer; `None` when there are no more.
    fn answer(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an answer is JSON"));
            }
            if self.is_over {
                return None;
            }
            let mut length = Vec::new();
            while !length.ends_with(b"\r\n") {
                length.extend(self.client.receive_bytes(1));
            }
            let length = std::str::from_utf8(&length).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
            let length = length.expect("a chunk begins with its length");
            self.received.extend(self.client.receive_bytes(length));
            assert_eq!(self.client.receive_bytes(2), b"\r\n");
            self.is_over = length == 0;
        }
    }

    #[track_caller]
    fn expect(&mut self, outcome: &Value) {
        assert_eq!(self.answer().as_ref(), Some(outcome));
    }

    /// Takes an answer that says that a line was not sent.
    #[track_caller]
    fn expect_refused(&mut self, problem: &str) {
        let answer = self.answer().expect("an answer");
        let kind = format!("urn:problem-type:pombo:{problem}");
        assert_eq!((&answer["outcome"], &answer["problem"]["type"]), (&json!("refused"), &json!(kind)), "{answer}");
    }
}

fn line(uid: &str, text: &str) -> String {
    format!("{}\n", json!({"uid": uid, "text": text}))
}

fn delivered(uid: &str) -> Value {
    json!({"uid": uid, "outcome": "delivered", "sessions": 1})
}

#[test]
fn answers_come_while_the_batch_goes_on() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let mut batch = Batch::begin(node, &line(alice.name(), "one"));
        batch.expect(&delivered(alice.name()));
        alice.expect_text("one");
        let (head, tail) = (line(bob.name(), "two"), "{\"uid\":\"nobo");
        batch.send(&format!("{head}{tail}"));
        batch.expect(&delivered(bob.name()));
        bob.expect_text("two");
        batch.send("dy\",\"text\":\"\"}\r\n\n");
        batch.expect(&json!({"uid": "nobody", "outcome": "offline"}));
        batch.send(&format!("{{\"uid\":\"{}\",\"base64\":\"AP8=\"}}", alice.name()));
        batch.end();
        batch.expect(&delivered(alice.name()));
        alice.expect_binary(b"\0\xff");
        assert_eq!(batch.answer(), None);
    });
}

#[test]
fn bad_line_is_answered_in_its_place_and_ends_nothing() {
    let bounds = |config: &mut Config| config.push_bytes_max = Some(1000);
    nodes().with_control().with(bounds).each(|node| {
        let mut alice = node.log_in("alice");
        let lines = [
            line("alice", "1"),
            "nonsense\n".to_owned(),
            line("a:b", "x"),
            line("alice", &"x".repeat(1001)),
            line("alice", &"x".repeat(100_000)),
            "{\"uid\":\"alice\"}\n".to_owned(),
            line("alice", "2"),
        ];
        let mut batch = Batch::begin(node, &lines.concat());
        batch.end();
        batch.expect(&delivered("alice"));
        for problem in ["malformed", "uid", "too-large", "too-large", "message"] {
            batch.expect_refused(problem);
        }
        batch.expect(&delivered("alice"));
        assert_eq!(batch.answer(), None);
        alice.expect_text("1");
        alice.expect_text("2");
    });
}

#[test]
fn large_batch_is_answered_in_order() {
    const LINES: usize = 20_000;
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let uids = [alice.name().to_owned(), bob.name().to_owned(), "nobody".to_owned()];
        let mut batch = Batch::begin(node, "\n");
        let mut sender = batch.client.twin();
        thread::scope(|threads| {
            let uids = &uids;
            threads.spawn(move || {
                for from in (0..LINES).step_by(100) {
                    let piece: String = (from..from + 100).map(|at| line(&uids[at % 3], &at.to_string())).collect();
                    sender.send_bytes(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
                }
                sender.send_bytes(b"0\r\n\r\n");
            });
            for (first, session) in [(0, &mut alice), (1, &mut bob)] {
                threads.spawn(move || {
                    for at in (first..LINES).step_by(3) {
                        session.expect_text(at.to_string());
                    }
                });
            }
            for at in 0..LINES {
                let uid = &uids[at % 3];
                let expected = if uid == "nobody" { json!({"uid": uid, "outcome": "offline"}) } else { delivered(uid) };
                batch.expect(&expected);
            }
        });
        assert_eq!(batch.answer(), None);
    });
}

#[test]
fn who_does_not_read_its_answers_is_held_back_alone() {
    let node = nodes().with_control().start(1);
    let mut sender = node.dial_control();
    let head = Ask::post("/v1/batch").with("Content-Type", "application/x-ndjson").with("Content-Length", "999999999");
    head.send(&mut sender);
    let piece = line("nobody", "x").repeat(1000);
    let sending = thread::spawn(move || while sender.try_send_bytes(piece.as_bytes()).is_ok() {});
    // Until nothing more is read of it: its answers fill what the kernel holds.
    let mut before = u64::MAX;
    support::eventually("the node reads no more", || {
        let now = node.stats().offline;
        let rests = now == std::mem::replace(&mut before, now) && now > 0;
        thread::sleep(Duration::from_millis(100));
        rests && node.stats().offline == now
    });
    assert_eq!(Ask::post("/v1/push/nobody").text("x").to(&node).status, 200);
    node.drain();
    sending.join().expect("its connection ends with the node");
}

#[test]
fn silent_batch_is_over_and_says_so() {
    let short = |config: &mut Config| config.control_body_timeout = Duration::from_millis(100);
    let node = nodes().with_control().with(short).start(1);
    let mut batch = Batch::begin(&node, &line("nobody", "x"));
    batch.expect(&json!({"uid": "nobody", "outcome": "offline"}));
    batch.expect_refused("body-timeout");
    assert_eq!(batch.answer(), None);
}

#[test]
fn batch_of_another_type_is_refused() {
    let node = nodes().with_control().start(1);
    let answer = Ask::post("/v1/batch").text("{}").to(&node);
    answer.expect_problem(pombo::Problem::MediaType, "application/x-ndjson");
}
