//! Who is connected, as trusted proxies tell it, and nobody else: seen by what is counted for an address.

mod support;

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use pombo::{Config, Listen};
use support::{Ask, Client, Node, Nodes, Program, Request, eventually, nodes};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const V4: u8 = 0x11;
const V6: u8 = 0x21;

/// Nodes that trust 127.0.0.1 and 127.0.0.8 to 15, and let each address in once.
fn behind_proxies() -> Nodes<'static> {
    nodes().with(|config| {
        config.trusted_proxies = ["127.0.0.1", "127.0.0.8/29", "10.0.0.0/8", "unix"].map(trusted).into();
        config.address_sessions_max = NonZeroUsize::new(1);
    })
}

fn trusted(text: &str) -> pombo::config::TrustedProxy {
    text.parse().expect("a proxy")
}

fn speaking_proxy_protocol() -> Nodes<'static> {
    behind_proxies().with(|config| config.proxy_protocol = true)
}

/// A header of the PROXY protocol, version 2.
fn header(command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(behind.len()).expect("a length");
    [SIGNATURE, &[command, family], &length.to_be_bytes(), behind].concat()
}

/// From this address, port 7, to somewhere.
fn from(address: &str) -> Vec<u8> {
    match address.parse().expect("an address") {
        std::net::IpAddr::V4(address) => {
            header(PROXY, V4, &[&address.octets()[..], &[10, 0, 0, 1, 0, 7, 0, 80]].concat())
        }
        std::net::IpAddr::V6(address) => header(PROXY, V6, &[&address.octets()[..], &[0; 16], &[0, 7, 0, 80]].concat()),
    }
}

/// Sends `front` and an upgrade with these lines of `X-Forwarded-For`, from `source`; returns the answer's status.
#[track_caller]
fn ask(node: &Node, source: &str, front: &[u8], lines: &[&str]) -> (Client, u16) {
    let mut client = Client::dial_from(source, node.socket_address());
    let request = lines.iter().fold(Request::upgrade(), |request, line| request.with("X-Forwarded-For", line));
    client.send_bytes(&[front, &request.bytes()].concat());
    let status = client.receive_head().status;
    (client, status)
}

/// Sees that both are counted as one, by trying to get in as the second while the first is.
#[track_caller]
fn are_one(node: &Node, first: (&str, &[&str]), second: (&str, &[&str])) {
    count_as(node, first, second, 429);
}

#[track_caller]
fn are_two(node: &Node, first: (&str, &[&str]), second: (&str, &[&str])) {
    count_as(node, first, second, 101);
}

#[track_caller]
fn count_as(node: &Node, first: (&str, &[&str]), second: (&str, &[&str]), status: u16) {
    eventually("nobody is there", || node.handle().connections() == 0);
    let (_client, upgraded) = ask(node, first.0, b"", first.1);
    assert_eq!(upgraded, 101, "{first:?}");
    assert_eq!(ask(node, second.0, b"", second.1).1, status, "{first:?} and {second:?}");
}

#[test]
fn forwarded_address_counts_as_the_client() {
    behind_proxies().each(|node| {
        are_one(node, ("127.0.0.1", &["203.0.113.1"]), ("127.0.0.9", &["203.0.113.1"]));
        are_two(node, ("127.0.0.1", &["203.0.113.1"]), ("127.0.0.1", &["203.0.113.2"]));
        // Ports and brackets are no part of it.
        are_one(node, ("127.0.0.1", &["203.0.113.1:4711"]), ("127.0.0.1", &["203.0.113.1"]));
        are_one(node, ("127.0.0.1", &["[2001:db8::1]:4711"]), ("127.0.0.1", &["2001:db8::1"]));
        are_one(node, ("127.0.0.1", &["::ffff:203.0.113.1"]), ("127.0.0.1", &["203.0.113.1"]));
    });
}

#[test]
fn ipv6_counts_by_its_network() {
    behind_proxies().each(|node| {
        are_one(node, ("127.0.0.1", &["2001:db8:0:1::1"]), ("127.0.0.1", &["2001:db8:0:1:ffff::2"]));
        are_two(node, ("127.0.0.1", &["2001:db8:0:1::1"]), ("127.0.0.1", &["2001:db8:0:2::1"]));
    });
}

