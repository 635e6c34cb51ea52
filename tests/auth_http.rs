//! Authentication by a service: who it lets in, and that nobody gets in when it fails.

mod support;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pombo::config::{Auth, AuthSource, Origins};
use pombo::{Config, Reason};
use serde_json::{Value, json};
use support::{Client, Node, Nodes, Reply, Request, Service, eventually, nodes, seconds_from_now};

/// Nodes that ask this service, and remember nothing.
fn asking<'a>(service: &Service) -> Nodes<'a> {
    let url = service.url();
    nodes().with(move |config| {
        config.auth = Auth::Http;
        config.auth_url = Some(url.parse().expect("an address"));
        config.auth_cache_ttl = Duration::ZERO;
        // Pages are told apart by the service here.
        config.origins = Origins::Any;
    })
}

/// A service that takes every credential for a uid.
fn believing() -> Service {
    Service::start(|question| Reply::json(&json!({"uid": question["credential"]})))
}

fn bearer(credential: &str) -> Request {
    Request::upgrade().with("Authorization", &format!("Bearer {credential}"))
}

#[track_caller]
fn log_in_by(node: &Node, request: &Request, uid: &str) -> Client {
    let mut client = node.dial().named(uid);
    client.send_request(request);
    client.expect_upgrade();
    client.expect_login_reply();
    client
}

/// Is refused for this reason, by the request and by the first message.
#[track_caller]
fn is_refused(node: &Node, reason: Reason, status: u16, code: u16, header: (&str, &str)) {
    let mut client = node.dial();
    client.send_request(&bearer("alice"));
    let response = client.receive_response();
    assert_eq!((response.status, response.body.trim_end()), (status, reason.text()));
    assert_eq!(response.header(header.0), Some(header.1));
    client.expect_end();
    // A refusal is counted when the connection has ended on both sides.
    drop(client);
    let mut client = node.connect();
    client.send_text("alice");
    client.expect_text(format!("error: {}", reason.text()));
    client.expect_close(code, reason.text());
    client.expect_end();
    drop(client);
    node.expect_refusals(&[(reason.name(), 2)]);
}

#[track_caller]
fn nobody_gets_in(node: &Node) {
    is_refused(node, Reason::AuthUnavailable, 503, 1013, ("retry-after", "5"));
}

#[test]
fn service_says_who_it_is() {
    let service = believing();
    asking(&service).each_pair(|node, alice, bob| {
        let mut alice = log_in_by(node, &bearer(alice), alice);
        let mut bob = node.log_in(bob);
        alice.converse(&mut bob);
    });
}

#[test]
fn service_is_told_the_facts_and_not_the_credential_twice() {
    let service = Service::start(|_| Reply::json(&json!({"uid": "alice"})));
    let node = asking(&service).with(|config| {
        config.auth_sources = vec![AuthSource::Query, AuthSource::FirstFrame];
        config.auth_url_headers = vec!["cookie".to_owned(), "x-absent".to_owned()];
    });
    let node = node.start(1);
    let request = Request::upgrade().with("Origin", "https://o").with("Cookie", "a=1").with("X-Other", "no");
    log_in_by(&node, &request.clone().first_line("GET /ws?a=b&access_token=t%20%22 HTTP/1.1"), "alice");
    // The first message is judged by the request before it.
    let mut client = node.dial().named("alice");
    client.send_request(&request.first_line("GET /other HTTP/1.1"));
    client.expect_upgrade();
    client.send_text("first \"message\"");
    client.expect_login_reply();
    let facts = |credential: &str, path: &str, query: Value| {
        json!({
            "credential": credential, "address": "127.0.0.1", "path": path, "query": query,
            "origin": "https://o", "headers": {"cookie": ["a=1"]},
        })
    };
    let asked = [facts("t \"", "/ws", json!("a=b")), facts("first \"message\"", "/other", Value::Null)];
    assert_eq!(service.questions(), asked);
}

