//! The HTTP part of a connection: which requests upgrade, and what each other one is told.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use pombo::Reason;
use pombo::config::Paths;
use support::{Client, DEADLINE, Node, Request, Response, Sent, nodes};

/// Sends `request`, sees it upgraded, and logs in.
#[track_caller]
fn upgrades(node: &Node, request: &Request) -> Response {
    let mut client = node.dial();
    client.send_request(request);
    let response = client.expect_upgrade();
    client.log_in("alice");
    client.expect_silence();
    response
}

/// Sends `request`, and is answered with `status`, a line that contains `words`, and a clean end.
#[track_caller]
fn is_refused(node: &Node, request: &Request, status: u16, words: &str) -> Response {
    let response = answer(node, request);
    assert_eq!(response.status, status, "{response:?}");
    assert!(response.body.contains(words), "expected {words:?} in {response:?}");
    assert_eq!(response.body.lines().count(), 1, "{response:?}");
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    response
}

/// Sends `request`, takes the answer, and sees the connection end.
#[track_caller]
fn answer(node: &Node, request: &Request) -> Response {
    let mut client = node.dial();
    client.send_request(request);
    let response = client.receive_response();
    client.expect_end();
    response
}

fn refuses(request: impl Fn(Request) -> Request, status: u16, words: &str) {
    nodes().each(|node| {
        is_refused(node, &request(Request::upgrade()), status, words);
    });
}

