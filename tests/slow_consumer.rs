//! A receiver that is behind: each policy acts on it alone, drops whole messages only, and counts every one.
//!
//! What waits in the kernel is made small on both sides, so that the lag which the policy sees is the real one.

mod support;

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pombo::config::SlowConsumer;
use pombo::{Config, Stats};
use support::{Client, DEADLINE, Frame, Node, Nodes, Sent, eventually, nodes};

const KIB: usize = 1 << 10;
const OUTBOX_BYTES: usize = 64 * KIB;
/// Longest header of a frame that the node allows for.
const HEADER_BYTES: usize = 10;

/// Small outboxes, small kernel buffers and the smallest mailboxes, under `policy`.
fn stalling(policy: SlowConsumer) -> Nodes<'static> {
    nodes().with(move |config| {
        config.slow_consumer = policy;
        config.message_bytes_max = 16 * KIB;
        config.outbox_bytes_max = OUTBOX_BYTES;
        config.send_buffer_bytes = Some(4 * KIB);
        config.mailbox_bytes_max = KIB;
        config.close_timeout = DEADLINE;
    })
}

/// A message that can be told from every other: small ones, and ones that shards share instead of copying them.
fn message(number: usize) -> String {
    let length = [10, 1000, 3000, 9000, 100][number % 5];
    // No two bytes alike in a row: a frame read from its middle must not pass for another.
    let letters = (b'a'..=b'z').map(char::from).cycle().skip(number % 26);
    format!("{number} {}", letters.take(length).collect::<String>())
}

/// The number of a message, which must be whole.
#[track_caller]
fn number_of(frame: &Frame) -> usize {
    let text = frame.as_text();
    let (number, _) = text.split_once(' ').expect("a number comes first");
    let number = number.parse().expect("a number comes first");
    assert!(text == message(number), "message {number} is not whole: {} bytes", text.len());
    number
}

/// How the messages of a flood are addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    One,
    Everybody,
    /// A few to one, then a few to everybody.
    Both,
}

/// A flood from alice, to bob who does not read and to a witness on his shard who does.
struct Flood<'n> {
    node: &'n Node,
    to: To,
    sender: Client,
    witness: Client,
    slow: Client,
    unicasts: usize,
    broadcasts: usize,
}

impl<'n> Flood<'n> {
    fn new(node: &'n Node, alice: &str, bob: &str, to: To) -> Self {
        let slow = node.log_in_with_small_buffer(bob);
        let witness = node.log_in(&node.uid_on(node.handle().shard_of(bob), "witness"));
        Self { node, to, sender: node.log_in(alice), witness, slow, unicasts: 0, broadcasts: 0 }
    }

    /// Sends until the node has counted what `is_enough` asks for; the others take every message meanwhile.
    #[track_caller]
    fn until(&mut self, what: &str, is_enough: impl Fn(&Stats) -> bool) {
        eventually(what, || {
            self.send(10);
            is_enough(&self.node.stats())
        });
    }

    fn sent(&self) -> usize {
        self.unicasts + self.broadcasts
    }

    /// Sends messages to both in one write; the witness takes each behind the slow one, so none is on its way then.
    #[track_caller]
    fn send(&mut self, count: usize) {
        let numbers = self.sent()..self.sent() + count;
        let to = self.to;
        let is_broadcast = |number: usize| to == To::Everybody || (to == To::Both && number % 7 > 3);
        let mut frames = Vec::new();
        for number in numbers.clone() {
            let message = message(number);
            if is_broadcast(number) {
                self.broadcasts += 1;
                frames.push(Sent::text(format!("all:{message}")));
            } else {
                self.unicasts += 1;
                let recipients = [self.slow.name(), self.witness.name()];
                frames.extend(recipients.map(|uid| Sent::text(format!("{uid}:{message}"))));
            }
        }
        self.sender.send_together(&frames);
        for number in numbers {
            self.witness.expect_text(message(number));
            if is_broadcast(number) {
                self.sender.expect_text(message(number));
            }
        }
    }