/// Nodes whose users log in by a cookie, with a service that knows one cookie.
fn by_cookie<'a>(service: &Service) -> Nodes<'a> {
    asking(service).with(|config| {
        (config.auth_url_headers, config.auth_url_login_headers) = (Vec::new(), vec!["cookie".to_owned()]);
    })
}

fn knowing_a_cookie() -> Service {
    Service::start(|question| match (question["headers"]["cookie"][0].as_str(), question["credential"].as_str()) {
        (Some("session=1"), None) => Reply::json(&json!({"uid": "alice"})),
        (_, Some(credential)) => Reply::json(&json!({"uid": credential})),
        _ => Reply::Status(403, String::new()),
    })
}

fn with_cookie(cookie: &str) -> Request {
    Request::upgrade().with("Cookie", cookie)
}

#[test]
fn cookie_logs_in_at_the_upgrade_without_a_first_message() {
    let service = knowing_a_cookie();
    by_cookie(&service).each(|node| {
        let mut alice = log_in_by(node, &with_cookie("session=1"), "alice");
        // What she sends first is a command.
        alice.send_text("alice:to myself");
        alice.expect_text("to myself");
    });
    let question = &service.questions()[0];
    assert_eq!(question["credential"], Value::Null);
    assert_eq!(question["headers"]["cookie"], json!(["session=1"]));
}

#[test]
fn cookie_that_the_service_refuses_is_an_answer_to_the_upgrade() {
    let service = knowing_a_cookie();
    let node = by_cookie(&service).start(1);
    let mut client = node.dial();
    client.send_request(&with_cookie("session=2"));
    let response = client.receive_response();
    assert_eq!((response.status, response.body.trim_end()), (401, Reason::LoginHeaderRefused.text()));
    // A cookie is no token that could be invalid (RFC 6750, section 3).
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    drop(client);
    node.expect_refusals(&[(Reason::LoginHeaderRefused.name(), 1)]);
    let service = Service::start(|_| Reply::Status(500, String::new()));
    let node = by_cookie(&service).start(1);
    let mut client = node.dial();
    client.send_request(&with_cookie("session=1"));
    assert_eq!(client.receive_response().status, 503);
}

#[test]
fn without_a_cookie_or_with_a_credential_all_is_as_without_the_setting() {
    let service = knowing_a_cookie();
    let node = by_cookie(&service).start(1);
    // The first message.
    node.log_in("bob");
    // The credential is asked about, together with the cookie.
    log_in_by(&node, &bearer("carol").with("Cookie", "session=2"), "carol");
    assert_eq!(service.questions().last().expect("it was asked")["credential"], "carol");
    // A cookie that is no text can't be asked about, so the first message is awaited.
    let mut request = Request::upgrade().bytes();
    request.truncate(request.len() - 2);
    request.extend_from_slice(b"Cookie: \xff\r\n\r\n");
    let mut client = node.dial().named("dave");
    client.send_bytes(&request);
    client.expect_upgrade();
    client.send_text("dave");
    client.expect_login_reply();
    // Nothing to ask with, and no first message taken.
    node.reload(|config| config.auth_sources = vec![AuthSource::Header]);
    let mut client = node.dial();
    client.send_request(&Request::upgrade());
    assert_eq!(client.receive_response().status, 401);
    log_in_by(&node, &with_cookie("session=1"), "alice");
    // Without the setting a cookie waits for the first message, as ever.
    let node = asking(&service).start(1);
    let before = service.questions().len();
    let mut client = node.dial().named("erin");
    client.send_request(&with_cookie("session=1"));
    client.expect_upgrade();
    assert_eq!(service.questions().len(), before);
    client.send_text("erin");
    client.expect_login_reply();
}

