//! HTTP as its RFCs say, on both listeners: half-closed connections, expectations, codings, hosts, and bytes that are not UTF-8.

mod support;

use std::time::{Duration, Instant};

use pombo::config::{Auth, AuthSource, ControlTls, DuplicateLogin, Secret};
use pombo::{Config, Listen, Problem};
use serde_json::json;
use support::{Ask, Authority, Client, Node, Reply, Request, Response, SECRET, Service, eventually, nodes};

/// A batch of one line for alice.
const BATCH: &str = "{\"uid\":\"alice\",\"text\":\"hi\"}\n";

fn batch() -> Ask {
    Ask::post("/v1/batch").with("Content-Type", "application/x-ndjson")
}

/// Sends bytes to the control listener, and takes the answer.
#[track_caller]
fn control_answer(node: &Node, bytes: &[u8]) -> Response {
    let mut client = node.dial_control();
    client.send_bytes(bytes);
    client.receive_response()
}

/// Sends bytes to the gateway, takes the answer, and sees the connection end.
#[track_caller]
fn gateway_answer(node: &Node, bytes: &[u8]) -> Response {
    let mut client = node.dial();
    client.send_bytes(bytes);
    let response = client.receive_response();
    client.expect_end();
    response
}

/// Sends a request and the end of sending in one go, and takes everything up to the end.
#[track_caller]
fn half_closed(mut client: Client, send: impl FnOnce(&mut Client)) -> String {
    send(&mut client);
    client.finish_sending();
    String::from_utf8(client.receive_to_end()).expect("an answer is text")
}

#[track_caller]
fn expect_start(answer: &str, start: &str) {
    assert!(answer.starts_with(start), "expected {start:?}, got {answer:?}");
}

/// The node may read a request before or after the end of sending has arrived, so each request is tried several times.
const TIMES: usize = 20;

#[test]
fn who_ends_its_sending_behind_a_request_is_answered_on_control() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = Listen::Unix(folder.path().join("control.sock"));
    for control in ["127.0.0.1:0".parse().expect("an address"), socket] {
        nodes().with(|config| config.control = Some(control.clone())).each(|node| {
            let mut alice = node.log_in("alice");
            let keyed = Ask::post("/v1/push/alice").text("hi").with("Idempotency-Key", "k");
            let pushes =
                [Ask::post("/v1/push/alice").text("hi"), Ask::post("/v1/batch").body("application/x-ndjson", BATCH)];
            let questions = ["/healthz", "/readyz", "/metrics", "/v1/counts", "/v1/uids/alice"].map(Ask::get);
            for _ in 0..TIMES {
                for push in &pushes {
                    let answer = half_closed(node.dial_control(), |client| push.send(client));
                    expect_start(&answer, "HTTP/1.1 200 OK\r\n");
                    assert!(answer.contains("\"outcome\":\"delivered\""), "{answer:?}");
                    alice.expect_text("hi");
                }
                for ask in questions.iter().chain([&keyed]) {
                    expect_start(&half_closed(node.dial_control(), |client| ask.send(client)), "HTTP/1.1 200 OK\r\n");
                }
            }
            alice.expect_text("hi");
            alice.expect_silence();
        });
    }
}

#[test]
fn who_ends_its_sending_behind_a_request_is_answered_over_tls() {
    let authority = Authority::new();
    let change = |config: &mut Config| {
        authority.apply(config);
        config.control_tls = ControlTls::On;
    };
    let node = nodes().with_control().with(change).start(1);
    let Listen::Tcp(control) = node.control_listen().clone() else { panic!("it listens on TCP") };
    let dial = |address| {
        let config = authority.client(&[&rustls::version::TLS12, &rustls::version::TLS13]);
        Client::try_dial_tls(address, config).unwrap_or_else(|error| panic!("no TLS: {error}"))
    };
    for _ in 0..TIMES {
        let health = half_closed(dial(control), |client| Ask::get("/healthz").send(client));
        expect_start(&health, "HTTP/1.1 200 OK\r\n");
        let get = Request::new("GET / HTTP/1.1").with("Host", "x");
        let page = half_closed(dial(node.socket_address()), |client| client.send_request(&get));
        expect_start(&page, "HTTP/1.1 200 OK\r\n");
    }
}

