//! A second login with a uid that is logged in: `replace`, `reject` and `share`.

mod support;

use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::thread;

use pombo::config::DuplicateLogin;
use pombo::message::{Delivery, Kind};
use pombo::{Config, Stats};
use support::{Client, Frame, Node, Nodes, Sent, eventually, nodes};

const ONE: Delivery = Delivery::Delivered { sessions: 1 };

fn rejecting() -> Nodes<'static> {
    nodes().with(|config| config.duplicate_login = DuplicateLogin::Reject)
}

fn sharing(uid_sessions_max: usize) -> Nodes<'static> {
    nodes().with(move |config| {
        config.duplicate_login = DuplicateLogin::Share;
        config.uid_sessions_max = NonZeroUsize::new(uid_sessions_max).expect("at least one");
    })
}

/// Sessions and uids that the node holds.
fn held(stats: &Stats) -> (u64, u64) {
    (stats.sessions, stats.uids)
}

#[track_caller]
fn is_replaced(client: &mut Client) {
    client.expect_close(4001, "replaced by a newer login");
    client.expect_end();
}

// replace, the default.

#[test]
fn newer_login_gets_the_uid_and_the_older_is_told() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut older = node.log_in(bob);
        let mut newer = node.log_in(bob);
        is_replaced(&mut older);
        newer.converse(&mut alice);
        let stats = node.stats();
        assert_eq!((held(&stats), stats.logins, stats.replaced, stats.refused), ((2, 2), 3, 1, 0));
    });
}

#[test]
fn older_one_closing_in_any_way_never_touches_the_newer() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let ends: [fn(Client); 5] = [
            |mut older| {
                is_replaced(&mut older);
                older.send(&Sent::close(4001, ""));
                older.finish_sending();
            },
            |mut older| older.finish_sending(),
            |mut older| older.send(&Sent::continuation("")),
            Client::vanish,
            drop,
        ];
        for end in ends {
            let older = node.log_in(bob);
            let mut newer = node.log_in(bob);
            end(older);
            for _ in 0..10 {
                newer.converse(&mut alice);
                assert_eq!(node.push(bob, Kind::Text, "hi"), ONE);
                newer.expect_text("hi");
            }
            assert_eq!(held(&node.stats()), (2, 2));
        }
    });
}

#[test]
fn older_one_still_gets_what_was_due_to_it_and_nothing_more() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut older = node.log_in(bob);
        for number in 0..100 {
            alice.send_text(format!("{bob}:{number}"));
        }
        alice.expect_silence();
        node.eventually("all are delivered", |stats| stats.delivered == 101);
        let mut newer = node.log_in(bob);
        alice.send_text(format!("{bob}:for the newer"));
        newer.expect_text("for the newer");
        for number in 0..100 {
            older.expect_text(number.to_string());
        }
        is_replaced(&mut older);
    });
}

#[test]
fn nothing_that_a_replaced_session_sends_is_done() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut older = node.log_in(bob);
        let mut newer = node.log_in(bob);
        is_replaced(&mut older);
        older.send_text(format!("{}:from the grave", alice.name()));
        older.send_text("all:from the grave");
        alice.converse(&mut newer);
    });
}

#[test]
fn storm_of_relogins_leaves_the_last_one() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut sessions: Vec<_> = (0..50).map(|_| node.log_in(bob)).collect();
        let mut last = sessions.pop().expect("there are fifty");
        for session in &mut sessions {
            is_replaced(session);
        }
        last.converse(&mut alice);
        // One after the other they end; the last one stays.
        for session in sessions {
            drop(session);
            assert_eq!(node.push(bob, Kind::Text, "still there?"), ONE);
            last.expect_text("still there?");
        }
        assert_eq!(held(&node.stats()), (2, 2));
        assert_eq!(node.stats().replaced, 49);
    });
}

/// Which of them is the newest only the node knows; it must be exactly one.
#[test]
fn storm_of_logins_at_once_leaves_one() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let ready = Barrier::new(50);
        let sessions: Vec<_> = thread::scope(|threads| {
            let logins: Vec<_> = (0..50)
                .map(|_| {
                    let mut client = node.connect().named(bob);
                    let ready = &ready;
                    threads.spawn(move || {
                        ready.wait();
                        client.send_text(bob);
                        client
                    })
                })
                .collect();
            logins.into_iter().map(|login| login.join().expect("it has logged in")).collect()
        });
        node.eventually("all have logged in", |stats| stats.logins == 51);
        assert_eq!(held(&node.stats()), (2, 2));
        alice.send_text(format!("{bob}:are you the one?"));
        let mut winners: Vec<_> = sessions.into_iter().filter_map(winner).collect();
        let [winner] = &mut winners[..] else { panic!("{} sessions have the uid", winners.len()) };
        winner.converse(&mut alice);
    });
}

/// Takes what came to a session of the storm; returns it if it has the uid.
#[track_caller]
fn winner(mut session: Client) -> Option<Client> {
    let mut frame = session.receive();
    // One that was replaced before it was a session has no login reply.
    if frame.opcode == Frame::text("").opcode {
        assert!(frame.as_text().starts_with("Login"), "{frame:?}");
        frame = session.receive();
    }
    if frame == Frame::text("are you the one?") {
        return Some(session);
    }
    assert!(frame.is_close(4001, "replaced by a newer login"), "{frame:?}");
    session.expect_end();
    None
}

// reject

