//! The shard's share of `memory_bytes_max`: what is counted, which sessions are closed, and that nothing stays counted
//! for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frames::{BINARY, CLOSE, TEXT, close_code, frames, masked};
use super::memory::{Client, Node, settings};
use crate::config::{DuplicateLogin, SessionSettings, SlowConsumer};
use crate::frame::{HEADER_BYTES_MAX, close};
use crate::message::Kind;
use crate::shard::{HashedPush, Request, tally};

const KIB: usize = 1 << 10;

fn part_of(memory_bytes_max: usize) -> SessionSettings {
    SessionSettings { memory_bytes_max, ..settings() }
}

/// Sends the first `bytes` of a message that is twice as long.
fn begin(client: &Client, bytes: usize) {
    client.send_bytes(&masked(BINARY, &vec![b'x'; 2 * bytes])[..bytes + 8]);
}

/// The close code that the client was sent, if any, behind whatever other frames.
fn code(client: &Client) -> Option<u16> {
    let output = client.wire.borrow().output.clone();
    frames(&output).0.last().filter(|(first, _)| *first == CLOSE).map(close_code)
}

#[test]
fn sessions_with_most_bytes_of_incomplete_messages_are_closed_first() {
    let mut node = Node::new(1, part_of(1280 * KIB));
    let clients: Vec<_> = (0..32).map(|index| node.login(&format!("user{index}"))).collect();
    for (index, client) in clients.iter().enumerate().skip(1) {
        // 496 KiB in all, in buffers of twice that.
        begin(client, index * KIB);
        node.settle();
    }
    assert_eq!(node.stats().memory_cuts, 0);
    let held = node.stats().memory_held as usize;
    assert!((900 * KIB..=1000 * KIB).contains(&held), "{held}");
    begin(&clients[0], 500 * KIB);
    node.settle();
    assert_eq!(code(&clients[0]), Some(close::MEMORY));
    assert!(clients[1..].iter().all(|client| code(client).is_none()), "none but the worst");
    assert_eq!(node.stats().memory_cuts, 1);
}

#[test]
fn sessions_with_most_bytes_in_their_outbox_are_closed_first_and_others_do_not_notice() {
    for slow_consumer in [SlowConsumer::Disconnect, SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let mut node = Node::new(1, SessionSettings { slow_consumer, ..part_of(1024 * KIB) });
        let (alice, bob, carol) = (node.login("alice"), node.login("bob"), node.login("carol"));
        [&bob, &carol].into_iter().for_each(|client| client.give_room(0));
        let send = |node: &mut Node, to: &str, count: usize| {
            for _ in 0..count {
                alice.send(&format!("{to}:{}", "x".repeat(10 * KIB)));
                node.settle();
            }
        };
        send(&mut node, "bob", 60);
        send(&mut node, "carol", 38);
        assert_eq!((node.stats().memory_cuts, code(&alice)), (0, None));
        send(&mut node, "carol", 10);
        let stats = node.stats();
        assert_eq!((stats.memory_cuts, stats.sessions, stats.slow_consumers), (1, 2, 0));
        assert_eq!(stats.shed_closed, 60, "each of its messages is counted");
        assert!(stats.memory_held < 500 * KIB as u64, "{}", stats.memory_held);
        carol.give_room(usize::MAX);
        bob.give_room(usize::MAX);
        node.settle();
        assert_eq!((code(&bob), carol.texts().len()), (Some(close::MEMORY), 48));
        assert_eq!(node.stats().memory_held, 0);
    }
}

/// A closing session finishes the frame of which a part was sent, but not at the expense of the memory of others.
#[test]
fn a_closing_session_that_still_holds_most_is_dropped() {
    let mut node = Node::new(1, part_of(1024 * KIB));
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    bob.give_room(100);
    alice.send(&format!("bob:{}", "x".repeat(900 * KIB)));
    node.settle();
    bob.send_frame(CLOSE, &[]);
    node.settle();
    assert!(!bob.wire.borrow().is_removed, "it has its close_timeout");
    begin(&alice, 100 * KIB);
    node.settle();
    assert!(bob.wire.borrow().is_removed);
    assert_eq!((code(&alice), node.stats().memory_cuts), (None, 0));
}

