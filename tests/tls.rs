//! TLS: what a client is promised over an encrypted connection, and what becomes of who breaks it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pombo::config::SlowConsumer;
use pombo::message::Kind;
use pombo::{Config, Server};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};
use socket2::{Domain, Socket, Type};

use support::{
    Authority, Client, DEADLINE, LOCAL, Node, Nodes, Program, Request, Secured, Sent, eventually, nodes, secure,
    sibling,
};

mod support;

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// Nodes that speak TLS with the authority's files.
fn secured(authority: &Authority) -> Nodes<'_> {
    nodes().with(|config| authority.apply(config))
}

#[track_caller]
fn dial(node: &Node, authority: &Authority) -> Client {
    dial_by(node, authority.client(BOTH))
}

#[track_caller]
fn dial_by(node: &Node, config: Arc<ClientConfig>) -> Client {
    Client::try_dial_tls(node.socket_address(), config).unwrap_or_else(|error| panic!("no TLS: {error}"))
}

#[track_caller]
fn log_in(node: &Node, authority: &Authority, uid: &str) -> Client {
    let mut client = dial(node, authority).upgraded();
    client.log_in(uid);
    client
}

/// A connected socket, which the test makes a TLS connection of by hand.
fn socket(node: &Node) -> TcpStream {
    let socket = TcpStream::connect(node.socket_address()).expect("the node listens");
    socket.set_nodelay(true).expect("a socket can do that");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline is a time-out");
    socket.set_write_timeout(Some(DEADLINE)).expect("a deadline is a time-out");
    socket
}

/// The node's certificate, as a client sees it that comes in now.
fn shown(node: &Node, authority: &Authority) -> CertificateDer<'static> {
    let mut client = dial(node, authority);
    client.tls().conn.peer_certificates().expect("the handshake is done")[0].clone().into_owned()
}

#[test]
fn messages_go_both_ways_in_either_version() {
    let authority = Authority::new();
    for (version, number) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        secured(&authority).each_pair(|node, alice, bob| {
            let log_in = |uid: &str| {
                let mut client = dial_by(node, authority.client(&[version])).upgraded();
                client.log_in(uid);
                assert_eq!(client.tls().conn.protocol_version(), Some(number));
                client
            };
            let (mut alice, mut bob) = (log_in(alice), log_in(bob));
            alice.converse(&mut bob);
            alice.send_text("all:hi");
            alice.expect_text("hi");
            bob.expect_text("hi");
            bob.send_binary(format!("{}:\u{0}\u{1}", alice.name()));
            alice.expect_binary(b"\x00\x01");
        });
    }
}

#[test]
fn over_ipv6_too() {
    let authority = Authority::new();
    let nodes = secured(&authority).with(|config| config.listen = vec!["[::1]:0".parse().expect("an address")]);
    nodes.each(|node| {
        let (mut alice, mut bob) = (log_in(node, &authority, "alice"), log_in(node, &authority, "bob"));
        alice.converse(&mut bob);
    });
}

#[test]
fn unix_sockets_stay_plain_beside_it() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder for the socket");
    let path = folder.path().join("pombo.sock");
    let listen = format!("unix:{}", path.display()).parse().expect("an address");
    let nodes = secured(&authority).with(move |config| config.listen.push(std::clone::Clone::clone(&listen)));
    let node = nodes.start(1);
    let mut alice = log_in(&node, &authority, "alice");
    let mut bob = Client::dial(&format!("unix:{}", path.display()).parse().expect("an address")).upgraded();
    bob.log_in("bob");
    alice.converse(&mut bob);
}

