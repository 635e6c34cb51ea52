//! One turn of a shard: sends are gathered, order is kept, budgets hold, and a panic ends one session only.

use std::time::Duration;

use bytes::Bytes;

use super::frames::{BINARY, PING, PONG, TEXT, masked};
use super::memory::{Client, Node, settings};
use crate::config::{DuplicateLogin, SessionSettings};
use crate::frame::close;
use crate::message::{Delivery, Kind};
use crate::shard::budget::{CONNECTION_DELIVERIES, TURN_BYTES, TURN_DELIVERIES};
use crate::shard::{HashedPush, PANIC_PAYLOAD, Request, SessionKey};

#[test]
fn everything_due_to_a_socket_goes_out_in_one_send() {
    for shards in [1, 2] {
        let mut node = Node::new(shards, settings());
        let bob = node.login(&node.uid_on(0, "bob"));
        let senders: Vec<_> =
            (0..4).map(|index| node.login(&node.uid_on(shards - 1, &format!("sender{index}-")))).collect();
        for (index, sender) in senders.iter().enumerate() {
            for message in 0..4 {
                sender.send(&format!("{}:{index}{message}", bob.uid));
            }
        }
        node.settle();
        let texts = bob.texts();
        for index in 0..4 {
            let of: Vec<_> = texts.iter().filter(|text| text.starts_with(&index.to_string())).collect();
            assert_eq!(of, [0, 1, 2, 3].map(|message| format!("{index}{message}")).iter().collect::<Vec<_>>());
        }
        assert_eq!((texts.len(), bob.sends()), (16, 1), "{shards} shards");
        assert!(senders.iter().all(|sender| sender.sends() == 0));
    }
}

#[test]
fn broadcasts_cost_one_send_per_receiver_straight_from_the_log() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..20).map(|index| node.login(&format!("user{index}"))).collect();
    for text in ["all:one", "all:two", "all:three"] {
        clients[7].send(text);
    }
    node.turn(0);
    let from = clients[0].wire.borrow().sent_from;
    for client in &clients {
        assert_eq!(client.texts(), ["one", "two", "three"]);
        let wire = client.wire.borrow();
        assert_eq!((wire.sends, wire.sent_from), (1, from), "a copy was made");
    }
}

#[test]
fn unicasts_and_broadcasts_keep_their_order_in_one_send() {
    let large = "x".repeat(5000);
    for shards in [1, 2] {
        let mut node = Node::new(shards, settings());
        let bob = node.login(&node.uid_on(0, "bob"));
        let alice = node.login(&node.uid_on(shards - 1, "alice"));
        let mut expected = Vec::new();
        for (index, text) in ["a", &large, "b", "c", &large, "d", "e", &large].iter().enumerate() {
            let text = format!("{index}{text}");
            let to = if index % 3 == 1 { "all" } else { &bob.uid };
            alice.send(&format!("{to}:{text}"));
            expected.push(text);
        }
        node.settle();
        assert_eq!((bob.texts(), bob.sends()), (expected, 1), "{shards} shards");
        assert_eq!(alice.texts().len(), 3);
    }
}

#[test]
fn kinds_and_bytes_are_unchanged() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    bob.send_frame(BINARY, b"bob:\xff\x00");
    bob.send_frame(TEXT, b"bob:");
    bob.send_frame(TEXT, b"nobody:x");
    bob.send_frame(BINARY, b"all:a:b");
    node.turn(0);
    assert_eq!(bob.take(), [(BINARY, b"\xff\x00".to_vec()), (TEXT, vec![]), (BINARY, b"a:b".to_vec())]);
    assert_eq!(node.stats().offline, 1);
}

#[test]
fn a_session_that_joins_mid_turn_gets_no_earlier_broadcast() {
    let mut node = Node::new(1, settings());
    let alice = node.login("alice");
    alice.send("all:before");
    let bob = node.hand_over("bob", node.draw(), &masked(TEXT, b"all:after"));
    node.settle();
    assert_eq!(alice.texts(), ["before", "after"]);
    assert_eq!(bob.texts(), ["", "after"]);
}

