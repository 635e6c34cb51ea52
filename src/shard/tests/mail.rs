//! Mail to a destination that has no room: the bound of a batch, and the order of stalled sessions.

use super::frames::TEXT;
use super::memory::{Client, Node, settings};
use crate::config::SessionSettings;
use crate::shard::budget::TURN_DELIVERIES;

/// Most bytes of a letter besides its message.
const LETTER_BYTES: usize = 400;

/// Longest message in this file: it fits into one read.
const MESSAGE_BYTES: usize = 60_000;

/// A node with `senders` connections on its first shard.
fn node_with_senders(
    shards: usize,
    settings: SessionSettings,
    mailbox_bytes_max: usize,
    senders: usize,
) -> (Node, Vec<Client>) {
    let mut node = Node::with_mailboxes(shards, settings, mailbox_bytes_max);
    let clients = (0..senders).map(|index| node.login(&node.uid_on(0, &format!("sender{index}-")))).collect();
    (node, clients)
}

fn large(client: &Client, to: &str, name: &str) {
    client.send(&format!("{to}:{name} {}", "x".repeat(MESSAGE_BYTES)));
}

/// Takes the messages that have arrived; returns the first word of each.
fn names(client: &Client) -> Vec<String> {
    client.texts().iter().map(|text| text.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// Each connection could add one message to a batch that was full already.
#[test]
fn many_connections_add_no_more_than_one_message_to_a_full_batch() {
    const SENDERS: usize = 200;
    let (mut node, senders) = node_with_senders(2, settings(), 64 << 10, SENDERS);
    let bob = node.login(&node.uid_on(1, "bob"));
    for (index, sender) in senders.iter().enumerate() {
        large(sender, &bob.uid, &format!("{index}"));
        large(sender, &bob.uid, &format!("{index}-again"));
    }
    let mut most = 0;
    for _ in 0..100 {
        node.turn(0);
        most = node.shards[0].mailbox.held().max(most);
    }
    let bound = (64 << 10) + MESSAGE_BYTES + LETTER_BYTES;
    assert!(most > 64 << 10, "the flood must be more than a batch holds");
    assert!(most <= bound, "{most} bytes of mail in hand, expected at most {bound}");
    let mut arrived = Vec::new();
    while node.round() {
        assert!(node.shards[0].mailbox.held() <= bound);
        arrived.extend(names(&bob));
    }
    for index in 0..SENDERS {
        let of: Vec<_> = arrived.iter().filter(|name| name.split('-').next() == Some(&index.to_string())).collect();
        assert_eq!(of, [&format!("{index}"), &format!("{index}-again")]);
    }
}

/// The session that has been stalled longest is resumed first, however much the others have to send.
#[test]
fn stalled_sessions_are_resumed_in_the_order_in_which_they_stalled() {
    let (mut node, senders) = node_with_senders(2, settings(), 1024, 5);
    let bob = node.login(&node.uid_on(1, "bob"));
    for round in 0..4 {
        for (index, sender) in senders.iter().enumerate() {
            sender.send(&format!("{}:{index}{round} {}", bob.uid, "x".repeat(2000)));
        }
    }
    node.settle();
    // The first sender's second message waits before the others' first.
    let (first, rounds) =
        (["00", "01", "10", "20", "30", "40"], [["02", "11", "21", "31", "41"], ["03", "12", "22", "32", "42"]]);
    let expected = [&first[..], &rounds.concat(), &["13", "23", "33", "43"]].concat();
    assert_eq!(names(&bob), expected);
}

/// Frames behind a stalled message are not decoded. Sessions that send to other shards are not stalled.
#[test]
fn only_sessions_whose_next_message_has_no_room_are_stalled() {
    let (mut node, senders) = node_with_senders(3, settings(), 1024, 3);
    let [bob, dave] = [1, 2].map(|shard| node.login(&node.uid_on(shard, "receiver")));
    // One batch is in flight, the other is full.
    (0..2).for_each(|_| large(&senders[0], &bob.uid, "full"));
    (0..4).for_each(|_| node.turn(0));
    senders[1].send(&format!("{}:waits", bob.uid));
    senders[1].send(&format!("{}:behind", dave.uid));
    senders[2].send(&format!("{}:goes on", dave.uid));
    senders[2].send(&format!("{}:home", senders[1].uid));
    (0..4).for_each(|_| node.turn(0));
    node.turn(2);
    assert_eq!((dave.texts(), senders[1].texts()), (vec!["goes on".to_owned()], vec!["home".to_owned()]));
    assert_eq!(node.shards[0].stats().mail_stalls, 1);
    node.settle();
    assert_eq!(names(&bob), ["full", "full", "waits"]);
    assert_eq!(dave.texts(), ["behind"]);
}

/// A broadcast needs room at every destination. It must not wait for a moment in which all of them have room:
/// other messages fill one batch while another is emptied.
#[test]
fn broadcasts_are_not_starved_by_messages_to_one() {
    let (mut node, senders) = node_with_senders(3, settings(), 1024, 6);
    let receivers = [1, 2].map(|shard| node.login(&node.uid_on(shard, "receiver")));
    let fill = |from: &[Client]| {
        for (index, sender) in from.iter().enumerate() {
            (0..3).for_each(|_| sender.send(&format!("{}:x {}", receivers[index % 2].uid, "x".repeat(2000))));
        }
    };
    fill(&senders[..4]);
    node.turn(0);
    senders[4].send("all:everybody");
    senders[5].send("all:everybody");
    let mut got = 0;
    let most = 1024 + 2 * (2000 + LETTER_BYTES);
    for round in 0..20 {
        // There is always another message, and the destinations are emptied by turns.
        fill(&senders[..4]);
        node.turn(0);
        node.turn(1 + round % 2);
        let held = node.shards[0].mailbox.held();
        assert!(held <= 2 * most, "{held} bytes of mail in hand");
        got += names(&senders[0]).iter().filter(|name| *name == "everybody").count();
    }
    assert_eq!(got, 2, "broadcasts that went out within 20 turns");
    node.settle();
    for receiver in &receivers {
        assert_eq!(names(receiver).iter().filter(|name| *name == "everybody").count(), 2);
    }
}

/// A stalled message belongs to its sender, like all bytes that were received and not decoded.
#[test]
fn a_stalled_message_is_dropped_with_its_session_and_counts_as_its_memory() {
    let (mut node, senders) = node_with_senders(2, settings(), 1024, 2);
    let bob = node.login(&node.uid_on(1, "bob"));
    (0..2).for_each(|_| large(&senders[0], &bob.uid, "full"));
    (0..4).for_each(|_| node.turn(0));
    let before = node.shards[0].stats().memory_held;
    large(&senders[1], &bob.uid, "waits");
    (0..2).for_each(|_| node.turn(0));
    let held = (node.shards[0].stats().memory_held - before) as usize;
    assert!((MESSAGE_BYTES..MESSAGE_BYTES + 2000).contains(&held), "{held} bytes");
    senders[1].fail();
    node.hand_over(&senders[1].uid, node.draw(), &[]);
    (0..4).for_each(|_| node.turn(0));
    assert_eq!(node.shards[0].stats().memory_held, before);
    node.settle();
    assert_eq!(names(&bob), ["full", "full"]);
}

/// Mail that is gathered or in flight counts as memory, as outboxes do.
#[test]
fn mail_counts_for_the_memory_budget() {
    const MAIL: usize = 1 << 20;
    const BUDGET: usize = 6 << 20;
    let settings = SessionSettings { memory_bytes_max: BUDGET, ..settings() };
    let (mut node, senders) = node_with_senders(2, settings, MAIL, 80);
    let bob = node.login(&node.uid_on(1, "bob"));
    senders.iter().for_each(|sender| (0..2).for_each(|_| large(sender, &bob.uid, "x")));
    for _ in 0..20 {
        node.turn(0);
        let shard = &node.shards[0];
        let all = shard.stats().memory_held as usize + shard.mailbox.memory();
        assert!(all <= BUDGET, "{all} bytes");
    }
    assert!(node.shards[0].mailbox.memory() > 2 * MAIL, "a batch in flight, and one in hand");
    let (cuts, sessions) = (node.stats().memory_cuts, node.stats().sessions);
    assert!(cuts > 0, "stalled messages have room in the share, but not beside the mail");
    assert!(sessions > 20, "no more are cut than must be, {sessions} are left");
    node.settle();
    node.login(&node.uid_on(0, "carol")).send_frame(TEXT, b"all:still here");
    node.settle();
    assert!(names(&bob).contains(&"still".to_owned()));
    assert_eq!(node.shards[0].mailbox.memory(), 0);
}

/// All stalled broadcasts went out in one turn as soon as there was room, many times over its budget.
#[test]
fn stalled_broadcasts_keep_within_the_budget_of_a_turn() {
    const USERS: usize = 400;
    let mut node = Node::with_mailboxes(2, settings(), 256 << 10);
    let users: Vec<_> = (0..USERS).map(|index| node.login(&node.uid_on(0, &format!("user{index}-")))).collect();
    let bob = node.login(&node.uid_on(1, "bob"));
    (0..5).for_each(|_| users[0].send(&format!("{}:{}", bob.uid, "x".repeat(200 << 10))));
    (0..60).for_each(|_| node.turn(0));
    users[1..].iter().for_each(|user| user.send("all:x"));
    (0..60).for_each(|_| node.turn(0));
    assert!(node.shards[0].stats().mail_stalls > 300, "they wait for the other shard");
    node.turn(1);
    let mut most = 0;
    for _ in 0..20 {
        let before = node.shards[0].stats().broadcast_deliveries;
        node.turn(0);
        most = most.max(node.shards[0].stats().broadcast_deliveries - before);
        node.turn(1);
    }
    assert!(most as usize <= TURN_DELIVERIES + USERS, "{most} deliveries in a turn");
    node.settle();
    assert_eq!(node.stats().broadcasts_sent as usize, USERS - 1, "none is forgotten");
}