#[test]
fn good_request_upgrades() {
    nodes().each(|node| {
        let response = upgrades(node, &Request::upgrade());
        assert_eq!(response.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
        assert_eq!(response.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
        for absent in ["sec-websocket-extensions", "sec-websocket-protocol", "content-length", "transfer-encoding"] {
            assert_eq!(response.header(absent), None, "{absent}");
        }
    });
}

#[test]
fn requests_of_real_clients_and_proxies_upgrade() {
    nodes().each(|node| {
        let good = Request::upgrade;
        upgrades(node, &good().replacing("Connection", "keep-alive, Upgrade"));
        upgrades(node, &good().replacing("Connection", "keep-alive").with("Connection", "Upgrade"));
        upgrades(node, &good().replacing("Connection", "Upgrade").with("Connection", "keep-alive"));
        upgrades(node, &good().replacing("Connection", "uPGRADE ,  x"));
        upgrades(node, &good().replacing("Upgrade", "WebSocket"));
        upgrades(node, &good().replacing("Upgrade", "h2c, websocket"));
        upgrades(node, &good().replacing("Upgrade", "h2c").with("Upgrade", "websocket"));
        upgrades(node, &good().names(str::to_ascii_lowercase));
        upgrades(node, &good().names(str::to_ascii_uppercase));
        upgrades(node, &good().first_line("GET /any/path?with=query HTTP/1.1"));
        upgrades(node, &good().first_line("GET http://localhost/absolute HTTP/1.1"));
        upgrades(node, &good().with("Origin", "http://localhost").with("Cookie", &"c".repeat(4000)));
        upgrades(node, &good().with("Content-Length", "0"));
    });
}

#[test]
fn offers_are_declined_by_silence() {
    nodes().each(|node| {
        let offers = Request::upgrade()
            .with("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
            .with("Sec-WebSocket-Protocol", "chat, superchat");
        let response = upgrades(node, &offers);
        assert_eq!(response.header("sec-websocket-extensions"), None);
        assert_eq!(response.header("sec-websocket-protocol"), None);
    });
}

#[test]
fn missing_or_wrong_upgrade_is_refused() {
    refuses(|request| request.without("Upgrade"), 400, "Upgrade: websocket");
    refuses(|request| request.replacing("Upgrade", "h2c"), 400, "Upgrade: websocket");
    refuses(|request| request.replacing("Upgrade", "websockets"), 400, "Upgrade: websocket");
}

#[test]
fn missing_or_wrong_connection_is_refused() {
    refuses(|request| request.without("Connection"), 400, "Connection: Upgrade");
    refuses(|request| request.replacing("Connection", "keep-alive"), 400, "Connection: Upgrade");
    refuses(|request| request.replacing("Connection", "upgraded"), 400, "Connection: Upgrade");
}

#[test]
fn missing_or_malformed_key_is_refused() {
    let with_key = |key: &'static str| move |request: Request| request.replacing("Sec-WebSocket-Key", key);
    refuses(|request| request.without("Sec-WebSocket-Key"), 400, "Sec-WebSocket-Key");
    // 15 and 17 bytes; no base64; a padding of one; nothing.
    refuses(with_key("dGhlIHNhbXBsZSBub25j"), 400, "16 bytes in base64");
    refuses(with_key("dGhlIHNhbXBsZSBub25jZTE="), 400, "16 bytes in base64");
    refuses(with_key("dGhlIHNhbXBsZSBub25j!Q=="), 400, "16 bytes in base64");
    refuses(with_key("dGhlIHNhbXBsZSBub25jZQ="), 400, "16 bytes in base64");
    refuses(with_key(""), 400, "16 bytes in base64");
}

/// Its last digit has room for four bits more than 16 bytes have; RFC 6455's own example, section 4.1, has one of them set.
#[test]
fn key_with_bits_behind_its_last_byte_upgrades() {
    nodes().each(|node| {
        for (key, accept) in [
            ("AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM="),
            ("AQIDBAUGBwgJCgsMDQ4PE/==", "8rH/8CsdTWgyNe7DbS/EEdRBzoM="),
        ] {
            let mut client = node.dial().named("alice");
            client.send_request(&Request::upgrade().replacing("Sec-WebSocket-Key", key));
            let response = client.receive_head();
            // The answer is made of the key as it was sent.
            assert_eq!((response.status, response.header("sec-websocket-accept")), (101, Some(accept)), "{key}");
            client.log_in("alice");
            client.expect_silence();
        }
    });
}

#[test]
fn two_keys_are_refused() {
    refuses(|request| request.with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), 400, "one Sec-WebSocket-Key");
    refuses(|request| request.with("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="), 400, "one Sec-WebSocket-Key");
}

#[test]
fn other_version_is_told_ours() {
    nodes().each(|node| {
        for version in ["8", "12", "14", "013", "", "x", "13, 8"] {
            let request = Request::upgrade().replacing("Sec-WebSocket-Version", version);
            let response = is_refused(node, &request, 426, "Sec-WebSocket-Version: 13");
            assert_eq!(response.header("sec-websocket-version"), Some("13"));
        }
    });
    refuses(|request| request.without("Sec-WebSocket-Version"), 400, "Sec-WebSocket-Version");
}

#[test]
fn other_method_is_refused() {
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "get", "BREW"] {
        nodes().each(|node| {
            let mut client = node.dial();
            client.send_request(&Request::upgrade().first_line(&format!("{method} / HTTP/1.1")));
            let response = client.receive_head();
            assert_eq!((method, response.status), (method, 405));
            assert_eq!(response.header("allow"), Some("GET"));
        });
    }
}

#[test]
fn older_http_is_refused() {
    refuses(|request| request.first_line("GET / HTTP/1.0"), 400, "HTTP/1.1");
}

#[test]
fn missing_or_doubled_host_is_refused() {
    refuses(|request| request.without("Host"), 400, "Host");
    refuses(|request| request.with("Host", "example.com"), 400, "Host");
}

#[test]
fn body_is_refused() {
    refuses(|request| request.with("Content-Length", "5"), 400, "body");
    refuses(|request| request.with("Content-Length", "00"), 400, "body");
    refuses(|request| request.with("Transfer-Encoding", "chunked"), 400, "body");
    refuses(|request| request.with("Transfer-Encoding", "gzip, chunked"), 400, "body");
    refuses(|request| request.with("Content-Length", "0").with("Transfer-Encoding", "chunked"), 400, "body");
}

/// What could be the begin of another request for somebody else is never looked at.
#[test]
fn request_within_a_request_is_not_served() {
    let inner = Request::upgrade().bytes();
    let length = inner.len().to_string();
    nodes().each(|node| {
        for outer in [
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Content-Length", &length),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Transfer-Encoding", "chunked"),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Transfer-Encoding", "identity"),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Transfer-Encoding", "\u{b}chunked"),
            Request::new("GET / HTTP/1.1")
                .with("Host", "x")
                .with("Content-Length", "0")
                .with("Content-Length", &length),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Content-Length", "+0"),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Content-Length", "0, 0"),
            Request::new("GET / HTTP/1.1").with("Host", "x").with("Content-Length ", "0"),
            Request::new("POST / HTTP/1.1").with("Host", "x").with("Content-Length", &length),
        ] {
            let mut client = node.dial();
            client.send_bytes(&[outer.bytes(), inner.clone()].concat());
            let response = client.receive_response();
            assert!(matches!(response.status, 400 | 405), "{outer:?}: {response:?}");
            client.expect_end();
        }
        // Nor is a second one behind a good one.
        let mut client = node.dial();
        client.send_bytes(&[Request::new("GET / HTTP/1.1").with("Host", "x").bytes(), inner.clone()].concat());
        assert_eq!(client.receive_response().status, 200);
        client.expect_end();
    });
}

