//! What all sessions together hold: bounded by `memory_bytes_max`, and the worst pay for it.

mod support;

use pombo::Config;
use support::{Client, Node, Sent, nodes};

const MIB: usize = 1 << 20;

/// Kernel buffers as small as they get, so that what is not read waits in the node.
fn tight(config: &mut Config) {
    config.memory_bytes_max = 6 * MIB;
    config.send_buffer_bytes = Some(4096);
}

/// A session that has sent half of a message.
#[track_caller]
fn begun(node: &Node, uid: &str, half: usize) -> Client {
    let mut client = node.log_in(uid);
    client.send_bytes(&Sent::binary(vec![b'x'; half]).announcing(2 * half as u64).bytes());
    client
}

#[test]
fn who_holds_most_in_half_sent_messages_is_cut_and_others_do_not_notice() {
    nodes().with(tight).each(|node| {
        let part = 6 * MIB / node.shard_count();
        let on_one_shard = |name: &str| node.uid_on(0, name);
        let (mut alice, mut bob) = (node.log_in(&on_one_shard("alice")), node.log_in(&on_one_shard("bob")));
        let mut modest = begun(node, &on_one_shard("modest"), 10_000);
        let mut hogs: Vec<_> = (0..part / 400_000 + 1)
            .map(|number| begun(node, &on_one_shard(&format!("hog{number}-")), 400_000))
            .collect();
        let stats = node.eventually("the worst are cut", |stats| stats.memory_cuts > 0);
        assert!(stats.memory_held as usize <= 6 * MIB, "{}", stats.memory_held);
        alice.converse(&mut bob);
        // The modest one still finishes what it began.
        modest.send_bytes(&[0; 10_000]);
        modest.expect_error("no colon");
        let cut = node.stats().memory_cuts as usize;
        let mut told = 0;
        for mut hog in hogs.drain(..) {
            // Whoever lives answers its own message; who was cut has its close frame in front of everything.
            hog.finish_sending();
            if let Some(frame) = hog.receive_or_end() {
                assert!(frame.is_close(4009, "server is short of memory"), "{frame:?}");
                told += 1;
            }
        }
        assert_eq!(told, cut);
        let stats = node.eventually("all of it is free", |stats| stats.memory_held == 0);
        assert_eq!(stats.slow_consumers, 0);
    });
}

#[test]
fn who_holds_most_in_its_outbox_is_cut_and_others_do_not_notice() {
    nodes().with(tight).with(|config| config.outbox_bytes_max = 64 * MIB).each(|node| {
        let uid = |name: &str| node.uid_on(0, name);
        let (mut alice, mut bob) = (node.log_in(&uid("alice")), node.log_in(&uid("bob")));
        let (mut slow, mut slower) =
            (node.log_in_with_small_buffer(&uid("slow")), node.log_in_with_small_buffer(&uid("slower")));
        let message = "x".repeat(100_000);
        for number in 0.. {
            alice.send_text(format!("{}:{message}", slower.name()));
            if number % 2 == 0 {
                alice.send_text(format!("{}:{message}", slow.name()));
            }
            alice.converse(&mut bob);
            let stats = node.stats();
            assert!(stats.memory_held as usize <= 6 * MIB, "{}", stats.memory_held);
            if stats.memory_cuts > 0 {
                break;
            }
        }
        let mut last = slower.receive();
        while let Some(frame) = slower.receive_or_end() {
            last = frame;
        }
        assert!(last.is_close(4009, "server is short of memory"), "{last:?}");
        let stats = node.stats();
        assert_eq!((stats.memory_cuts, stats.slow_consumers, stats.sessions), (1, 0, 3));
        assert!(stats.shed_closed > 0, "what it was due is counted");
        // The other gets every message, in spite of its slowness.
        alice.send_text(format!("{}:last", slow.name()));
        while slow.receive().as_text() != "last" {}
        node.eventually("nothing is held", |stats| stats.memory_held == 0);
    });
}