#[test]
fn freed_memory_does_not_count() {
    let mut node = Node::new(1, part_of(8192 * KIB));
    let clients: Vec<_> = (0..10).map(|index| node.login(&format!("user{index}"))).collect();
    let message = masked(TEXT, &[b"user9:", &[b'x'; 100_000][..]].concat());
    clients.iter().for_each(|client| client.send_bytes(&message[..50_000]));
    clients[9].give_room(10_000);
    node.settle();
    assert!(node.stats().memory_held > 500_000);
    // One is closed, one fails, one ends, two time out later; the others finish their messages.
    clients[0].send_bytes(&[0; 60_000]);
    clients[1].fail();
    clients[2].end();
    clients[4..8].iter().for_each(|client| client.send_bytes(&message[50_000..]));
    node.settle();
    node.pass(Duration::from_secs(70));
    clients[9].give_room(usize::MAX);
    clients.iter().for_each(Client::end);
    node.settle();
    node.pass(Duration::from_secs(3));
    assert_eq!((node.stats().memory_held, node.stats().sessions, node.stats().memory_cuts), (0, 0, 0));
}

/// An outbox that had been emptied for a message, which then still had no room, was still counted as full.
#[test]
fn messages_dropped_in_vain_do_not_count() {
    let settings =
        SessionSettings { slow_consumer: SlowConsumer::DropOldest, outbox_bytes_max: 100 * KIB, ..settings() };
    let mut node = Node::new(1, settings);
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    bob.give_room(100);
    for kib in [60, 10, 10, 10] {
        alice.send(&format!("bob:{}", "x".repeat(kib * KIB)));
        node.settle();
    }
    let before = node.stats().memory_held;
    // Behind the frame of which a part was sent there is no room for it, even with nothing else in the outbox.
    alice.send(&format!("bob:{}", "x".repeat(50 * KIB)));
    node.settle();
    let stats = node.stats();
    assert_eq!((stats.shed_oldest, stats.shed_newest), (3, 1));
    assert!(stats.memory_held + 30 * KIB as u64 <= before, "{} of {before}", stats.memory_held);
}

#[test]
fn a_smaller_share_holds_from_the_reload_on() {
    let mut node = Node::new(1, part_of(8192 * KIB));
    let (large, small) = (node.login("large"), node.login("small"));
    begin(&large, 500 * KIB);
    begin(&small, 100 * KIB);
    node.settle();
    node.request(0, Request::Reload(Arc::new(part_of(256 * KIB))));
    small.send_bytes(b"x");
    node.settle();
    assert_eq!((code(&large), code(&small)), (Some(close::MEMORY), None));
}

/// Outboxes were counted only at their flush: a message to all sessions of a uid exceeded the bound many times over.
#[test]
fn a_message_to_many_sessions_keeps_within_the_budget() {
    const SESSIONS: usize = 50;
    let share =
        SessionSettings { duplicate_login: DuplicateLogin::Share, uid_sessions_max: SESSIONS, ..part_of(1024 * KIB) };
    for shards in [1, 2] {
        let mut node = Node::new(shards, share.clone());
        let bob = node.uid_on(0, "bob");
        let sessions: Vec<_> = (0..SESSIONS).map(|_| node.login(&bob)).collect();
        sessions.iter().for_each(|session| session.give_room(0));
        let alice = node.login(&node.uid_on(shards - 1, "alice"));
        tally::take();
        alice.send(&format!("{bob}:{}", "x".repeat(100 * KIB)));
        node.settle();
        let stats = node.stats();
        assert!(stats.memory_held <= 1024 * KIB as u64, "{} bytes", stats.memory_held);
        let peak = tally::take().held_max;
        assert!(peak <= 1124 * KIB + HEADER_BYTES_MAX, "{peak} bytes were held for a moment");
        assert!(stats.memory_cuts > 0 && stats.delivered + stats.shed_closed >= SESSIONS as u64, "{stats:?}");
    }
}

