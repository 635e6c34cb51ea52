//! The plain protocol, row by row: what a client of the demo sees, and what it sees better.
//!
//! `docs/compatibility.md` names these tests.

mod support;

use std::thread;

use pombo::message::{Delivery, Kind};
use support::{Frame, Node, Program, Request, Sent, nodes};

const MIB: usize = 1 << 20;

// The first row: the login.

#[test]
fn login_is_answered_byte_for_byte() {
    nodes().each(|node| {
        let mut alice = node.connect().named("alice");
        alice.send_text("alice");
        alice.expect_bytes(b"\x81\x2dLogin realizado com sucesso, seu uid \xc3\xa9 alice");
        alice.expect_silence();
    });
}

#[test]
fn login_reply_is_a_template() {
    nodes().with(|config| config.login_reply = "{uid}, bem-vindo: {uid}".to_owned()).each(|node| {
        let mut client = node.connect();
        client.send_text("joão");
        client.expect_text("joão, bem-vindo: joão");
    });
}

/// By the program itself: a flag that takes a list would be cut at the comma.
#[test]
fn login_reply_in_english_is_a_flag() {
    let program = Program::start(&["--login-reply", "login success, your uid is {uid}"]);
    let mut alice = program.dial().upgraded();
    alice.send_text("alice");
    alice.expect_text("login success, your uid is alice");
}

#[test]
fn any_short_text_without_a_colon_is_a_uid() {
    nodes().each(|node| {
        for uid in ["a", "ALL", " all", "all ", "joão", "🐦", "a\0\n", "{uid}", &"x".repeat(256)] {
            let mut client = node.log_in(uid);
            client.expect_silence();
        }
    });
}

#[test]
fn binary_login_that_is_utf8_is_accepted() {
    nodes().each(|node| {
        let mut client = node.connect().named("joão");
        client.send_binary("joão");
        client.expect_login_reply();
        client.expect_silence();
    });
}

// The second row: to one user.

#[test]
fn unicast_reaches_its_uid_and_nobody_else() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let mut others: Vec<_> = node.uids(3).iter().map(|uid| node.log_in(uid)).collect();
        alice.send_text(format!("{}:hi", bob.name()));
        bob.expect_text("hi");
        alice.expect_silence();
        for other in &mut others {
            other.expect_nothing_from(&mut alice);
        }
        bob.expect_nothing_from(&mut alice);
    });
}

#[test]
fn unicast_to_nobody_is_silent() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        alice.send_text(format!("{bob}:hi"));
        alice.send_text(":hi");
        alice.send_text(format!("{}:hi", "x".repeat(5000)));
        alice.send_binary(b"\xff\xfe:hi");
        alice.expect_silence();
        node.eventually("four messages to nobody are counted", |stats| stats.offline == 4);
    });
}

#[test]
fn unicast_is_counted_by_what_became_of_it() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let bob = node.log_in(bob);
        alice.send_text(format!("{}:hi", bob.name()));
        alice.send_text("nobody:hi");
        let stats = node.eventually("both are counted", |stats| stats.delivered + stats.offline == 2);
        assert_eq!((stats.delivered, stats.offline, stats.invalid, stats.broadcasts), (1, 1, 0, 0));
        assert_eq!((stats.sessions, stats.uids, stats.logins), (2, 2, 2));
    });
}

#[test]
fn unicast_to_oneself_comes_back() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        alice.send_text("alice:note to self");
        alice.expect_text("note to self");
        alice.expect_silence();
    });
}

// The third row: to everybody.

#[test]
fn broadcast_reaches_everybody_logged_in_the_sender_too() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let mut others: Vec<_> = node.uids(6).iter().map(|uid| node.log_in(uid)).collect();
        alice.send_text("all:hi");
        alice.expect_text("hi");
        bob.expect_text("hi");
        for other in &mut others {
            other.expect_text("hi");
        }
        // Once each.
        for other in others.iter_mut().chain([&mut bob]) {
            other.expect_nothing_from(&mut alice);
        }
        alice.expect_silence();
    });
}

#[test]
fn broadcast_never_reaches_a_connection_that_has_not_logged_in() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut stranger = node.connect().named(bob);
        // Its login has begun.
        stranger.send(&Sent::text(&bob[..1]).unfinished());
        alice.send_text("all:for members");
        alice.expect_text("for members");
        node.eventually("every shard has taken it", |stats| stats.broadcasts == node.shard_count() as u64);
        stranger.send(&Sent::continuation(&bob[1..]));
        stranger.expect_login_reply();
        stranger.expect_nothing_from(&mut alice);
    });
}