#[test]
fn unknown_path_is_not_found() {
    let list = Paths::List(vec!["/ws".to_owned(), "/chat".to_owned()]);
    nodes().with(|config| config.paths = list.clone()).each(|node| {
        let at = |target: &str| Request::upgrade().first_line(&format!("GET {target} HTTP/1.1"));
        upgrades(node, &at("/ws"));
        upgrades(node, &at("/chat?token=x"));
        for target in ["/", "/ws/", "/WS", "/w", "/wss", "//ws", "/%77s"] {
            is_refused(node, &at(target), 404, "path");
        }
    });
}

#[test]
fn request_that_is_too_large_is_refused() {
    nodes().each(|node| {
        let requests = [
            Request::upgrade().with("Cookie", &"c".repeat(64 << 10)),
            Request::upgrade().first_line(&format!("GET /{} HTTP/1.1", "x".repeat(64 << 10))),
            (0..200).fold(Request::upgrade(), |request, number| request.with(&format!("X-{number}"), "x")),
        ];
        for request in &requests {
            let response = answer(node, request);
            assert_eq!((response.status, response.body.trim_end()), (431, Reason::HeadTooLarge.text()));
        }
        node.expect_refusals(&[("head_too_large", requests.len() as u64)]);
    });
}

#[test]
fn request_may_have_16_kib_and_64_lines() {
    nodes().each(|node| {
        let lines =
            |number| (0..number).fold(Request::upgrade(), |request, line| request.with(&format!("X-{line}"), "x"));
        // Five are there already.
        upgrades(node, &lines(59));
        assert_eq!(answer(node, &lines(60)).status, 431);
        let bytes = |number: usize| {
            let request = Request::upgrade().with("X", "");
            let missing = number - request.bytes().len();
            Request::upgrade().with("X", &"x".repeat(missing))
        };
        upgrades(node, &bytes(15 << 10));
        assert_eq!(answer(node, &bytes((16 << 10) + 1)).status, 431);
        // A line has no cap of its own.
        upgrades(node, &Request::upgrade().first_line(&format!("GET /{} HTTP/1.1", "x".repeat(15 << 10))));
    });
}

