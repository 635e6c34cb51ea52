//! Heartbeats, time-outs, duplicate logins, closing, and the drain, by the clock.

use std::time::Duration;

use super::frames::{CLOSE, PING, PONG, TEXT, close_code, masked};
use super::memory::{Node, settings};
use crate::config::{DuplicateLogin, SessionSettings};
use crate::frame::close;
use crate::shard::Request;

const SECOND: Duration = Duration::from_secs(1);

/// Added to a deadline: a timer may be this late.
const LATE: Duration = Duration::from_millis(200);

#[test]
fn a_silent_peer_is_pinged_and_then_closed() {
    let mut node = Node::new(1, settings());
    let (quiet, alive) = (node.login("quiet"), node.login("alive"));
    node.pass(24 * SECOND);
    assert_eq!((quiet.take(), alive.take()), (vec![], vec![]));
    node.pass(SECOND + LATE);
    assert_eq!((quiet.take(), alive.take()), (vec![(PING, vec![])], vec![(PING, vec![])]));
    alive.send_frame(PONG, b"");
    node.pass(24 * SECOND);
    assert_eq!((quiet.take(), alive.take()), (vec![], vec![]), "pinged once");
    node.pass(SECOND + LATE);
    assert_eq!(quiet.closed(), close::HEARTBEAT);
    assert_eq!(alive.take(), [(PING, vec![])]);
    assert_eq!((node.stats().timeouts, node.stats().sessions), (1, 1));
    node.pass(2 * SECOND + LATE);
    assert!(quiet.wire.borrow().is_removed, "it doesn't answer the close either");
    assert!(!alive.wire.borrow().is_removed);
}

/// After the node had been stopped, as by a suspended machine, it closed every session that had sent nothing meanwhile.
#[test]
fn a_shard_that_was_stopped_pings_before_it_closes() {
    let mut node = Node::new(1, settings());
    let (quiet, alive) = (node.login("quiet"), node.login("alive"));
    node.jump(3600 * SECOND);
    node.settle();
    assert_eq!((quiet.take(), alive.take()), (vec![(PING, vec![])], vec![(PING, vec![])]));
    alive.send_frame(PONG, b"");
    node.settle();
    node.pass(24 * SECOND);
    assert_eq!(quiet.take(), [], "it has an interval to answer in");
    node.pass(SECOND + LATE);
    assert_eq!(quiet.closed(), close::HEARTBEAT);
    assert_eq!(node.stats().sessions, 1);
}

#[test]
fn a_session_ends_with_its_credential() {
    let mut node = Node::new(1, settings());
    let (alice, bob) = (node.login_for("alice", 3 * SECOND), node.login_for("bob", 3600 * SECOND));
    node.pass(3 * SECOND - LATE);
    assert_eq!(alice.take(), []);
    // Rounded up to a second of the wall clock.
    node.pass(SECOND + 2 * LATE);
    assert_eq!(alice.closed(), close::EXPIRED);
    let mut stay = |rounds| {
        for _ in 0..rounds {
            node.pass(24 * SECOND);
            bob.take();
            bob.send_frame(PONG, b"");
        }
        node.stats()
    };
    let stats = stay(140);
    assert_eq!((stats.expired, stats.sessions), (1, 1));
    let stats = stay(10);
    assert_eq!((stats.expired, stats.sessions), (2, 0));
}

/// The expiry of a session went by the monotonic clock, which stands still while a machine is
/// suspended: a token that had expired hours ago was accepted for the rest of its lifetime.
#[test]
fn a_session_ends_at_a_heartbeat_when_the_wall_clock_has_passed_its_end() {
    let mut node = Node::new(1, settings());
    let (alice, bob) = (node.login_for("alice", 1800 * SECOND), node.login_for("bob", 7200 * SECOND));
    node.pass(SECOND);
    node.set_ahead(3600 * SECOND);
    node.pass(24 * SECOND + LATE);
    assert_eq!(alice.closed(), close::EXPIRED, "at the first heartbeat");
    assert_eq!(bob.take(), [(PING, vec![])]);
    bob.send_frame(PONG, b"");
    node.pass(SECOND);
    assert_eq!(node.stats().expired, 1);
}

#[test]
fn a_session_goes_on_when_the_wall_clock_was_set_back() {
    let mut node = Node::new(1, settings());
    let alice = node.login_for("alice", 10 * SECOND);
    node.pass(SECOND);
    node.set_back(15 * SECOND);
    node.pass(23 * SECOND);
    assert_eq!(alice.take(), [], "its time is not over");
    node.pass(2 * SECOND + LATE);
    assert_eq!(alice.closed(), close::EXPIRED);
}