#[test]
fn what_stands_in_front_of_the_last_untrusted_hop_may_be_made_up() {
    behind_proxies().each(|node| {
        let real = ("127.0.0.1", &["203.0.113.1"][..]);
        are_one(node, real, ("127.0.0.1", &["198.51.100.1, 203.0.113.1"]));
        are_one(node, real, ("127.0.0.1", &["198.51.100.1", "198.51.100.2,203.0.113.1", "10.1.1.1 , 10.2.2.2"]));
        are_one(node, real, ("127.0.0.1", &["10.9.9.9, 203.0.113.1, 10.0.0.1"]));
        are_one(node, real, ("127.0.0.1", &["garbage, \"203.0.113.9\",, 203.0.113.1"]));
    });
}

#[test]
fn garbage_counts_as_the_proxy_that_sent_it() {
    behind_proxies().each(|node| {
        for garbage in ["unknown", "", "203.0.113", "203.0.113.1:port", "\u{fc}", "_hidden, unknown"] {
            are_one(node, ("127.0.0.1", &[garbage]), ("127.0.0.1", &[]));
            are_one(node, ("127.0.0.1", &[garbage, "10.0.0.7"]), ("127.0.0.1", &["10.0.0.7"]));
        }
    });
}

#[test]
fn who_is_not_trusted_is_not_believed() {
    behind_proxies().each(|node| {
        are_one(node, ("127.0.0.2", &["203.0.113.1"]), ("127.0.0.2", &["203.0.113.2"]));
        are_two(node, ("127.0.0.2", &["203.0.113.1"]), ("127.0.0.3", &["203.0.113.1"]));
        are_one(node, ("127.0.0.2", &["127.0.0.1"]), ("127.0.0.2", &[]));
    });
    // Nor is anybody by default.
    nodes().with(|config| config.address_sessions_max = NonZeroUsize::new(1)).each(|node| {
        are_one(node, ("127.0.0.1", &["203.0.113.1"]), ("127.0.0.1", &["203.0.113.2"]));
    });
}

#[test]
fn unix_socket_can_be_trusted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pombo.sock");
    let on_path = |config: &mut Config| config.listen = vec![Listen::Unix(path.clone())];
    let upgrade = |node: &Node, front: &[u8], address: &str| {
        let mut client = node.dial();
        client.send_bytes(&[front, &Request::upgrade().with("X-Forwarded-For", address).bytes()].concat());
        let status = client.receive_head().status;
        (client, status)
    };
    behind_proxies().with(on_path).each(|node| {
        let (_first, status) = upgrade(node, b"", "203.0.113.1");
        assert_eq!(status, 101);
        assert_eq!(upgrade(node, b"", "203.0.113.1").1, 429);
        assert_eq!(upgrade(node, b"", "203.0.113.2").1, 101);
    });
    speaking_proxy_protocol().with(on_path).each(|node| {
        let (_first, status) = upgrade(node, &from("203.0.113.1"), "x");
        assert_eq!(status, 101);
        assert_eq!(upgrade(node, &from("203.0.113.1"), "x").1, 429);
        assert_eq!(upgrade(node, b"", "203.0.113.1").1, 400);
    });
}

#[test]
fn proxy_header_names_the_client() {
    speaking_proxy_protocol().each(|node| {
        let long = |address: &str| {
            let mut header = from(address);
            // A trailing field of two thousand bytes, thrown away.
            header.extend([0x04, 2000_u16.to_be_bytes()[0], 2000_u16.to_be_bytes()[1]]);
            header.extend([b'x'; 2000]);
            let behind = u16::try_from(header.len() - 16).expect("a length").to_be_bytes();
            header[14..16].copy_from_slice(&behind);
            header
        };
        for (first, second, status) in [
            (from("203.0.113.1"), from("203.0.113.1"), 429),
            (from("203.0.113.1"), from("203.0.113.2"), 101),
            (from("203.0.113.1"), long("203.0.113.1"), 429),
            (from("203.0.113.1"), from("::ffff:203.0.113.1"), 429),
            (from("2001:db8::1"), from("2001:db8::2"), 429),
            (from("2001:db8::1"), from("2001:db8:0:1::1"), 101),
            // Without an address it is the proxy's own.
            (header(LOCAL, 0, b""), header(PROXY, 0, b"behind"), 429),
            (header(LOCAL, V4, &[9; 12]), header(PROXY, 0x31, &[9; 216]), 429),
            (header(LOCAL, 0, b""), from("203.0.113.1"), 101),
        ] {
            eventually("nobody is there", || node.handle().connections() == 0);
            let (mut client, upgraded) = ask(node, "127.0.0.1", &first, &[]);
            assert_eq!(upgraded, 101, "{}", first.escape_ascii());
            client.log_in("alice");
            client.expect_silence();
            assert_eq!(ask(node, "127.0.0.1", &second, &[]).1, status, "{}", second.escape_ascii());
        }
    });
}

