//! How a connection ends: each fault of a peer has its close code, the code arrives, and nobody else notices.

mod support;

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use pombo::Config;
use support::{Client, DEADLINE, Frame, Node, Nodes, Sent, eventually, nodes};

const MIB: usize = 1 << 20;

/// Runs `body` while two users of the node, wherever they live, exchange messages before and after it.
fn undisturbed(nodes: &Nodes<'_>, body: impl Fn(&Node)) {
    nodes.each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        alice.converse(&mut bob);
        body(node);
        alice.converse(&mut bob);
    });
}

/// Sends `bytes` as a session, and before a login; sees the code, the reason and the end both times.
#[track_caller]
fn is_closed(node: &Node, frames: &[Sent], code: u16, words: &str) {
    let mut bad = node.log_in("bad");
    bad.send_together(frames);
    bad.expect_close(code, words);
    bad.expect_end();
    drop(bad);

    let mut stranger = node.connect().named("stranger");
    stranger.send_together(frames);
    stranger.expect_close(code, words);
    stranger.expect_end();
}

fn closes(frames: &[Sent], code: u16, words: &str) {
    undisturbed(&nodes(), |node| is_closed(node, frames, code, words));
}

// 1002: what RFC 6455 forbids.

#[test]
fn frame_without_a_mask() {
    closes(&[Sent::text("x").unmasked()], 1002, "not masked");
    closes(&[Sent::ping("x").unmasked()], 1002, "not masked");
}

#[test]
fn reserved_bits() {
    for bits in 1..=7 {
        closes(&[Sent::text("x").reserved(bits)], 1002, "reserved bits");
    }
    closes(&[Sent::ping("x").reserved(1)], 1002, "reserved bits");
}

#[test]
fn reserved_opcodes() {
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        closes(&[Sent::opcode(opcode, "x")], 1002, "opcode");
    }
}

#[test]
fn fragmented_control_frame() {
    closes(&[Sent::ping("x").unfinished()], 1002, "control frame is fragmented");
    closes(&[Sent::pong("x").unfinished()], 1002, "control frame is fragmented");
    closes(&[Sent::close(1000, "").unfinished()], 1002, "control frame is fragmented");
}

#[test]
fn control_frame_that_is_too_long() {
    closes(&[Sent::ping("x".repeat(126))], 1002, "longer than 125 bytes");
    closes(&[Sent::ping("").announcing(1 << 40)], 1002, "longer than 125 bytes");
    closes(&[Sent::close(1000, &"x".repeat(124))], 1002, "longer than 125 bytes");
}

#[test]
fn length_in_a_longer_form() {
    closes(&[Sent::text("x").length_in_two_bytes()], 1002, "shortest form");
    closes(&[Sent::text("x".repeat(125)).length_in_two_bytes()], 1002, "shortest form");
    closes(&[Sent::text("x").length_in_eight_bytes()], 1002, "shortest form");
    closes(&[Sent::text("x".repeat(0xFFFF)).length_in_eight_bytes()], 1002, "shortest form");
}

#[test]
fn length_with_its_top_bit() {
    closes(&[Sent::text("").announcing(1 << 63)], 1002, "top bit");
    closes(&[Sent::text("").announcing(u64::MAX)], 1002, "top bit");
}

#[test]
fn continuation_of_nothing() {
    closes(&[Sent::continuation("x")], 1002, "outside a message");
    closes(&[Sent::continuation("x").unfinished()], 1002, "outside a message");
}

#[test]
fn message_inside_a_message() {
    closes(&[Sent::text("x").unfinished(), Sent::text("y")], 1002, "inside a fragmented one");
    closes(&[Sent::binary("x").unfinished(), Sent::binary("y").unfinished()], 1002, "inside");
}

#[test]
fn what_was_said_before_a_violation_is_answered() {
    undisturbed(&nodes(), |node| {
        let mut bad = node.log_in("bad");
        bad.send_together(&[Sent::ping("1"), Sent::text("bad:2"), Sent::continuation(""), Sent::text("bad:3")]);
        bad.expect(&Frame::pong("1"));
        bad.expect_text("2");
        bad.expect_close(1002, "outside a message");
        bad.expect_end();

        let mut stranger = node.connect();
        stranger.send_together(&[Sent::ping("1"), Sent::ping("2"), Sent::continuation("")]);
        stranger.expect(&Frame::pong("1"));
        stranger.expect(&Frame::pong("2"));
        stranger.expect_close(1002, "outside a message");
        stranger.expect_end();
    });
}

