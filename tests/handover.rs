//! The hand-over from the gateway to a shard: nothing that a client has sent is lost, doubled or reordered by it.
//!
//! What a client sends may reach the node in any pieces, and before it was asked for. So every test sends the same
//! bytes as a client that waits for each answer would, only cut or joined otherwise.

mod support;

use std::thread;

use support::{Client, Frame, Node, Request, Sent, nodes};

const MIB: usize = 1 << 20;

/// What a client has to say in its whole life: a login and commands; and what comes of it.
struct Script {
    uid: String,
    login: Vec<u8>,
    commands: Vec<u8>,
    to_bob: Vec<Frame>,
}

impl Script {
    /// Text, binary and a fragmented message with a ping inside, to bob.
    fn new(uid: &str, bob: &str) -> Self {
        let frames = [
            Sent::text(format!("{bob}:one")),
            Sent::binary([bob.as_bytes(), b":\xff\x00"].concat()),
            Sent::text(format!("{bob}:th")).unfinished(),
            Sent::ping("p"),
            Sent::continuation("ree"),
            Sent::text(format!("{bob}:{}", "x".repeat(200))),
        ];
        Self {
            uid: uid.to_owned(),
            login: Sent::text(uid).bytes(),
            commands: frames.iter().flat_map(Sent::bytes).collect(),
            to_bob: vec![
                Frame::text("one"),
                Frame::binary(b"\xff\x00"),
                Frame::text("three"),
                Frame::text("x".repeat(200)),
            ],
        }
    }

    /// Sees that everything came of it, once and in order.
    #[track_caller]
    fn expect_all(&self, mut client: Client, bob: &mut Client) {
        client.expect_login_reply();
        self.expect_rest(client, bob);
    }

    #[track_caller]
    fn expect_rest(&self, mut client: Client, bob: &mut Client) {
        client.expect(&Frame::pong("p"));
        for frame in &self.to_bob {
            bob.expect(frame);
        }
        client.converse(bob);
    }

    fn client(&self, node: &Node) -> Client {
        node.dial().named(&self.uid)
    }
}

#[test]
fn request_login_and_commands_in_one_segment() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let script = Script::new(alice, bob.name());
        let mut client = script.client(node);
        client.send_bytes(&[&Request::upgrade().bytes()[..], &script.login, &script.commands].concat());
        client.expect_upgrade();
        script.expect_all(client, &mut bob);
    });
}

#[test]
fn more_in_one_segment_than_any_buffer_before_the_shard_holds() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut client = node.dial().named(alice);
        let commands = (0..20_000).flat_map(|number| Sent::text(format!("{}:{number}", bob.name())).bytes());
        let mut bytes = Request::upgrade().bytes();
        bytes.extend(Sent::text(alice).bytes());
        bytes.extend(commands);
        let mut writer = client.twin();
        thread::scope(|threads| {
            threads.spawn(move || writer.send_bytes(&bytes));
            client.expect_upgrade();
            client.expect_login_reply();
            for number in 0..20_000 {
                bob.expect_text(number.to_string());
            }
        });
        client.converse(&mut bob);
    });
}

/// The tail is sent when the node has answered what came before it, wherever there is an answer.
#[test]
fn cut_at_every_byte_behind_the_request() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let script = Script::new(alice, bob.name());
        let request = Request::upgrade().bytes();
        let frames = [&script.login[..], &script.commands].concat();
        for cut in 0..=frames.len() {
            let (front, tail) = frames.split_at(cut);
            // The front once in the request's segment, once behind the answer to it.
            for is_early in [true, false] {
                let mut client = script.client(node);
                if is_early {
                    client.send_bytes(&[&request, front].concat());
                    client.expect_upgrade();
                } else {
                    client.send_bytes(&request);
                    client.expect_upgrade();
                    client.send_bytes(front);
                }
                if cut >= script.login.len() {
                    client.expect_login_reply();
                    client.send_bytes(tail);
                    script.expect_rest(client, &mut bob);
                } else {
                    client.send_bytes(tail);
                    script.expect_all(client, &mut bob);
                }
            }
        }
    });
}

#[test]
fn cut_at_every_byte_of_the_request() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let script = Script::new(alice, bob.name());
        let request = Request::upgrade().bytes();
        let bytes = [&request[..], &script.login, &script.commands].concat();
        for cut in 1..request.len() {
            let mut client = script.client(node);
            client.send_bytes(&bytes[..cut]);
            client.send_bytes(&bytes[cut..]);
            client.expect_upgrade();
            script.expect_all(client, &mut bob);
        }
    });
}

#[test]
fn byte_by_byte() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let script = Script::new(alice, bob.name());
        let mut client = script.client(node);
        for byte in [&Request::upgrade().bytes()[..], &script.login, &script.commands].concat() {
            client.send_bytes(&[byte]);
        }
        client.expect_upgrade();
        script.expect_all(client, &mut bob);
    });
}

#[test]
fn login_in_fragments() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let script = Script::new(alice, bob.name());
        let (front, back) = alice.split_at(2);
        let fragments = [
            Sent::text("").unfinished(),
            Sent::continuation(front).unfinished(),
            Sent::ping("inside"),
            Sent::continuation("").unfinished(),
            Sent::continuation(back),
        ];

        let mut client = script.client(node).upgraded();
        let together: Vec<u8> = fragments.iter().flat_map(Sent::bytes).chain(script.commands.clone()).collect();
        client.send_bytes(&together);
        client.expect(&Frame::pong("inside"));
        script.expect_all(client, &mut bob);

        let mut client = script.client(node).upgraded();
        for fragment in &fragments {
            client.send(fragment);
        }
        client.expect(&Frame::pong("inside"));
        client.expect_login_reply();
        client.send_bytes(&script.commands);
        script.expect_rest(client, &mut bob);
    });
}

