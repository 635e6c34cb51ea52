//! Who may use the HTTP API: tokens and rights, pages of browsers, TLS and Unix sockets; and what a drain leaves.

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use pombo::config::{ControlTls, ControlToken};
use pombo::frame::close;
use pombo::{Config, Listen, Problem, Server, StartError};
use serde_json::json;
use support::{Ask, Authority, Client, eventually, nodes};

const PUSH: &str = "push-push-push-push-push-push-push-0";
const QUERY: &str = "query-query-query-query-query-query0";
const ADMIN: &str = "admin-admin-admin-admin-admin-admin0";

fn tokens() -> Vec<ControlToken> {
    let token = |text: String| text.parse().expect("a token");
    vec![token(format!("a push {PUSH}")), token(format!("b query {QUERY}")), token(format!("c admin {ADMIN}"))]
}

#[test]
fn each_right_opens_what_it_is_for_and_nothing_else() {
    nodes().with_control().with(|config| config.control_tokens = tokens()).each(|node| {
        let asks = [
            (PUSH, Ask::post("/v1/push/nobody").text("x")),
            (PUSH, Ask::post("/v1/push").json(&json!({"uids": [], "text": ""}))),
            (PUSH, Ask::post("/v1/broadcast").text("x")),
            (PUSH, Ask::post("/v1/batch").body("application/x-ndjson", "\n")),
            (QUERY, Ask::get("/v1/uids")),
            (QUERY, Ask::get("/v1/uids/nobody")),
            (QUERY, Ask::get("/v1/counts")),
            (QUERY, Ask::get("/v1/stats")),
            (QUERY, Ask::get("/v1/history")),
            (QUERY, Ask::get("/metrics")),
            (ADMIN, Ask::delete("/v1/uids/nobody")),
            (ADMIN, Ask::get("/v1/settings")),
        ];
        for (right, ask) in asks {
            for token in [PUSH, QUERY, ADMIN] {
                let mut client = node.dial_control();
                ask.clone().token(token).send(&mut client);
                let head = client.receive_head();
                assert_eq!(head.status, if token == right { 200 } else { 403 }, "{ask:?} {token}");
            }
            let mut client = node.dial_control();
            let refused = ask.over(&mut client);
            refused.expect_problem(Problem::Unauthorized, "Bearer");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            client.expect_end();
        }
        for ask in [Ask::get("/v1/counts").token(&QUERY[1..]), Ask::get("/v1/counts").with("Authorization", QUERY)] {
            ask.to(node).expect_problem(Problem::Unauthorized, "");
        }
        Ask::get("/v1/counts").token(QUERY).token(PUSH).to(node).expect_problem(Problem::Unauthorized, "once");
        Ask::get("/v2").to(node).expect_problem(Problem::Unauthorized, "");
        // With a token, it doesn't matter by which name a program found the node.
        let named = Ask::get("/v1/counts").token(QUERY).replacing("Host", "push.example.com");
        assert_eq!(named.to(node).status, 200);
    });
}

#[test]
fn keys_of_two_programs_do_not_meet() {
    let two = |config: &mut Config| {
        config.control_tokens = tokens();
        config.control_tokens[1].rights.push = true;
    };
    nodes().with_control().with(two).each(|node| {
        let push = |token| Ask::post("/v1/push/nobody").text(token).with("Idempotency-Key", "same").token(token);
        for token in [PUSH, QUERY] {
            assert_eq!(push(token).to(node).header("idempotency-replayed"), None);
        }
        assert_eq!(push(PUSH).to(node).header("idempotency-replayed"), Some("true"));
    });
}

#[test]
fn tokens_are_rotated_while_the_node_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    fs::write(&file, format!("# ours\na push+query {PUSH}\n")).expect("it can be written");
    let node = nodes().with_control().with(|config| config.control_tokens_file = Some(file.clone())).start(1);
    let status = |token: &str| Ask::get("/v1/counts").token(token).to(&node).status;
    assert_eq!((status(PUSH), status(QUERY)), (200, 401));
    // Both hold while programs take over the new one.
    fs::write(&file, format!("a push+query {PUSH}\nb query {QUERY}\n")).expect("it can be written");
    eventually("the new token is taken", || status(QUERY) == 200);
    assert_eq!(status(PUSH), 200);
    fs::write(&file, format!("b query {QUERY}\n")).expect("it can be written");
    eventually("the old token is refused", || status(PUSH) == 401);
    // A file that is none leaves the tokens where they are; a reload reads it at once.
    fs::write(&file, "").expect("it can be written");
    node.reload(|_| {});
    fs::write(&file, format!("c query {ADMIN}\n")).expect("it can be written");
    node.reload(|_| {});
    eventually("the newest token is taken", || status(ADMIN) == 200);
    assert_eq!((status(PUSH), status(QUERY)), (401, 401));
    node.reload(|config| config.control_tokens = tokens().drain(..2).collect());
    eventually("a token of the settings is taken", || status(QUERY) == 200);
}