/// As nginx's stream module and Google's TCP proxies send it.
#[test]
fn proxy_header_of_version_1_names_the_client() {
    let line = |text: &str| [text.as_bytes(), b"\r\n"].concat();
    speaking_proxy_protocol().each(|node| {
        for (first, second, status) in [
            (line("PROXY TCP4 203.0.113.1 127.0.0.1 7 80"), from("203.0.113.1"), 429),
            (line("PROXY TCP4 203.0.113.1 127.0.0.1 7 80"), line("PROXY TCP4 203.0.113.2 127.0.0.1 7 80"), 101),
            (line("PROXY TCP6 2001:db8::1 ::1 65535 0"), from("2001:db8::2"), 429),
            (
                line("PROXY TCP6 ::ffff:203.0.113.1 ::1 1 2"),
                line("PROXY TCP4 203.0.113.1 255.255.255.255 65535 65535"),
                429,
            ),
            // Without an address it is the proxy's own.
            (line("PROXY UNKNOWN"), header(LOCAL, 0, b""), 429),
            (line(&format!("PROXY UNKNOWN {}", "f".repeat(91))), line("PROXY UNKNOWN 203.0.113.1"), 429),
        ] {
            eventually("nobody is there", || node.handle().connections() == 0);
            let (mut client, upgraded) = ask(node, "127.0.0.1", &first, &[]);
            assert_eq!(upgraded, 101, "{}", first.escape_ascii());
            client.log_in("alice");
            client.expect_silence();
            assert_eq!(ask(node, "127.0.0.1", &second, &[]).1, status, "{}", second.escape_ascii());
        }
        eventually("nobody is there", || node.handle().connections() == 0);
        let mut client = Client::dial_from("127.0.0.1", node.socket_address());
        for byte in [line("PROXY TCP4 203.0.113.1 127.0.0.1 7 80"), Request::upgrade().bytes()].concat() {
            client.send_bytes(&[byte]);
        }
        client.expect_upgrade();
    });
}

#[test]
fn empty_elements_of_a_list_are_none() {
    behind_proxies().each(|node| {
        for lines in
            [&["203.0.113.1,"][..], &["203.0.113.1, ,\t"], &[",203.0.113.1 ,, 10.0.0.7,"], &["203.0.113.1", ""]]
        {
            are_one(node, ("127.0.0.1", lines), ("127.0.0.1", &["203.0.113.1"]));
        }
    });
}