/// The end of the handshake, the upgrade, the login and the first messages in one segment: none of it is lost where
/// the connection moves from one thread to the other, nor what follows in pieces.
#[test]
fn all_in_the_flight_of_the_handshakes_end() {
    let authority = Authority::new();
    for version in [&TLS12, &TLS13] {
        secured(&authority).each_pair(|node, alice, bob| {
            let mut bob_client = log_in(node, &authority, bob);
            let mut socket = socket(node);
            let name = node.socket_address().ip().into();
            let mut connection =
                ClientConnection::new(authority.client(&[version]), name).expect("the config makes connections");
            // Kept by rustls until the handshake allows it, and sent behind its last message, a record each.
            let mut say = |bytes: &[u8]| connection.writer().write_all(bytes).expect("it fits");
            say(&Request::upgrade().bytes());
            say(&Sent::text(alice).bytes());
            for number in 0..200 {
                say(&Sent::text(format!("{bob}:message {number}")).bytes());
            }
            while connection.is_handshaking() {
                connection.write_tls(&mut socket).expect("the node reads");
                if connection.wants_read() {
                    connection.read_tls(&mut socket).expect("the node answers");
                    connection.process_new_packets().expect("the node is sound");
                }
            }
            let mut last = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut last).expect("a Vec takes all");
            }
            // Cut inside a record, so that a part of it waits in rustls when the connection moves.
            let cut = last.len() - 700;
            socket.write_all(&last[..cut]).expect("the node reads");
            bob_client.expect_text("message 0");
            socket.write_all(&last[cut..]).expect("the node reads");
            for number in 1..200 {
                bob_client.expect_text(format!("message {number}"));
            }
            let mut client = Client::over_tls(Secured::new(connection, socket)).named(alice);
            client.expect_upgrade();
            client.expect_login_reply();
            client.converse(&mut bob_client);
        });
    }
}

#[test]
fn large_messages_both_ways() {
    let authority = Authority::new();
    secured(&authority).each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (log_in(node, &authority, alice), log_in(node, &authority, bob));
        let message = |size: usize| -> String { (0..size).map(|at| char::from(b'a' + (at * 7 % 26) as u8)).collect() };
        for size in [(1 << 20) - 64, 64 << 10, 16 << 10, 1] {
            let text = message(size);
            alice.send_text(format!("{}:{text}", bob.name()));
            bob.expect_text(&text);
            bob.send_text(format!("all:{text}"));
            alice.expect_text(&text);
            bob.expect_text(&text);
        }
    });
}

/// Records that come a byte at a time, and large ones cut anywhere: what was decrypted, what was not, and what is
/// left in the socket are all taken up again.
#[test]
fn records_in_any_pieces() {
    let authority = Authority::new();
    for version in [&TLS12, &TLS13] {
        secured(&authority).each_pair(|node, alice, bob| {
            let mut bob = log_in(node, &authority, bob);
            let mut alice = {
                let mut client = dial_by(node, authority.client(&[version])).upgraded();
                client.log_in(alice);
                client
            };
            let to_bob = |text: &str| Sent::text(format!("{}:{text}", bob.name())).bytes();
            let (small, large) = ("hi".to_owned(), "x".repeat(100_000));
            let mut wire = Vec::new();
            for text in [&small, &large, &small] {
                let stream = alice.tls();
                stream.conn.set_buffer_limit(None);
                stream.conn.writer().write_all(&to_bob(text)).expect("no limit");
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut wire).expect("a Vec takes all");
                }
            }
            // The first bytes and the last one by one; between them pieces of about a record.
            let (head, rest) = wire.split_at(300);
            let (middle, tail) = rest.split_at(rest.len() - 300);
            let pieces = head.chunks(1).chain(middle.chunks(16_000)).chain(tail.chunks(1));
            for piece in pieces {
                alice.tls().sock.write_all(piece).expect("the node reads");
            }
            for text in [&small, &large, &small] {
                bob.expect_text(text);
            }
            alice.converse(&mut bob);
        });
    }
}

