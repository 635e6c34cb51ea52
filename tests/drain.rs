//! The end of a node: everybody is told, what was accepted is sent, and the drain returns whatever the peers do.

mod support;

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use pombo::Config;
use pombo::config::DrainCode;
use pombo::message::{Delivery, Kind};
use support::{Client, Frame, Node, Nodes, Program, Request, Sent, eventually, nodes};

/// An end that must not be waited for: longer than a test may take.
const NEVER: Duration = Duration::from_secs(3600);

fn draining_for(timeout: Duration) -> Nodes<'static> {
    nodes().with(move |config| config.drain_timeout = timeout)
}

/// Takes the node's farewell, and sees the connection end.
#[track_caller]
fn is_told(client: &mut Client) {
    client.expect_close(1001, "server is going away");
    client.expect_end();
}

/// Waits until nobody can connect any more.
#[track_caller]
fn stops_accepting(node: &Node) {
    eventually("the node stops accepting", || {
        Client::try_dial(node.address()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn everybody_is_told_and_the_drain_returns() {
    draining_for(Duration::from_secs(5)).each(|node| {
        let mut clients: Vec<_> = node.uids(20).iter().map(|uid| node.log_in(uid)).collect();
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            for client in &mut clients {
                is_told(client);
                client.send(&Sent::close(1001, ""));
                client.finish_sending();
            }
        });
        let refused = Client::try_dial(node.address()).expect_err("nobody listens any more");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn sessions_are_told_to_come_back_when_the_node_restarts() {
    let restarting = |config: &mut Config| config.drain_code = DrainCode::ServiceRestart;
    draining_for(Duration::from_secs(5)).with(restarting).each(|node| {
        let mut clients: Vec<_> = node.uids(5).iter().map(|uid| node.log_in(uid)).collect();
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            for client in &mut clients {
                client.expect_close(1012, "server is restarting");
                client.expect_end();
                client.finish_sending();
            }
        });
    });
}

#[test]
fn empty_node_drains_at_once() {
    draining_for(NEVER).each(|node| {
        node.drain();
        // A second drain is the same one.
        node.drain();
    });
}

#[test]
fn node_whose_clients_leave_drains_at_once() {
    draining_for(NEVER).each(|node| {
        let clients: Vec<_> = node.uids(6).iter().map(|uid| node.log_in(uid)).collect();
        let long_gone = node.log_in("gone");
        drop(long_gone);
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            stops_accepting(node);
            drop(clients);
        });
    });
}

#[test]
fn farewells_are_spread_over_the_first_half_of_the_time() {
    let timeout = Duration::from_secs(4);
    draining_for(timeout).each(|node| {
        let clients: Vec<_> = node.uids(30).iter().map(|uid| node.log_in(uid)).collect();
        let began = Instant::now();
        let mut told: Vec<_> = thread::scope(|threads| {
            let told: Vec<_> = clients
                .into_iter()
                .map(|mut client| {
                    threads.spawn(move || {
                        is_told(&mut client);
                        began.elapsed()
                    })
                })
                .collect();
            node.drain();
            told.into_iter().map(|client| client.join().expect("it is told")).collect()
        });
        told.sort_unstable();
        // A busy machine delays them, but never all of the later ones into one instant.
        let (first, middle, last) = (told[2], told[15], told[27]);
        assert!(middle - first >= timeout / 16 && last - middle >= timeout / 16, "{told:?}");
        assert!(last >= timeout * 3 / 8, "{told:?}");
    });
}

#[test]
fn sessions_live_until_they_are_told() {
    draining_for(NEVER).each_pair(|node, alice, bob| {
        // The first of each shard is told at once, the rest within half an hour.
        let first: Vec<_> = (0..node.shard_count()).map(|shard| node.log_in(&node.uid_on(shard, "first"))).collect();
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            for mut client in first {
                is_told(&mut client);
            }
            stops_accepting(node);
            alice.converse(&mut bob);
            drop((alice, bob));
        });
    });
}

