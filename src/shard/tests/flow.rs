//! Sockets that take little, slow receivers, and shards that flood each other: messages arrive whole and in order, and
//! those that don't arrive are counted.

use std::time::Duration;

use proptest::prelude::*;

use super::frames::{BINARY, CLOSE, TEXT, close_code, frames, masked, plain};
use super::memory::{Client, Node, settings};
use crate::config::{SessionSettings, SlowConsumer};
use crate::frame::close;
use crate::mailbox::SHARE_FROM;

const POLICIES: [SlowConsumer; 3] = [SlowConsumer::Disconnect, SlowConsumer::DropNewest, SlowConsumer::DropOldest];

/// Longest message that the tests here send.
const MESSAGE_BYTES_MAX: usize = 9_000;

/// The `number`th message of a sender: its bytes contain both numbers, and a pattern that shows a missing part.
fn message(sender: usize, number: usize, length: usize) -> Vec<u8> {
    let mut bytes = format!("{sender} {number} ").into_bytes();
    let filler = bytes.len()..length;
    bytes.extend(filler.map(|index| ((index * 7 + number) % 251) as u8));
    bytes
}

/// Returns the sender and the number of a message that arrived; asserts that it is unchanged.
#[track_caller]
fn read(payload: &[u8]) -> (usize, usize) {
    let mut words = payload.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let word = std::str::from_utf8(words.next().expect("a word")).expect("a number is text");
        word.parse().expect("a number")
    };
    let (sender, number) = (number(), number());
    assert_eq!(payload, message(sender, number, payload.len()), "bytes changed");
    (sender, number)
}

fn command(to: &str, message: &[u8]) -> Vec<u8> {
    masked(BINARY, &[to.as_bytes(), b":", message].concat())
}

#[test]
fn whatever_a_socket_takes_at_once_the_bytes_are_the_same() {
    const EVERYBODY: bool = true;
    let sequence = [
        (!EVERYBODY, 20),
        (!EVERYBODY, SHARE_FROM),
        (EVERYBODY, SHARE_FROM + 1),
        (EVERYBODY, 30),
        (!EVERYBODY, 8),
        (EVERYBODY, 126),
        (EVERYBODY, SHARE_FROM),
        (!EVERYBODY, SHARE_FROM),
        (EVERYBODY, 9),
    ];
    for slow_consumer in POLICIES {
        let mut node = Node::new(1, SessionSettings { slow_consumer, ..settings() });
        let (alice, bob) = (node.login("alice"), node.login("bob"));
        let (mut sent, mut expected, mut edges) = (Vec::new(), Vec::new(), vec![0]);
        for (number, (is_for_all, length)) in sequence.into_iter().enumerate() {
            let message = message(0, number, length);
            sent.extend(command(if is_for_all { "all" } else { "bob" }, &message));
            expected.extend(plain(BINARY, &message));
            edges.push(expected.len());
        }
        let is_near_an_edge = |cut: &usize| edges.iter().any(|edge| edge.abs_diff(*cut) <= 12);
        for cut in (0..=expected.len()).filter(|cut| cut % 101 == 0 || is_near_an_edge(cut)) {
            for then in [0, 1, 5_000] {
                bob.give_room(cut);
                alice.send_bytes(&sent);
                node.settle();
                bob.give_room(then);
                node.settle();
                bob.give_room(usize::MAX);
                node.settle();
                let output = std::mem::take(&mut bob.wire.borrow_mut().output);
                assert!(output == expected, "cut at {cut}, then {then}, under {slow_consumer:?}");
                assert_eq!(alice.take().len(), 5);
            }
        }
        assert_eq!(node.shards[0].outboxes.take().bytes(), 0, "the memory of sent messages is freed");
    }
}

#[test]
fn a_healthy_receiver_is_not_closed_for_a_busy_turn() {
    let settings = SessionSettings { outbox_bytes_max: 10_000, ..settings() };
    let mut node = Node::new(1, settings);
    let bob = node.login("bob");
    let senders: Vec<_> = (0..64).map(|index| node.login(&format!("sender{index}"))).collect();
    for (index, sender) in senders.iter().enumerate() {
        (0..10).for_each(|number| sender.send_bytes(&command("bob", &message(index, number, 500))));
        sender.send_bytes(&command("all", &message(index, 10, 500)));
    }
    node.turn(0);
    assert_eq!(bob.take().len(), 64 * 11);
    assert_eq!(node.stats().slow_consumers + node.stats().shed_newest, 0);
}