/// Thousands of messages in large records, far more than one receive call or one turn's budget takes in.
#[test]
fn a_flood_is_taken_in_order() {
    let authority = Authority::new();
    secured(&authority).each_pair(|node, alice, bob| {
        const COUNT: usize = 20_000;
        let (mut alice, mut bob) = (log_in(node, &authority, alice), log_in(node, &authority, bob));
        let to = bob.name().to_owned();
        thread::scope(|scope| {
            scope.spawn(|| {
                for first in (0..COUNT).step_by(1000) {
                    let frames: Vec<Sent> =
                        (first..first + 1000).map(|number| Sent::text(format!("{to}:{number}"))).collect();
                    alice.send_together(&frames);
                }
            });
            for number in 0..COUNT {
                bob.expect_text(number.to_string());
            }
        });
    });
}

#[test]
fn a_slow_consumer_is_cut_with_its_code() {
    let authority = Authority::new();
    let nodes = secured(&authority).with(|config| {
        config.message_bytes_max = 64 << 10;
        config.outbox_bytes_max = 256 << 10;
        config.send_buffer_bytes = Some(16 << 10);
        config.slow_consumer = SlowConsumer::Disconnect;
    });
    nodes.each_pair(|node, alice, bob| {
        let mut alice = log_in(node, &authority, alice);
        let mut slow = {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(8 << 10).expect("a socket can be small");
            socket.connect(&node.socket_address().into()).expect("the node listens");
            let stream = secure(socket.into(), authority.client(BOTH)).expect("no TLS");
            let mut client = Client::over_tls(stream).upgraded();
            client.log_in(bob);
            client
        };
        let message = "y".repeat(32 << 10);
        let mut sent = 0;
        eventually("the slow consumer is cut", || {
            alice.send_text(format!("{bob}:{message}"));
            sent += 1;
            node.stats().slow_consumers == 1
        });
        // What was encrypted before is whole, and the code behind it, and `close_notify` behind that.
        let mut taken = 0;
        loop {
            let frame = slow.receive();
            if frame.is_close(4008, "") {
                break;
            }
            assert_eq!(frame.as_text(), message);
            taken += 1;
        }
        slow.expect_end();
        assert!(taken < sent, "{taken} of {sent} messages were taken, though it was cut");
        assert!(node.stats().shed_closed > 0);
        alice.expect_silence();
    });
}

/// Under `drop-oldest` whole messages go missing and no byte of one: what waits encrypted is not dropped any more.
#[test]
fn a_slow_consumer_loses_whole_messages_only() {
    let authority = Authority::new();
    let nodes = secured(&authority).with(|config| {
        config.message_bytes_max = 64 << 10;
        config.outbox_bytes_max = 100 << 10;
        config.send_buffer_bytes = Some(16 << 10);
        config.slow_consumer = SlowConsumer::DropOldest;
    });
    nodes.each_pair(|node, alice, bob| {
        let mut alice = log_in(node, &authority, alice);
        let mut slow = log_in(node, &authority, bob);
        let filling = "z".repeat(20_000);
        let mut sent: u64 = 0;
        eventually("messages are dropped", || {
            for _ in 0..16 {
                alice.send_text(format!("{bob}:{sent} {filling}"));
                sent += 1;
            }
            node.stats().shed_oldest >= 8
        });
        let shed = node.eventually("all is routed", |stats| stats.frames_in >= sent).shed_oldest;
        let mut last = None;
        let mut taken = 0;
        alice.expect_silence();
        while last != Some(sent - 1) {
            let frame = slow.receive();
            let (number, rest) = frame.as_text().split_once(' ').expect("a number in front");
            let number: u64 = number.parse().expect("a number");
            assert_eq!(rest, filling);
            assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
            (last, taken) = (Some(number), taken + 1);
        }
        assert!(
            taken + shed <= sent && taken + node.stats().shed_oldest == sent,
            "{taken} taken of {sent}, {shed} shed"
        );
        slow.expect_nothing_from(&mut alice);
    });
}