#[test]
fn what_was_accepted_is_sent_first() {
    const MESSAGES: usize = 500;
    draining_for(NEVER).each_pair(|node, alice, bob| {
        let mut bob = node.log_in_with_small_buffer(bob);
        let mut alice = node.log_in(alice);
        let message = |number: usize| format!("{number} {}", "x".repeat(1000));
        for number in 0..MESSAGES / 2 {
            alice.send_text(format!("{}:{}", bob.name(), message(number)));
        }
        node.eventually("half is accepted", |stats| stats.delivered as usize == MESSAGES / 2);
        drop(alice);
        node.eventually("bob is alone", |stats| stats.sessions == 1);
        for number in MESSAGES / 2..MESSAGES {
            assert_eq!(node.broadcast(Kind::Text, message(number)), 1);
        }
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            stops_accepting(node);
            for number in 0..MESSAGES {
                bob.expect_text(message(number));
            }
            is_told(&mut bob);
            drop(bob);
        });
    });
}

#[test]
fn clients_that_neither_read_nor_leave_hold_nothing_up() {
    let stubborn = |config: &mut Config| {
        config.drain_timeout = Duration::from_millis(500);
        config.close_timeout = NEVER;
        config.handshake_timeout = NEVER;
        config.login_timeout = NEVER;
        config.message_timeout = NEVER;
    };
    nodes().with(stubborn).each_pair(|node, alice, bob| {
        let silent = node.dial();
        let mut begun = node.dial();
        begun.send_bytes(b"GET / HT");
        let upgraded = node.connect();
        let mut half_logged_in = node.connect();
        half_logged_in.send(&Sent::text("x").unfinished());
        let mut refused = node.dial();
        refused.send_request(&Request::upgrade().without("Upgrade"));
        assert_eq!(refused.receive_response().status, 400);
        let mut closed = node.log_in("closed");
        closed.send(&Sent::continuation(""));
        closed.expect_close(1002, "");
        let stuffed = node.log_in_with_small_buffer(alice);
        node.push(alice, Kind::Binary, vec![0; 2_000_000]);
        let idle = node.log_in(bob);
        node.drain();
        drop((silent, begun, upgraded, half_logged_in, refused, closed, stuffed, idle));
    });
}

#[test]
fn login_under_way_is_told() {
    draining_for(NEVER).each(|node| {
        let mut asked = node.log_in("stays");
        let mut clients = [node.connect(), node.connect(), node.connect()];
        clients[1].send(&Sent::text("x").unfinished());
        clients[2].send(&Sent::ping("x"));
        clients[2].expect(&Frame::pong("x"));
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            for client in &mut clients {
                is_told(client);
            }
            drop(clients);
            is_told(&mut asked);
            drop(asked);
        });
    });
}

#[test]
fn request_under_way_is_told() {
    draining_for(NEVER).each(|node| {
        // Accepted, as its answer shows: the other is in line behind it.
        let mut accepted = node.dial();
        let request = Request::upgrade().bytes();
        accepted.send_bytes(&request[..10]);
        let mut later = node.dial();
        later.send_request(&Request::upgrade());
        later.expect_upgrade();
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            is_told(&mut later);
            stops_accepting(node);
            accepted.send_bytes(&request[10..]);
            let response = accepted.receive_response();
            assert_eq!(response.status, 503, "{response:?}");
            assert!(response.body.contains("going away") && response.header("retry-after").is_some(), "{response:?}");
            accepted.expect_end();
            drop((accepted, later));
        });
    });
}

#[test]
fn backlog_is_told() {
    // One at a time: the first holds the only place, and the others are with the kernel.
    let one = |config: &mut Config| (config.handshakes_max, config.handshake_timeout) = (1, NEVER);
    draining_for(NEVER).with(one).each(|node| {
        let mut first = node.connect();
        let mut waiting: Vec<_> = (0..20).map(|_| node.dial()).collect();
        for client in &mut waiting {
            client.send_request(&Request::upgrade());
        }
        let mut silent = node.dial();
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            is_told(&mut first);
            drop(first);
            for client in &mut waiting {
                let response = client.receive_response();
                assert_eq!(response.status, 503, "{response:?}");
                client.expect_end();
                client.finish_sending();
            }
            assert!(silent.receive_to_end().is_empty());
            stops_accepting(node);
        });
    });
}

#[test]
fn handle_says_what_it_can_when_the_node_has_drained() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        node.drain();
        is_told(&mut alice);
        assert_eq!(node.push("alice", Kind::Text, "too late"), Delivery::Offline);
        assert_eq!(node.broadcast(Kind::Text, "too late"), 0);
        assert_eq!(node.stats(), pombo::Stats::default());
        node.reload(|_| {});
        node.drain();
    });
}

