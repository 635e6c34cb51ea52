//! Sessions that log in and end in the middle of messages: a session key never names another session.

use super::frames::{TEXT, masked};
use super::memory::{Client, Node, settings};
use crate::config::{DuplicateLogin, SessionSettings};

/// Length of a message that is longer than one read, so that its rest is received straight into the buffer of the
/// message.
const LONG: usize = 300_000;

/// Has `sender` send the beginning of a long message to `uid`; returns the message and the bytes that are left.
fn begin(node: &mut Node, sender: &Client, uid: &str) -> (String, Vec<u8>) {
    let message = "x".repeat(LONG);
    let frame = masked(TEXT, format!("{uid}:{message}").as_bytes());
    let (begun, rest) = frame.split_at(20_000);
    sender.send_bytes(begun);
    node.settle();
    (message, rest.to_vec())
}

/// The cache of the last recipient survived on the path by which the rest of a long message is received, and the key in
/// it had been given to another session.
#[test]
fn a_long_message_whose_receiver_left_meanwhile_reaches_nobody_else() {
    let mut node = Node::new(1, settings());
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|uid| node.login(uid));
    let (_, rest) = begin(&mut node, &alice, "bob");
    eve.send("bob:x");
    node.settle();
    assert_eq!(bob.texts(), ["x"]);
    bob.fail();
    node.settle();
    let carol = node.login("carol");
    alice.send_bytes(&rest);
    node.settle();
    assert_eq!(carol.texts(), [""; 0], "bob's message");
    assert_eq!(node.stats().offline, 1);
}

#[test]
fn a_second_session_gets_a_long_message_that_was_begun_before_it_logged_in() {
    let share = SessionSettings { duplicate_login: DuplicateLogin::Share, ..settings() };
    let mut node = Node::new(1, share);
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|uid| node.login(uid));
    let (message, rest) = begin(&mut node, &alice, "bob");
    eve.send("bob:x");
    node.settle();
    let bob_again = node.login("bob");
    alice.send_bytes(&rest);
    node.settle();
    assert_eq!(bob.texts(), ["x".to_owned(), message.clone()]);
    assert_eq!(bob_again.texts(), [message]);
}