#[test]
fn a_drain_ends_with_its_code_and_close_notify() {
    let authority = Authority::new();
    secured(&authority).with(|config| config.drain_timeout = Duration::from_secs(4)).each(|node| {
        let mut clients: Vec<Client> = node.uids(6).iter().map(|uid| log_in(node, &authority, uid)).collect();
        thread::scope(|scope| {
            scope.spawn(|| node.drain());
            for client in &mut clients {
                client.expect_close(1001, "");
                client.send(&Sent::close(1001, ""));
                // The end is `close_notify`: without it rustls has an error here.
                client.expect_end();
            }
            // Gone on both sides, so that the drain need not wait for them.
            clients.clear();
        });
    });
}

#[test]
fn close_notify_without_a_close_frame_is_answered() {
    let authority = Authority::new();
    for version in [&TLS12, &TLS13] {
        secured(&authority).each(|node| {
            let mut client = dial_by(node, authority.client(&[version])).upgraded();
            client.log_in("alice");
            let stream = client.tls();
            stream.conn.send_close_notify();
            stream.flush().expect("the node reads");
            client.expect_end();
            node.eventually("the session is gone", |stats| stats.sessions == 0);
        });
    }
}

#[test]
fn a_clients_key_update_changes_nothing() {
    let authority = Authority::new();
    secured(&authority).each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (log_in(node, &authority, alice), log_in(node, &authority, bob));
        for _ in 0..3 {
            let stream = alice.tls();
            stream.conn.refresh_traffic_keys().expect("TLS 1.3 can");
            stream.flush().expect("the node reads");
            alice.converse(&mut bob);
        }
    });
}

/// A record that can't be decrypted ends its own connection, with an alert that says so.
#[test]
fn a_forged_record_gets_an_alert_and_disturbs_nobody() {
    let authority = Authority::new();
    secured(&authority).each_pair(|node, alice, bob| {
        let (mut alice, mut forger) = (log_in(node, &authority, alice), log_in(node, &authority, bob));
        let forged: Vec<u8> = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
        forger.tls().sock.write_all(&forged).expect("the node reads");
        let stream = forger.tls();
        let error = stream.read(&mut [0]).expect_err("the node refuses it");
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
        node.eventually("the session is gone", |stats| stats.sessions == 1);
        alice.expect_silence();
    });
}

#[test]
fn a_new_certificate_is_taken_without_dropping_anybody() {
    let authority = Authority::new();
    secured(&authority).each(|node| {
        let first = shown(node, &authority);
        let (mut alice, mut bob) = (log_in(node, &authority, "alice"), log_in(node, &authority, "bob"));

        let second = authority.issue();
        assert_ne!(first, second);
        eventually("the changed files are seen", || shown(node, &authority) == second);
        alice.converse(&mut bob);

        // Neither half fits the other: the old one stays.
        let (_, chain, _) = authority.sign(&LOCAL);
        fs::write(authority.certificate_file(), chain).expect("the folder is writable");
        fs::write(authority.key_file(), "no key").expect("the folder is writable");
        node.reload(|config| authority.apply(config));
        assert_eq!(shown(node, &authority), second);
        fs::remove_file(authority.key_file()).expect("it is there");
        node.reload(|config| authority.apply(config));
        assert_eq!(shown(node, &authority), second);

        let third = authority.issue();
        node.reload(|config| authority.apply(config));
        eventually("a reload reads the files", || shown(node, &authority) == third);
        alice.converse(&mut bob);
        let mut carol = log_in(node, &authority, "carol");
        carol.converse(&mut alice);
    });
}

#[test]
fn plain_http_is_told_what_is_spoken_here() {
    let authority = Authority::new();
    secured(&authority).each(|node| {
        let mut alice = log_in(node, &authority, "alice");
        let mut plain = node.dial();
        plain.send_request(&Request::upgrade());
        let response = plain.receive_response();
        assert_eq!(
            (response.status, response.body.trim_end()),
            (400, "this port speaks TLS, expected https:// or wss://")
        );
        plain.expect_end();
        alice.expect_silence();
        node.expect_refusals(&[("plain_http", 1)]);
    });
}