#[test]
fn file_without_tokens_is_no_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    fs::write(&file, "# none yet\n").expect("it can be written");
    let any = |text: &str| text.parse().expect("an address");
    let config = Config { listen: vec![any("127.0.0.1:0")], control: Some(any("127.0.0.1:0")), ..Config::default() };
    let refused = Server::bind(Config { control_tokens_file: Some(file), ..config.clone() });
    assert!(matches!(refused, Err(StartError::ControlTokens(_))), "{refused:?}");
    let open = Server::bind(Config { control: Some(any("0.0.0.0:0")), ..config });
    assert!(matches!(open, Err(StartError::Config(_))), "{open:?}");
}

#[test]
fn pages_of_browsers_are_refused_without_tokens() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let push = Ask::post("/v1/push/alice").text("x");
        for origin in ["https://example.com", "http://127.0.0.1:8080", "null"] {
            push.clone().with("Origin", origin).to(node).expect_problem(Problem::ForeignPage, "web page");
        }
        // A page whose name was bound to this machine: its origin is its host.
        let rebound = push.clone().replacing("Host", "example.com:1235").with("Origin", "http://example.com:1235");
        rebound.to(node).expect_problem(Problem::ForeignPage, "example.com");
        let rebound = Ask::get("/v1/uids").replacing("Host", "example.com");
        rebound.to(node).expect_problem(Problem::ForeignPage, "example.com");
        let absolute = Ask::get("http://example.com/v1/uids");
        absolute.to(node).expect_problem(Problem::ForeignPage, "example.com");
        alice.expect_silence();
        let host = node.control_listen().to_string();
        let own = push.replacing("Host", &host).with("Origin", &format!("http://{host}"));
        assert_eq!(own.to(node).status, 200);
    });
}

#[test]
fn console_is_for_everybody_and_holds_nothing() {
    for tokens in [Vec::new(), tokens()] {
        nodes().with_control().with(|config| config.control_tokens = tokens.clone()).each(|node| {
            let led = Ask::get("/").to(node);
            assert_eq!((led.status, led.header("location")), (307, Some("console")));
            let mut control = node.dial_control();
            // Whatever it is asked by, it is the same page, under a policy that runs nothing else.
            for ask in [Ask::get("/console"), Ask::get("/console").replacing("Host", "example.com")] {
                let page = ask.over(&mut control);
                assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
                let policy = page.header("content-security-policy").expect("a policy");
                assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
                assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
            }
            Ask::post("/console").text("x").to(node).expect_problem(Problem::MethodNotAllowed, "Allow");
            if !tokens.is_empty() {
                Ask::get("/console/").to(node).expect_problem(Problem::Unauthorized, "");
            }
        });
    }
}

#[test]
fn api_speaks_tls_where_it_is_asked_to() {
    let authority = Authority::new();
    let change = |config: &mut Config| {
        authority.apply(config);
        config.control_tls = ControlTls::On;
    };
    nodes().with_control().with(change).each(|node| {
        let Listen::Tcp(address) = node.control_listen() else { panic!("it listens on TCP") };
        let config = authority.client(rustls::ALL_VERSIONS);
        let mut control = Client::try_dial_tls(*address, config).expect("the handshake is made");
        for _ in 0..2 {
            let answer = Ask::post("/v1/push/nobody").text("x").over(&mut control);
            answer.expect(&json!({"uid": "nobody", "outcome": "offline"}));
        }
    });
}

#[test]
fn api_is_reached_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let listen = Listen::Unix(folder.path().join("control.sock"));
    nodes().with(|config| config.control = Some(listen.clone())).each(|node| {
        let mut alice = node.log_in("alice");
        let answer = Ask::post("/v1/push/alice").replacing("Host", "any.name").text("hi").to(node);
        answer.expect(&json!({"uid": "alice", "outcome": "delivered", "sessions": 1}));
        alice.expect_text("hi");
    });
}

#[test]
fn drain_is_told_and_what_was_begun_is_answered() {
    let slow = |config: &mut Config| config.drain_timeout = Duration::from_secs(3600);
    nodes().with_control().with(slow).each(|node| {
        let names = ["alice", "bob", "carol"].map(|name| node.uid_on(0, name));
        let mut alice = node.log_in(&names[0]);
        // Their turn comes much later: the node goes on draining until they have gone.
        let others = [node.log_in(&names[1]), node.log_in(&names[2])];
        let push = Ask::post(&format!("/v1/push/{}", names[1]));
        let mut begun = node.dial_control();
        push.clone().with("Content-Type", "text/plain").with("Content-Length", "2").send(&mut begun);
        let mut idle = node.dial_control();
        assert_eq!(Ask::get("/v1/counts").over(&mut idle).status, 200);
        assert_eq!(Ask::get("/v1/counts").to(node).status, 200);
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            alice.expect_close(close::GOING_AWAY, "");
            idle.expect_end();
            let refused = push.clone().text("x").to(node);
            refused.expect_problem(Problem::Draining, "nothing was done");
            assert_eq!(refused.header("retry-after"), Some("1"));
            begun.send_bytes(b"hi");
            begun.receive_response().expect(&json!({"uid": names[1], "outcome": "delivered", "sessions": 1}));
            begun.expect_end();
            drop((alice, others));
        });
    });
}