#[test]
fn a_read_full_of_broadcasts_starves_nobody() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..100).map(|index| node.login(&format!("user{index}"))).collect();
    let flood = masked(TEXT, b"all:").repeat(6_500);
    clients[0].send_bytes(&flood);
    clients[1].send("user2:hi");
    let before = node.stats().broadcast_deliveries;
    node.turn(0);
    let deliveries = node.stats().broadcast_deliveries - before;
    assert!(deliveries <= CONNECTION_DELIVERIES as u64 + 101, "{deliveries} in a turn");
    assert_eq!(clients[2].texts().iter().filter(|text| *text == "hi").count(), 1, "in the same turn");
    node.settle();
    assert_eq!(clients[3].take().len(), 6_500);
}

/// Ten connections with enough broadcasts for every turn kept a shard from taking mail and requests, a drain among
/// them.
#[test]
fn a_flood_from_its_own_clients_keeps_a_shard_from_neither_mail_nor_requests() {
    let mut node = Node::new(2, settings());
    let own: Vec<_> = (0..100).map(|index| node.login(&node.uid_on(0, &format!("user{index}-")))).collect();
    let alice = node.login(&node.uid_on(1, "alice"));
    for flooder in &own[..10] {
        flooder.send_bytes(&masked(TEXT, b"all:").repeat(6_500));
    }
    alice.send(&format!("{}:hi", own[99].uid));
    let (answer, answered) = flume::bounded(1);
    node.request(0, Request::Stats { answer });
    (0..6).for_each(|_| _ = node.round());
    assert!(node.stats().frames_in < 10 * 6_500, "the flood must last longer than this test looks");
    assert!(answered.try_recv().is_ok());
    assert!(own[99].take().contains(&(TEXT, b"hi".to_vec())));
    node.settle();
    assert_eq!(own[98].take().len(), 10 * 6_500);
}

/// A push waited for the messages of thousands of busy clients: 70 ms.
#[test]
fn requests_are_answered_during_a_long_turn() {
    let mut node = Node::new(1, settings());
    let own: Vec<_> = (0..100).map(|index| node.login(&format!("user{index}"))).collect();
    for flooder in &own[..60] {
        flooder.send_bytes(&masked(TEXT, b"all:").repeat(6_500));
    }
    // Every slice is over at its first reading of the clock.
    node.slow_down(Duration::from_millis(1));
    // Enough turns for requests to be first, second and third in order.
    for _ in 0..6 {
        let (answer, answered) = flume::bounded(1);
        let bob =
            HashedPush { hash: node.hasher.hash(b"bob"), uid: "bob".into(), kind: Kind::Text, payload: Bytes::new() };
        node.request(0, Request::Push { pushes: vec![bob], answer });
        node.turn(0);
        assert_eq!(answered.try_recv(), Ok(vec![Delivery::Offline]));
    }
    assert!(node.stats().frames_in < 60 * 6_500, "the flood must last longer than this test looks");
}

/// Messages to one uid waited for the whole of a broadcast to 15,000: 50 ms.
#[test]
fn messages_to_one_are_delivered_during_a_broadcast_to_many() {
    let mut node = Node::new(1, settings());
    let all: Vec<_> = (0..400).map(|index| node.login(&format!("user{index}"))).collect();
    // As many as one poll returns: the message of the next client is received during the fan-out at the earliest.
    all[0].send("all:to many");
    all[1..256].iter().for_each(|client| client.send("nobody:there"));
    all[256].send("user399:to one");
    // Every slice is over at its first reading of the clock.
    node.slow_down(Duration::from_millis(1));
    node.turn(0);
    assert_eq!((all[399].texts(), all[399].sends()), (vec!["to many".to_owned(), "to one".to_owned()], 1));
    assert!(all[..399].iter().all(|client| client.texts() == ["to many"] && client.sends() == 1));
}