#[test]
fn who_ends_its_sending_behind_a_request_is_answered_on_the_gateway() {
    let with_tokens = |config: &mut Config| {
        config.auth = Auth::Jwt;
        config.jwt_secret = Some(Secret::new(SECRET));
    };
    nodes().with(with_tokens).each(|node| {
        for _ in 0..TIMES {
            for (request, start) in [
                (Request::new("GET / HTTP/1.1").with("Host", "x"), "HTTP/1.1 200 OK\r\n"),
                (Request::new("GET / HTTP/1.0"), "HTTP/1.0 200 OK\r\n"),
                (Request::new("PUT / HTTP/1.1").with("Host", "x"), "HTTP/1.1 405 "),
                (Request::upgrade().without("Sec-WebSocket-Key"), "HTTP/1.1 400 "),
                // It is judged before it is answered.
                (Request::upgrade().with("Authorization", "Bearer x"), "HTTP/1.1 401 "),
            ] {
                expect_start(&half_closed(node.dial(), |client| client.send_request(&request)), start);
            }
        }
    });
}

/// The node notices soon that a client is gone, and gives its place to another.
#[test]
fn place_of_who_has_gone_is_given_again() {
    let one = |config: &mut Config| config.control_connections_max = 1;
    nodes().with_control().with(one).each(|node| {
        let next = || assert_eq!(Ask::get("/v1/counts").to(node).status, 200);
        let goings: [fn(Client); 2] = [drop, Client::vanish];
        for go in goings {
            let mut client = node.dial_control();
            Ask::post("/v1/push/nobody").text("hi").send(&mut client);
            go(client);
            next();
            let mut client = node.dial_control();
            client.send_bytes(&b"POST /v1/push/nobody HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"[..]);
            client.send_bytes(&b"Content-Length: 5\r\n\r\nhi"[..]);
            go(client);
            next();
            let mut client = node.dial_control();
            batch().with("Content-Length", "999999999").send(&mut client);
            client.send_bytes(BATCH.repeat(1000).as_bytes());
            go(client);
            next();
            // An answer that fills the sockets, and is not read.
            let mut client = node.dial_control();
            let lines = BATCH.repeat(200_000);
            batch().with("Content-Length", &lines.len().to_string()).send(&mut client);
            let mut sender = client.twin();
            let sending = std::thread::spawn(move || sender.try_send_bytes(lines.as_bytes()));
            client.receive_head();
            go(client);
            next();
            // Sending may have failed.
            sending.join().expect("the thread ends").ok();
        }
    });
}

/// The client may go on sending, or end its sending and wait for the answer.
#[test]
fn answer_that_is_not_read_holds_its_place_for_a_time_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = Listen::Unix(folder.path().join("control.sock"));
    let short = |config: &mut Config| {
        config.control_connections_max = 1;
        config.control_idle_timeout = Duration::from_millis(300);
    };
    for control in ["127.0.0.1:0".parse().expect("an address"), socket] {
        let node = nodes().with(short).with(|config| config.control = Some(control.clone())).start(1);
        let dial = || match node.control_listen() {
            Listen::Tcp(address) => Client::dial_with_receive_buffer(*address, 8 << 10),
            listen => Client::dial(listen),
        };
        for ends_its_sending in [false, true] {
            let mut client = dial();
            let lines = BATCH.repeat(200_000);
            batch().with("Content-Length", &lines.len().to_string()).send(&mut client);
            let mut sender = client.twin();
            let sending = std::thread::spawn(move || {
                let sent = sender.try_send_bytes(lines.as_bytes());
                if sent.is_ok() && ends_its_sending {
                    sender.finish_sending();
                }
            });
            assert_eq!(client.receive_head().status, 200);
            assert_eq!(Ask::get("/v1/counts").to(&node).status, 200);
            drop(client);
            sending.join().expect("the thread ends");
        }
        // A client that reads is not cut.
        let mut client = node.dial_control();
        let lines = BATCH.repeat(20_000);
        batch().with("Content-Length", &lines.len().to_string()).send(&mut client);
        let mut sender = client.twin();
        let sending = std::thread::spawn(move || {
            sender.send_bytes(lines.as_bytes());
            sender.finish_sending();
        });
        assert!(client.receive_to_end().ends_with(b"\r\n0\r\n\r\n"));
        sending.join().expect("all was sent");
    }
}

