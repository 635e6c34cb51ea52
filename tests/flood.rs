//! Shards that flood each other at the smallest bounds: nothing hangs, and nothing is lost, doubled or reordered.
//!
//! A mailbox of one KiB holds about fifteen of these messages, so nearly every connection waits for room most of the
//! time, and every shard waits for every other one.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use pombo::config::SlowConsumer;
use pombo::message::{Delivery, Kind};
use pombo::{Config, Stats};
use support::{Client, Frame, Node, Sent, eventually, nodes};

const KIB: usize = 1 << 10;
const USERS: usize = 6;

/// What each user sends in a round.
#[derive(Clone, Copy)]
struct Round {
    unicasts_to_each: usize,
    broadcasts: usize,
    /// Every so many messages one is longer than a mailbox holds.
    long_every: usize,
}

impl Round {
    /// How many messages each user receives from each, itself too.
    fn received(self) -> usize {
        self.unicasts_to_each + self.broadcasts
    }

    /// The messages of round `number` from one sender, numbered through; unicasts and broadcasts mixed.
    fn messages(self, number: usize, sender: usize, uids: &[String]) -> Vec<Sent> {
        let count = self.unicasts_to_each * uids.len() + self.broadcasts;
        let broadcast_every = count.checked_div(self.broadcasts).unwrap_or(usize::MAX);
        let (mut broadcasts, mut unicasts) = (0, 0);
        let address = |at: usize| {
            if (at + 1).is_multiple_of(broadcast_every) && broadcasts < self.broadcasts {
                broadcasts += 1;
                "all"
            } else {
                unicasts += 1;
                &uids[unicasts % uids.len()]
            }
        };
        let to: Vec<_> = (0..count).map(address).collect();
        let message = |(at, to): (usize, &str)| {
            let serial = number * count + at;
            let length = if (serial + 1).is_multiple_of(self.long_every) { 5000 } else { serial % 20 };
            Sent::text(format!("{to}:{sender} {serial} {}", "x".repeat(length)))
        };
        to.into_iter().enumerate().map(message).collect()
    }
}

/// What one user has received, by sender.
#[derive(Default)]
struct Ledger {
    /// The serial number that comes next at the earliest.
    next: [usize; USERS],
    count: [usize; USERS],
}

impl Ledger {
    #[track_caller]
    fn enter(&mut self, frame: &Frame) {
        let mut words = frame.as_text().splitn(3, ' ').map(str::parse::<usize>);
        let (Some(Ok(sender)), Some(Ok(serial))) = (words.next(), words.next()) else { panic!("{frame:?}") };
        assert!(serial >= self.next[sender], "{serial} of sender {sender} came behind {}", self.next[sender] - 1);
        self.next[sender] = serial + 1;
        self.count[sender] += 1;
    }
}

/// Every user sends a round to everybody and reads what everybody sent in it, then goes on to the next.
///
/// So what is due to one user is never more than two rounds, and its outbox holds that.
#[track_caller]
fn rounds(node: &Node, rounds: usize, round: Round) {
    let uids = node.uids(USERS);
    let clients: Vec<_> = uids.iter().map(|uid| node.log_in(uid)).collect();
    let clients: Vec<_> = thread::scope(|threads| {
        let users: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(sender, mut client)| {
                let uids = &uids;
                threads.spawn(move || {
                    let mut ledger = Ledger::default();
                    for number in 0..rounds {
                        let frames = round.messages(number, sender, uids);
                        let mut writer = client.twin();
                        thread::scope(|threads| {
                            threads.spawn(move || writer.send_together(&frames));
                            while ledger.count.iter().any(|&count| count < round.received() * (number + 1)) {
                                ledger.enter(&client.receive());
                            }
                        });
                    }
                    client
                })
            })
            .collect();
        users.into_iter().map(|user| user.join().expect("the user is content")).collect()
    });
    for mut client in clients {
        client.expect_silence();
    }
    let (stats, rounds, users) = (node.stats(), rounds as u64, USERS as u64);
    let unicasts = rounds * users * users * round.unicasts_to_each as u64 + users;
    assert_eq!((stats.delivered, stats.offline), (unicasts, 0));
    assert_eq!(stats.broadcast_deliveries, rounds * users * users * round.broadcasts as u64);
    let shed = (stats.shed_newest, stats.shed_oldest, stats.shed_closed, stats.shed_shard_gone);
    assert_eq!((shed, stats.slow_consumers), ((0, 0, 0, 0), 0));
}