#[test]
fn close_frame_with_half_a_code() {
    closes(&[Sent::close_body("x")], 1002, "body of 1 byte");
}

#[test]
fn close_code_that_may_not_be_sent() {
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        closes(&[Sent::close(code, "")], 1002, "is not allowed");
    }
}

// 1007: text that is not UTF-8.

#[test]
fn text_that_is_not_utf8() {
    for text in
        [&b"\xff"[..], b"all:\xc3\x28", b"all:\xed\xa0\x80", b"all:\xc0\xaf", b"all:\xf4\x90\x80\x80", b"x:\xc3"]
    {
        closes(&[Sent::text(text)], 1007, "not valid utf-8");
    }
    closes(&[Sent::text(b"all:\xc3").unfinished(), Sent::continuation(b"x")], 1007, "not valid utf-8");
    closes(&[Sent::close_body(b"\x03\xe8\xff")], 1007, "not valid utf-8");
}

#[test]
fn text_that_is_not_utf8_is_told_with_its_first_bad_byte() {
    undisturbed(&nodes(), |node| {
        for mut bad in [node.log_in("bad"), node.connect()] {
            // A thousand bytes are to come, and don't.
            bad.send(&Sent::text(b"bad:ol\xc3\xa1 \xc3x").announcing(1000));
            bad.expect_close(1007, "not valid utf-8");
            bad.expect_end();
        }
        let mut bad = node.log_in("bad");
        bad.send(&Sent::text("bad:").unfinished());
        bad.send(&Sent::continuation(b"\xf0\x9f").unfinished());
        bad.send(&Sent::continuation(b"\x90\xff").unfinished());
        bad.expect_close(1007, "not valid utf-8");
        bad.expect_end();
    });
}

#[test]
fn character_cut_by_fragments_is_whole() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        let bird = "🐦".as_bytes();
        alice.send(&Sent::text([b"alice:", &bird[..1]].concat()).unfinished());
        alice.send(&Sent::continuation(&bird[1..3]).unfinished());
        alice.send(&Sent::continuation(&bird[3..]));
        alice.expect_text("🐦");
    });
}

// 1009: more than the node takes.

#[test]
fn message_that_is_too_large_is_told_when_its_header_says_so() {
    undisturbed(&nodes(), |node| {
        for length in [MIB as u64 + 1, 1 << 40, u64::MAX >> 1] {
            let mut bad = node.log_in("bad");
            bad.send(&Sent::binary("").announcing(length));
            bad.expect_close(1009, "at most 1048576");
            bad.expect_end();
        }
        let mut stranger = node.connect();
        stranger.send(&Sent::text("").announcing(8193));
        stranger.expect_close(1009, "at most 8192");
        stranger.expect_end();
    });
}

#[test]
fn fragments_count_together() {
    let small = |config: &mut Config| config.message_bytes_max = 1000;
    undisturbed(&nodes().with(small), |node| {
        let mut bad = node.log_in("bad");
        let half = "x".repeat(496);
        bad.send_together(&[Sent::text(format!("bad:{half}")).unfinished(), Sent::continuation("y".repeat(500))]);
        bad.expect_text(format!("{half}{}", "y".repeat(500)));
        bad.send_together(&[Sent::text(format!("bad:{half}")).unfinished(), Sent::continuation("").announcing(501)]);
        bad.expect_close(1009, "at least 1001 bytes, expected at most 1000");
        bad.expect_end();
    });
}

/// Closing with input unread would send a reset, and the client would never see why.
#[test]
fn client_that_keeps_sending_past_a_1009_sees_the_code_and_the_end() {
    let patient = |config: &mut Config| config.close_timeout = DEADLINE;
    undisturbed(&nodes().with(patient), |node| {
        keeps_sending(node.log_in("bad"), 8 * MIB);
        keeps_sending(node.connect(), 2 * MIB);
    });
}

#[track_caller]
fn keeps_sending(mut bad: Client, length: usize) {
    let mut writer = bad.twin();
    thread::scope(|threads| {
        threads.spawn(move || {
            writer.send(&Sent::binary("").announcing(length as u64));
            for _ in 0..length / 65_536 {
                writer.send_bytes(&[b'x'; 65_536]);
            }
        });
        bad.expect_close(1009, "at most");
        bad.expect_end();
    });
    // All of it was taken in, so not even the end brings a reset.
    bad.finish_sending();
    bad.expect_end();
}

// The peer's own way to end.

#[test]
fn close_is_answered_with_its_code() {
    undisturbed(&nodes(), |node| {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            for mut client in [node.log_in("client"), node.connect()] {
                client.send(&Sent::close(code, "olá"));
                client.expect_close(code, "");
                client.expect_end();
            }
        }
    });
}