/// A TLS record's type, the alert's level and its description (RFC 8446, section 6).
const FATAL_ALERT: (u8, u8) = (21, 2);
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

#[track_caller]
fn check_alert(node: &Node, hello: &[u8], descriptions: &[u8]) {
    let mut client = node.dial();
    client.send_bytes(hello);
    let answer = client.receive_to_end();
    let [kind, _, _, _, _, level, description] = answer[..] else { panic!("expected an alert, got {answer:?}") };
    assert_eq!((kind, level), FATAL_ALERT);
    assert!(descriptions.is_empty() || descriptions.contains(&description), "{description}");
}

#[test]
fn who_speaks_no_tls_that_is_safe_gets_an_alert() {
    let authority = Authority::new();
    secured(&authority).each(|node| {
        let mut alice = log_in(node, &authority, "alice");
        // A hello of TLS 1.1 with one cipher (RFC 4346, section 7.4.1.2).
        let body: Vec<u8> = [&[3, 2][..], &[9; 32], &[0, 0, 2, 0, 47, 1, 0]].concat();
        let handshake: Vec<u8> = [&[1, 0, 0, body.len() as u8][..], &body].concat();
        let hello: Vec<u8> = [&[22, 3, 1, 0, handshake.len() as u8][..], &handshake].concat();
        check_alert(node, &hello, &[PROTOCOL_VERSION, HANDSHAKE_FAILURE]);
        // An old hello (SSL 2), nothing sensible, and a record longer than any.
        check_alert(node, &[0x80, 0x2e, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0], &[]);
        check_alert(node, &[0; 64], &[]);
        check_alert(node, &[22, 3, 1, 0xff, 0xff, 1, 2, 3], &[]);
        alice.expect_silence();
        node.expect_refusals(&[("tls", 4)]);
    });
}

#[test]
fn another_protocol_inside_tls_gets_an_alert() {
    let authority = Authority::new();
    secured(&authority).each(|node| {
        let ask = |protocol: &str| {
            let mut config = ClientConfig::clone(&authority.client(BOTH));
            config.alpn_protocols = vec![protocol.into()];
            Client::try_dial_tls(node.socket_address(), Arc::new(config))
        };
        let error = ask("h2").expect_err("HTTP/2 is not spoken");
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
        let mut client = ask("http/1.1").expect("HTTP/1.1 is").upgraded();
        client.log_in("alice");
    });
}

/// However its bytes come: a handshake has one time, and it is over then.
#[test]
fn a_handshake_that_stalls_is_gone_in_time() {
    let authority = Authority::new();
    secured(&authority).with(|config| config.handshake_timeout = Duration::from_millis(300)).each(|node| {
        let mut alice = log_in(node, &authority, "alice");
        let name = node.socket_address().ip().into();
        let mut connection = ClientConnection::new(authority.client(BOTH), name).expect("the config makes connections");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("a Vec takes all");
        for spoken in [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello] {
            let begun = Instant::now();
            let mut client = node.dial();
            client.send_bytes(spoken);
            client.receive_to_end();
            let elapsed = begun.elapsed();
            assert!(elapsed >= Duration::from_millis(250), "gone after {elapsed:?}");
        }
        eventually("none of them is left", || node.handle().connections() == 1);
        node.expect_refusals(&[("handshake_timeout", 4)]);
        alice.expect_silence();
    });
}

/// The places before the login are held by TLS handshakes, too.
#[test]
fn stalled_handshakes_count_as_handshakes() {
    let authority = Authority::new();
    let nodes = secured(&authority).with(|config| {
        config.handshakes_max = 2;
        config.handshake_timeout = Duration::from_millis(500);
    });
    nodes.each(|node| {
        let stalled: Vec<TcpStream> = (0..2).map(|_| socket(node)).collect();
        for mut stalled in &stalled {
            stalled.write_all(&[22]).expect("the node reads");
        }
        eventually("both have their places", || node.handle().connections() == 2);
        // Comes in when they are gone, and not before.
        let begun = Instant::now();
        let mut alice = log_in(node, &authority, "alice");
        assert!(begun.elapsed() >= Duration::from_millis(100), "after {:?}", begun.elapsed());
        alice.expect_silence();
    });
}

