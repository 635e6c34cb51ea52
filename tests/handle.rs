//! What a program that embeds a node can do with its handle.

mod support;

use pombo::config::{DuplicateLogin, SlowConsumer};
use pombo::message::{Delivery, Kind, Shed};
use pombo::{Config, Cursor, KickError, Push, Uids};
use support::{DEADLINE, nodes};

const ONE: Delivery = Delivery::Delivered { sessions: 1 };

#[test]
fn push_says_what_became_of_it() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        assert_eq!(node.push(alice.name(), Kind::Text, "olá"), ONE);
        alice.expect_text("olá");
        assert_eq!(node.push(alice.name(), Kind::Binary, &b"\xff\x00"[..]), ONE);
        alice.expect_binary(b"\xff\x00");
        assert_eq!(node.push(alice.name(), Kind::Text, ""), ONE);
        alice.expect_text("");
        for nobody in [bob, "", "all", "a:b", &"x".repeat(5000)] {
            assert_eq!(node.push(nobody, Kind::Text, "x"), Delivery::Offline);
        }
        alice.expect_silence();
        let stats = node.stats();
        assert_eq!((stats.delivered, stats.offline), (4, 5));
    });
}

#[test]
fn broadcast_says_how_many_it_is_due_to() {
    nodes().each_pair(|node, alice, bob| {
        assert_eq!(node.broadcast(Kind::Text, "nobody"), 0);
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let _stranger = node.connect();
        assert_eq!(node.broadcast(Kind::Binary, &b"\xff"[..]), 2);
        alice.expect_binary(b"\xff");
        bob.expect_binary(b"\xff");
        alice.converse(&mut bob);
    });
}

#[test]
fn text_that_is_not_utf8_goes_as_binary() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        assert_eq!(node.push("alice", Kind::Text, &b"\xff"[..]), ONE);
        alice.expect_binary(b"\xff");
        assert_eq!(node.broadcast(Kind::Text, &b"\xff"[..]), 1);
        alice.expect_binary(b"\xff");
    });
}

#[test]
fn pushes_and_broadcasts_arrive_in_order() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        for number in 0..500 {
            if number % 3 == 0 {
                assert_eq!(node.broadcast(Kind::Text, number.to_string()), 2);
                alice.expect_text(number.to_string());
            } else {
                assert_eq!(node.push(bob.name(), Kind::Text, number.to_string()), ONE);
            }
        }
        for number in 0..500 {
            bob.expect_text(number.to_string());
        }
    });
}

#[test]
fn push_to_a_slow_consumer_is_shed() {
    let small = |config: &mut Config| {
        config.slow_consumer = SlowConsumer::DropNewest;
        config.send_buffer_bytes = Some(4096);
    };
    nodes().with(small).each(|node| {
        let mut slow = node.log_in_with_small_buffer("slow");
        let payload = |number: u8| vec![number; 1 << 20];
        let mut accepted = 0;
        while node.push("slow", Kind::Binary, payload(accepted)) == ONE {
            accepted += 1;
            assert!(accepted < 100, "nothing was ever shed");
        }
        assert_eq!(node.push("slow", Kind::Binary, payload(0)), Delivery::Shed(Shed::OutboxFull));
        for number in 0..accepted {
            slow.expect_binary(payload(number));
        }
        assert_eq!(node.push("slow", Kind::Text, "go on"), ONE);
        slow.expect_text("go on");
        assert_eq!(node.stats().shed_newest, 2);
    });
}

/// The caller's fault, and no receiver's: nobody is cut for it.
#[test]
fn push_longer_than_an_outbox_is_shed() {
    let small = |config: &mut Config| {
        config.message_bytes_max = 1000;
        config.outbox_bytes_max = 1014;
    };
    nodes().with(small).each(|node| {
        let mut alice = node.log_in("alice");
        for length in [1005, 5_000_000] {
            assert_eq!(node.push("alice", Kind::Binary, vec![0; length]), Delivery::Shed(Shed::TooLong));
            assert_eq!(node.broadcast(Kind::Binary, vec![0; length]), 0);
        }
        let longest = vec![0; 1004];
        assert_eq!(node.push("alice", Kind::Binary, longest.clone()), ONE);
        alice.expect_binary(&longest);
        assert_eq!(node.broadcast(Kind::Binary, longest.clone()), 1);
        alice.expect_binary(&longest);
        alice.expect_silence();
        let stats = node.stats();
        assert_eq!((stats.shed_newest, stats.slow_consumers), (4, 0));
        assert_eq!(node.push("nobody", Kind::Binary, vec![0; 5_000_000]), Delivery::Offline);
    });
}

#[test]
fn clones_stand_for_the_same_node() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        let pushes: Vec<_> = (0..8)
            .map(|number: usize| {
                let handle = node.handle().clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    runtime.block_on(handle.push("alice", Kind::Text, number.to_string()))
                })
            })
            .collect();
        for push in pushes {
            assert_eq!(push.join().expect("it pushes"), ONE);
        }
        let mut numbers: Vec<_> = (0..8).map(|_| alice.receive().as_text().to_owned()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers.concat(), "01234567");
    });
}

