//! What a program that embeds a node can do with its handle.

mod support;

use pombo::Config;
use pombo::config::SlowConsumer;
use pombo::message::{Delivery, Kind};
use support::nodes;

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
        assert_eq!(node.push("slow", Kind::Binary, payload(0)), Delivery::Shed);
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
            assert_eq!(node.push("alice", Kind::Binary, vec![0; length]), Delivery::Shed);
            assert_eq!(node.broadcast(Kind::Binary, vec![0; length]), 0);
        }
        let longest = vec![0; 1004];
        assert_eq!(node.push("alice", Kind::Binary, longest.clone()), ONE);
        alice.expect_binary(&longest);
        assert_eq!(node.broadcast(Kind::Binary, longest.clone()), 1);
        alice.expect_binary(&longest);
        alice.expect_silence();
        let stats = node.stats();
        assert_eq!((stats.shed_newest, stats.slow_consumers), (2 + 2 * node.shard_count() as u64, 0));
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