#[test]
fn every_refusal_is_counted_under_its_reason() {
    nodes().each(|node| {
        let good = Request::upgrade;
        for request in [
            good().without("Connection"),
            good().without("Upgrade"),
            good().without("Host"),
            good().without("Sec-WebSocket-Key"),
            good().replacing("Sec-WebSocket-Key", "x"),
            good().without("Sec-WebSocket-Version"),
            good().replacing("Sec-WebSocket-Version", "8"),
            good().first_line("PUT / HTTP/1.1"),
            good().first_line("GET / HTTP/1.0"),
            good().with("Content-Length", "1"),
            good().with("Origin", "https://example.com"),
            good().with("Origin", "null").with("Origin", "null"),
            good().first_line("GET / HTTP/9.9"),
            good().with("X", &"x".repeat(17 << 10)),
            Request::new("GET /x HTTP/1.1").with("Host", "x"),
            Request::new("PUT / HTTP/1.1").with("Host", "x"),
        ] {
            answer(node, &request);
        }
        // The page is no refusal.
        answer(node, &Request::new("GET / HTTP/1.1").with("Host", "x"));
        let mut rude = node.connect();
        rude.send(&Sent::text("x").unmasked());
        rude.expect_close(1002, "masked");
        let mut nameless = node.connect();
        nameless.send_text("");
        nameless.expect_error("empty");
        let mut bad_text = node.connect();
        bad_text.send_text(b"\xff");
        bad_text.expect_close(1007, "utf-8");
        let mut long = node.connect();
        long.send_text("x".repeat(10_000));
        long.expect_close(1009, "at most 8192");
        drop(node.connect());
        node.connect().vanish();
        let reasons = [
            "not_http",
            "head_too_large",
            "body",
            "connection_header",
            "upgrade_header",
            "key_header",
            "key_malformed",
            "version_header",
            "version",
            "host_header",
            "http_version",
            "method",
            "origin_header",
            "origin",
            "page_method",
            "page_path",
            "login_protocol",
            "login_not_utf8",
            "login_too_big",
            "uid",
            "left",
            "lost",
        ];
        node.expect_refusals(&reasons.map(|reason| (reason, 1)));
    });
}

#[test]
fn what_is_not_http_is_told_so() {
    nodes().each(|node| {
        for bytes in [
            &b"alice\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls",
            b"\x81\x85abcd\0\0\0\0\0",
            b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let mut client = node.dial();
            client.send_bytes(bytes);
            let response = client.receive_response();
            let told = (response.status, response.body.trim_end(), response.header("connection"));
            assert_eq!(told, (400, Reason::NotHttp.text(), Some("close")), "{}", bytes.escape_ascii());
            client.expect_end();
        }
    });
}

/// A reset would take the answer with it before the client has read it.
#[test]
fn refusal_ends_without_a_reset_however_much_is_sent_behind() {
    nodes().with(|config| config.close_timeout = DEADLINE).each(|node| {
        for request in [Request::upgrade().without("Upgrade"), Request::new("PUT / HTTP/1.1").with("Host", "x")] {
            still_answered(node, &request.bytes());
        }
        // The page, too, and what hyper answers by itself.
        still_answered(node, &Request::new("GET / HTTP/1.1").with("Host", "x").bytes());
        still_answered(node, b"not http at all\r\n\r\n");
    });
}

#[track_caller]
fn still_answered(node: &Node, request: &[u8]) {
    let mut client = node.dial();
    let mut writer = client.twin();
    thread::scope(|threads| {
        threads.spawn(move || {
            writer.send_bytes(&[request, &[b'x'; 100_000][..]].concat());
            for _ in 0..10 {
                writer.send_bytes(&[b'x'; 100_000]);
            }
        });
        let response = client.receive_head();
        assert!(response.status >= 200, "{response:?}");
        client.receive_bytes(response.content_length());
        client.expect_end();
    });
}

#[test]
fn header_that_does_not_end_is_not_waited_for() {
    let timeout = Duration::from_millis(300);
    nodes().with(|config| config.handshake_timeout = timeout).each(|node| {
        let request = Request::upgrade().bytes();
        for front in [&[][..], &request[..1], &request[..request.len() - 1]] {
            let began = Instant::now();
            let mut client = node.dial();
            client.send_bytes(front);
            ends(&mut client, !front.is_empty());
            assert!(began.elapsed() >= timeout, "{:?} with {} bytes", began.elapsed(), front.len());
        }
    });
}

#[test]
fn header_that_trickles_is_not_waited_for() {
    let soon = |config: &mut pombo::Config| {
        config.handshake_timeout = Duration::from_millis(300);
        config.close_timeout = Duration::from_millis(100);
    };
    nodes().with(soon).each(|node| {
        let mut client = node.dial();
        let mut writer = client.twin();
        client.send_bytes(b"GET / HTTP/1.1\r\n");
        let trickle = thread::spawn(move || {
            let began = Instant::now();
            // Ends when the node has let go of the connection.
            while writer.try_send_bytes(b"X: x\r\n").is_ok() {
                assert!(began.elapsed() < DEADLINE, "the node still listens");
                thread::sleep(Duration::from_millis(20));
            }
        });
        trickle.join().expect("the trickle is cut off");
        node.expect_refusals(&[("handshake_timeout", 1)]);
    });
}