#[test]
fn addresses_are_told_as_people_know_them() {
    behind_proxies().with_control().each(|node| {
        for (forwarded, expected) in [
            ("203.0.113.1", "203.0.113.1"),
            ("203.0.113.1:7", "203.0.113.1:7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("::ffff:203.0.113.1", "203.0.113.1"),
        ] {
            eventually("nobody is there", || node.handle().connections() == 0);
            let (mut client, upgraded) = ask(node, "127.0.0.1", b"", &[forwarded]);
            assert_eq!(upgraded, 101);
            client.log_in("alice");
            let told = Ask::get("/v1/uids/alice").to(node).json();
            assert_eq!(told["sessions"][0]["address"], expected);
        }
    });
}

#[test]
fn proxies_on_ipv6_are_believed() {
    let on_v6 = |config: &mut Config| {
        config.listen = vec!["[::1]:0".parse().expect("an address")];
        config.trusted_proxies = vec![trusted("::/96")];
    };
    behind_proxies().with(on_v6).each(|node| {
        are_one(node, ("::1", &["2001:db8::1"]), ("::1", &["2001:db8::2"]));
        are_two(node, ("::1", &["203.0.113.1"]), ("::1", &["203.0.113.2"]));
    });
    speaking_proxy_protocol().with(on_v6).each(|node| {
        let (_client, status) = ask(node, "::1", &from("2001:db8::1"), &[]);
        assert_eq!(status, 101);
        assert_eq!(ask(node, "::1", &from("2001:db8::2"), &[]).1, 429);
        assert_eq!(ask(node, "::1", &from("203.0.113.1"), &[]).1, 101);
    });
}

#[test]
fn forwarded_address_behind_a_proxy_header_counts_if_that_hop_is_trusted() {
    speaking_proxy_protocol().each(|node| {
        let (_client, status) = ask(node, "127.0.0.1", &from("10.0.0.1"), &["203.0.113.1"]);
        assert_eq!(status, 101);
        assert_eq!(ask(node, "127.0.0.1", &from("10.0.0.2"), &["203.0.113.1"]).1, 429);
        assert_eq!(ask(node, "127.0.0.1", &from("203.0.113.2"), &["203.0.113.1"]).1, 101, "its own word");
    });
}

#[test]
fn proxy_header_that_trickles_is_read() {
    speaking_proxy_protocol().each(|node| {
        let mut client = Client::dial_from("127.0.0.1", node.socket_address());
        for byte in [from("203.0.113.1"), Request::upgrade().bytes()].concat() {
            client.send_bytes(&[byte]);
        }
        client.expect_upgrade();
        client.log_in("alice");
        assert_eq!(ask(node, "127.0.0.1", &from("203.0.113.1"), &[]).1, 429);
    });
}

#[test]
fn missing_or_malformed_proxy_header_is_refused() {
    speaking_proxy_protocol().each(|node| {
        let too_long = header(LOCAL, 0, &[0; 2049]);
        let fronts = [
            Vec::new(),
            b"PROXY TCP4 203.0.113.1 127.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.1 127.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 127.0.0.1 1 2\n".to_vec(),
            b"PROXY\r\n".to_vec(),
            [b"PROXY UNKNOWN ", &[b'x'; 107][..]].concat(),
            header(0x11, V4, &[0; 12]),
            header(0x22, V4, &[0; 12]),
            header(PROXY, 0x12, &[0; 12]),
            header(PROXY, V4, &[0; 11]),
            header(PROXY, V6, &[0; 35]),
            too_long,
        ];
        for front in &fronts {
            let mut client = Client::dial_from("127.0.0.1", node.socket_address());
            client.send_bytes(&[front, &Request::upgrade().bytes()[..]].concat());
            let response = client.receive_response();
            assert_eq!(response.status, 400, "{}", front.escape_ascii());
            assert_eq!(response.body, "expected a PROXY protocol header, version 1 or 2\n");
            client.expect_end();
        }
        node.expect_refusals(&[("proxy_header", fronts.len() as u64)]);
    });
}

#[test]
fn proxy_header_of_who_is_not_trusted_is_no_http() {
    speaking_proxy_protocol().each(|node| {
        assert_eq!(ask(node, "127.0.0.2", &from("203.0.113.1"), &[]).1, 400);
        node.expect_refusals(&[("not_http", 1)]);
        // Without one it is served.
        assert_eq!(ask(node, "127.0.0.2", b"", &[]).1, 101);
    });
    // As is one that nobody expects.
    behind_proxies().each(|node| assert_eq!(ask(node, "127.0.0.1", &from("203.0.113.1"), &[]).1, 400));
}

#[test]
fn proxy_header_that_does_not_end_is_not_waited_for() {
    let soon = |config: &mut Config| config.handshake_timeout = Duration::from_millis(300);
    speaking_proxy_protocol().with(soon).each(|node| {
        let all = from("203.0.113.1");
        for length in [0, 1, 15, 16, all.len() - 1] {
            let began = Instant::now();
            let mut client = Client::dial_from("127.0.0.1", node.socket_address());
            client.send_bytes(&all[..length]);
            assert!(client.receive_to_end().is_empty());
            assert!(began.elapsed() >= Duration::from_millis(300), "{:?} with {length} bytes", began.elapsed());
        }
        node.expect_refusals(&[("handshake_timeout", 5)]);
    });
}

#[test]
fn drain_does_not_wait_for_a_proxy_header() {
    let never = |config: &mut Config| {
        config.drain_timeout = Duration::from_secs(3600);
        config.handshake_timeout = Duration::from_secs(3600);
    };
    speaking_proxy_protocol().with(never).each(|node| {
        let mut silent = Client::dial_from("127.0.0.1", node.socket_address());
        let begun = ask(node, "127.0.0.1", &from("203.0.113.1"), &[]);
        assert_eq!(begun.1, 101);
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            assert!(silent.receive_to_end().is_empty());
            drop(begun);
        });
    });
}

#[test]
fn log_names_the_client_and_not_the_proxy() {
    let program = Program::start(&["--trusted-proxies", "127.0.0.1", "--log-level", "debug"]);
    let mut client = program.dial();
    client.send_request(&Request::upgrade().with("X-Forwarded-For", "203.0.113.1"));
    client.expect_upgrade();
    client.log_in("alice");
    let mut refused = program.dial();
    refused.send_request(&Request::upgrade().without("Upgrade").with("X-Forwarded-For", "203.0.113.2"));
    assert_eq!(refused.receive_head().status, 400);
    eventually("both are logged", || {
        let log: Vec<_> = program.log().iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let has = |words: &[&str]| log.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(!has(&["203.0.113.1:"]) && !has(&["203.0.113.2:"]), "{log:?}");
        has(&["login", "alice", "peer=203.0.113.1"]) && has(&["connection refused", "peer=203.0.113.2 "])
    });
}