#[test]
fn a_connection_that_is_paused_is_not_silent() {
    let mut node = Node::with_mailboxes(2, settings(), 1024);
    let (alice, bob) = (node.login(&node.uid_on(0, "alice")), node.login(&node.uid_on(1, "bob")));
    for index in 0..200 {
        alice.send(&format!("{}:{index}", bob.uid));
    }
    // The other shard doesn't turn: its mailbox stays full.
    for _ in 0..200 {
        node.jump(SECOND);
        node.turn(0);
    }
    assert_eq!(alice.take().iter().filter(|(first, _)| *first == CLOSE).count(), 0);
    node.settle();
    let texts: Vec<_> = bob.take().into_iter().filter(|(first, _)| *first == TEXT).collect();
    assert_eq!(texts.len(), 200);
    assert_eq!(node.stats().timeouts, 0);
}

#[test]
fn a_message_must_end_in_time() {
    let mut node = Node::new(1, SessionSettings { message_timeout: 10 * SECOND, ..settings() });
    let (slow, steady) = (node.login("slow"), node.login("steady"));
    let message = masked(TEXT, &[b"steady:", &[b'x'; 300][..]].concat());
    for (index, byte) in message.iter().enumerate() {
        // One client sends a byte a second, with pings between; the other a whole message every ten seconds.
        if index < 20 {
            slow.send_bytes(&[*byte]);
            if index % 10 == 0 {
                steady.send_bytes(&message[..150]);
            } else if index % 10 == 9 {
                steady.send_bytes(&message[150..]);
            }
            node.pass(SECOND);
        }
    }
    let [frame] = &slow.take()[..] else { panic!("expected a close frame") };
    assert_eq!(close_code(frame), close::POLICY);
    assert_eq!(&frame.1[2..], b"message not finished within 10s");
    assert_eq!((steady.texts().len(), node.stats().timeouts), (2, 1));
}

/// After a pause of the process, a session was closed although its message had arrived in time: it takes several reads.
#[test]
fn a_message_that_was_received_and_not_read_is_not_late() {
    let mut node = Node::new(1, SessionSettings { message_timeout: 10 * SECOND, ..settings() });
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    let message = masked(TEXT, format!("bob:{}", "x".repeat(300_000)).as_bytes());
    alice.send_bytes(&message[..1000]);
    node.settle();
    alice.send_bytes(&message[1000..]);
    node.jump(15 * SECOND);
    node.settle();
    assert_eq!(bob.texts().len(), 1);
    assert_eq!(node.stats().timeouts, 0);
}

/// A client whose messages have no colon was closed after `message_timeout`, if each read ended inside the next
/// message.
#[test]
fn each_message_has_its_own_timeout_even_if_malformed() {
    let mut node = Node::new(1, SessionSettings { message_timeout: 10 * SECOND, ..settings() });
    let alice = node.login("alice");
    let message = masked(TEXT, b"no colon");
    alice.send_bytes(&message[..5]);
    for _ in 0..15 {
        node.pass(SECOND);
        alice.send_bytes(&[&message[5..], &message[..5]].concat());
    }
    node.settle();
    assert_eq!((alice.texts().len(), node.stats().timeouts), (15, 0));
}

#[test]
fn the_newest_login_wins_whatever_order_they_come_in() {
    for is_later_first in [false, true] {
        let mut node = Node::new(1, settings());
        let (earlier, later) = (node.draw(), node.draw());
        let (old, new);
        if is_later_first {
            new = node.hand_over("bob", later, &[]);
            node.settle();
            old = node.hand_over("bob", earlier, &[]);
        } else {
            old = node.hand_over("bob", earlier, &[]);
            node.settle();
            assert_eq!(old.texts(), [""]);
            new = node.hand_over("bob", later, &[]);
        }
        node.settle();
        assert_eq!(old.closed(), close::REPLACED);
        assert_eq!((new.texts(), node.stats().sessions), (vec![String::new()], 1));
        old.end();
        node.settle();
        assert!(old.wire.borrow().is_removed);
        new.send("bob:hi");
        node.settle();
        assert_eq!(new.texts(), ["hi"], "the older's end must not touch the newer");
    }
}