fn smallest(config: &mut Config) {
    config.mailbox_bytes_max = KIB;
    config.message_bytes_max = KIB;
    config.outbox_bytes_max = 48 * KIB;
}

#[test]
fn unicasts_between_all_shards() {
    nodes().with(smallest).each(|node| {
        rounds(node, 30, Round { unicasts_to_each: 100, broadcasts: 0, long_every: usize::MAX });
    });
}

#[test]
fn broadcasts_between_all_shards() {
    nodes().with(smallest).each(|node| {
        rounds(node, 30, Round { unicasts_to_each: 0, broadcasts: 100, long_every: usize::MAX });
    });
}

#[test]
fn unicasts_and_broadcasts_mixed() {
    nodes().with(smallest).each(|node| {
        rounds(node, 30, Round { unicasts_to_each: 50, broadcasts: 50, long_every: usize::MAX });
    });
}

#[test]
fn messages_longer_than_a_mailbox() {
    let larger = |config: &mut Config| {
        config.mailbox_bytes_max = KIB;
        config.message_bytes_max = 8 * KIB;
        config.outbox_bytes_max = 256 * KIB;
    };
    nodes().with(larger).each(|node| {
        rounds(node, 15, Round { unicasts_to_each: 50, broadcasts: 50, long_every: 61 });
    });
}

/// Each connection used to be read until it had added a message of its own to a full batch.
#[test]
fn largest_messages_of_many_connections_keep_the_bound_of_mail() {
    const SENDERS: usize = 48;
    const MESSAGES: usize = 3;
    const MESSAGE_BYTES: usize = 256 * KIB;
    let node = nodes()
        .with(|config| {
            config.mailbox_bytes_max = 64 * KIB;
            config.message_bytes_max = MESSAGE_BYTES;
            config.outbox_bytes_max = 128 << 20;
        })
        .start(2);
    let mut bob = node.log_in(&node.uid_on(1, "bob"));
    let to = node.uid_on(1, "bob");
    let is_over = AtomicBool::new(false);
    let most = thread::scope(|threads| {
        for sender in 0..SENDERS {
            let (node, to) = (&node, &to);
            threads.spawn(move || {
                let mut client = node.log_in(&node.uid_on(0, &format!("sender{sender}-")));
                for serial in 0..MESSAGES {
                    let head = format!("{to}:{sender} {serial} ");
                    client.send_text(head.clone() + &"x".repeat(MESSAGE_BYTES - head.len()));
                }
                client.expect_silence();
            });
        }
        let (node, is_over) = (&node, &is_over);
        let sampling = threads.spawn(move || {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(node.stats().mail_bytes);
            }
            most
        });
        let mut next = [0; SENDERS];
        for _ in 0..SENDERS * MESSAGES {
            let frame = bob.receive();
            let mut words = frame.as_text().splitn(3, ' ').map(str::parse::<usize>);
            let (Some(Ok(sender)), Some(Ok(serial))) = (words.next(), words.next()) else { panic!("no numbers") };
            assert_eq!(serial, next[sender], "of sender {sender}");
            next[sender] += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        sampling.join().expect("no panic")
    });
    let bound = 64 * KIB + MESSAGE_BYTES + 500;
    assert!(most <= bound as u64, "{most} bytes of mail in hand, expected at most {bound}");
    let stats = node.stats();
    assert!(stats.mail_stalls > 0);
    // Silence is expected with a message of each to itself.
    let delivered = (SENDERS * (MESSAGES + 1)) as u64;
    assert_eq!((stats.delivered, stats.shed_newest + stats.shed_closed), (delivered, 0));
}