#[test]
fn close_without_a_code_is_answered_without_one() {
    undisturbed(&nodes(), |node| {
        for mut client in [node.log_in("client"), node.connect()] {
            client.send(&Sent::close_body(""));
            client.expect_bare_close();
            client.expect_end();
        }
    });
}

#[test]
fn what_was_said_before_a_close_counts_and_what_comes_after_does_not() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let before = Sent::text(format!("{}:before", bob.name()));
        let after = Sent::text(format!("{}:after", bob.name()));
        alice.send_together(&[before, Sent::text("all:bye"), Sent::ping("p"), Sent::close(1000, ""), after]);
        alice.expect_text("bye");
        alice.expect(&Frame::pong("p"));
        alice.expect_close(1000, "");
        alice.expect_end();
        bob.expect_text("before");
        bob.expect_text("bye");

        // With nothing in between that would send it on its way.
        let mut alice = node.log_in(alice.name());
        alice.send_together(&[Sent::text("all:bye"), Sent::close(1000, "")]);
        alice.expect_text("bye");
        alice.expect_close(1000, "");
        bob.expect_text("bye");
        let mut alice = node.log_in(alice.name());
        alice.converse(&mut bob);
    });
}

#[test]
fn end_of_sending_without_a_close_frame_ends_the_session() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        alice.send_text(format!("{}:last words", bob.name()));
        alice.send_text("all:bye");
        alice.finish_sending();
        // What was due is still received.
        alice.expect_text("bye");
        alice.expect_end();
        bob.expect_text("last words");
        bob.expect_text("bye");
        node.eventually("the session is gone", |stats| stats.sessions == 1);
    });
}

#[test]
fn end_of_sending_inside_a_message_ends_the_session() {
    undisturbed(&nodes(), |node| {
        for mut client in [node.log_in("client"), node.connect()] {
            client.send(&Sent::text("client:x").announcing(100));
            client.finish_sending();
            while client.receive_or_end().is_some() {}
        }
        node.eventually("the session is gone", |stats| stats.sessions == 2);
    });
}

#[test]
fn peer_that_does_not_answer_a_close_is_let_go() {
    let soon = |config: &mut Config| config.close_timeout = Duration::from_millis(200);
    undisturbed(&nodes().with(soon), |node| {
        for mut client in [node.log_in("client"), node.connect()] {
            client.send(&Sent::continuation(""));
            client.expect_close(1002, "outside a message");
            client.expect_end();
            is_let_go(&mut client);
        }
    });
}

/// Sees that the node has closed both ways: what is sent to it comes back as a reset.
#[track_caller]
fn is_let_go(client: &mut Client) {
    eventually("the node lets go", || match client.try_send_bytes(b"x") {
        Ok(()) => false,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    });
}

// Time.

#[test]
fn login_that_does_not_come_is_not_waited_for() {
    let timeout = Duration::from_millis(100);
    undisturbed(&nodes().with(|config| config.login_timeout = timeout), |node| {
        for begun in
            [&[][..], &[Sent::text("al").unfinished()], &[Sent::text("alice").announcing(6)], &[Sent::ping("")]]
        {
            let began = Instant::now();
            let mut client = node.connect();
            client.send_together(begun);
            if begun.len() == 1 && begun[0].bytes()[0] == 0x89 {
                client.expect(&Frame::pong(""));
            }
            client.expect_close(1008, "no login within 100ms");
            client.expect_end();
            assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
        }
    });
}

#[test]
fn pings_do_not_put_off_the_login() {
    undisturbed(&nodes().with(|config| config.login_timeout = Duration::from_millis(100)), |node| {
        let mut client = node.connect();
        until_closed(&mut client, 1008, "no login within");
    });
}

#[test]
fn message_that_does_not_end_is_not_waited_for() {
    let timeout = Duration::from_millis(100);
    undisturbed(&nodes().with(|config| config.message_timeout = timeout), |node| {
        let cut = Sent::text("slow:x").bytes();
        for begun in [&cut[..1], &cut[..3], &cut[..9], &Sent::text("slow:x").unfinished().bytes()] {
            let mut client = node.log_in("slow");
            let began = Instant::now();
            client.send_bytes(begun);
            client.expect_close(1008, "message not finished within 100ms");
            client.expect_end();
            assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
        }
    });
}