#[test]
fn files_that_make_no_certificate_are_told_at_the_start() {
    let authority = Authority::new();
    let bind = || {
        let mut config =
            Config { control: None, listen: vec!["127.0.0.1:0".parse().expect("an address")], ..Config::default() };
        authority.apply(&mut config);
        Server::bind(config)
    };
    #[track_caller]
    fn check(bound: Result<Server, pombo::StartError>, words: &str) {
        let error = bound.expect_err("it can't start");
        assert!(matches!(error, pombo::StartError::Certificate(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    bind().expect("the files are sound");
    let (_, chain, key) = authority.sign(&LOCAL);
    fs::write(authority.certificate_file(), &chain).expect("the folder is writable");
    check(bind(), "is not the key of the certificate in tls_certificate");
    check(bind(), "expected the files of one certificate");
    // A chain whose certificates are in the wrong order.
    authority.issue_by_intermediate("chat.example.org");
    let wrong_way = fs::read_to_string(authority.certificate_file()).expect("it was written");
    let (own, intermediate) = wrong_way.split_at(wrong_way.rfind("-----BEGIN").expect("there are two"));
    fs::write(authority.certificate_file(), format!("{intermediate}{own}")).expect("the folder is writable");
    check(bind(), "expected the server's own certificate first, and the key belongs to number 2 in the file");
    fs::write(authority.certificate_file(), &chain).expect("the folder is writable");
    fs::write(authority.key_file(), &chain).expect("the folder is writable");
    check(bind(), "holds no private key in PEM");
    fs::write(authority.key_file(), &key).expect("the folder is writable");
    bind().expect("the files are sound");
    fs::write(authority.certificate_file(), &key).expect("the folder is writable");
    check(bind(), "holds no certificate in PEM");
    fs::remove_file(authority.certificate_file()).expect("it is there");
    check(bind(), "cannot read tls_certificate");
}

/// What a trusted proxy says of the client comes in front of TLS, which the client makes with the node.
#[test]
fn behind_a_proxy_that_passes_tls_on() {
    let authority = Authority::new();
    let nodes = secured(&authority).with(|config| {
        config.proxy_protocol = true;
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    });
    nodes.each(|node| {
        let mut socket = socket(node);
        let header: Vec<u8> =
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 10]].concat();
        socket.write_all(&header).expect("the node reads");
        let mut client = Client::over_tls(secure(socket, authority.client(BOTH)).expect("TLS")).upgraded();
        client.log_in("alice");
        client.expect_silence();
    });
}

/// A push from the program around the node goes the same way.
#[test]
fn pushes_reach_it() {
    let authority = Authority::new();
    secured(&authority).each(|node| {
        let mut alice = log_in(node, &authority, "alice");
        node.push("alice", Kind::Text, "from the program");
        alice.expect_text("from the program");
        assert_eq!(node.broadcast(Kind::Binary, vec![0; 300_000]), 1);
        alice.expect_binary(vec![0; 300_000]);
    });
}

/// What `pombo connect` prints and how it ends, given `input`.
fn connect(node: &Node, root: &Path, input: &str) -> (String, String, Option<i32>) {
    connect_with(node, &["--ca", root.to_str().expect("a path in UTF-8")], input)
}

fn connect_with(node: &Node, arguments: &[&str], input: &str) -> (String, String, Option<i32>) {
    let url = format!("wss://localhost:{}/", node.socket_address().port());
    let mut client = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["connect", &url, "alice"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pombo starts");
    // It may have ended before it reads.
    client.stdin.take().expect("it is piped").write_all(input.as_bytes()).ok();
    let output = client.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_terminal_client_speaks_it_and_trusts_whom_it_is_told() {
    let authority = Authority::new();
    let node = secured(&authority).start(1);
    let (output, errors, code) = connect(&node, &authority.root_file(), "alice:hi\n");
    assert_eq!((output.as_str(), code), ("hi\n", Some(0)), "{errors}");
    let stranger = Authority::new();
    let (output, errors, code) = connect(&node, &stranger.root_file(), "alice:hi\n");
    assert_eq!((output.as_str(), code), ("", Some(1)));
    assert!(
        errors.contains("no TLS with localhost: its certificate leads to no authority that is trusted"),
        "{errors}"
    );
}

/// It said no more than "invalid data".
#[test]
fn the_load_generator_explains_what_is_wrong_with_a_certificate() {
    let Some(bench) = sibling(env!("CARGO_BIN_EXE_pombo"), "pombo-bench") else { return };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node = secured(&authority).start(1);
    let port = node.socket_address().port();
    let check = |server: &str, root: &Authority, more: &[&str], code: i32, said: &str| {
        let mut command = Command::new(&bench);
        command.args(["connect", server, "-c", "1", "--hold", "0", "--ca"]).arg(root.root_file()).args(more);
        let output = command.output().expect("it starts");
        let errors = String::from_utf8(output.stderr).expect("it prints text");
        assert_eq!(output.status.code(), Some(code), "{server}: {errors}");
        assert!(errors.contains(said), "{server}: {errors}");
    };
    let [by_name, plain] = ["wss://localhost", "127.0.0.1"].map(|host| format!("{host}:{port}"));
    check(&by_name, &authority, &[], 0, "");
    let unknown = "broken: no TLS with the server: its certificate leads to no authority that is trusted here";
    check(&by_name, &stranger, &[], 1, unknown);
    check(&by_name, &authority, &["--server-name", "chat.example.org"], 1, "its certificate is for localhost");
    let not_plain = "refused the upgrade: HTTP/1.1 400 Bad Request: this port speaks TLS, expected https:// or wss://";
    check(&plain, &authority, &[], 1, not_plain);
}

#[test]
fn the_terminal_client_explains_what_is_wrong_with_a_certificate() {
    #[track_caller]
    fn check(authority: &Authority, why: &str) {
        let node = secured(authority).start(1);
        let (output, errors, code) = connect(&node, &authority.root_file(), "alice:hi\n");
        assert_eq!((output.as_str(), code), ("", Some(1)));
        assert!(errors.contains(&format!("no TLS with localhost: {why}")), "{errors}");
    }
    let authority = Authority::new();
    authority.issue_for(2001, 2002);
    check(&authority, "its certificate has expired at 2002-01-01T00:00:00Z");
    authority.issue_for(3001, 3002);
    check(&authority, "its certificate is not valid before 3001-01-01T00:00:00Z");
    authority.issue_by_intermediate("chat.example.org");
    check(&authority, "its certificate is for chat.example.org, not for localhost; ");
    authority.issue_self_signed();
    check(&authority, "its certificate is self-signed: it is marked as an authority's (CA:TRUE)");
    // Neither does it help to trust that one.
    fs::copy(authority.certificate_file(), authority.root_file()).expect("the folder is writable");
    check(&authority, "its certificate is self-signed: it is marked as an authority's (CA:TRUE)");
}

#[test]
fn the_terminal_client_connects_to_anybody_if_told_and_says_so() {
    let authority = Authority::new();
    authority.issue_self_signed();
    let node = secured(&authority).start(1);
    let warning = "pombo connect: WARNING: --insecure: the certificate of localhost is not checked, ";
    for _ in 0..2 {
        let (output, errors, code) = connect_with(&node, &["--insecure"], "alice:hi\n");
        assert_eq!((output.as_str(), code), ("hi\n", Some(0)), "{errors}");
        assert_eq!(errors.matches(warning).count(), 1, "{errors}");
    }
    authority.issue_by_intermediate("chat.example.org");
    let node = secured(&authority).start(1);
    let root = authority.root_file();
    let named = ["--ca", root.to_str().expect("a path in UTF-8"), "--server-name", "chat.example.org"];
    let (output, errors, code) = connect_with(&node, &named, "alice:hi\n");
    assert_eq!((output.as_str(), code), ("hi\n", Some(0)), "{errors}");
    assert!(!errors.contains("WARNING"), "{errors}");
    assert_eq!(connect_with(&node, &["--insecure", named[0], named[1]], "").2, Some(2));
}

/// It is taken, since some clients connect to it, and whoever runs the node hears why others don't.
#[test]
fn self_signed_certificate_is_a_warning() {
    let authority = Authority::new();
    authority.issue_self_signed();
    let (certificate, key) = (authority.certificate_file(), authority.key_file());
    let [certificate, key] = [&certificate, &key].map(|file| file.to_str().expect("a path in UTF-8"));
    let program = Program::start(&["--tls-certificate", certificate, "--tls-key", key]);
    program.expect_logged("certificate is marked as an authority's (CA:TRUE)");
    authority.issue();
    program.expect_logged("certificate reloaded");
    assert_eq!(program.logged("CA:TRUE"), 1, "a sound one is no warning");
}

/// Clients refuse such a certificate, each for itself: whoever runs the node is to hear of it first.
#[test]
fn certificate_out_of_its_time_is_a_warning_with_its_date() {
    let authority = Authority::new();
    authority.issue_for(2001, 2002);
    let (certificate, key) = (authority.certificate_file(), authority.key_file());
    let [certificate, key] = [&certificate, &key].map(|file| file.to_str().expect("a path in UTF-8"));
    let program = Program::start(&["--tls-certificate", certificate, "--tls-key", key]);
    program.expect_logged("certificate has expired, clients may refuse it");
    program.expect_logged("since=2002-01-01T00:00:00Z");
    authority.issue_for(3001, 3002);
    program.expect_logged("certificate is not valid yet, clients may refuse it");
    program.expect_logged("from=3001-01-01T00:00:00Z");
    authority.issue();
    eventually("both changes were noticed", || program.logged("certificate reloaded") == 2);
    assert_eq!(program.logged(", clients may refuse it"), 2, "a sound one is no warning");
}

/// The same files are read again: what is logged tells that they were, and what was wrong with them.
#[test]
fn sighup_reads_the_files_and_says_what_became_of_it() {
    let authority = Authority::new();
    let mut node = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["--control", "off", "--listen", "127.0.0.1:0", "--shards", "1", "--tls-certificate"])
        .arg(authority.certificate_file())
        .arg("--tls-key")
        .arg(authority.key_file())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pombo starts");
    let id = Pid::from_raw(node.id().cast_signed()).expect("a process has an id");
    let mut output = BufReader::new(node.stdout.take().expect("it is piped"));
    let mut errors = BufReader::new(node.stderr.take().expect("it is piped")).lines();
    let mut told = |words: &str| {
        let lines = errors.by_ref().map(|line| line.expect("it prints text"));
        lines.take_while(|line| !line.contains("ERROR") || words.contains("not")).any(|line| line.contains(words))
    };
    let mut line = String::new();
    output.read_line(&mut line).expect("it prints text");
    assert!(line.contains("listening on https://127.0.0.1:"), "{line}");

    kill_process(id, Signal::HUP).expect("it runs");
    assert!(told("certificate reloaded"));
    fs::write(authority.key_file(), "no key").expect("the folder is writable");
    kill_process(id, Signal::HUP).expect("it runs");
    assert!(told("certificate not reloaded, the old one stays"));
    kill_process(id, Signal::TERM).expect("it runs");
    assert!(node.wait().expect("it ends").success());
}