#[test]
fn a_duplicate_login_is_rejected_or_shares() {
    let mut node = Node::new(1, SessionSettings { duplicate_login: DuplicateLogin::Reject, ..settings() });
    let first = node.login("bob");
    let second = node.hand_over("bob", node.draw(), &masked(TEXT, b"bob:hi"));
    node.settle();
    let frames = second.take();
    assert_eq!((frames[0].0, close_code(&frames[1])), (TEXT, close::UID_TAKEN));
    assert_eq!(first.take(), []);

    let share = SessionSettings { duplicate_login: DuplicateLogin::Share, uid_sessions_max: 2, ..settings() };
    let mut node = Node::new(1, share);
    let (first, second) = (node.login("bob"), node.login("bob"));
    let third = node.hand_over("bob", node.draw(), &[]);
    second.send("bob:hi");
    node.settle();
    assert_eq!(close_code(&third.take()[1]), close::UID_FULL);
    assert_eq!((first.texts(), second.texts()), (vec!["hi".to_owned()], vec!["hi".to_owned()]));
}

#[test]
fn a_close_is_answered_and_the_rest_discarded() {
    let mut node = Node::new(1, settings());
    let (alice, bob) = (node.login("alice"), node.login("bob"));
    bob.send("bob:first");
    bob.send_frame(CLOSE, &[0x0F, 0xA0]);
    bob.send("alice:too late");
    node.settle();
    let got = bob.take();
    assert_eq!((got[0].clone(), close_code(&got[1]), got.len()), ((TEXT, b"first".to_vec()), 4000, 2));
    assert!(bob.wire.borrow().is_finished && !bob.wire.borrow().is_removed);
    bob.send_bytes(&[0xFF; 100_000]);
    bob.end();
    node.settle();
    assert!(bob.wire.borrow().is_removed);
    assert_eq!(alice.take(), []);
}

/// A pong that had waited for room was sent behind the close frame.
#[test]
fn nothing_follows_the_close_frame() {
    let mut node = Node::new(1, settings());
    let bob = node.login("bob");
    bob.give_room(0);
    (0..40).for_each(|index| bob.send_frame(PING, &[index]));
    node.settle();
    bob.send_frame(CLOSE, &[]);
    node.settle();
    bob.give_room(usize::MAX);
    node.settle();
    assert_eq!(bob.take(), [(PONG, vec![0]), (CLOSE, vec![])]);
}

#[test]
fn a_drain_is_spread_over_the_first_half_of_its_time() {
    let mut node = Node::new(1, settings());
    let clients: Vec<_> = (0..100).map(|index| node.login(&format!("user{index}"))).collect();
    node.request(0, Request::Drain { time_out: 10 * SECOND });
    node.settle();
    let closed = |clients: &[super::memory::Client]| {
        clients.iter().filter(|client| !client.wire.borrow().output.is_empty()).count()
    };
    for tenth in 1..10 {
        node.pass(SECOND / 2);
        let closed = closed(&clients);
        assert!(closed.abs_diff(tenth * 10) <= 2, "{closed} closed after {tenth} tenths of the first half");
    }
    node.pass(SECOND / 2 + LATE);
    for client in &clients {
        assert_eq!(client.closed(), close::GOING_AWAY);
        client.end();
    }
    let late = node.hand_over("late", node.draw(), &[]);
    node.settle();
    assert_eq!(close_code(&late.take()[1]), close::GOING_AWAY);
    late.end();
    node.settle();
    assert!(!node.has_ended(0), "logins may still be under way");
    node.end_logins();
    node.settle();
    assert!(node.has_ended(0));
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let mut node = Node::new(1, settings());
    let (mute, blocked) = (node.login("mute"), node.login("blocked"));
    blocked.give_room(0);
    mute.send("blocked:hi");
    node.settle();
    node.request(0, Request::Drain { time_out: 4 * SECOND });
    node.settle();
    node.pass(3 * SECOND);
    assert_eq!(mute.closed(), close::GOING_AWAY);
    assert!(!node.has_ended(0));
    node.pass(SECOND + LATE);
    assert!(node.has_ended(0));
    // Messages that were left in an outbox then were lost uncounted.
    assert_eq!((node.stats().shed_closed, node.stats().memory_held), (1, 0));
}

/// A queue lives as long as its senders: the caller of a request just before the end of a shard waited for ever.
#[test]
fn requests_to_a_shard_that_ends_are_dropped_with_it() {
    let mut node = Node::new(1, settings());
    let (answer, answered) = flume::bounded(1);
    node.request(0, Request::Stats { answer });
    let shard = &mut node.shards[0];
    assert_eq!(shard.abandon(), 0);
    assert!(answered.is_disconnected() && answered.is_empty(), "no answer will come");
}