#[test]
fn login_by_header_needs_a_list_of_sites_where_other_machines_can_connect() {
    let faults = |change: fn(&mut Config)| {
        let mut config = Config {
            listen: vec!["0.0.0.0:0".parse().expect("an address")],
            control: None,
            auth: Auth::Http,
            auth_url: Some("http://127.0.0.1:9/".parse().expect("an address")),
            auth_url_login_headers: vec!["cookie".to_owned()],
            ..Config::default()
        };
        change(&mut config);
        pombo::Server::bind(config).map_or_else(|error| error.to_string(), |_| String::new())
    };
    let open = faults(|_| {});
    assert!(open.contains("origins") && open.contains("a list of your sites, since headers log in"), "{open}");
    // A proxy makes such a header of the visitor's cookie.
    let open = faults(|config| config.auth_url_login_headers = vec!["x-forwarded-user".to_owned()]);
    assert!(open.contains("origins") && open.contains("a list of your sites, since headers log in"), "{open}");
    assert_eq!(faults(|config| config.origins = Origins::Any), "");
    assert_eq!(faults(|config| config.listen = vec!["127.0.0.1:0".parse().expect("an address")]), "");
}

/// Any site can show a sandboxed frame, whose origin is `null`.
#[test]
fn login_by_cookie_on_loopback_lets_in_pages_of_loopback_hosts_only() {
    let service = knowing_a_cookie();
    for origins in [Origins::Auto, Origins::Loopback] {
        let node = by_cookie(&service).with(|config| config.origins = origins.clone()).start(1);
        for origin in ["null", "file://", "https://example.com"] {
            let mut client = node.dial();
            client.send_request(&with_cookie("session=1").with("Origin", origin));
            assert_eq!(client.receive_response().status, 403, "{origin} {origins:?}");
        }
        log_in_by(&node, &with_cookie("session=1").with("Origin", "http://localhost:8080"), "alice");
    }
}

/// JSON can hold nothing but text, and a replaced byte could make one cookie of two.
#[test]
fn headers_go_to_the_service_byte_for_byte_or_not_at_all() {
    let service = Service::start(|_| Reply::json(&json!({"uid": "alice"})));
    let named = |config: &mut Config| config.auth_url_headers = vec!["cookie".to_owned(), "x-name".to_owned()];
    let node = asking(&service).with(named).start(1);
    let mut request = bearer("t").first_line("GET /a%FFb?c=%FF&d=\u{e9} HTTP/1.1").bytes();
    request.truncate(request.len() - 2);
    request.extend_from_slice(
        b"Cookie: a=1; b=\xff\r\nCookie: c=\xc3\xbc;  d=%FF\r\nX-Name: \xe9\r\nOrigin: \xff\r\n\r\n",
    );
    let mut client = node.dial().named("alice");
    client.send_bytes(&request);
    client.expect_upgrade();
    client.expect_login_reply();
    let facts = json!({
        "credential": "t", "address": "127.0.0.1", "path": "/a%FFb", "query": "c=%FF&d=\u{e9}",
        "origin": null, "headers": {"cookie": ["c=\u{fc};  d=%FF"]},
    });
    assert_eq!(service.questions(), [facts]);
}

#[test]
fn service_says_what_a_client_may_and_until_when() {
    let service = Service::start(|question| {
        let expires = if question["credential"] == "short" { seconds_from_now(2) } else { seconds_from_now(3600) };
        Reply::json(&json!({"uid": question["credential"], "may": ["broadcast"], "expires": expires}))
    });
    let node = asking(&service).start(1);
    let mut long = node.log_in("long");
    let mut short = node.log_in("short");
    short.send_text("long:x");
    short.expect_error("lacks the right unicast");
    short.expect_close(4010, "credential has expired");
    short.expect_end();
    long.send_text("all:y");
    long.expect_text("y");
}

#[test]
fn refusal_of_the_service_is_told() {
    for status in [400, 401, 403, 404, 499] {
        let service = Service::start(move |_| Reply::Status(status, "secret reasons".to_owned()));
        let challenge = ("www-authenticate", "Bearer error=\"invalid_token\"");
        is_refused(&asking(&service).start(1), Reason::AuthRefused, 401, 4011, challenge);
    }
    let service = Service::start(|_| Reply::json(&json!({"uid": "alice", "expires": seconds_from_now(-1)})));
    let challenge = ("www-authenticate", "Bearer error=\"invalid_token\"");
    is_refused(&asking(&service).start(1), Reason::CredentialExpired, 401, 4010, challenge);
}