#[test]
fn ping_before_the_login_is_answered() {
    nodes().each(|node| {
        let mut client = node.connect().named("alice");
        for payload in ["", "x", &"y".repeat(125)] {
            client.send(&Sent::ping(payload));
            client.expect(&Frame::pong(payload));
        }
        client.send(&Sent::pong("unasked"));
        client.log_in("alice");

        let mut client = node.connect().named("bob");
        client.send_together(&[Sent::ping("1"), Sent::ping("2"), Sent::text("bob"), Sent::ping("3")]);
        client.expect(&Frame::pong("1"));
        client.expect(&Frame::pong("2"));
        client.expect_login_reply();
        client.expect(&Frame::pong("3"));
        client.expect_silence();
    });
}

#[test]
fn largest_message_right_behind_the_login() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let to_bob = format!("{}:", bob.name());
        let payload = "é".repeat((MIB - to_bob.len()) / 2);
        let login_and_message = [Sent::text(alice).bytes(), Sent::text(format!("{to_bob}{payload}")).bytes()].concat();
        let bytes = [Request::upgrade().bytes(), login_and_message.clone()].concat();

        let mut client = node.dial().named(alice);
        client.send_bytes(&bytes);
        client.expect_upgrade();
        client.expect_login_reply();
        bob.expect_text(&payload);
        client.converse(&mut bob);
        drop(client);

        let mut client = node.connect().named(alice);
        client.send_bytes(&login_and_message);
        client.expect_login_reply();
        bob.expect_text(&payload);
        client.converse(&mut bob);
    });
}

/// The tail comes when the session is the shard's.
#[test]
fn large_message_cut_by_the_hand_over() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let payload = "x".repeat(300_000);
        let message = Sent::text(format!("{}:{payload}", bob.name())).bytes();
        for cut in [1, 2, 9, 10, 13, 14, 15, 1000, 65_535, 65_536, 200_000, message.len() - 1] {
            let mut client = node.connect().named(alice);
            client.send_bytes(&[&Sent::text(alice).bytes()[..], &message[..cut]].concat());
            client.expect_login_reply();
            client.send_bytes(&message[cut..]);
            bob.expect_text(&payload);
            client.converse(&mut bob);
        }
    });
}

#[test]
fn close_right_behind_the_login_is_answered() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut client = node.connect().named(alice);
        let to_bob = Sent::text(format!("{}:last words", bob.name()));
        client.send_together(&[Sent::text(alice), to_bob, Sent::close(1000, "done")]);
        client.expect_login_reply();
        client.expect_close(1000, "");
        client.expect_end();
        bob.expect_text("last words");
        node.eventually("the session is gone", |stats| stats.sessions == 1);
    });
}

#[test]
fn violation_right_behind_the_login_is_told() {
    nodes().each(|node| {
        let mut client = node.connect().named("alice");
        client.send_together(&[Sent::text("alice"), Sent::text("bob:hi").unmasked()]);
        client.expect_login_reply();
        client.expect_close(1002, "not masked");
        client.expect_end();
    });
}

/// `printf … | nc`: everything is said at once, and then its sending ends.
#[test]
fn end_of_sending_right_behind_the_login_loses_nothing() {
    nodes().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut client = node.dial().named(alice);
        let frames = [Sent::text(alice), Sent::text(format!("{}:hi", bob.name())), Sent::text("all:and bye")];
        client.send_bytes(&[Request::upgrade().bytes(), frames.iter().flat_map(Sent::bytes).collect()].concat());
        client.finish_sending();
        client.expect_upgrade();
        client.expect_login_reply();
        bob.expect_text("hi");
        bob.expect_text("and bye");
        client.expect_text("and bye");
        client.expect_end();
    });
}

/// Hand-overs by the hundred at the same moment, each with commands behind the login.
#[test]
fn storm_of_logins_loses_nothing() {
    const CLIENTS: usize = 200;
    nodes().each(|node| {
        let uids = node.uids(CLIENTS);
        let mut collector = node.log_in("collector");
        thread::scope(|threads| {
            for some in uids.chunks(CLIENTS / 8) {
                threads.spawn(move || {
                    let clients: Vec<_> = some
                        .iter()
                        .map(|uid| {
                            let mut client = node.dial().named(uid);
                            let frames = [
                                Sent::text(uid),
                                Sent::text(format!("{uid}:to myself")),
                                Sent::text(format!("collector:{uid}")),
                            ];
                            let frames: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
                            client.send_bytes(&[Request::upgrade().bytes(), frames].concat());
                            client
                        })
                        .collect();
                    for mut client in clients {
                        client.expect_upgrade();
                        client.expect_login_reply();
                        client.expect_text("to myself");
                        client.expect_silence();
                    }
                });
            }
        });
        let mut expected = uids;
        let mut collected: Vec<_> = (0..CLIENTS).map(|_| collector.receive().as_text().to_owned()).collect();
        collected.sort_unstable();
        expected.sort_unstable();
        assert_eq!(collected, expected);
        collector.expect_silence();
    });
}