    /// How many messages were due to the slow one, and how many of them the node has shed by now.
    fn account(&self) -> (u64, u64) {
        let stats = self.node.stats();
        let unicasts = self.unicasts as u64 - stats.offline;
        let broadcasts = stats.broadcast_deliveries - 2 * self.broadcasts as u64;
        (unicasts + broadcasts, stats.shed_newest + stats.shed_oldest + stats.shed_closed)
    }
}

/// Runs `body` for floods of unicasts, of broadcasts, and of both.
fn each_flood(policy: SlowConsumer, body: impl Fn(Flood<'_>)) {
    for to in [To::One, To::Everybody, To::Both] {
        stalling(policy).each_pair(|node, alice, bob| body(Flood::new(node, alice, bob, to)));
    }
}

/// The longest front, or tail, of the messages that an outbox can hold.
fn outbox_full(mut numbers: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    numbers
        .by_ref()
        .take_while(|&number| {
            bytes += HEADER_BYTES + message(number).len();
            bytes <= OUTBOX_BYTES
        })
        .count()
}

#[test]
fn disconnect_cuts_the_slow_one_with_its_code() {
    each_flood(SlowConsumer::Disconnect, |mut flood| {
        flood.until("the slow one is cut", |stats| stats.slow_consumers == 1);
        let (due, shed) = flood.account();
        // It did get whole messages, in order, and then the reason.
        let received = until_cut(&mut flood.slow);
        assert_eq!(received as u64 + shed, due, "sent = received + shed");
        assert!(shed > 0);
        let stats = flood.node.eventually("its session is gone", |stats| stats.sessions == 2);
        assert_eq!((stats.slow_consumers, stats.shed_oldest), (1, 0));
        flood.sender.converse(&mut flood.witness);

        // It may come back.
        let mut back = flood.node.log_in(flood.slow.name());
        back.converse(&mut flood.sender);
    });
}

#[test]
fn drop_newest_keeps_the_oldest_messages() {
    each_flood(SlowConsumer::DropNewest, |mut flood| {
        flood.until("many are shed", |stats| stats.shed_newest > 100);
        let sent = flood.sent();
        let Left { received, shed, .. } = drain(&mut flood);
        assert_eq!(flood.node.stats().shed_newest, shed, "no other reason");
        let kept = outbox_full(0..);
        assert_eq!(received[..kept], Vec::from_iter(0..kept), "the oldest are all there");
        // Short ones may still have found room.
        let newest_long = received.iter().copied().filter(|&number| message(number).len() > 9000).max();
        assert!(newest_long < Some(sent - 20), "the newest are not: {newest_long:?} of {sent}");
    });
}

#[test]
fn drop_oldest_keeps_the_newest_messages() {
    each_flood(SlowConsumer::DropOldest, |mut flood| {
        flood.until("some are shed", |stats| stats.shed_oldest > 50);
        flood.slow.send(&Sent::ping("0"));
        // By then every message around the pong has gone.
        flood.until("many are shed", |stats| stats.shed_oldest > 250);
        let sent = flood.sent();
        let Left { received, pongs, shed } = drain(&mut flood);
        assert_eq!(flood.node.stats().shed_oldest, shed, "no other reason");
        assert_eq!(pongs, 1, "a pong is no message, and is not dropped");
        // Less what is in the way: the frame that the socket has begun.
        let kept = outbox_full((0..sent).rev()) - 4;
        let newest: Range<usize> = sent - kept..sent;
        assert_eq!(received[received.len() - kept..], Vec::from_iter(newest), "the newest are all there");
    });
}

/// What a slow consumer finds when it reads at last.
struct Left {
    received: Vec<usize>,
    pongs: usize,
    shed: u64,
}

/// Has the slow one read all that it was left, in order and accounted for.
#[track_caller]
fn drain(flood: &mut Flood<'_>) -> Left {
    let (due, shed) = flood.account();
    let mut pongs = 0;
    // Never dropped, since it is no message; answered behind what waits.
    flood.slow.send(&Sent::ping("still there?"));
    let mut received = Vec::new();
    loop {
        let frame = flood.slow.receive();
        if frame == Frame::pong("still there?") {
            break;
        }
        if frame == Frame::pong(pongs.to_string()) {
            pongs += 1;
            continue;
        }
        received.push(number_of(&frame));
    }
    assert!(received.is_sorted_by(|one, next| one < next), "in order, each once: {received:?}");
    assert_eq!(received.len() as u64 + shed, due, "sent = received + shed");

    // It is a session like any other again, and nothing is shed any more.
    for _ in 0..3 {
        let number = flood.sent();
        flood.send(1);
        flood.slow.expect_text(message(number));
    }
    flood.slow.converse(&mut flood.sender);
    flood.slow.converse(&mut flood.witness);
    let stats = flood.node.stats();
    assert_eq!((stats.slow_consumers, stats.sessions), (0, 3));
    assert_eq!(stats.shed_newest + stats.shed_oldest + stats.shed_closed, shed);
    Left { received, pongs, shed }
}

#[test]
fn pings_of_one_that_does_not_read_are_bounded_and_the_last_is_answered() {
    each_flood(SlowConsumer::DropNewest, |mut flood| {
        flood.until("the outbox is full", |stats| stats.shed_newest > 0);
        let before = flood.node.stats().frames_in;
        for number in 0..1000 {
            flood.slow.send(&Sent::ping(number.to_string()));
        }
        flood.node.eventually("all are taken", |stats| stats.frames_in == before + 1000);
        let last = Frame::pong("999");
        let mut pongs = Vec::new();
        while pongs.last() != Some(&last) {
            let frame = flood.slow.receive();
            match frame.opcode {
                0xA => pongs.push(frame),
                _ => drop(number_of(&frame)),
            }
        }
        assert_eq!(pongs, [Frame::pong("0"), last], "one waits in its place, and the latest behind everything");
        flood.slow.converse(&mut flood.sender);
    });
}

#[test]
fn slow_one_that_does_not_even_end_is_let_go() {
    let soon = |config: &mut Config| config.close_timeout = Duration::from_millis(200);
    stalling(SlowConsumer::Disconnect).with(soon).each_pair(|node, alice, bob| {
        let mut flood = Flood::new(node, alice, bob, To::One);
        flood.until("the slow one is cut", |stats| stats.slow_consumers == 1);
        // It never reads; what it sends comes back as a reset once the node has closed.
        eventually("the node lets go", || match flood.slow.try_send_bytes(&Sent::ping("").bytes()) {
            Ok(()) => false,
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        });
        flood.sender.converse(&mut flood.witness);
    });
}

#[test]
fn sender_that_does_not_read_its_own_broadcasts_is_cut() {
    stalling(SlowConsumer::Disconnect).each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut flooder = node.log_in_with_small_buffer(alice);
        let mut sent = 0;
        eventually("the flooder is cut", || {
            flooder.send_text(format!("all:{}", message(sent)));
            bob.expect_text(message(sent));
            sent += 1;
            node.stats().slow_consumers == 1
        });
        // Nothing that it sends from now on is done.
        flooder.send_text("all:too late");
        let received = until_cut(&mut flooder);
        assert!(received < sent, "{received} of {sent}");
        let stats = node.stats();
        assert_eq!((stats.sessions, stats.broadcast_deliveries), (1, 2 * sent as u64));
        assert_eq!(stats.shed_closed + stats.shed_newest, (sent - received) as u64);
        bob.expect_silence();
    });
}