/// A service may close a connection that was idle just as it is asked, and the question is lost with it.
#[test]
fn connection_that_the_service_closes_as_it_is_asked_costs_nobody_the_login() {
    let service = Service::start(|question| Reply::Once(json!({"uid": question["credential"]})));
    let node = asking(&service).start(1);
    for number in 0..20 {
        let uid = format!("uid{number}");
        log_in_by(&node, &bearer(&uid), &uid);
    }
    assert!(service.questions().len() > 20, "no connection was used again");
    // One that was made for the question is not lost by chance: asking again would only be more of the same.
    let service = Service::start(|_| Reply::HangUp);
    nobody_gets_in(&asking(&service).start(1));
    assert_eq!(service.questions().len(), 2, "each was asked once");
}

#[test]
fn nobody_gets_in_when_the_service_fails() {
    let huge = json!({"uid": "alice", "more": "x".repeat(65 << 10)}).to_string();
    let replies = [
        Reply::Status(500, json!({"uid": "alice"}).to_string()),
        Reply::Status(302, String::new()),
        Reply::Status(204, String::new()),
        Reply::Status(201, json!({"uid": "alice"}).to_string()),
        Reply::Status(429, String::new()),
        Reply::Status(200, String::new()),
        Reply::Status(200, "alice".to_owned()),
        Reply::Status(200, "{\"uid\": \"alice\"".to_owned()),
        Reply::Status(200, huge),
        Reply::json(&json!({"user": "alice"})),
        Reply::json(&json!({"uid": "alice", "may": "everything"})),
        Reply::json(&json!({"uid": "alice", "expires": "later"})),
        Reply::json(&json!({"uid": null})),
        Reply::Cut,
    ];
    for reply in replies {
        let service = Service::start(move |_| reply.clone());
        nobody_gets_in(&asking(&service).start(1));
    }
}

/// Such a client was asked to try again, which it did for ever.
#[test]
fn client_whose_uid_is_not_valid_is_refused_and_others_get_in() {
    for uid in [json!("all"), json!(""), json!("a:b"), json!("x".repeat(300)), json!(42), json!(["alice"])] {
        let service = Service::start(move |question| {
            let uid = if question["credential"] == "alice" { uid.clone() } else { question["credential"].clone() };
            Reply::json(&json!({"uid": uid}))
        });
        let node = asking(&service).start(1);
        let challenge = ("www-authenticate", "Bearer error=\"invalid_token\"");
        is_refused(&node, Reason::AuthRefused, 401, 4011, challenge);
        node.log_in("bob");
    }
}

#[test]
fn nobody_gets_in_when_the_service_is_away_or_silent() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let away = |config: &mut Config| config.auth_url = format!("http://{port}/who").parse().ok();
    nobody_gets_in(&asking(&believing()).with(away).start(1));

    let service = Service::start(|_| Reply::Silence);
    let short = |config: &mut Config| config.auth_url_timeout = Duration::from_millis(200);
    nobody_gets_in(&asking(&service).with(short).start(1));
}

#[test]
fn service_has_its_own_time_past_that_of_the_handshake() {
    let service = Service::start(|_| {
        thread::sleep(Duration::from_millis(600));
        Reply::json(&json!({"uid": "alice"}))
    });
    let node = asking(&service).with(|config| {
        (config.handshake_timeout, config.login_timeout) = (Duration::from_millis(300), Duration::from_millis(300));
        config.auth_url_timeout = Duration::from_secs(60);
    });
    let node = node.start(1);
    log_in_by(&node, &bearer("alice"), "alice").expect_silence();
}