#[test]
fn drain_under_load_ends() {
    draining_for(Duration::from_secs(4)).each(|node| {
        let clients: Vec<_> = node.uids(6).iter().map(|uid| node.log_in(uid)).collect();
        thread::scope(|threads| {
            for mut client in clients {
                let mut writer = client.twin();
                threads.spawn(move || {
                    let frames: Vec<u8> = (0..20).flat_map(|_| Sent::text("all:x").bytes()).collect();
                    while writer.try_send_bytes(&frames).is_ok() {}
                });
                threads.spawn(move || {
                    let mut frame = client.receive();
                    while frame == Frame::text("x") {
                        frame = client.receive();
                    }
                    assert!(frame.is_close(1001, "going away"), "{frame:?}");
                    client.expect_end();
                });
            }
            node.eventually("the load is there", |stats| stats.broadcasts > 100);
            node.drain();
        });
    });
}

/// What one user has received, by sender and whether it was to everybody: numbers without a gap, from 0.
#[derive(Default)]
struct Received {
    next: [[usize; 2]; USERS],
    count: usize,
}

const USERS: usize = 8;

impl Received {
    /// Enters `sender kind number …`.
    #[track_caller]
    fn enter(&mut self, frame: &Frame) {
        let mut words = frame.as_text().splitn(4, ' ').map(str::parse::<usize>);
        let mut word = || words.next().and_then(Result::ok).unwrap_or_else(|| panic!("{frame:?}"));
        let (sender, kind, number) = (word(), word(), word());
        let next = &mut self.next[sender][kind];
        assert_eq!(number, *next, "of sender {sender}, kind {kind}: one is lost, doubled, or in the wrong place");
        *next += 1;
        self.count += 1;
    }
}

/// Every user writes to the next and to everybody until it is told; each of them reads slowly enough that its outbox is
/// never empty. The program is asked to end amid that.
#[test]
fn sigterm_under_load_loses_nothing_that_was_accepted() {
    let mut program = Program::start_with_shards(3, &["--drain-timeout", "4s", "--outbox-bytes-max", "64MiB"]);
    let clients: Vec<_> = (0..USERS)
        .map(|user| {
            let mut client = program.dial().upgraded();
            client.log_in(&format!("user{user}"));
            client
        })
        .collect();
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let received: Vec<Received> = thread::scope(|threads| {
        let readers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(user, mut client)| {
                let mut writer = client.twin();
                threads.spawn(move || write_until_told(&mut writer, user));
                let begun = &begun;
                threads.spawn(move || {
                    let mut received = Received::default();
                    loop {
                        let frame = client.receive();
                        if frame.as_close().is_some() {
                            assert!(frame.is_close(1001, "server is going away"), "{frame:?}");
                            client.expect_end();
                            return received;
                        }
                        received.enter(&frame);
                        if received.count == 200 {
                            begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        eventually("everybody is amid the load", || begun.load(std::sync::atomic::Ordering::SeqCst) == USERS);
        program.terminate();
        readers.into_iter().map(|reader| reader.join().expect("it is told")).collect()
    });
    assert_eq!(program.wait(), Some(0));
    // What outboxes have accepted, as each shard tells at its end, is what has come.
    program.expect_logged("drained");
    eventually("each shard tells", || program.logged("shard drained") == 3);
    let accepted = program.logged_sum("delivered") + program.logged_sum("broadcast_deliveries");
    let came: usize = received.iter().map(|received| received.count).sum();
    assert_eq!((came, program.logged_sum("shed_closed"), program.logged_sum("sessions")), (accepted, 0, 0));
}

/// Writes numbered messages, unicasts and broadcasts by turns, until the node takes no more.
fn write_until_told(writer: &mut Client, user: usize) {
    let neighbour = (user + 1) % USERS;
    for number in 0.. {
        let padding = "x".repeat(number * 7 % 500);
        let unicast = Sent::text(format!("user{neighbour}:{user} 0 {number} {padding}"));
        let broadcast = Sent::text(format!("all:{user} 1 {number} {padding}"));
        if writer.try_send_bytes(&[unicast.bytes(), broadcast.bytes()].concat()).is_err() {
            return;
        }
        thread::sleep(Duration::from_micros(500));
    }
}