#[test]
fn push_all_answers_for_each_in_order() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        // More than one request to a shard holds, of both users and of nobody.
        let pushes: Vec<Push> = (0..2000)
            .map(|number| {
                let uid = [alice.name(), bob.name(), "nobody"][number % 3];
                Push { uid: uid.into(), kind: Kind::Text, payload: number.to_string().into() }
            })
            .collect();
        let deliveries = node.wait_for(node.handle().push_all(pushes));
        assert_eq!(deliveries.len(), 2000);
        for (number, delivery) in deliveries.into_iter().enumerate() {
            assert_eq!(delivery, if number % 3 == 2 { Delivery::Offline } else { ONE }, "{number}");
        }
        for number in 0..2000 {
            match number % 3 {
                0 => alice.expect_text(number.to_string()),
                1 => bob.expect_text(number.to_string()),
                _ => {}
            }
        }
    });
}

#[test]
fn broadcast_except_leaves_out_and_keeps_the_order() {
    let share = |config: &mut Config| config.duplicate_login = DuplicateLogin::Share;
    nodes().with(share).each_pair(|node, alice, bob| {
        let (mut alice, mut bob, mut second) = (node.log_in(alice), node.log_in(bob), node.log_in(bob));
        for number in 0..100 {
            let text = number.to_string();
            let except = [bob.name(), "nobody", bob.name()];
            let due = match number % 2 {
                0 => node.broadcast(Kind::Text, text),
                _ => node.wait_for(node.handle().broadcast_except(Kind::Text, text, except)),
            };
            assert_eq!(due, [3, 1][number % 2], "{number}");
        }
        for number in 0..100 {
            alice.expect_text(number.to_string());
            if number % 2 == 0 {
                bob.expect_text(number.to_string());
                second.expect_text(number.to_string());
            }
        }
        bob.converse(&mut alice);
        assert_eq!(node.stats().broadcast_deliveries, 50 * 3 + 50);
    });
}

#[test]
fn sessions_tell_since_when_and_from_where() {
    let share = |config: &mut Config| config.duplicate_login = DuplicateLogin::Share;
    nodes().with(share).each(|node| {
        let first = node.log_in("alice");
        let second = node.log_in("alice");
        let sessions = node.wait_for(node.handle().sessions("alice"));
        let peers: Vec<_> = sessions.iter().map(|session| session.peer).collect();
        assert_eq!(peers, [&first, &second].map(|client| Some(client.local_address().into())));
        assert!(sessions[0].since <= sessions[1].since);
        assert!(sessions[0].since.elapsed().is_ok_and(|age| age < DEADLINE));
        for nobody in ["bob", "", "all"] {
            assert_eq!(node.wait_for(node.handle().sessions(nobody)), []);
        }
    });
}

#[test]
fn pages_of_uids_hold_everybody_once() {
    let share = |config: &mut Config| config.duplicate_login = DuplicateLogin::Share;
    nodes().with(share).each(|node| {
        let page = |cursor, most| node.wait_for(node.handle().uids(cursor, most));
        assert_eq!(page(Cursor::default(), 10), Uids::default());
        let mut expected = node.uids(50);
        let mut clients: Vec<_> = expected.iter().map(|uid| node.log_in(uid)).collect();
        // Twice, and so on one page even so.
        clients.push(node.log_in(&expected[7]));
        expected.sort();
        for most in [1, 7, 50, 1000] {
            let (mut found, mut next) = (Vec::new(), Some(Cursor::default()));
            while let Some(cursor) = next {
                let Uids { uids, next: after, .. } = page(cursor, most);
                assert!(uids.len() <= most);
                found.extend(uids.into_iter().map(String::from));
                next = after;
            }
            found.sort();
            assert_eq!(found, expected, "pages of {most}");
        }
        let nowhere = Cursor { shard: usize::MAX, place: u32::MAX };
        assert_eq!(page(nowhere, 10), Uids::default());
    });
}

#[test]
fn kick_closes_with_code_and_reason_behind_what_is_due() {
    let share = |config: &mut Config| config.duplicate_login = DuplicateLogin::Share;
    nodes().with(share).each_pair(|node, alice, bob| {
        let (mut first, mut second, mut bystander) = (node.log_in(alice), node.log_in(alice), node.log_in(bob));
        let kick = |uid: &str, code, reason: &str| node.wait_for(node.handle().kick(uid, code, reason));
        assert_eq!(node.push(alice, Kind::Text, "last"), Delivery::Delivered { sessions: 2 });
        assert_eq!(kick(alice, 4321, "olá"), Ok(2));
        for client in [&mut first, &mut second] {
            client.expect_text("last");
            client.expect_close(4321, "olá");
        }
        assert_eq!(kick(alice, 1000, ""), Ok(0), "nobody is left");
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(kick(bob, code, ""), Err(KickError::Code(code)));
        }
        assert_eq!(kick(bob, 4000, &"x".repeat(124)), Err(KickError::Reason(124)));
        bystander.expect_silence();
        assert_eq!(kick(bob, 4000, &"x".repeat(123)), Ok(1));
        bystander.expect_close(4000, &"x".repeat(123));
        assert_eq!(node.stats().kicked, 3);
    });
}