// The fourth row: leaving.

#[test]
fn close_frees_the_uid() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        bob.send(&Sent::close(1000, "bye"));
        bob.expect_close(1000, "");
        bob.expect_end();
        leaves_and_returns(node, &mut alice, bob.name());
    });
}

#[test]
fn vanishing_frees_the_uid() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        // With an end of sending and no close frame; and with a reset.
        drop(node.log_in(bob));
        leaves_and_returns(node, &mut alice, bob);
        node.eventually("bob has gone", |stats| stats.sessions == 1);
        node.log_in(bob).vanish();
        leaves_and_returns(node, &mut alice, bob);
    });
}

/// Sees `uid` go offline, and logs it in again.
#[track_caller]
fn leaves_and_returns(node: &Node, sender: &mut support::Client, uid: &str) {
    node.eventually("the session is gone", |stats| stats.sessions == 1 && stats.uids == 1);
    assert_eq!(node.push(uid, Kind::Text, "too late"), Delivery::Offline);
    let before = node.stats().offline;
    sender.send_text(format!("{uid}:too late"));
    sender.expect_silence();
    // It may be in another shard's mail still, and would find whoever logs in meanwhile.
    node.eventually("it found nobody", |stats| stats.offline == before + 1);
    let mut back = node.log_in(uid);
    back.converse(sender);
}

#[test]
fn older_session_that_closes_leaves_the_uid_to_the_newer() {
    nodes().each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut older = node.log_in(bob);
        let mut newer = node.log_in(bob);
        older.expect_close(4001, "replaced by a newer login");
        older.expect_end();
        older.send(&Sent::close(1000, ""));
        drop(older);
        newer.converse(&mut alice);
        assert_eq!(node.push(bob, Kind::Text, "hi"), Delivery::Delivered { sessions: 1 });
        newer.expect_text("hi");
    });
}

// Where the demo has a defect.

/// Sends `bob:` and `all:` with each payload, and sees each arrive unchanged.
fn arrives_unchanged(payloads: &[&str]) {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        for payload in payloads {
            alice.send_text(format!("{}:{payload}", bob.name()));
            bob.expect_text(payload);
            alice.send_text(format!("all:{payload}"));
            bob.expect_text(payload);
            alice.expect_text(payload);
        }
        alice.converse(&mut bob);
    });
}

#[test]
fn message_is_everything_behind_the_first_colon() {
    arrives_unchanged(&["http://x:80/", ":", "::", ":x", "x:", "all:x", " : "]);
}

#[test]
fn json_arrives_unchanged() {
    arrives_unchanged(&[r#"{"k":"v"}"#, r#"{"a":[1,{"b":null}],"c":"\"::\""}"#]);
}

#[test]
fn empty_message_is_delivered_empty() {
    arrives_unchanged(&[""]);
}

#[test]
fn message_without_a_colon_is_answered_with_the_form_expected() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let expected = "error: expected uid:message or all:message, got no colon";
        for message in [bob.name(), "all", "", "hi", &"x".repeat(100_000)] {
            alice.send_text(message);
            alice.expect_text(expected);
            alice.send_binary(message);
            alice.expect_text(expected);
        }
        alice.send_binary(b"\xff\xfe");
        alice.expect_text(expected);
        bob.expect_nothing_from(&mut alice);
        alice.expect_nothing_from(&mut bob);
        assert_eq!(node.stats().invalid, 11);
    });
}

#[test]
fn recipient_is_matched_exactly() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        for to in [format!(" {}", bob.name()), format!("{} ", bob.name()), bob.name().to_uppercase()] {
            alice.send_text(format!("{to}:x"));
            bob.expect_nothing_from(&mut alice);
            let mut exact = node.log_in(&to);
            alice.send_text(format!("{to}:x"));
            exact.expect_text("x");
            bob.expect_nothing_from(&mut alice);
        }
        for to in ["ALL", " all", "all ", "All"] {
            alice.send_text(format!("{to}:x"));
            bob.expect_nothing_from(&mut alice);
            alice.expect_silence();
        }
    });
}

