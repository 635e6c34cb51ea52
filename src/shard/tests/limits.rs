//! What one session may cost, by the clock: rates, the memory budget, pongs, fragments, and who counts as silent.

use std::time::Duration;

use super::memory::{Client, Node, PING, PONG, TEXT, masked, settings};
use crate::mailbox::SHARE_FROM;
use crate::shard::TURN_DELIVERIES;

const SECOND: Duration = Duration::from_secs(1);

/// Later than a deadline, by what the wheel may be late.
const LATE: Duration = Duration::from_millis(200);

/// One poll tells of so many sockets only: those whose answer had come, but was not told of, were closed.
#[test]
fn who_has_answered_while_the_shard_stood_still_is_not_silent() {
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

/// A session that was given the place of one that had waited for another shard was resumed in its stead.
#[test]
fn a_session_waits_for_what_it_filled_and_not_for_what_an_earlier_one_did() {
    let mut node = Node::with_mailboxes(3, settings(), 1024);
    let alice = node.login(&node.uid_on(0, "alice"));
    let [bob, dave] = [1, 2].map(|shard| node.uid_on(shard, "receiver"));
    let flood = |client: &Client, to: &str| {
        (0..3).for_each(|_| client.send(&format!("{to}:{}", "x".repeat(SHARE_FROM))));
    };
    flood(&alice, &bob);
    (0..10).for_each(|_| node.turn(0));
    // Replaced while it waits; its place is free once it has gone.
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
    // The shard that alice waited for makes room; the one that carol waits for doesn't.
    (0..3).for_each(|_| node.turn(1));
    (0..3).for_each(|_| node.turn(0));
    assert_eq!(node.shards[0].stats().frames_in, taken);
    node.settle();
    assert_eq!(node.shards[0].stats().frames_in, taken + 1);
}

#[test]
fn every_ping_of_a_peer_that_reads_is_answered_in_its_place() {
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
        let held = node.shards[0].sessions.get(0).and_then(|session| session.outbox.as_ref().map(|o| o.bytes()));
        assert_eq!(held, Some(127), "one pong");
    }
    bob.give_room(usize::MAX);
    node.settle();
    assert_eq!(bob.take(), [(PONG, vec![0; 125]), (PONG, vec![99; 125])]);
    bob.send_frame(PING, b"again");
    node.settle();
    assert_eq!(bob.take(), [(PONG, b"again".to_vec())]);
}

/// Fragments cost a share of the turn each, whatever they carry: ten thousand empty ones fit into one read, and cost as
/// much to decode as as many messages.
#[test]
fn empty_fragments_cost_their_turn() {
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

/// Bytes count when they come, not only when their message is whole.
#[test]
fn parts_of_messages_cost_what_they_carry() {
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
