//! HTTP as its RFCs say, on both listeners: half-closed connections, and expectations.

mod support;

use std::time::{Duration, Instant};

use pombo::config::{Auth, AuthSource, DuplicateLogin, Secret};
use pombo::{Config, Listen, Problem};
use serde_json::json;
use support::{Ask, Authority, Client, Reply, Request, SECRET, Service, eventually, nodes};

/// A batch of one line for alice.
const BATCH: &str = "{\"uid\":\"alice\",\"text\":\"hi\"}\n";

fn batch() -> Ask {
    Ask::post("/v1/batch").with("Content-Type", "application/x-ndjson")
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

/// Whether the end of sending is there already as the request is read is luck, so each is tried some times.
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
    let node = nodes().with_control().with(|config| authority.apply(config)).start(1);
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

/// Who has gone is told from who has ended its sending as soon as it can be: its place is for somebody else.
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
            // However it ended.
            sending.join().expect("the thread ends").ok();
        }
    });
}

/// An upgrade that waits needs both directions: who has ended its sending has no use for it.
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
        // Who does not wait for it may be told so or not, and is answered.
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
        // Asked for, and still not sent.
        let mut control = node.dial_control();
        expecting(batch()).send(&mut control);
        assert_eq!(control.receive_head().status, 100);
        control.receive_response().expect_problem(Problem::BodyTimeout, "200ms");
    });
}