/// Nobody waits for anybody: what a receiver can't take in time is shed, and all that was sent is accounted for.
fn all_at_once(policy: SlowConsumer) {
    const ROUNDS: usize = 20;
    const ROUND: Round = Round { unicasts_to_each: 40, broadcasts: 40, long_every: usize::MAX };
    let shedding = |config: &mut Config| {
        smallest(config);
        config.slow_consumer = policy;
        config.outbox_bytes_max = 2 * KIB;
        config.send_buffer_bytes = Some(4 * KIB);
    };
    nodes().with(shedding).each(|node| {
        let uids = node.uids(USERS);
        let clients: Vec<_> = uids.iter().map(|uid| node.log_in(uid)).collect();
        let received = AtomicUsize::new(0);
        let balance = thread::scope(|threads| {
            for (sender, mut client) in clients.into_iter().enumerate() {
                let (mut writer, uids, received) = (client.twin(), &uids, &received);
                threads.spawn(move || {
                    for number in 0..ROUNDS {
                        writer.send_together(&ROUND.messages(number, sender, uids));
                    }
                });
                threads.spawn(move || read_to_the_mark(&mut client, received));
            }
            let unicasts = (ROUNDS * USERS * USERS * ROUND.unicasts_to_each) as u64;
            let broadcasts = (ROUNDS * USERS * ROUND.broadcasts * node.shard_count()) as u64;
            let is_balanced = |stats: &Stats| {
                let received = received.load(Ordering::Relaxed) as u64;
                let shed = stats.shed_newest + stats.shed_oldest;
                stats.broadcasts == broadcasts && received + shed == unicasts + stats.broadcast_deliveries
            };
            let stats = node.eventually("sent = received + shed", is_balanced);
            assert_eq!((stats.offline, stats.slow_consumers, stats.shed_closed), (0, 0, 0));
            let balance = received.load(Ordering::Relaxed);
            mark(node, &uids);
            balance
        });
        assert_eq!(received.load(Ordering::Relaxed), balance, "nothing came behind the balance");
    });
}

#[test]
fn all_at_once_with_drop_newest() {
    all_at_once(SlowConsumer::DropNewest);
}

#[test]
fn all_at_once_with_drop_oldest() {
    all_at_once(SlowConsumer::DropOldest);
}

/// A turn gives each connection its share, however much one of them sends.
#[test]
fn one_that_floods_does_not_starve_the_others() {
    // Nobody is cut, so that the flood goes on.
    let shedding = |config: &mut Config| config.slow_consumer = SlowConsumer::DropNewest;
    nodes().with(smallest).with(shedding).each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let uids = node.uids(3);
        let messages = ["nobody:x", "no colon", &format!("{}:x", uids[0])];
        let floods = messages.map(|message| Sent::text(message).bytes().repeat(1000));
        let flooders: Vec<_> = uids.iter().map(|uid| node.log_in(uid)).collect();
        let is_over = AtomicBool::new(false);
        thread::scope(|threads| {
            for (mut flooder, flood) in flooders.into_iter().zip(&floods) {
                let (mut writer, is_over) = (flooder.twin(), &is_over);
                threads.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        writer.send_bytes(flood);
                    }
                });
                // It takes what comes back, so that it is no slow consumer.
                threads.spawn(move || while flooder.receive().as_close().is_none() {});
            }
            for _ in 0..20 {
                alice.converse(&mut bob);
            }
            is_over.store(true, Ordering::Relaxed);
            // Replaced, they need not wait until all that they have sent is done.
            for uid in &uids {
                node.log_in(uid);
            }
        });
        alice.converse(&mut bob);
    });
}

const MARK: &str = "that was all";

/// Counts the messages that come before the mark.
#[track_caller]
fn read_to_the_mark(client: &mut Client, received: &AtomicUsize) {
    let mut ledger = Ledger::default();
    loop {
        let frame = client.receive();
        if frame == Frame::text(MARK) {
            return;
        }
        ledger.enter(&frame);
        received.fetch_add(1, Ordering::Relaxed);
    }
}

fn mark(node: &Node, uids: &[String]) {
    for uid in uids {
        eventually("the mark is taken", || node.push(uid, Kind::Text, MARK) == Delivery::Delivered { sessions: 1 });
    }
}