/// Each turn took the locks inside the queues from outside several times. Now a shard touches them only after the bell
/// was rung: an entry without a ring is not found, in any number of turns that route messages.
#[test]
fn a_turn_without_an_announced_entry_takes_no_lock() {
    let mut node = Node::new(2, settings());
    let [alice, bob] = [0, 1].map(|shard| node.login(&node.uid_on(shard, "user")));
    let (answer, answered) = flume::bounded(1);
    node.request_silently(0, Request::Stats { answer });
    for _ in 0..50 {
        alice.send(&format!("{}:hi", bob.uid));
        alice.send("all:ho");
        bob.send(&format!("{}:hi", alice.uid));
        node.settle();
        assert_eq!((alice.texts().len(), bob.texts().len()), (2, 2));
        node.pass(Duration::from_secs(1));
    }
    assert_eq!(node.shards[0].inlets.requests.len(), 1, "a turn looked into the queue");
    node.ring(0);
    node.settle();
    assert!(answered.try_recv().is_ok());
    // And again: the queue was found empty, and is not touched.
    let (answer, answered) = flume::bounded(1);
    node.request_silently(0, Request::Stats { answer });
    (0..10).for_each(|_| _ = node.round());
    assert!(answered.try_recv().is_err());
}

#[test]
fn pushes_and_broadcasts_from_outside_are_answered() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    let hash = node.hasher.hash(b"bob");
    let (answer, pushed) = flume::bounded(1);
    let pushes = ["bob", "eve"]
        .map(|uid| HashedPush { hash, uid: uid.into(), kind: Kind::Text, payload: Bytes::from_static(b"hi") })
        .into();
    node.request(0, Request::Push { pushes, answer });
    let (answer, broadcast) = flume::bounded(1);
    let payload = Bytes::from_static(b"ho");
    node.request(0, Request::Broadcast { kind: Kind::Text, payload, except: Vec::new(), answer });
    node.settle();
    assert_eq!(pushed.try_recv(), Ok(vec![Delivery::Delivered { sessions: 1 }, Delivery::Offline]));
    assert_eq!(broadcast.try_recv(), Ok(1));
    assert_eq!((bob.texts(), bob.sends()), (vec!["hi".to_owned(), "ho".to_owned()], 1));
}

#[test]
fn a_panic_in_a_sessions_code_ends_that_session_only() {
    let mut node = Node::new(1, settings());
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    alice.send("bob:before");
    alice.send_frame(BINARY, PANIC_PAYLOAD);
    alice.send("bob:behind");
    bob.send("bob:mine");
    node.settle();
    assert_eq!(alice.closed(), close::INTERNAL_ERROR);
    assert!(alice.wire.borrow().is_finished);
    assert_eq!(bob.texts(), ["before", "mine"]);
    let stats = node.stats();
    assert_eq!((stats.panics, stats.violations, stats.sessions), (1, 0, 1));
    bob.send("alice:gone?");
    bob.send("bob:still here");
    node.settle();
    assert_eq!((bob.texts(), node.stats().offline), (vec!["still here".to_owned()], 1));
    // The uid is free.
    let alice = node.login("alice");
    bob.send("alice:back?");
    alice.send("bob:back");
    node.settle();
    assert_eq!((alice.texts(), bob.texts()), (vec!["back?".to_owned()], vec!["back".to_owned()]));
}

#[test]
fn a_receiver_closed_in_the_middle_of_a_read_is_offline_for_the_rest_of_it() {
    for name in ["bob", &"b".repeat(32), &"b".repeat(33)] {
        let mut node =
            Node::new(1, SessionSettings { outbox_bytes_max: 2_000, message_bytes_max: 1_000, ..settings() });
        let (alice, bob, carol) = (node.login("alice"), node.login(name), node.login("carol"));
        bob.give_room(0);
        let for_bob = masked(TEXT, format!("{name}:{}", "x".repeat(900)).as_bytes());
        // Bob's outbox holds two messages. The third closes his session, and those behind it find him offline.
        let sent = [for_bob.repeat(5), masked(TEXT, b"carol:hi"), for_bob.repeat(2), masked(TEXT, b"carol:bye")];
        alice.send_bytes(&sent.concat());
        node.settle();
        let stats = node.stats();
        assert_eq!((stats.delivered, stats.slow_consumers, stats.offline), (4, 1, 4), "{name}");
        assert_eq!(carol.texts(), ["hi", "bye"]);
        bob.give_room(usize::MAX);
        node.settle();
        assert_eq!(bob.closed(), close::SLOW_CONSUMER);
    }
}