/// A WebSocket needs both directions: a client that ends its sending while its upgrade waits has left.
#[test]
fn place_of_an_upgrade_that_waits_is_given_again_when_its_client_leaves() {
    let service = Service::start(|question| match question["credential"].as_str() {
        Some("slow") => Reply::Silence,
        uid => Reply::json(&json!({"uid": uid})),
    });
    let (url, long) = (service.url(), Duration::from_secs(60));
    let patient = |config: &mut Config| {
        config.auth = Auth::Http;
        config.auth_url = Some(url.parse().expect("an address"));
        config.auth_sources = vec![AuthSource::Header];
        (config.auth_url_timeout, config.handshake_timeout) = (long, long);
        config.handshakes_max = 1;
        config.duplicate_login = DuplicateLogin::Share;
    };
    nodes().with(patient).each(|node| {
        let bearer = |name: &str| Request::upgrade().with("Authorization", &format!("Bearer {name}"));
        let (began, asked) = (Instant::now(), service.questions().len());
        let mut slow = node.dial();
        slow.send_request(&bearer("slow"));
        eventually("the service is asked", || service.questions().len() > asked);
        slow.finish_sending();
        let mut next = node.dial().named("alice");
        next.send_request(&bearer("alice"));
        next.expect_upgrade();
        next.expect_login_reply();
        node.expect_refusals(&[("left", 1)]);
        assert!(began.elapsed() < long / 2, "{:?}", began.elapsed());
    });
}

#[test]
fn body_that_is_awaited_is_asked_for() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let length = BATCH.len().to_string();
        let chunked = format!("{:x}\r\n{BATCH}\r\n0\r\n\r\n", BATCH.len());
        let push = Ask::post("/v1/push/alice").with("Content-Type", "text/plain").with("Content-Length", "2");
        for (ask, body) in [
            (push, "hi"),
            (batch().with("Content-Length", &length), BATCH),
            (batch().with("Transfer-Encoding", "chunked"), &chunked),
        ] {
            let mut control = node.dial_control();
            ask.with("Expect", "100-continue").send(&mut control);
            // Nothing of the body is sent before this.
            assert_eq!(control.receive_head().status, 100);
            control.send_bytes(body.as_bytes());
            assert_eq!(control.receive_head().status, 200);
            alice.expect_text("hi");
        }
        // A client may send its body without waiting; then `100 Continue` is optional.
        let mut control = node.dial_control();
        batch().with("Content-Length", &length).with("Expect", "100-continue").send(&mut control);
        control.send_bytes(BATCH.as_bytes());
        let first = control.receive_head();
        let head = if first.status == 100 { control.receive_head() } else { first };
        assert_eq!(head.status, 200);
        alice.expect_text("hi");
        alice.expect_silence();
    });
}

#[test]
fn body_that_is_not_wanted_is_not_asked_for() {
    let short = |config: &mut Config| config.control_body_timeout = Duration::from_millis(200);
    nodes().with_control().with(short).each(|node| {
        let expecting = |ask: Ask| ask.with("Expect", "100-continue").with("Content-Length", "100");
        let mut control = node.dial_control();
        expecting(Ask::post("/v1/batch").with("Content-Type", "text/plain")).send(&mut control);
        control.receive_response().expect_problem(Problem::MediaType, "ndjson");
        // The client gets `100 Continue`, and still sends no body.
        let mut control = node.dial_control();
        expecting(batch()).send(&mut control);
        assert_eq!(control.receive_head().status, 100);
        control.receive_response().expect_problem(Problem::BodyTimeout, "200ms");
    });
}

#[test]
fn content_coding_is_refused_where_there_is_a_message() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let list = json!({"uids": ["alice"], "text": "hi"});
        let asks = [
            Ask::post("/v1/push/alice").text("hi"),
            Ask::post("/v1/push").json(&list),
            Ask::post("/v1/broadcast").text("hi"),
            Ask::post("/v1/batch").body("application/x-ndjson", BATCH),
        ];
        for ask in &asks {
            for coding in ["gzip", "GZIP", "br", "identity, deflate", "gzip, identity", "x"] {
                let answer = ask.clone().with("Content-Encoding", coding).to(node);
                answer.expect_problem(Problem::ContentCoding, "without a Content-Encoding");
                assert_eq!(answer.header("accept-encoding"), Some("identity"));
            }
            let twice = ask.clone().with("Content-Encoding", "identity").with("Content-Encoding", "gzip");
            twice.to(node).expect_problem(Problem::ContentCoding, "");
        }
        alice.expect_silence();
        for coding in ["identity", "Identity", "", "identity, identity"] {
            assert_eq!(asks[0].clone().with("Content-Encoding", coding).to(node).status, 200, "{coding:?}");
            alice.expect_text("hi");
        }
    });
}