/// Sees the connection end, told why unless it has said nothing.
#[track_caller]
fn ends(client: &mut Client, has_begun: bool) {
    let rest = client.receive_to_end();
    let expected: &[u8] = if has_begun { b"HTTP/1.1 408 Request Timeout\r\n" } else { b"" };
    assert!(rest.starts_with(expected) && rest.is_empty() != has_begun, "{}", rest.escape_ascii());
}

#[test]
fn ordinary_get_is_answered_with_the_page() {
    nodes().each(|node| {
        for request in [
            Request::new("GET / HTTP/1.1").with("Host", "localhost"),
            Request::new("GET /?uid=alice HTTP/1.1").with("Host", "localhost"),
            Request::new("GET / HTTP/1.1").with("Host", "localhost").with("Connection", "keep-alive"),
            Request::new("GET / HTTP/1.0"),
        ] {
            let page = answer(node, &request);
            assert_eq!(page.status, 200, "{page:?}");
            assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
            let policy = page.header("content-security-policy").expect("the page has a policy");
            assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
            assert!(page.body.starts_with("<!doctype html>") && page.body.trim_end().ends_with("</html>"));
        }
    });
}

#[test]
fn head_is_answered_as_get_without_the_page() {
    nodes().each(|node| {
        let mut client = node.dial();
        client.send_request(&Request::new("HEAD / HTTP/1.1").with("Host", "localhost"));
        let response = client.receive_head();
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.content_length() > 1000, "{response:?}");
        client.expect_end();
    });
}

#[test]
fn page_can_be_turned_off() {
    nodes().with(|config| config.page = false).each(|node| {
        let get = Request::new("GET / HTTP/1.1").with("Host", "localhost");
        is_refused(node, &get, 426, "expected a WebSocket upgrade");
        upgrades(node, &Request::upgrade());
    });
}

#[test]
fn other_plain_requests_are_refused() {
    nodes().each(|node| {
        let plain = |first_line: &str| Request::new(first_line).with("Host", "localhost");
        is_refused(node, &plain("GET /favicon.ico HTTP/1.1"), 404, "");
        let response = is_refused(node, &plain("POST / HTTP/1.1"), 405, "GET");
        assert_eq!(response.header("allow"), Some("GET, HEAD"));
    });
}

#[test]
fn connection_too_many_is_told_to_come_back() {
    nodes().with(|config| config.connections_max = 2).each(|node| {
        let (first, mut second) = (node.log_in("first"), node.log_in("second"));
        let response = is_refused(node, &Request::upgrade(), 503, "full");
        assert!(response.header("retry-after").is_some(), "{response:?}");
        second.expect_silence();
        drop(first);
        support::eventually("the place is given again", || {
            let mut client = node.dial();
            client.send_request(&Request::upgrade());
            client.receive_head().status == 101
        });
        second.expect_silence();
    });
}

#[test]
fn handshake_too_many_waits_for_its_turn() {
    nodes().with(|config| config.handshakes_max = 1).each(|node| {
        let mut first = node.connect().named("first");
        let mut second = node.dial().named("second");
        second.send_request(&Request::upgrade());
        // The first one's login makes room.
        first.log_in("first");
        second.expect_upgrade();
        second.log_in("second");
        second.converse(&mut first);
    });
}

#[test]
fn bad_requests_do_not_disturb_a_session() {
    nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        for number in 0..20 {
            alice.converse(&mut bob);
            is_refused(node, &Request::upgrade().without("Connection"), 400, "Connection");
            let mut stranger = node.dial();
            stranger.send_bytes(&Request::upgrade().bytes()[..number]);
            stranger.vanish();
            let mut stranger = node.dial();
            stranger.send_request(&Request::upgrade());
            stranger.send(&Sent::text("str").unfinished());
            stranger.vanish();
        }
        alice.converse(&mut bob);
    });
}
