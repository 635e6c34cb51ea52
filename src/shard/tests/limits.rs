//! Limits of one session, with the clock set by hand: rates, stalls, pongs, fragments, and silence.

use std::sync::Arc;
use std::time::Duration;

use super::frames::{CLOSE, PING, PONG, TEXT, close_code, masked};
use super::memory::{Client, Node, settings};
use crate::config::SessionSettings;
use crate::frame::close;
use crate::mailbox::SHARE_FROM;
use crate::shard::Request;
use crate::shard::budget::TURN_DELIVERIES;

const SECOND: Duration = Duration::from_secs(1);

/// Added to a deadline: a timer may be this late.
const LATE: Duration = Duration::from_millis(200);

/// One poll returns only so many events: sessions whose pong had arrived, but was not reported yet, were closed.
#[test]
fn a_peer_that_answered_while_the_shard_was_stopped_is_not_silent() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..1000).map(|index| node.login(&format!("user{index}"))).collect();
    let quiet = node.login("quiet");
    node.pass(25 * SECOND + LATE);
    for client in &clients {
        assert_eq!(client.take(), [(PING, vec![])]);
        client.send_frame(PONG, b"");
    }
    node.jump(3600 * SECOND);
    node.settle();
    assert_eq!((node.stats().sessions, node.stats().timeouts), (1000, 1));
    assert!(!quiet.take().is_empty());
}

/// A session in the slot of an earlier one that had been stalled was resumed in its stead.
#[test]
fn a_stalled_session_is_not_resumed_for_an_earlier_one_in_its_slot() {
    let mut node = Node::with_mailboxes(3, settings(), 1024);
    let alice = node.login(&node.uid_on(0, "alice"));
    let [bob, dave] = [1, 2].map(|shard| node.uid_on(shard, "receiver"));
    let flood = |client: &Client, to: &str| {
        (0..3).for_each(|_| client.send(&format!("{to}:{}", "x".repeat(SHARE_FROM))));
    };
    flood(&alice, &bob);
    (0..10).for_each(|_| node.turn(0));
    // Replaced while it is stalled; its slot is free when it has ended.
    node.hand_over(&alice.uid, node.draw(), &[]);
    node.turn(0);
    alice.end();
    (0..3).for_each(|_| node.turn(0));
    assert!(alice.wire.borrow().is_removed);
    let carol = node.hand_over(&node.uid_on(0, "carol"), node.draw(), &[]);
    node.turn(0);
    flood(&carol, &dave);
    (0..10).for_each(|_| node.turn(0));
    let taken = node.shards[0].stats().frames_in;
    assert_eq!(taken, 2 + 2, "one is in flight, the other fills the batch");
    // The shard that alice's message was for makes room; the shard that carol's is for doesn't.
    (0..3).for_each(|_| node.turn(1));
    (0..3).for_each(|_| node.turn(0));
    assert_eq!(node.shards[0].stats().frames_in, taken);
    node.settle();
    assert_eq!(node.shards[0].stats().frames_in, taken + 1);
}

#[test]
fn every_ping_of_a_peer_that_reads_is_answered_in_order() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    for index in 0..100 {
        bob.send_frame(PING, &[index]);
        bob.send(&format!("bob:{index}"));
    }
    node.settle();
    let expected = |index: u8| [(PONG, vec![index]), (TEXT, index.to_string().into_bytes())];
    assert_eq!(bob.take(), (0..100).flat_map(expected).collect::<Vec<_>>());
}

#[test]
fn one_pong_waits_for_a_peer_that_does_not_read_and_then_the_latest() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    bob.give_room(0);
    for index in 0..100 {
        bob.send_frame(PING, &[index; 125]);
        node.round();
        let sessions = &mut node.shards[0].sessions;
        let key = sessions.next_key(0).expect("bob is logged in");
        let held = sessions.get(key).and_then(|session| session.outbox.as_ref().map(|o| o.bytes()));
        assert_eq!(held, Some(127), "one pong");
    }
    bob.give_room(usize::MAX);
    node.settle();
    assert_eq!(bob.take(), [(PONG, vec![0; 125]), (PONG, vec![99; 125])]);
    bob.send_frame(PING, b"again");
    node.settle();
    assert_eq!(bob.take(), [(PONG, b"again".to_vec())]);
}