/// A broadcast to many shards counts once for each: sessions were closed for it that held little, which freed none of
/// it.
#[test]
fn a_broadcast_to_many_shards_closes_no_session_that_holds_little() {
    let mut node = Node::new(8, part_of(4096 * KIB));
    let sender = node.login(&node.uid_on(0, "sender"));
    let others: Vec<_> = (0..50).map(|index| node.login(&node.uid_on(0, &format!("other{index}-")))).collect();
    others.iter().for_each(|other| begin(other, 100));
    node.settle();
    sender.send(&format!("all:{}", "x".repeat(700 * KIB)));
    node.settle();
    assert!(others.iter().all(|other| code(other).is_none()));
    assert_eq!(node.stats().memory_cuts, 0);
}

/// Mail counts until its arena is back, which the shard notices only at its next post.
#[test]
fn mail_that_was_read_closes_no_session() {
    let mut node = Node::with_mailboxes(2, part_of(2048 * KIB), 4096 * KIB);
    let sender = node.login(&node.uid_on(0, "sender"));
    let bob = node.login(&node.uid_on(1, "bob"));
    let others: Vec<_> = (0..20).map(|index| node.login(&node.uid_on(0, &format!("other{index}-")))).collect();
    (0..40).for_each(|_| sender.send(&format!("{}:{}", bob.uid, "x".repeat(30 * KIB))));
    (0..40).for_each(|_| node.turn(0));
    (0..5).for_each(|_| node.turn(1));
    node.turn(0);
    (0..5).for_each(|_| node.turn(1));
    assert_eq!(bob.take().len(), 40, "all of it was read");
    others.iter().for_each(|other| begin(other, 50 * KIB));
    node.turn(0);
    assert_eq!(node.stats().memory_cuts, 0);
}

/// A broadcast and then a message to each of its receivers, in one turn: these were closed for bytes that their sockets
/// would have taken.
#[test]
fn receivers_that_keep_up_are_not_closed_for_a_busy_turn() {
    let mut node = Node::new(1, part_of(4096 * KIB));
    let users: Vec<_> = (0..30).map(|index| node.login(&format!("user{index}"))).collect();
    let payload = Bytes::from(vec![b'x'; 500 * KIB]);
    let (answer, _answered) = flume::bounded(1);
    node.request(0, Request::Broadcast { kind: Kind::Text, payload, except: Vec::new(), answer });
    let push = |user: &Client| HashedPush {
        hash: node.hasher.hash(user.uid.as_bytes()),
        uid: user.uid.as_str().into(),
        kind: Kind::Text,
        payload: Bytes::from_static(b"hi"),
    };
    let pushes = users.iter().map(push).collect();
    let (answer, _answered) = flume::bounded(1);
    node.request(0, Request::Push { pushes, answer });
    node.settle();
    assert!(users.iter().all(|user| user.texts().len() == 2));
    assert_eq!(node.stats().memory_cuts, 0);
}

/// A broadcast with many exceptions first copies earlier broadcasts to the outbox of each, and checked the bound only
/// after that.
#[test]
fn a_broadcast_with_many_exceptions_keeps_within_the_budget() {
    let mut node = Node::new(1, part_of(4096 * KIB));
    let users: Vec<_> = (0..100).map(|index| node.login(&format!("user{index}"))).collect();
    users.iter().for_each(|user| user.give_room(0));
    tally::take();
    let broadcast = |payload: Bytes, except| {
        let (answer, _) = flume::bounded(1);
        node.request(0, Request::Broadcast { kind: Kind::Text, payload, except, answer });
    };
    (0..200).for_each(|_| broadcast(Bytes::from(vec![b'x'; 4000]), Vec::new()));
    let except = users.iter().map(|user| (node.hasher.hash(user.uid.as_bytes()), user.uid.as_str().into()));
    broadcast(Bytes::from_static(b"hi"), except.collect());
    node.turn(0);
    let most = tally::take().held_max;
    assert!(most <= (4096 + 800) * KIB, "{most} bytes were held for a moment");
}
