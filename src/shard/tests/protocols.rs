//! Sessions of several protocols on one node: each gets answers and messages in the encoding of its own.

use super::frames::{BINARY, TEXT, close_code};
use super::memory::{Client, Node, settings};
use crate::config::{DuplicateLogin, SessionSettings, SlowConsumer};
use crate::frame::close;
use crate::message::{Delivery, Kind, Shed};
use crate::protocol::{Protocol, json};
use crate::shard::{HashedPush, Request};

/// The settings, with a reply to logins.
fn polite() -> SessionSettings {
    SessionSettings { login_reply: "hello {uid}".to_owned(), ..settings() }
}

impl Client {
    /// Sends a message as a client of the tests' protocol.
    fn send_json(&self, to: Option<&str>, payload: &str) {
        self.send_frame(TEXT, &json::command(to, payload.as_bytes()));
    }

    /// Takes the messages that have arrived, which must be of the tests' protocol; returns their payloads.
    #[track_caller]
    fn payloads(&self) -> Vec<String> {
        let payload = |text: String| {
            let payload = json::decode(text.as_bytes()).unwrap_or_else(|| panic!("no message: {text}"));
            String::from_utf8(payload).expect("it is text")
        };
        self.texts().into_iter().map(payload).collect()
    }
}

#[test]
fn each_is_answered_in_its_own_protocol() {
    let mut node = Node::new(1, polite());
    let (plain, answers) = node.login_as(Protocol::Plain, "plain");
    assert_eq!(answers, ["hello plain"]);
    let (framed, answers) = node.login_as(Protocol::Json, "framed");
    assert_eq!(answers, [r#"{"welcome":"framed"}"#]);
    let (echo, answers) = node.login_as(Protocol::Echo, "1");
    assert!(answers.is_empty());

    plain.send("no colon");
    framed.send("framed:hi");
    echo.send("1:hi");
    node.settle();
    assert_eq!(plain.texts(), ["error: expected uid:message or all:message, got no colon"]);
    let error = framed.texts().remove(0);
    assert!(error.starts_with(r#"{"error":"expected "#), "{error}");
    assert_eq!(echo.texts(), ["1:hi"]);
    assert_eq!(node.stats().invalid, 2);
}

#[test]
fn what_one_sends_the_other_receives_in_its_own_encoding() {
    for shards in [1, 2] {
        let mut node = Node::new(shards, settings());
        let (alice, bob) = (node.uid_on(0, "alice"), node.uid_on(shards - 1, "bob"));
        let (plain, _) = node.login_as(Protocol::Plain, &alice);
        let (framed, _) = node.login_as(Protocol::Json, &bob);
        plain.send(&format!("{bob}:say \"hi\""));
        framed.send_json(Some(&alice), "hi yourself");
        node.settle();
        assert_eq!(framed.texts(), [r#"{"data":"say \"hi\""}"#]);
        assert_eq!(plain.texts(), ["hi yourself"]);

        plain.send_frame(BINARY, &[format!("{bob}:").as_bytes(), &[0, 255]].concat());
        node.settle();
        assert_eq!(framed.texts(), [r#"{"base64":"AP8="}"#]);
    }
}

#[test]
fn uid_may_have_sessions_of_both() {
    let mut node = Node::new(1, SessionSettings { duplicate_login: DuplicateLogin::Share, ..settings() });
    let (framed, _) = node.login_as(Protocol::Json, "bob");
    let plain = node.login("bob");
    let (again, _) = node.login_as(Protocol::Json, "bob");
    let (answer_sender, answer) = flume::bounded(1);
    let hash = node.hasher.hash(b"bob");
    let push = HashedPush { hash, uid: "bob".into(), kind: Kind::Text, payload: "hi".into() };
    node.request(0, Request::Push { pushes: vec![push], answer: answer_sender });
    node.settle();
    assert_eq!(answer.recv().expect("it is answered"), [Delivery::Delivered { sessions: 3 }]);
    assert_eq!(
        (plain.texts(), framed.payloads(), again.payloads()),
        (vec!["hi".into()], vec!["hi".into()], vec!["hi".into()])
    );
}

#[test]
fn broadcast_is_encoded_once_for_each_encoding_and_sent_straight_from_its_log() {
    for text in ["hi".to_owned(), "long ".repeat(2000)] {
        let mut node = Node::new(1, settings());
        let plain: Vec<_> = (0..3).map(|index| node.login(&format!("plain{index}"))).collect();
        let framed: Vec<_> = (0..3).map(|index| node.login_as(Protocol::Json, &format!("framed{index}")).0).collect();
        plain[0].send(&format!("all:{text}"));
        framed[0].send_json(None, &text);
        framed[0].send_json(Some("framed1"), "behind it");
        node.turn(0);
        let sent_from = |clients: &[Client]| clients[2].wire.borrow().sent_from;
        let (from_plain, from_framed) = (sent_from(&plain), sent_from(&framed));
        for client in &plain {
            assert_eq!(client.texts(), [&*text, &*text]);
            assert_eq!((client.sends(), client.wire.borrow().sent_from), (1, from_plain));
        }
        for (index, client) in framed.iter().enumerate() {
            let expected: &[_] = if index == 1 { &[&*text, &*text, "behind it"] } else { &[&*text, &*text] };
            assert_eq!(client.payloads(), expected);
            assert_eq!(client.sends(), 1);
            assert!(index == 1 || client.wire.borrow().sent_from == from_framed, "a copy was made");
        }
        assert_ne!(from_plain, from_framed);
        assert_eq!(node.stats().broadcast_deliveries, 12);
    }
}

#[test]
fn encoding_without_a_receiver_has_an_empty_log() {
    let mut node = Node::new(1, settings());
    let plain = node.login("alice");
    let (framed, _) = node.login_as(Protocol::Json, "bob");
    framed.end();
    node.settle();
    let before = node.shards[0].logs.of(Protocol::Json.encoding()).end();
    plain.send("all:hi");
    node.settle();
    assert_eq!(plain.texts(), ["hi"]);
    assert_eq!(node.shards[0].logs.of(Protocol::Json.encoding()).end(), before);
}

#[test]
fn slow_consumer_is_closed_with_its_protocol_s_code_and_counted_by_the_cause() {
    for is_broadcast in [false, true] {
        let bounds = SessionSettings { outbox_bytes_max: 2_000, message_bytes_max: 1_000, ..settings() };
        let mut node = Node::new(1, bounds);
        let alice = node.login("alice");
        let (bob, _) = node.login_as(Protocol::Json, "bob");
        bob.give_room(0);
        for _ in 0..3 {
            alice.send(&format!("{}:{}", if is_broadcast { "all" } else { "bob" }, "x".repeat(900)));
            node.settle();
        }
        bob.give_room(usize::MAX);
        node.settle();
        assert_eq!(close_code(bob.take().last().expect("a close frame")), json::SLOW_CONSUMER);
        let stats = node.stats();
        assert_eq!((stats.slow_consumers, stats.closes[counter_of(close::SLOW_CONSUMER)]), (1, 1));
        assert_eq!((stats.shed_newest, stats.shed_closed), (1, 2), "the message without room, and those that waited");
    }
}

#[test]
fn code_of_a_kick_is_sent_as_it_was_given() {
    let mut node = Node::new(1, settings());
    let (bob, _) = node.login_as(Protocol::Json, "bob");
    let (answer, _kept) = flume::bounded(1);
    let (hash, code) = (node.hasher.hash(b"bob"), close::SLOW_CONSUMER);
    node.request(0, Request::Kick { hash, uid: "bob".into(), code, reason: "".into(), answer });
    node.settle();
    assert_eq!(bob.closed(), close::SLOW_CONSUMER);
}

#[test]
fn session_left_out_of_a_broadcast_is_not_counted_whatever_its_encoding() {
    for (text, receivers) in [("short".to_owned(), 1), ("\u{1}".repeat(900), 0)] {
        let bounds = SessionSettings { outbox_bytes_max: 2_000, message_bytes_max: 1_000, ..settings() };
        let mut node = Node::new(1, bounds);
        let (bob, _) = node.login_as(Protocol::Json, "bob");
        let (carol, _) = node.login_as(Protocol::Json, "carol");
        let bob_uid = (node.hasher.hash(b"bob"), Box::from("bob"));
        let (answer_sender, answer) = flume::bounded(1);
        // Listed twice.
        let except = vec![bob_uid.clone(), bob_uid];
        let (kind, payload) = (Kind::Text, text.into());
        node.request(0, Request::Broadcast { kind, payload, except, answer: answer_sender });
        node.settle();
        assert_eq!(answer.recv().expect("it is answered"), receivers);
        assert_eq!((bob.payloads().len(), carol.payloads().len()), (0, receivers));
        let stats = node.stats();
        assert_eq!((stats.broadcast_deliveries, stats.shed_newest), (1, 1 - receivers as u64));
    }
}

/// A message that is too long in the encoding of a receiver is not that receiver's fault.
#[test]
fn message_too_long_in_one_encoding_is_shed_there_alone() {
    for slow_consumer in [SlowConsumer::Disconnect, SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let bounds = SessionSettings { outbox_bytes_max: 2_000, message_bytes_max: 1_000, slow_consumer, ..settings() };
        let mut node = Node::new(1, bounds);
        let alice = node.login("alice");
        let (bob, _) = node.login_as(Protocol::Json, "bob");
        // Each byte takes six in JSON.
        let text = "\u{1}".repeat(900);
        alice.send(&format!("all:{text}"));
        alice.send("all:short");
        alice.send(&format!("bob:{text}"));
        node.settle();
        assert_eq!(alice.texts(), [&*text, "short"]);
        assert_eq!(bob.payloads(), ["short"]);
        let stats = node.stats();
        assert_eq!((stats.shed_newest, stats.slow_consumers), (2, 0));
        assert_eq!((stats.broadcast_deliveries, stats.delivered), (4, 0));

        let (answer_sender, answer) = flume::bounded(1);
        let push =
            HashedPush { hash: node.hasher.hash(b"bob"), uid: "bob".into(), kind: Kind::Text, payload: text.into() };
        node.request(0, Request::Push { pushes: vec![push], answer: answer_sender });
        node.settle();
        assert_eq!(answer.recv().expect("it is answered"), [Delivery::Shed(Shed::TooLong)]);
    }
}

/// Index of the counter of a close code.
fn counter_of(code: u16) -> usize {
    close::ALL.iter().position(|(known, ..)| *known == code).expect("a code of ours")
}