/// Each fragment costs budget, even an empty one: ten thousand of them fit into one read, and take as
/// long to decode as ten thousand messages.
#[test]
fn empty_fragments_cost_budget() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..30).map(|index| node.login(&format!("user{index}"))).collect();
    let flood = masked(0x00, b"").repeat(10_000);
    for client in &clients {
        client.send_frame(0x01, b"nobody:");
        client.send_bytes(&flood);
        client.send_frame(0x80, b"x");
    }
    node.turn(0);
    let taken = node.stats().frames_in as usize;
    assert!((TURN_DELIVERIES..TURN_DELIVERIES + 10).contains(&taken), "{taken} of 300,000 in one turn");
    node.settle();
    assert_eq!((node.stats().frames_in, node.stats().offline), (30 * 10_002, 30));
}

/// Bytes cost budget when they arrive, not only when their message is whole.
#[test]
fn parts_of_messages_cost_their_bytes() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..300).map(|index| node.login(&format!("user{index}"))).collect();
    let part = &masked(TEXT, &[b'x'; 60_000])[..50_000];
    clients.iter().for_each(|client| client.send_bytes(part));
    node.turn(0);
    let taken = node.stats().bytes_in;
    assert!((8 << 20..9 << 20).contains(&taken), "{taken} bytes of 15 million in one turn");
    node.settle();
    assert_eq!(node.stats().bytes_in, 300 * 50_000);
}

/// Takes what has arrived: returns the number of texts, and the code and reason of the close frame behind them, if any.
#[track_caller]
fn texts_and_close(client: &Client) -> (usize, Option<(u16, String)>) {
    let mut frames = client.take();
    let close = frames.pop_if(|(first, _)| *first == CLOSE);
    frames.retain(|(first, _)| *first == TEXT);
    (frames.len(), close.map(|close| (close_code(&close), String::from_utf8(close.1[2..].to_vec()).expect("a text"))))
}

fn limited(messages: Option<usize>, bytes: Option<usize>) -> SessionSettings {
    SessionSettings { message_rate_max: messages, byte_rate_max: bytes, ..settings() }
}

#[test]
fn a_session_over_its_rate_is_read_no_faster() {
    let mut node = Node::new(1, limited(Some(10), None));
    let bob = node.login("bob");
    (0..60).for_each(|index| bob.send(&format!("bob:{index}")));
    node.settle();
    let mut got = bob.texts();
    assert_eq!(got.len(), 10, "a second's worth may come at once");
    for second in 1..=5 {
        node.pass(SECOND);
        got.extend(bob.texts());
        let expected = 10 * (second + 1);
        assert!((expected - 1..=expected + 1).contains(&got.len()), "{} after {second} s", got.len());
    }
    node.pass(SECOND);
    got.extend(bob.texts());
    assert_eq!(got, (0..60).map(|index| index.to_string()).collect::<Vec<_>>(), "all, in order");
    node.pass(20 * SECOND);
    assert_eq!(node.stats().rate_limited, 0, "it was caught up with in time");
    assert!(node.stats().rate_pauses > 0);
}

#[test]
fn a_session_within_its_rate_never_waits() {
    let mut node = Node::new(1, limited(Some(10), Some(1000)));
    let bob = node.login("bob");
    for _ in 0..600 {
        bob.send("bob:x");
        node.settle();
        assert_eq!(bob.texts(), ["x"]);
        bob.send_frame(PONG, b"");
        node.pass(2 * SECOND / 10);
    }
    assert_eq!((node.stats().rate_pauses, node.stats().rate_limited), (0, 0));
}

#[test]
fn a_session_that_stays_over_its_rate_is_closed() {
    let patience = 5 * SECOND;
    let cases = [
        (limited(Some(10), None), "bob:x".to_owned(), "more than 10 messages a second for 5s"),
        (limited(None, Some(2048)), format!("bob:{}", "x".repeat(1000)), "more than 2048 bytes a second for 5s"),
    ];
    for (settings, text, reason) in cases {
        let mut node = Node::new(1, SessionSettings { rate_patience: patience, ..settings });
        let (bob, other) = (node.login("bob"), node.login("other"));
        let mut waited = Duration::ZERO;
        let close = loop {
            // Half as much again, or more.
            (0..3).for_each(|_| bob.send(&text));
            node.pass(SECOND / 5);
            waited += SECOND / 5;
            if let (_, Some(close)) = texts_and_close(&bob) {
                break close;
            }
            assert!(waited < patience * 3, "never closed");
        };
        assert_eq!(close, (close::POLICY, reason.to_owned()));
        assert!(waited >= patience, "{waited:?}");
        assert_eq!(node.stats().rate_limited, 1);
        other.send("other:x");
        node.settle();
        assert_eq!(other.texts(), ["x"]);
    }
}