#[test]
fn one_that_does_not_read_its_own_errors_is_cut() {
    stalling(SlowConsumer::Disconnect).each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut careless = node.log_in_with_small_buffer(alice);
        let errors = Sent::text("no colon").bytes().repeat(100);
        eventually("the careless one is cut", || {
            careless.send_bytes(&errors);
            node.stats().slow_consumers == 1
        });
        let mut frame = careless.receive();
        while frame.as_close().is_none() {
            assert!(frame.as_text().starts_with("error: "), "{frame:?}");
            frame = careless.receive();
        }
        assert!(frame.is_close(4008, "reads too slowly"), "{frame:?}");
        careless.expect_end();
        bob.expect_silence();
    });
}

/// Reads whole messages, from the first on and in order, until the close of a slow consumer; returns how many.
#[track_caller]
fn until_cut(slow: &mut Client) -> usize {
    let mut received = 0;
    loop {
        let frame = slow.receive();
        if frame.is_close(4008, "reads too slowly") {
            slow.expect_end();
            return received;
        }
        assert_eq!(number_of(&frame), received);
        received += 1;
    }
}

// Those who keep up are never cut.

#[test]
fn sixty_four_senders_at_once_do_not_get_a_healthy_receiver_cut() {
    const SENDERS: usize = 64;
    const ROUNDS: usize = 20;
    // A sixteenth of what comes at once; the kernel's buffers hold the rest.
    let tiny = |config: &mut Config| {
        config.message_bytes_max = KIB;
        config.outbox_bytes_max = 2 * KIB;
    };
    nodes().with(tiny).each(|node| {
        let mut receiver = node.log_in("receiver");
        let mut senders: Vec<_> = node.uids(SENDERS).iter().map(|uid| node.log_in(uid)).collect();
        thread::scope(|threads| {
            let rounds: Vec<_> = senders
                .iter_mut()
                .enumerate()
                .map(|(sender_number, sender)| {
                    let (begin, rounds) = mpsc::sync_channel(ROUNDS);
                    threads.spawn(move || {
                        let padding = "x".repeat(450);
                        for round in rounds {
                            let message =
                                |half| Sent::text(format!("receiver:{sender_number} {} {padding}", round * 2 + half));
                            sender.send_together(&[message(0), message(1)]);
                        }
                    });
                    begin
                })
                .collect();
            let mut next = [0; SENDERS];
            for round in 0..ROUNDS {
                for begin in &rounds {
                    begin.send(round).expect("its thread waits for it");
                }
                for _ in 0..SENDERS * 2 {
                    let frame = receiver.receive();
                    let mut words = frame.as_text().split(' ').map(str::parse::<usize>);
                    let (Some(Ok(sender)), Some(Ok(number))) = (words.next(), words.next()) else {
                        panic!("{frame:?}");
                    };
                    assert_eq!(number, next[sender], "of sender {sender}");
                    next[sender] += 1;
                }
            }
        });
        receiver.expect_silence();
        nothing_was_shed(node);
    });
}