#[test]
fn transfer_coding_that_is_not_known_is_refused() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let body = "2\r\nhi\r\n0\r\n\r\n";
        let request = |codings: &str| {
            format!(
                "POST /v1/push/alice HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n{codings}\r\n\r\n{body}"
            )
        };
        for codings in [
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: x;y=\",\", chunked",
        ] {
            let answer = control_answer(node, request(codings).as_bytes());
            answer.expect_problem(Problem::TransferCoding, "chunked");
        }
        // The end of the body is unknown; the HTTP library answers.
        for codings in ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: identity"] {
            let mut client = node.dial_control();
            client.send_bytes(request(codings).as_bytes());
            assert_eq!(client.receive_response().status, 400, "{codings}");
            client.expect_end();
        }
        alice.expect_silence();
        assert_eq!(control_answer(node, request("Transfer-Encoding: Chunked").as_bytes()).status, 200);
        alice.expect_text("hi");
    });
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    nodes().with_control().each(|node| {
        // The uid that a replaced byte would address.
        let mut replacement = node.log_in("\u{fffd}");
        let mut alice = node.log_in("alice");
        let not_text = |ask: Ask, words: &str| ask.to(node).expect_problem(Problem::Malformed, words);
        for bad in ["%FF", "a%C3", "%C3%28", "%ED%A0%80", "%C0%AF", "%f4%90%80%80"] {
            for ask in [
                Ask::post(&format!("/v1/push/{bad}")).text("hi"),
                Ask::get(&format!("/v1/uids/{bad}")),
                Ask::delete(&format!("/v1/uids/{bad}")),
                Ask::get(&format!("/v1/{bad}")),
            ] {
                not_text(ask, "path");
            }
            for ask in [
                Ask::post(&format!("/v1/broadcast?except={bad}")).text("hi"),
                Ask::post(&format!("/v1/broadcast?except=alice&{bad}=x")).text("hi"),
                Ask::get(&format!("/v1/uids?cursor={bad}")),
                Ask::delete(&format!("/v1/uids/alice?reason={bad}")),
                Ask::get(&format!("/v1/counts?{bad}")),
            ] {
                not_text(ask, "query");
            }
        }
        // Raw bytes without percent-encoding; the HTTP library answers.
        for target in [&b"/v1/push/\xff"[..], b"/v1/broadcast?except=\xff"] {
            let head = &b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"[..];
            let answer = control_answer(node, &[b"POST ", target, head].concat());
            assert_eq!(answer.status, 400, "{answer:?}");
        }
        for name in
            ["Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "Origin", "Accept", "Expect"]
        {
            let head = format!("POST /v1/push/alice HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n{name}: ");
            let answer = control_answer(node, &[head.as_bytes(), b"text/plain;\xff\r\n\r\nhi"].concat());
            answer.expect_problem(Problem::Malformed, &name.to_lowercase());
        }
        // Headers that the API does not read may hold any bytes.
        let head = b"GET /v1/counts HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: \xe9\r\nCookie: \xff\r\n\r\n";
        assert_eq!(control_answer(node, head).status, 200);
        for body in [
            &b"{\"uids\":[\"\xff\"],\"text\":\"hi\"}"[..],
            b"{\"uids\":[\"alice\"],\"text\":\"\xff\"}",
            b"{\"uids\":[\"alice\"],\"base64\":\"\xff\"}",
            b"{\"uids\":[\"alice\"],\"text\":\"hi\",\"\xff\":1}",
            b"{\"uids\":[\"alice\"],\"text\":\"hi\"}\xff",
            b"{\"uids\":[\"alice\"],\"text\":\"\\ud800\"}",
        ] {
            not_text(Ask::post("/v1/push").body("application/json", body), "");
        }
        for ask in [Ask::post("/v1/push/alice"), Ask::post("/v1/broadcast")] {
            not_text(ask.clone().body("text/plain", b"\xff"), "UTF-8");
            not_text(ask.body("application/json", b"\"\xff\""), "UTF-8");
        }
        for line in [&b"{\"uid\":\"\xff\",\"text\":\"hi\"}"[..], b"{\"uid\":\"alice\",\"text\":\"\xff\"}"] {
            let mut control = node.dial_control();
            batch().with("Content-Length", &line.len().to_string()).send(&mut control);
            control.send_bytes(line);
            control.finish_sending();
            let answer = String::from_utf8(control.receive_to_end()).expect("an answer is text");
            assert!(answer.contains("problem-type:pombo:malformed"), "{answer:?}");
        }
        alice.expect_silence();
        replacement.expect_silence();
    });
}

