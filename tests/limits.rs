//! What one session may cost: its rates, its pings and fragments, and how long a silent or half-closed one is kept.

mod support;

use std::time::{Duration, Instant};

use pombo::Config;
use support::{Frame, Node, Nodes, Sent, eventually, nodes};

/// How late the end of a peer may come that says nothing.
const LATE: Duration = Duration::from_secs(1);

/// What a machine that is busy with other tests may hold up.
const BUSY: Duration = Duration::from_secs(10);

/// The same nodes, on each address family.
fn families<'a>(change: impl Fn(&mut Config) + Copy + 'a) -> [Nodes<'a>; 2] {
    ["127.0.0.1:0", "[::1]:0"].map(|address| {
        nodes().with(move |config| {
            config.listen = vec![address.parse().expect("an address")];
            change(config);
        })
    })
}

fn patient(config: &mut Config) {
    config.rate_patience = Duration::from_secs(3600);
}

#[test]
fn past_its_message_rate_a_session_is_read_no_faster_and_loses_nothing() {
    for nodes in families(patient) {
        nodes.with(|config| config.message_rate_max = Some(100)).each(|node| {
            let (mut fast, mut other) = (node.log_in("fast"), node.log_in("other"));
            let began = Instant::now();
            fast.send_together(&(0..300).map(|number| Sent::text(format!("fast:{number}"))).collect::<Vec<_>>());
            // Others are served meanwhile.
            other.expect_silence();
            for number in 0..300 {
                fast.expect_text(number.to_string());
            }
            // A second's worth came at once, and the login was before.
            assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
            let stats = node.stats();
            assert!(stats.rate_pauses > 0);
            assert_eq!((stats.rate_limited, stats.sessions), (0, 2));
        });
    }
}

#[test]
fn past_its_byte_rate_a_session_is_held_back_by_tcp() {
    const RATE: usize = 1 << 20;
    nodes().with(patient).with(|config| config.byte_rate_max = Some(RATE)).each(|node| {
        let mut fast = node.log_in("fast");
        let began = Instant::now();
        let frame = Sent::binary([&b"nobody:"[..], &[b'x'; 1 << 16]].concat()).bytes();
        for _ in 0..48 {
            fast.send_bytes(&frame);
        }
        fast.expect_silence();
        assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
        assert_eq!(node.stats().rate_limited, 0);
    });
}

#[test]
fn who_stays_over_its_rate_is_closed_with_its_reason() {
    let patience = Duration::from_millis(500);
    for nodes in families(|config| config.message_rate_max = Some(50)) {
        nodes.with(|config| config.rate_patience = patience).each(|node| {
            let (mut fast, mut other) = (node.log_in("fast"), node.log_in("other"));
            let began = Instant::now();
            fast.send_together(&vec![Sent::text("nobody:"); 5000]);
            fast.expect_close(1008, "more than 50 messages a second for 500ms");
            fast.expect_end();
            assert!((patience..patience + LATE + BUSY).contains(&began.elapsed()), "{:?}", began.elapsed());
            other.expect_silence();
            let stats = node.eventually("it has gone", |stats| stats.sessions == 1);
            assert_eq!(stats.rate_limited, 1);
        });
    }
}

#[test]
fn a_session_without_limits_sends_as_fast_as_it_can() {
    nodes().each(|node| {
        let mut fast = node.log_in("fast");
        fast.send_together(&vec![Sent::text("nobody:"); 100_000]);
        fast.expect_silence();
        assert_eq!(node.stats().rate_pauses, 0);
    });
}

#[test]
fn empty_fragments_hold_nobody_up_and_hold_no_memory() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let mut flooder = node.log_in("flooder");
        flooder.send(&Sent::text("nobody:").unfinished());
        let flood = Sent::continuation("").unfinished().bytes().repeat(10_000);
        let before = node.stats().frames_in;
        for _ in 0..20 {
            flooder.send_bytes(&flood);
            alice.converse(&mut bob);
        }
        let stats = node.eventually("all are taken", |stats| stats.frames_in >= before + 200_000);
        assert!(stats.memory_held < 1024, "{} bytes", stats.memory_held);
        flooder.send(&Sent::continuation("x"));
        flooder.expect_silence();
    });
}