#[test]
fn one_read_that_holds_many_outboxes_does_not_get_a_healthy_receiver_cut() {
    let tiny = |config: &mut Config| {
        config.message_bytes_max = KIB;
        config.outbox_bytes_max = KIB + 14;
    };
    nodes().with(tiny).each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let payload = |number: usize| format!("{number} {}", "x".repeat(900));
        for round in 0..20 {
            let numbers = round * 60..(round + 1) * 60;
            let frames: Vec<_> = numbers
                .clone()
                .map(|number| {
                    let to = if number % 3 == 0 { "all" } else { bob.name() };
                    Sent::text(format!("{to}:{}", payload(number)))
                })
                .collect();
            alice.send_together(&frames);
            for number in numbers {
                bob.expect_text(payload(number));
                if number % 3 == 0 {
                    alice.expect_text(payload(number));
                }
            }
        }
        nothing_was_shed(node);
    });
}

#[test]
fn message_of_the_largest_size_reaches_everybody() {
    const LARGEST: usize = 1 << 20;
    let smallest = |config: &mut Config| config.outbox_bytes_max = LARGEST + 14;
    nodes().with(smallest).each(|node| {
        let mut clients: Vec<_> = node.uids(8).iter().map(|uid| node.log_in(uid)).collect();
        for sender in 0..3 {
            let payload = "z".repeat(LARGEST - "all:".len());
            clients[sender].send_text(format!("all:{payload}"));
            for client in &mut clients {
                client.expect_text(&payload);
            }
        }
        nothing_was_shed(node);
    });
}

#[track_caller]
fn nothing_was_shed(node: &Node) {
    let stats = node.stats();
    let shed = (stats.shed_newest, stats.shed_oldest, stats.shed_closed, stats.shed_shard_gone);
    assert_eq!((shed, stats.slow_consumers), ((0, 0, 0, 0), 0));
}