#[test]
fn host_is_needed_once() {
    let bad: [&[&str]; 8] = [&[], &["x", "x"], &["x", "y"], &["a b"], &["a/b"], &["u@x"], &["x:port"], &["x, y"]];
    let good: [&str; 6] = ["", "localhost", "127.0.0.1:80", "[::1]:80", "my_service", "x:"];
    let with = |first_line: &str, hosts: &[&str]| {
        hosts.iter().fold(Request::new(first_line), |request, host| request.with("Host", host)).bytes()
    };
    nodes().with_control().each(|node| {
        for hosts in bad {
            for path in ["/v1/counts", "/healthz", "/readyz", "/metrics", "/console", "/nothing"] {
                let answer = control_answer(node, &with(&format!("GET {path} HTTP/1.1"), hosts));
                answer.expect_problem(Problem::Malformed, "Host");
            }
            let answer = gateway_answer(node, &with("GET / HTTP/1.1", hosts));
            assert_eq!(answer.status, 400, "{hosts:?}");
            assert_eq!(answer.body.trim_end(), pombo::Reason::HostHeader.text());
        }
        for host in good {
            assert_eq!(control_answer(node, &with("GET /healthz HTTP/1.1", &[host])).status, 200, "{host:?}");
            assert_eq!(gateway_answer(node, &with("GET / HTTP/1.1", &[host])).status, 200, "{host:?}");
        }
        // HTTP/1.0 may leave `Host` out; two are refused there, too.
        assert_eq!(control_answer(node, &with("GET /healthz HTTP/1.0", &[])).status, 200);
        assert_eq!(gateway_answer(node, &with("GET / HTTP/1.0", &[])).status, 200);
        let two = with("GET /healthz HTTP/1.0", &["x", "x"]);
        control_answer(node, &two).expect_problem(Problem::Malformed, "Host");
        assert_eq!(gateway_answer(node, &with("GET / HTTP/1.0", &["x", "x"])).status, 400);
    });
}

/// As curl sends it with `--http2`, and the JDK's client by default.
#[test]
fn upgrade_to_something_else_is_an_ordinary_request() {
    let h2c = |first_line: &str| {
        Request::new(first_line)
            .with("Host", "127.0.0.1")
            .with("Connection", "Upgrade, HTTP2-Settings")
            .with("Upgrade", "h2c")
            .with("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
    };
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        assert_eq!(gateway_answer(node, &h2c("GET / HTTP/1.1").bytes()).status, 200);
        assert_eq!(gateway_answer(node, &h2c("GET /x HTTP/1.1").bytes()).status, 404);
        let post = gateway_answer(node, &h2c("POST / HTTP/1.1").with("Content-Length", "0").bytes());
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
        let mut control = node.dial_control();
        for _ in 0..3 {
            let push = h2c("POST /v1/push/alice HTTP/1.1").with("Content-Type", "text/plain");
            control.send_request(&push.with("Content-Length", "2"));
            control.send_bytes(b"hi");
            let answer = control.receive_response();
            answer.expect(&json!({"uid": "alice", "outcome": "delivered", "sessions": 1}));
            alice.expect_text("hi");
        }
        // `websocket` may be one of several; a Sec-WebSocket-Key alone asks for a WebSocket, too.
        let mut client = node.dial();
        client.send_request(&Request::upgrade().replacing("Upgrade", "h2c, websocket"));
        client.expect_upgrade();
        let key_alone = gateway_answer(node, &Request::upgrade().replacing("Upgrade", "h2c").bytes());
        assert_eq!(key_alone.body.trim_end(), pombo::Reason::UpgradeHeader.text());
    });
}