#[test]
fn same_question_is_not_asked_again_for_a_while() {
    let service = Service::start(|question| match question["credential"].as_str() {
        Some("eve") => Reply::Status(403, String::new()),
        _ => Reply::json(&json!({"uid": question["credential"]})),
    });
    let node = asking(&service).with(|config| config.auth_cache_ttl = Duration::from_secs(3600)).start(1);
    for _ in 0..3 {
        log_in_by(&node, &bearer("alice"), "alice");
        node.log_in("alice");
        let mut eve = node.connect();
        eve.send_text("eve");
        eve.expect_error(Reason::AuthRefused.text());
        eve.expect_close(4011, Reason::AuthRefused.text());
    }
    assert_eq!(service.questions().len(), 2, "alice and eve once each, from whatever port they come");
    // From another page it is another question.
    log_in_by(&node, &bearer("alice").with("Origin", "https://elsewhere"), "alice");
    assert_eq!(service.questions().len(), 3);
    // Without a time nothing is remembered.
    node.reload(|config| config.auth_cache_ttl = Duration::ZERO);
    log_in_by(&node, &bearer("alice"), "alice");
    assert_eq!(service.questions().len(), 4);
}

#[test]
fn failure_is_not_remembered() {
    let replies = Mutex::new(vec![Reply::json(&json!({"uid": "alice"})), Reply::Status(500, String::new())]);
    let service = Service::start(move |_| replies.lock().expect("no holder panics").pop().expect("two questions"));
    let node = asking(&service).with(|config| config.auth_cache_ttl = Duration::from_secs(3600)).start(1);
    let mut client = node.dial();
    client.send_request(&bearer("alice"));
    assert_eq!(client.receive_response().status, 503);
    log_in_by(&node, &bearer("alice"), "alice");
}

#[test]
fn questions_at_a_time_are_bounded_and_the_rest_waits() {
    const CLIENTS: usize = 12;
    let service = Service::start(|question| {
        thread::sleep(Duration::from_millis(20));
        Reply::json(&json!({"uid": question["credential"]}))
    });
    let node = asking(&service).with(|config| {
        config.auth_url_in_flight_max = 3;
        config.auth_url_timeout = Duration::from_secs(60);
    });
    let node = node.start(1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = node.connect().named(&format!("user{number}"));
            client.send_text(format!("user{number}"));
            client
        })
        .collect();
    for mut client in clients {
        client.expect_login_reply();
    }
    assert_eq!(service.questions().len(), CLIENTS);
    assert!((2..=3).contains(&service.asking_most()), "{} at a time", service.asking_most());
}

/// The lower number never replaces the higher, however long its authentication took.
#[test]
fn login_that_was_read_first_does_not_replace_a_later_one() {
    let (release, released) = mpsc::sync_channel::<()>(1);
    let released = Arc::new(Mutex::new(released));
    let service = Service::start(move |question| {
        if question["credential"] == "slow" {
            released.lock().expect("no holder panics").recv().ok();
        }
        Reply::json(&json!({"uid": "alice"}))
    });
    let long = |config: &mut Config| config.auth_url_timeout = Duration::from_secs(60);
    asking(&service).with(long).each(|node| {
        let before = service.questions().len();
        let mut slow = node.connect().named("alice");
        slow.send_text("slow");
        eventually("the slow one is asked about", || service.questions().len() > before);
        let mut fast = log_in_by(node, &bearer("fast"), "alice");
        release.send(()).expect("the service waits");
        slow.expect_close(4001, "replaced by a newer login");
        slow.expect_end();
        fast.expect_silence();

        // The same with the upgrade.
        let before = service.questions().len();
        let mut slow = node.dial().named("alice");
        slow.send_request(&bearer("slow"));
        eventually("the slow one is asked about", || service.questions().len() > before);
        let mut faster = node.connect().named("alice");
        faster.send_text("fast");
        faster.expect_login_reply();
        fast.expect_close(4001, "replaced by a newer login");
        release.send(()).expect("the service waits");
        slow.expect_upgrade();
        slow.expect_close(4001, "replaced by a newer login");
        faster.expect_silence();
    });
}