#[test]
fn pings_do_not_put_off_the_end_of_a_message() {
    undisturbed(&nodes().with(|config| config.message_timeout = Duration::from_millis(100)), |node| {
        let mut client = node.log_in("slow");
        client.send(&Sent::text("slow:x").unfinished());
        until_closed(&mut client, 1008, "message not finished within");
    });
}

#[test]
fn fragments_do_not_put_off_the_end_of_a_message() {
    let soon = |config: &mut Config| {
        config.message_timeout = Duration::from_millis(100);
        config.close_timeout = Duration::from_millis(100);
    };
    undisturbed(&nodes().with(soon), |node| {
        let mut client = node.log_in("slow");
        client.send(&Sent::text("slow:x").unfinished());
        let mut writer = client.twin();
        let trickle = thread::spawn(move || {
            while writer.try_send_bytes(&Sent::continuation("y").unfinished().bytes()).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        client.expect_close(1008, "message not finished within");
        client.expect_end();
        drop(client);
        trickle.join().expect("the trickle ends");
    });
}

/// Sends pings and takes their pongs until it is closed.
#[track_caller]
fn until_closed(client: &mut Client, code: u16, words: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        client.send(&Sent::ping("x"));
        let frame = client.receive();
        if frame.is_close(code, words) {
            break;
        }
        assert_eq!(frame, Frame::pong("x"));
        assert!(Instant::now() < deadline, "pings put it off for ever");
    }
    client.expect_end();
}

#[test]
fn messages_that_end_in_time_may_go_on_for_ever() {
    let timeout = Duration::from_secs(2);
    nodes().with(|config| config.message_timeout = timeout).each(|node| {
        let mut alice = node.log_in("alice");
        let began = Instant::now();
        // Each message begins in the write that ends the one before.
        alice.send(&Sent::text("alice:").unfinished());
        while began.elapsed() < timeout * 3 / 2 {
            alice.send_together(&[Sent::continuation("x"), Sent::text("alice:").unfinished()]);
            alice.expect_text("x");
        }
        alice.send(&Sent::continuation("x"));
        alice.expect_text("x");
    });
}

#[test]
fn silent_session_is_pinged_and_then_closed() {
    let interval = Duration::from_millis(400);
    nodes().with(|config| config.heartbeat_interval = interval).each(|node| {
        let mut silent = node.log_in("silent");
        let began = Instant::now();
        silent.expect(&Frame::ping(""));
        assert!(began.elapsed() >= interval / 2, "{:?}", began.elapsed());
        silent.expect_close(4005, "no sign of life");
        silent.expect_end();
        // Two intervals, on a machine that is busy with other things.
        assert!((interval * 3 / 2..interval * 12).contains(&began.elapsed()), "{:?}", began.elapsed());
        node.eventually("the session is gone", |stats| stats.sessions == 0 && stats.timeouts == 1);
    });
}

#[test]
fn session_that_gives_a_sign_of_life_lives() {
    let interval = Duration::from_secs(1);
    nodes().with(|config| config.heartbeat_interval = interval).each(|node| {
        let mut alive = node.log_in("alive");
        alive.expect(&Frame::ping(""));
        alive.send(&Sent::pong(""));
        // Anything counts, not the answer only.
        alive.expect(&Frame::ping(""));
        alive.send_text("nobody:x");
        alive.expect(&Frame::ping(""));
        alive.expect_silence();
    });
}

#[test]
fn each_bad_session_ends_alone() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let faults = [
            Sent::text("x").unmasked(),
            Sent::text("x").reserved(4),
            Sent::opcode(7, ""),
            Sent::text(b"\xff"),
            Sent::binary("").announcing(u64::MAX >> 1),
            Sent::close_body("x"),
            Sent::continuation("x"),
        ];
        for number in 0..10 {
            let mut bad: Vec<_> = node.uids(faults.len()).iter().map(|uid| node.log_in(uid)).collect();
            // The fault arrives with good frames around it, and with others' frames.
            for (bad, fault) in bad.iter_mut().zip(&faults) {
                let to = [&alice, &bob][number % 2].name();
                bad.send_together(&[Sent::text(format!("{to}:before")), fault.clone(), Sent::text("all:after")]);
            }
            for _ in &faults {
                [&mut alice, &mut bob][number % 2].expect_text("before");
            }
            alice.converse(&mut bob);
            for mut bad in bad {
                let close = bad.receive();
                assert_eq!(close.opcode, 8, "{close:?}");
                bad.expect_end();
            }
        }
        let stats = node.eventually("all are gone", |stats| stats.sessions == 2);
        assert_eq!((stats.violations, stats.panics), (10 * faults.len() as u64, 0));
    });
}