/// A session that was closed while it caught up with the log got the next message behind its close frame.
#[test]
fn a_receiver_closed_by_broadcasts_gets_nothing_behind_its_close_frame() {
    let settings = SessionSettings { outbox_bytes_max: 10_000, ..settings() };
    let mut node = Node::new(1, settings);
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    bob.give_room(0);
    (0..3).for_each(|number| alice.send_bytes(&command("all", &message(0, number, 4_000))));
    alice.send_bytes(&command("bob", &message(0, 3, 100)));
    node.settle();
    bob.give_room(usize::MAX);
    node.settle();
    assert_eq!(bob.closed(), close::SLOW_CONSUMER);
    let stats = node.stats();
    assert_eq!((stats.slow_consumers, stats.shed_closed + stats.shed_newest, stats.delivered), (1, 4, 0));
}

#[test]
fn shards_that_flood_each_other_at_the_smallest_bound_deliver_everything() {
    for shards in [2, 3] {
        let mut node = Node::with_mailboxes(shards, settings(), 1024);
        let clients: Vec<Client> =
            (0..12).map(|index| node.login(&node.uid_on(index % shards, &format!("user{index}-")))).collect();
        for (index, client) in clients.iter().enumerate() {
            for number in 0..300 {
                let to = &clients[(index + number) % clients.len()].uid;
                let to = if number % 10 == 9 { "all" } else { to };
                let length = if number % 25 == 0 { SHARE_FROM } else { 40 };
                client.send_bytes(&command(to, &message(index, number, length)));
            }
        }
        node.settle();
        let arrived: usize = clients.iter().map(|client| client.take().len()).sum();
        assert_eq!(arrived, 12 * 270 + 12 * 30 * 12);
        let stats = node.stats();
        assert_eq!((stats.offline, stats.delivered), (0, 12 * 270));
        assert!(node.shards.iter().all(|shard| shard.stalled.len() == 0));
    }
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_others() {
    for slow_consumer in POLICIES {
        let settings = SessionSettings { slow_consumer, outbox_bytes_max: 10_000, ..settings() };
        let mut node = Node::with_mailboxes(2, settings, 1024);
        let (bob, stuck) = (node.login(&node.uid_on(1, "bob")), node.login(&node.uid_on(1, "stuck")));
        let alice = node.login(&node.uid_on(0, "alice"));
        stuck.give_room(0);
        for number in 0..500 {
            alice.send_bytes(&command(&stuck.uid, &message(0, number, 200)));
            alice.send_bytes(&command(&bob.uid, &message(0, number, 200)));
        }
        node.settle();
        assert_eq!(bob.take().len(), 500, "under {slow_consumer:?}");
        stuck.give_room(usize::MAX);
        node.settle();
        let got = stuck.take();
        let stats = node.stats();
        let shed = stats.shed_newest + stats.shed_oldest + stats.shed_closed;
        match slow_consumer {
            SlowConsumer::Disconnect => {
                assert_eq!((got.len(), close_code(&got[0])), (1, close::SLOW_CONSUMER));
                assert_eq!((shed + stats.offline, stats.slow_consumers), (500, 1));
            }
            SlowConsumer::DropNewest => assert_eq!(read(&got[0].1), (0, 0)),
            SlowConsumer::DropOldest => assert_eq!(read(&got[got.len() - 1].1), (0, 499)),
        }
        if slow_consumer != SlowConsumer::Disconnect {
            assert_eq!((got.len() as u64 + shed, stats.slow_consumers), (500, 0));
        }
    }
}

/// One step of a node.
#[derive(Clone, Debug)]
enum Step {
    /// A client sends to a client, itself perhaps, or to all if `to` is no client. After `split` bytes the shards run a
    /// round.
    Send { from: usize, to: usize, length: usize, split: usize },
    /// A client's socket takes this much more.
    Room { of: usize, bytes: usize },
    /// One shard has a turn.
    Turn(usize),
    /// A client's connection fails.
    Fail(usize),
}

const CLIENTS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![4 => 0_usize..200, 2 => SHARE_FROM - 3..SHARE_FROM + 3, 2 => 0..MESSAGE_BYTES_MAX];
    let split = prop_oneof![3 => Just(usize::MAX), 1 => 0_usize..200];
    let room = prop_oneof![2 => 0_usize..300, 2 => 0_usize..9_000, 1 => Just(usize::MAX), 1 => Just(0)];
    prop_oneof![
        40 => (0..CLIENTS, 0..CLIENTS + 2, length, split)
            .prop_map(|(from, to, length, split)| Step::Send { from, to, length, split }),
        10 => (0..CLIENTS, room).prop_map(|(of, bytes)| Step::Room { of, bytes }),
        10 => (0_usize..2).prop_map(Step::Turn),
        1 => (0..CLIENTS).prop_map(Step::Fail),
    ]
}

/// A node, its clients, and what they have sent.
struct Simulation {
    node: Node,
    clients: Vec<Client>,
    failed: [bool; CLIENTS],
    sent: [usize; CLIENTS],
}