/// Sends `login`, and is refused with an error, a close code and the end.
#[track_caller]
fn is_refused(node: &Node, login: &Sent, words: &str) {
    let mut client = node.connect().named(words);
    client.send(login);
    client.expect_error(words);
    client.expect_close(1008, words);
    client.expect_end();
}

#[test]
fn login_that_could_not_be_addressed_is_refused() {
    nodes().each(|node| {
        is_refused(node, &Sent::text(""), "uid is empty, expected 1 to 256 bytes");
        is_refused(node, &Sent::text("all"), "uid \"all\" addresses everybody");
        is_refused(node, &Sent::text("a:b"), "uid contains a colon");
        is_refused(node, &Sent::text(":"), "uid contains a colon");
        is_refused(node, &Sent::text("alice:hi"), "uid contains a colon");
        is_refused(node, &Sent::text("x".repeat(257)), "uid has 257 bytes, expected 1 to 256");
        is_refused(node, &Sent::text("é".repeat(129)), "uid has 258 bytes, expected 1 to 256");
        is_refused(node, &Sent::text("x".repeat(8192)), "uid has 8192 bytes, expected 1 to 256");
        is_refused(node, &Sent::binary(""), "uid is empty");
        is_refused(node, &Sent::binary("all"), "uid \"all\" addresses everybody");
        is_refused(node, &Sent::binary(b"\xff\xfe"), "uid is not valid UTF-8");
        let stats = node.stats();
        assert_eq!((stats.sessions, stats.logins), (0, 0));
    });
}

#[test]
fn longest_uid_is_a_setting() {
    nodes().with(|config| config.uid_bytes_max = 5).each(|node| {
        node.log_in("alice").expect_silence();
        is_refused(node, &Sent::text("alicia"), "uid has 6 bytes, expected 1 to 5");
    });
}

#[test]
fn refused_login_can_be_made_again() {
    nodes().each(|node| {
        is_refused(node, &Sent::text("a:b"), "colon");
        node.log_in("ab").expect_silence();
    });
}

#[test]
fn nothing_behind_a_refused_login_is_done() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut refused = node.connect();
        let to_bob = Sent::text(format!("{}:hi", bob.name()));
        refused.send_together(&[Sent::text("a:b"), Sent::text(alice), to_bob, Sent::text("all:hi")]);
        refused.expect_error("colon");
        refused.expect_close(1008, "colon");
        refused.expect_end();
        bob.expect_silence();
        assert_eq!(node.stats().logins, 1);
    });
}

#[test]
fn text_login_that_is_not_utf8_is_a_protocol_error() {
    nodes().each(|node| {
        let mut client = node.connect();
        client.send_text(b"\xff\xfe");
        client.expect_close(1007, "not valid utf-8");
        client.expect_end();
    });
}

#[test]
fn login_longer_than_a_login_may_be_is_too_big() {
    nodes().each(|node| {
        let mut client = node.connect();
        client.send_text("x".repeat(8193));
        client.expect_close(1009, "at most 8192");
        client.expect_end();
    });
}

#[test]
fn second_login_replaces_the_first() {
    nodes().each(|node| {
        let mut older = node.log_in("alice");
        let mut newer = node.log_in("alice");
        older.expect_close(4001, "replaced by a newer login");
        older.expect_end();
        newer.expect_silence();
    });
}

#[test]
fn binary_stays_binary_and_its_bytes_unchanged() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let every_byte: Vec<u8> = (0..=255).collect();
        for payload in [&b""[..], b"plain", b"\xff\xfe\x00", b":\xff:", &every_byte] {
            alice.send_binary([bob.name().as_bytes(), b":", payload].concat());
            bob.expect_binary(payload);
            alice.send_binary([b"all:", payload].concat());
            bob.expect_binary(payload);
            alice.expect_binary(payload);
        }
        alice.converse(&mut bob);
    });
}

#[test]
fn text_and_binary_keep_their_kinds_when_mixed() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let to_bob = format!("{}:", bob.name());
        alice.send_together(&[
            Sent::text(format!("{to_bob}1")),
            Sent::binary(format!("{to_bob}2")),
            Sent::text("all:3"),
            Sent::binary("all:4"),
            Sent::text(format!("{to_bob}5")),
        ]);
        let expected = [Frame::text("1"), Frame::binary("2"), Frame::text("3"), Frame::binary("4"), Frame::text("5")];
        for frame in expected {
            bob.expect(&frame);
        }
    });
}