#[test]
fn pings_of_one_that_reads_are_all_answered_in_order() {
    nodes().each(|node| {
        let mut client = node.log_in("client");
        client.send_together(&(0..500).map(|number| Sent::ping(number.to_string())).collect::<Vec<_>>());
        for number in 0..500 {
            client.expect(&Frame::pong(number.to_string()));
        }
    });
}

#[test]
fn before_the_login_no_more_than_a_login_is_taken() {
    for nodes in families(|config| config.login_bytes_max = 1000) {
        nodes.each(|node| {
            let half = || Sent::text("x".repeat(500)).unfinished();
            for frames in [vec![Sent::text("x").announcing(1001)], vec![half(), Sent::continuation("").announcing(501)]]
            {
                let mut stranger = node.connect();
                stranger.send_together(&frames);
                stranger.expect_close(1009, "at least 1001 bytes, expected at most 1000");
                stranger.expect_end();
            }
        });
    }
}

/// Waits for the connection's end and sees that it came when it should have.
#[track_caller]
fn ends_after(mut client: support::Client, limit: Duration, began: Instant) {
    while client.receive_or_end().is_some() {}
    let took = began.elapsed();
    assert!((limit..limit + LATE + BUSY).contains(&took), "{}: {took:?} instead of {limit:?}", client.name());
    // Both ways: what is sent to it comes back as a reset.
    eventually("the node lets go", || client.try_send_bytes(b"x").is_err());
}

const LIMIT: Duration = Duration::from_millis(400);

fn short(config: &mut Config) {
    config.login_timeout = LIMIT;
    config.message_timeout = LIMIT;
    config.heartbeat_interval = LIMIT / 2;
    config.close_timeout = LIMIT;
}

#[test]
fn silent_peers_are_gone_in_time_at_every_stage() {
    for nodes in families(short) {
        nodes.each(|node| {
            let began = Instant::now();
            let stranger = node.connect().named("not logged in");
            let begun = {
                let mut client = node.connect().named("login begun");
                client.send(&Sent::text("alice").announcing(6));
                client
            };
            let idle = node.log_in("idle");
            let mid_message = {
                let mut client = node.log_in("mid-message");
                client.send(&Sent::text("x").unfinished());
                client
            };
            let told = {
                let mut client = node.log_in("told");
                client.send(&Sent::continuation(""));
                client.expect_close(1002, "");
                client
            };
            for client in [stranger, begun, idle, mid_message] {
                ends_after(client, LIMIT, began);
            }
            ends_after(told, Duration::ZERO, began);
            node.eventually("nobody is left", |stats| stats.sessions == 0);
            eventually("every place is free", || node.handle().connections() == 0);
        });
    }
}

#[test]
fn half_closed_peers_are_gone_in_time_whether_or_not_they_read() {
    for nodes in families(|config| config.close_timeout = LIMIT) {
        nodes.with(|config| config.send_buffer_bytes = Some(4096)).each(half_closed);
    }
}

fn half_closed(node: &Node) {
    let mut alice = node.log_in("alice");
    // One has taken everything, one has a megabyte to take and doesn't.
    let mut reads = node.log_in("reads");
    let mut stalls = node.log_in_with_small_buffer("stalls");
    alice.send_text(format!("stalls:{}", "x".repeat(1_000_000)));
    // Its shard may be another than alice's.
    node.eventually("the message is in the outbox", |stats| stats.delivered == 1);
    [&mut reads, &mut stalls].into_iter().for_each(|client| client.finish_sending());
    reads.expect_end();
    node.eventually("both are gone", |stats| stats.sessions == 1);
    eventually("their places are free", || node.handle().connections() == 1);
    let stats = node.stats();
    assert_eq!((stats.shed_closed, stats.memory_held), (1, 0), "what it did not take is counted");
}