/// A node with a session on its first shard whose next message to the second shard stalls, and the uid of a receiver there.
fn node_with_full_mail(settings: SessionSettings) -> (Node, Client, Client) {
    let mut node = Node::with_mailboxes(2, settings, 1024);
    let [filler, bob] = ["filler", "bob"].map(|name| node.login(&node.uid_on(0, name)));
    let receiver = node.login(&node.uid_on(1, "receiver"));
    // One batch is in flight, the other is full.
    for _ in 0..2 {
        filler.send(&format!("{}:{}", receiver.uid, "x".repeat(2000)));
        (0..4).for_each(|_| node.turn(0));
    }
    (node, bob, receiver)
}

/// Regression: the time of a stall counted, so that a session over its rate was closed at the first pause after it.
#[test]
fn a_stall_does_not_use_up_the_patience() {
    let patience = 5 * SECOND;
    let (mut node, bob, receiver) = node_with_full_mail(SessionSettings {
        rate_patience: patience,
        heartbeat_interval: 3600 * SECOND,
        ..limited(Some(10), None)
    });
    (0..10).for_each(|_| bob.send(&format!("{}:x", bob.uid)));
    bob.send(&format!("{}:stalls", receiver.uid));
    (0..25).for_each(|_| bob.send(&format!("{}:x", bob.uid)));
    let moment = SECOND / 50;
    while node.stats().mail_stalls == 0 {
        node.jump(moment);
        node.turn(0);
    }
    assert_eq!(node.stats().rate_pauses, 1, "it was over its rate before");
    for _ in 0..500 {
        node.jump(moment);
        node.turn(0);
    }
    // Over its rate again, for less than its patience.
    node.pass(3 * SECOND);
    assert_eq!(node.stats().rate_limited, 0);
    assert_eq!(bob.texts().len(), 10 + 25);
    assert_eq!(receiver.texts().len(), 3);
}

/// Regression: a session that was paused while its message stalled counted as paused again.
#[test]
fn a_pause_amid_a_stall_counts_once() {
    let (mut node, bob, receiver) = node_with_full_mail(limited(None, Some(6000)));
    bob.send(&format!("{}:{}", receiver.uid, "x".repeat(8000)));
    (0..4).for_each(|_| node.turn(0));
    assert_eq!((node.stats().mail_stalls, node.stats().rate_pauses), (1, 1));
    node.settle();
    assert_eq!(receiver.texts().len(), 3);
    assert_eq!(node.stats().rate_pauses, 1);
}

#[test]
fn control_frames_and_fragments_count_for_the_rate() {
    for frame in [masked(PING, b""), masked(PONG, b""), masked(0x00, b"")] {
        let mut node = Node::new(1, limited(Some(10), None));
        let bob = node.login("bob");
        bob.send_frame(0x01, b"bob:");
        bob.send_bytes(&frame.repeat(100));
        node.settle();
        assert_eq!(node.stats().frames_in, 10);
        node.pass(5 * SECOND);
        assert!((59..=61).contains(&node.stats().frames_in), "{}", node.stats().frames_in);
    }
}

/// A session that is not read is not silent. But a pause does not extend `message_timeout`.
#[test]
fn a_pause_is_no_silence_and_does_not_extend_the_message_timeout() {
    let patient = SessionSettings {
        rate_patience: 3600 * SECOND,
        heartbeat_interval: SECOND,
        message_timeout: 60 * SECOND,
        ..limited(Some(10), Some(1024))
    };
    let mut node = Node::new(1, patient);
    let (bob, slow) = (node.login("bob"), node.login("slow"));
    (0..300).for_each(|_| bob.send("bob:"));
    slow.send_bytes(&masked(TEXT, &[b'x'; 100_000])[..64_000]);
    node.pass(25 * SECOND);
    assert_eq!(node.stats().timeouts, 0);
    let got = texts_and_close(&bob).0;
    assert!((230..=265).contains(&got), "{got}");
    // It has sent as much as its rate allows in a minute; heartbeats are due within that.
    node.pass(35 * SECOND + SECOND / 2);
    let close = texts_and_close(&slow).1;
    assert_eq!(close, Some((close::POLICY, "message not finished within 60s".to_owned())));
}

#[test]
fn a_reload_applies_to_open_sessions() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    let flood = |bob: &Client| (0..50).for_each(|_| bob.send("bob:"));
    flood(&bob);
    node.settle();
    assert_eq!(bob.texts().len(), 50);
    node.request(0, Request::Reload(Arc::new(limited(Some(10), None))));
    node.settle();
    flood(&bob);
    node.settle();
    assert_eq!(bob.texts().len(), 10);
    node.request(0, Request::Reload(Arc::new(settings())));
    node.settle();
    assert_eq!(bob.texts().len(), 40);
}
