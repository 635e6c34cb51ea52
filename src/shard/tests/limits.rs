//! What one session may cost, by the clock: rates, the memory budget, pongs, fragments, and who counts as silent.

use std::time::Duration;

use super::memory::{Node, PING, PONG, settings};
use crate::mailbox::SHARE_FROM;

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
    let flood = |client: &super::memory::Client, to: &str| {
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