#[test]
fn ping_inside_a_fragmented_message_is_answered_and_the_message_arrives() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let (front, back) = bob.name().split_at(2);
        let (first, last) = (Sent::text(front).unfinished(), Sent::continuation(format!("{back}:hi")));
        alice.send_together(&[first.clone(), Sent::ping("still there?"), last.clone()]);
        alice.expect(&Frame::pong("still there?"));
        bob.expect_text("hi");

        // In pieces, too: the pong does not wait for the message.
        alice.send(&first);
        alice.send(&Sent::ping("and now?"));
        alice.expect(&Frame::pong("and now?"));
        alice.send(&Sent::continuation("").unfinished());
        alice.send(&last);
        bob.expect_text("hi");
        alice.converse(&mut bob);
    });
}

#[test]
fn pings_are_answered_and_pongs_are_not() {
    nodes().each(|node| {
        let mut alice = node.log_in("alice");
        for payload in ["", "x", &"y".repeat(125)] {
            alice.send(&Sent::ping(payload));
            alice.expect(&Frame::pong(payload));
        }
        alice.send(&Sent::pong("unasked"));
        alice.expect_silence();
    });
}

#[test]
fn frames_in_the_segment_of_the_handshake_are_taken_in_order() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut client = node.dial().named(alice);
        let commands = (0..100).flat_map(|number| Sent::text(format!("{}:{number}", bob.name())).bytes());
        let frames = Sent::text(alice).bytes().into_iter().chain(commands);
        client.send_bytes(&Request::upgrade().bytes().into_iter().chain(frames).collect::<Vec<_>>());
        client.expect_upgrade();
        client.expect_login_reply();
        for number in 0..100 {
            bob.expect_text(number.to_string());
        }
        client.converse(&mut bob);
    });
}

#[test]
fn frames_in_the_segment_of_the_login_are_taken_in_order() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut client = node.connect().named(alice);
        let mut frames = vec![Sent::text(alice)];
        frames.extend((0..100).map(|number| Sent::text(format!("{}:{number}", bob.name()))));
        client.send_together(&frames);
        client.expect_login_reply();
        for number in 0..100 {
            bob.expect_text(number.to_string());
        }
        client.converse(&mut bob);
    });
}

// What is promised.

/// Unicast and broadcast, small and large, one sender to one receiver: in order, each once.
#[test]
fn unicast_and_broadcast_of_one_sender_arrive_in_order() {
    const MESSAGES: usize = 6000;
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let to_bob = format!("{}:", bob.name());
        let mut writer = alice.twin();
        thread::scope(|threads| {
            threads.spawn(move || {
                for chunk in (0..MESSAGES).collect::<Vec<_>>().chunks(37) {
                    let frames: Vec<_> = chunk
                        .iter()
                        .map(|&number| {
                            let to = if is_broadcast(number) { "all:" } else { &to_bob };
                            Sent::text(format!("{to}{}", numbered(number)))
                        })
                        .collect();
                    writer.send_together(&frames);
                }
            });
            threads.spawn(|| {
                for number in 0..MESSAGES {
                    bob.expect_text(numbered(number));
                }
            });
            for number in (0..MESSAGES).filter(|&number| is_broadcast(number)) {
                alice.expect_text(numbered(number));
            }
        });
        alice.converse(&mut bob);
        let stats = node.stats();
        assert_eq!((stats.shed_newest, stats.shed_oldest, stats.shed_closed, stats.slow_consumers), (0, 0, 0, 0));
    });
}

/// Runs of either, of changing length.
fn is_broadcast(number: usize) -> bool {
    number % 7 < number % 4
}

/// A number, and now and then something large behind it.
fn numbered(number: usize) -> String {
    let padding = match number % 500 {
        0 => 20_000,
        1..10 => 1000,
        _ => number % 50,
    };
    format!("{number} {}", "x".repeat(padding))
}

#[test]
fn largest_message_arrives_whole() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let to_bob = format!("{}:", bob.name());
        let payload = "x".repeat(MIB - to_bob.len());
        alice.send_text(format!("{to_bob}{payload}"));
        bob.expect_text(&payload);
        alice.converse(&mut bob);
    });
}