impl Simulation {
    fn new(shards: usize, settings: SessionSettings, look: Duration) -> Self {
        let mut node = Node::with_mailboxes(shards, settings, 1024);
        let clients: Vec<_> =
            (0..CLIENTS).map(|index| node.login(&node.uid_on(index % shards, &format!("user{index}-")))).collect();
        node.slow_down(look);
        Self { node, clients, failed: [false; CLIENTS], sent: [0; CLIENTS] }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send { from, to, length, split } => {
                let to = self.clients.get(to).map_or("all", |client| &client.uid);
                let bytes = command(to, &message(from, self.sent[from], length));
                self.sent[from] += 1;
                let (first, rest) = bytes.split_at(split.min(bytes.len()));
                self.clients[from].send_bytes(first);
                if !rest.is_empty() {
                    self.node.round();
                    self.clients[from].send_bytes(rest);
                }
            }
            Step::Room { of, bytes } => self.clients[of].give_room(bytes),
            Step::Turn(shard) if shard < self.node.shards.len() => self.node.turn(shard),
            Step::Turn(_) => {}
            Step::Fail(index) => {
                self.clients[index].fail();
                self.failed[index] = true;
            }
        }
        // A frame of which a part was sent is finished whatever the bound; and control frames come on top.
        for shard in &mut self.node.shards {
            let held_max = shard.settings.outbox_bytes_max + MESSAGE_BYTES_MAX + 200;
            let mut place = 0;
            while let Some(key) = shard.sessions.next_key(place) {
                place = key.slot() + 1;
                let outbox = shard.sessions.get(key).and_then(|session| session.outbox.as_ref());
                assert!(outbox.is_none_or(|outbox| outbox.bytes() <= held_max));
            }
        }
    }

    /// Lets everything arrive, and compares it with the messages that were sent.
    fn finish(mut self) {
        self.clients.iter().for_each(|client| client.give_room(usize::MAX));
        self.node.settle();
        let stats = self.node.stats();
        assert_eq!(stats.memory_held, 0);
        let (mut arrived, mut closed) = (0, 0);
        for (client, has_failed) in self.clients.iter().zip(self.failed) {
            let output = std::mem::take(&mut client.wire.borrow_mut().output);
            let (mut got, rest) = frames(&output);
            assert!(rest.is_empty() || has_failed, "a frame was cut");
            if let Some(last) = got.pop_if(|(first, _)| *first == CLOSE) {
                assert_eq!(close_code(&last), close::SLOW_CONSUMER);
                closed += 1;
            }
            let mut next = [0; CLIENTS];
            for (first, payload) in got {
                assert_eq!(first, BINARY);
                let (sender, number) = read(&payload);
                assert!(number >= next[sender], "{number} came again, or after {}", next[sender]);
                next[sender] = number + 1;
                arrived += 1;
            }
        }
        let everywhere = stats.broadcasts / self.node.shards.len() as u64;
        let sent = stats.frames_in - everywhere + stats.broadcast_deliveries;
        let shed = stats.shed_newest + stats.shed_oldest + stats.shed_closed;
        assert_eq!(sent, arrived + stats.offline + shed, "arrived {arrived}, {stats:?}");
        if !self.failed.contains(&true) {
            assert_eq!(closed, stats.slow_consumers);
            let all: usize = self.sent.iter().sum();
            assert!(closed > 0 || stats.frames_in == all as u64, "{} of {all} were read", stats.frames_in);
        }
    }
}

proptest! {
    /// Under any policy, load and sockets: messages arrive whole, unchanged, in order and once, and those that
    /// don't arrive are counted once.
    #[test]
    fn every_message_arrives_once_in_order_or_is_counted(
        shards in 1_usize..3,
        slow_consumer in prop::sample::select(&POLICIES[..]),
        outbox_bytes_max in MESSAGE_BYTES_MAX + 34..40_000,
        look in 0_u64..300,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let settings = SessionSettings {
            slow_consumer,
            outbox_bytes_max,
            message_bytes_max: MESSAGE_BYTES_MAX + 20,
            heartbeat_interval: Duration::from_secs(3600),
            message_timeout: Duration::from_secs(3600),
            ..settings()
        };
        let mut simulation = Simulation::new(shards, settings, Duration::from_micros(look));
        steps.iter().for_each(|step| simulation.step(step));
        simulation.finish();
    }
}

#[test]
fn a_message_of_the_largest_size_reaches_everybody() {
    let mut node = Node::new(2, settings());
    let clients: Vec<_> = (0..6).map(|index| node.login(&node.uid_on(index % 2, &format!("user{index}-")))).collect();
    let text = "x".repeat((1 << 20) - 4);
    clients[0].send_bytes(&masked(TEXT, format!("all:{text}").as_bytes()));
    clients.iter().for_each(|client| client.give_room(100_000));
    node.settle();
    clients.iter().for_each(|client| client.give_room(usize::MAX));
    node.settle();
    assert!(clients.iter().all(|client| client.texts() == [text.as_str()]));
}