#[test]
fn newcomer_is_rejected_and_the_first_does_not_notice() {
    rejecting().each_pair(|node, alice, bob| {
        let (mut alice, mut first) = (node.log_in(alice), node.log_in(bob));
        for _ in 0..3 {
            let mut newcomer = node.connect();
            newcomer.send_text(bob);
            newcomer.expect_error("uid is logged in already");
            newcomer.expect_close(4002, "uid is logged in already");
            newcomer.expect_end();
            drop(newcomer);
            first.converse(&mut alice);
        }
        let stats = node.stats();
        assert_eq!((held(&stats), stats.refused, stats.replaced), ((2, 2), 3, 0));
    });
}

#[test]
fn nothing_behind_a_rejected_login_is_done() {
    rejecting().each_pair(|node, alice, bob| {
        let (mut alice, mut first) = (node.log_in(alice), node.log_in(bob));
        let mut newcomer = node.connect();
        let to_alice = Sent::text(format!("{}:not from bob", alice.name()));
        newcomer.send_together(&[Sent::text(bob), to_alice, Sent::text("all:not from bob")]);
        newcomer.expect_error("uid is logged in already");
        newcomer.expect_close(4002, "");
        newcomer.expect_end();
        alice.converse(&mut first);
    });
}

#[test]
fn uid_is_free_again_when_the_first_has_left() {
    rejecting().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        for _ in 0..5 {
            let mut first = node.log_in(bob);
            first.converse(&mut alice);
            first.send(&Sent::close(1000, ""));
            first.expect_close(1000, "");
            // Not only when the connection has ended: the uid is free with the close.
        }
        drop(node.log_in(bob));
        eventually("a vanished session frees the uid", || {
            let mut back = node.connect();
            back.send_text(bob);
            back.receive().as_text().starts_with("Login")
        });
    });
}

// share

#[test]
fn every_session_of_a_uid_gets_every_message_once() {
    sharing(3).each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut sessions: Vec<_> = (0..3).map(|_| node.log_in(bob)).collect();
        let stats = node.stats();
        assert_eq!((held(&stats), stats.replaced, stats.refused), ((4, 2), 0, 0));
        for number in 0..10 {
            alice.send_text(format!("{bob}:{number}"));
            alice.send_text(format!("all:{number} to all"));
            alice.expect_text(format!("{number} to all"));
        }
        for session in &mut sessions {
            for number in 0..10 {
                session.expect_text(number.to_string());
                session.expect_text(format!("{number} to all"));
            }
        }
        assert_eq!(node.push(bob, Kind::Binary, "pushed"), Delivery::Delivered { sessions: 3 });
        for session in &mut sessions {
            session.expect_binary("pushed");
        }
        // One of them sends to all of them, itself too.
        sessions[1].send_text(format!("{bob}:to myself"));
        for session in &mut sessions {
            session.expect_text("to myself");
        }
        let delivered = node.stats().delivered;
        assert_eq!(delivered, 30 + 3 + 3);
    });
}

#[test]
fn one_session_too_many_is_refused() {
    sharing(2).each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut sessions = [node.log_in(bob), node.log_in(bob)];
        let mut newcomer = node.connect();
        newcomer.send_together(&[Sent::text(bob), Sent::text("all:not from bob")]);
        newcomer.expect_error("uid has too many sessions");
        newcomer.expect_close(4003, "uid has too many sessions");
        newcomer.expect_end();
        all_hear(&mut alice, bob, &mut sessions);
        assert_eq!(held(&node.stats()), (3, 2));
    });
}

#[test]
fn one_session_leaving_keeps_the_others() {
    sharing(4).each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut sessions: Vec<_> = (0..4).map(|_| node.log_in(bob)).collect();
        // The first, one in between, the last, and then the only one.
        for index in [0, 1, 1, 0] {
            let mut leaving = sessions.remove(index);
            leaving.send(&Sent::close(1000, ""));
            leaving.expect_close(1000, "");
            all_hear(&mut alice, bob, &mut sessions);
        }
        assert_eq!(held(&node.stats()), (1, 1));
        assert_eq!(node.push(bob, Kind::Text, "x"), Delivery::Offline);
        // Its place is free again.
        let mut sessions: Vec<_> = (0..4).map(|_| node.log_in(bob)).collect();
        all_hear(&mut alice, bob, &mut sessions);
    });
}

/// Sends to a shared uid; each of its sessions hears it, and nothing else.
#[track_caller]
fn all_hear(sender: &mut Client, uid: &str, sessions: &mut [Client]) {
    for message in ["one", "two"] {
        sender.send_text(format!("{uid}:{message}"));
        for session in sessions.iter_mut() {
            session.expect_text(message);
        }
    }
    sender.expect_silence();
}

#[test]
fn share_of_one_is_a_place_to_wait_for() {
    sharing(1).each(|node| {
        let mut first = node.log_in("alice");
        let mut newcomer = node.connect();
        newcomer.send_text("alice");
        newcomer.expect_error("too many sessions");
        newcomer.expect_close(4003, "");
        first.expect_silence();
    });
}

// Changed while the node runs.

#[test]
fn policy_can_be_changed_while_running() {
    nodes().each(|node| {
        let mut first = node.log_in("alice");
        change(node, DuplicateLogin::Share);
        let mut second = node.log_in("alice");
        change(node, DuplicateLogin::Reject);
        let mut third = node.connect();
        third.send_text("alice");
        third.expect_error("uid is logged in already");
        third.expect_close(4002, "");
        change(node, DuplicateLogin::Replace);
        let mut fourth = node.log_in("alice");
        is_replaced(&mut first);
        is_replaced(&mut second);
        fourth.expect_silence();
    });
}

fn change(node: &Node, policy: DuplicateLogin) {
    node.reload(|config: &mut Config| config.duplicate_login = policy);
}