#[test]
fn messages_to_alternating_receivers_reach_the_right_one() {
    for shards in [1, 2] {
        let mut node = Node::new(shards, SessionSettings { duplicate_login: DuplicateLogin::Share, ..settings() });
        let alice = node.login(&node.uid_on(0, "alice"));
        let names = ["a", "ab", "abc", &"a".repeat(32), &"a".repeat(33)];
        let receivers = names.map(|name| node.login(name));
        let second = node.login("ab");
        let mut expected = names.map(|_| Vec::new());
        let mut sent = Vec::new();
        for number in 0..100_usize {
            // Each in turn, and each twice in a row.
            let to = number * number / 2 % names.len();
            sent.extend(masked(TEXT, format!("{}:{number}", names[to]).as_bytes()));
            expected[to].push(number.to_string());
        }
        alice.send_bytes(&sent);
        node.settle();
        assert_eq!(second.texts(), expected[1]);
        for (receiver, expected) in receivers.iter().zip(expected) {
            assert_eq!(receiver.texts(), expected, "{}", receiver.uid);
        }
    }
}

/// The flush went on as long as blocked receivers became writable meanwhile: no session was read or adopted until all
/// of them had everything.
#[test]
fn receivers_that_drain_large_outboxes_hold_nobody_up() {
    const RECEIVERS: usize = 1000;
    let mut node = Node::new(1, settings());
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    let receivers = node.log_in_many(RECEIVERS);
    let message = "x".repeat(50_000);
    for receiver in &receivers {
        receiver.give_room(0);
        alice.send(&format!("{}:{message}", receiver.uid));
    }
    node.settle();
    receivers.iter().for_each(|receiver| receiver.read_slowly(100));
    // Each reading of the clock ends a slice, after which the shard polls.
    node.slow_down(Duration::from_millis(1));
    let newcomer = node.hand_over("newcomer", node.draw(), &[]);
    bob.send_frame(PING, b"there?");
    for _ in 0..3 {
        node.turn(0);
    }
    assert_eq!(bob.take(), [(PONG, b"there?".to_vec())]);
    assert_eq!(newcomer.texts(), [""], "the answer to the login");
    let waiting = receivers.iter().filter(|receiver| receiver.wire.borrow().output.len() < message.len()).count();
    assert_eq!(waiting, RECEIVERS, "they are still at it");
    receivers.iter().for_each(|receiver| receiver.read_slowly(usize::MAX));
    node.slow_down(Duration::ZERO);
    node.settle();
    assert!(receivers.iter().all(|receiver| receiver.texts() == [message.as_str()]));
}

/// A message to many sessions cost as little budget as one to a single session: from a client, by mail, and as a push.
#[test]
fn a_message_costs_one_delivery_for_each_session_it_reaches() {
    const SESSIONS: usize = 100;
    let share = SessionSettings { duplicate_login: DuplicateLogin::Share, uid_sessions_max: SESSIONS, ..settings() };
    let mut node = Node::new(2, share);
    let bob = node.uid_on(0, "bob");
    let sessions: Vec<_> = (0..SESSIONS).map(|_| node.login(&bob)).collect();
    let (here, there) = (node.login(&node.uid_on(0, "here")), node.login(&node.uid_on(1, "there")));
    let spent = |node: &mut Node, way: &str| {
        node.turn(1);
        node.turn(0);
        let budget = node.shards[0].budget.left();
        assert_eq!(TURN_DELIVERIES - budget.deliveries, SESSIONS, "{way}");
        assert_eq!(TURN_BYTES - budget.bytes, SESSIONS * 5, "{way}");
        assert!(sessions.iter().all(|session| session.texts() == ["hello"]), "{way}");
    };
    here.send(&format!("{bob}:hello"));
    spent(&mut node, "from a client of the same shard");
    there.send(&format!("{bob}:hello"));
    spent(&mut node, "by mail");
    let (answer, answered) = flume::bounded(1);
    let hash = node.hasher.hash(bob.as_bytes());
    let push = HashedPush { hash, uid: bob.as_str().into(), kind: Kind::Text, payload: Bytes::from_static(b"hello") };
    node.request(0, Request::Push { pushes: vec![push], answer });
    node.turn(0);
    // The request itself costs one delivery.
    assert_eq!(TURN_DELIVERIES - node.shards[0].budget.left().deliveries, SESSIONS + 1);
    assert_eq!(answered.recv(), Ok(vec![Delivery::Delivered { sessions: SESSIONS }]));
}

/// A broadcast with exceptions took time by the square of their number, and cost nothing of the turn's budget.
#[test]
fn a_broadcast_with_exceptions_costs_the_budget_each_of_them() {
    const LEFT_OUT: usize = 2000;
    let mut node = Node::new(1, settings());
    let alice = node.login("alice");
    let left_out = node.log_in_many(LEFT_OUT);
    let named = |client: &Client| (node.hasher.hash(client.uid.as_bytes()), client.uid.as_str().into());
    // Each is listed twice, and left out once.
    let except = left_out.iter().chain(&left_out).map(named).collect();
    let (answer, answered) = flume::bounded(1);
    node.request(0, Request::Broadcast { kind: Kind::Text, payload: Bytes::from_static(b"hi"), except, answer });
    node.turn(0);
    assert_eq!(answered.recv(), Ok(1));
    let spent = TURN_DELIVERIES - node.shards[0].budget.left().deliveries;
    assert!(spent >= 2 * LEFT_OUT, "{spent} of the budget for {LEFT_OUT} named twice");
    assert_eq!(alice.texts(), ["hi"]);
    assert!(left_out.iter().all(|client| client.take().is_empty()));
}

/// Memory of a peak was kept as long as one session stayed, and each broadcast walked all slots that had ever been
/// used.
#[test]
fn after_a_peak_memory_and_walks_shrink_with_the_sessions() {
    const PEAK: usize = 4000;
    const STAY: usize = 50;
    let mut node = Node::new(1, settings());
    let clients = node.log_in_many(PEAK);
    // All sessions are on the run list at once, and on the dirty list, and later on the closing list.
    clients.iter().for_each(|client| client.send_frame(PING, b""));
    node.settle();
    let tables = |node: &Node| {
        let shard = &node.shards[0];
        shard.sessions.table_bytes() + shard.registry.table_bytes() + shard.lists.table_bytes()
    };
    let peak = tables(&node);
    let stays = |index: usize| index.is_multiple_of(PEAK / STAY);
    let gone = clients.iter().enumerate().filter(|(index, _)| !stays(*index));
    gone.for_each(|(_, client)| client.fail());
    node.settle();
    node.pass(Duration::from_secs(2));
    node.settle();
    assert_eq!(node.stats().sessions as usize, STAY);
    let after = tables(&node);
    // A session that stays keeps the group of its slot: 64 pointers.
    assert!(after <= STAY * (64 * 8 + 100) + 8192, "{after} of {peak} bytes for {STAY} sessions");
    let stay: Vec<_> = clients.iter().enumerate().filter(|(index, _)| stays(*index)).collect();
    stay.iter().for_each(|(_, client)| drop(client.take()));
    stay[0].1.send("all:hi");
    node.settle();
    assert!(stay.iter().all(|(_, client)| client.texts() == ["hi"]));
    // New sessions take the lowest free slots.
    let newcomer = node.login("newcomer");
    assert_eq!(node.shards[0].sessions.next_key(1).map(SessionKey::slot), Some(1));
    drop(newcomer);
}
