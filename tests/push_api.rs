//! The HTTP API: what each request does, what it answers, and how much it takes.

mod support;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use pombo::config::{DuplicateLogin, SlowConsumer};
use pombo::{Config, Problem};
use serde_json::json;
use support::{Ask, Client, eventually, nodes};

/// A uid as it stands in a path.
fn encoded(uid: &str) -> String {
    uid.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn push_reaches_a_uid_and_says_so() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let push = Ask::post(&format!("/v1/push/{}", bob.name()));
        push.clone().text("hi").to(node).expect(&json!({"uid": bob.name(), "outcome": "delivered", "sessions": 1}));
        bob.expect_text("hi");
        let json = r#"{ "any" : ["thing", 1] }"#;
        assert_eq!(push.clone().body("application/json", json).to(node).status, 200);
        bob.expect_text(json);
        assert_eq!(push.clone().body("application/octet-stream", b"\0\xff").to(node).status, 200);
        bob.expect_binary(b"\0\xff");
        assert_eq!(push.with("Content-Type", "text/plain").with("Content-Length", "0").to(node).status, 200);
        bob.expect_text("");
        Ask::post("/v1/push/nobody").text("hi").to(node).expect(&json!({"uid": "nobody", "outcome": "offline"}));
        alice.expect_silence();
        bob.expect_nothing_from(&mut alice);
    });
}

#[test]
fn push_reaches_every_session_of_a_shared_uid() {
    nodes().with_control().with(|config| config.duplicate_login = DuplicateLogin::Share).each(|node| {
        let mut sessions = [node.log_in("alice"), node.log_in("alice")];
        let answer = Ask::post("/v1/push/alice").text("hi").to(node);
        answer.expect(&json!({"uid": "alice", "outcome": "delivered", "sessions": 2}));
        sessions.iter_mut().for_each(|session| session.expect_text("hi"));
    });
}

#[test]
fn any_uid_can_be_in_a_path() {
    nodes().with_control().each(|node| {
        for uid in ["a/b", "100%", "two words", "joão", "?a=b&c#d", "%41", "a\u{0}\n\"", "🕊", "v1", "+"] {
            let mut session = node.log_in(uid);
            let path = encoded(uid);
            let pushed = Ask::post(&format!("/v1/push/{path}")).text("hi").to(node);
            pushed.expect(&json!({"uid": uid, "outcome": "delivered", "sessions": 1}));
            session.expect_text("hi");
            assert_eq!(Ask::get(&format!("/v1/uids/{path}")).to(node).json()["online"], true, "{uid}");
            Ask::delete(&format!("/v1/uids/{path}")).to(node).expect(&json!({"uid": uid, "sessions": 1}));
            session.expect_close(1008, "closed by the operator");
        }
    });
}

#[test]
fn uid_that_nobody_can_have_is_told_why() {
    let node = nodes().with_control().start(1);
    for (uid, why) in [("all", "addresses everybody"), ("a%3Ab", "a colon"), (&*"x".repeat(257), "257 bytes")] {
        for ask in [
            Ask::post(&format!("/v1/push/{uid}")).text("hi"),
            Ask::get(&format!("/v1/uids/{uid}")),
            Ask::delete(&format!("/v1/uids/{uid}")),
        ] {
            ask.to(&node).expect_problem(Problem::Uid, why);
        }
        Ask::post(&format!("/v1/broadcast?except={uid}")).text("hi").to(&node).expect_problem(Problem::Uid, why);
    }
    Ask::post("/v1/push/").text("hi").to(&node).expect_problem(Problem::NotFound, "a uid can't be empty");
    Ask::post("/v1/push/%FF").text("hi").to(&node).expect_problem(Problem::Malformed, "");
}

#[test]
fn pushes_of_one_connection_arrive_in_order() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let mut bob = node.log_in(bob);
        let mut control = node.dial_control();
        for round in 0..50 {
            Ask::post(&format!("/v1/push/{}", bob.name())).text(&format!("one {round}")).over(&mut control);
            Ask::post("/v1/broadcast").text(&format!("all {round}")).over(&mut control);
            let list = json!({"uids": [alice, bob.name(), bob.name()], "text": format!("list {round}")});
            Ask::post("/v1/push").json(&list).over(&mut control);
        }
        for round in 0..50 {
            for kind in ["one", "all", "list", "list"] {
                bob.expect_text(format!("{kind} {round}"));
            }
        }
    });
}

#[test]
fn list_is_answered_uid_by_uid() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let list = json!({"uids": [bob.name(), "nobody", "a:b", alice.name()], "base64": "AP8="});
        let answer = Ask::post("/v1/push").json(&list).to(node);
        let outcomes = &answer.json()["outcomes"];
        assert_eq!(outcomes[0], json!({"uid": bob.name(), "outcome": "delivered", "sessions": 1}));
        assert_eq!(outcomes[1], json!({"uid": "nobody", "outcome": "offline"}));
        assert_eq!((&outcomes[2]["uid"], &outcomes[2]["outcome"]), (&json!("a:b"), &json!("refused")));
        assert_eq!(outcomes[2]["problem"]["type"], "urn:problem-type:pombo:uid");
        assert_eq!(outcomes[3], json!({"uid": alice.name(), "outcome": "delivered", "sessions": 1}));
        alice.expect_binary(b"\0\xff");
        bob.expect_binary(b"\0\xff");
        for (list, problem) in [
            (json!({"uids": ["a"]}), Problem::Message),
            (json!({"uids": ["a"], "text": "", "base64": ""}), Problem::Message),
            (json!({"uids": ["a"], "base64": "?"}), Problem::Message),
            (json!({"uids": "a", "text": ""}), Problem::Malformed),
            (json!({"text": ""}), Problem::Malformed),
            (json!({"uids": [], "text": "", "to": 1}), Problem::Malformed),
        ] {
            Ask::post("/v1/push").json(&list).to(node).expect_problem(problem, "");
        }
        Ask::post("/v1/push").text("{}").to(node).expect_problem(Problem::MediaType, "application/json");
    });
}

#[test]
fn broadcast_reaches_all_but_those_left_out() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        Ask::post("/v1/broadcast").text("to all").to(node).expect(&json!({"sessions": 2}));
        alice.expect_text("to all");
        bob.expect_text("to all");
        let target = format!("/v1/broadcast?except={}&except=nobody", encoded(alice.name()));
        Ask::post(&target).text("not to alice").to(node).expect(&json!({"sessions": 1}));
        bob.expect_text("not to alice");
        alice.expect_nothing_from(&mut bob);
        Ask::post("/v1/broadcast?exept=a").text("x").to(node).expect_problem(Problem::Malformed, "expected except");
    });
}

#[test]
fn slow_consumer_is_told_as_shed() {
    let small = |config: &mut Config| {
        (config.message_bytes_max, config.outbox_bytes_max) = (64 << 10, 128 << 10);
        config.slow_consumer = SlowConsumer::DropNewest;
        config.send_buffer_bytes = Some(16 << 10);
    };
    nodes().with_control().with(small).each(|node| {
        let _slow = node.log_in_with_small_buffer("slow");
        let (mut control, message) = (node.dial_control(), "x".repeat(60_000));
        let push = Ask::post("/v1/push/slow").text(&message);
        eventually("the outbox is full", || push.over(&mut control).json()["outcome"] == "shed");
        push.over(&mut control).expect(&json!({"uid": "slow", "outcome": "shed", "reason": "outbox-full"}));
    });
}

#[test]
fn who_is_online_is_told_with_its_sessions() {
    nodes().with_control().with(|config| config.duplicate_login = DuplicateLogin::Share).each(|node| {
        Ask::get("/v1/uids/alice").to(node).expect(&json!({"uid": "alice", "online": false, "sessions": []}));
        let sessions = [node.log_in("alice"), node.log_in("alice")];
        let told = Ask::get("/v1/uids/alice").to(node).json();
        assert_eq!((&told["uid"], &told["online"]), (&json!("alice"), &json!(true)));
        let mut addresses: Vec<_> = (0..2).map(|index| told["sessions"][index]["address"].clone()).collect();
        addresses.sort_by_key(ToString::to_string);
        let mut expected = sessions.each_ref().map(|session| json!(session.local_address().to_string()));
        expected.sort_by_key(ToString::to_string);
        assert_eq!(addresses, expected);
        let since = told["sessions"][0]["since"].as_str().expect("a time");
        let since = humantime::parse_rfc3339(since).expect("a time as RFC 3339 has it");
        assert!(since.elapsed().is_ok_and(|age| age < support::DEADLINE), "{since:?}");
    });
}

/// It was computed as now less the session's age in steps of 50 ms, so nearly each answer had another time.
#[test]
fn session_has_the_same_since_in_each_answer() {
    nodes().with_control().each(|node| {
        let _alice = node.log_in("alice");
        let (mut control, begun) = (node.dial_control(), Instant::now());
        let mut since = || Ask::get("/v1/uids/alice").over(&mut control).json()["sessions"][0]["since"].clone();
        let first = since();
        while begun.elapsed() < Duration::from_millis(120) {
            assert_eq!(since(), first);
        }
    });
}

#[test]
fn counts_are_those_of_the_node() {
    nodes().with_control().each(|node| {
        let _alice = node.log_in("alice");
        Ask::post("/v1/push/alice").text("hi").to(node);
        Ask::post("/v1/push/bob").text("hi").to(node);
        let counts = Ask::get("/v1/counts").to(node).json();
        for (name, count) in
            [("sessions", 1), ("uids", 1), ("logins", 1), ("delivered", 1), ("offline", 1), ("shed", 0)]
        {
            assert_eq!(counts[name], count, "{name}");
        }
        assert_eq!(counts["shards"], node.shard_count());
    });
}

#[test]
fn pages_hold_every_uid_once() {
    nodes().with_control().each(|node| {
        let uids = node.uids(25);
        let _sessions: Vec<Client> = uids.iter().map(|uid| node.log_in(uid)).collect();
        let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = Ask::get(&format!("/v1/uids?limit=10{cursor}")).to(node).json();
            let uids = page["uids"].as_array().expect("a page has uids");
            assert!(uids.len() <= 10);
            found.extend(uids.iter().map(|uid| uid.as_str().expect("a text").to_owned()));
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert!(pages >= 3, "25 uids have no room on {pages} pages of 10");
        let mut expected = uids;
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
        for (query, words) in [
            ("cursor=x", "cursor"),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("limit=+1", "1 to 1000"),
            ("limit=1&limit=2", "once"),
            ("page=1", "cursor or limit"),
        ] {
            Ask::get(&format!("/v1/uids?{query}")).to(node).expect_problem(Problem::Malformed, words);
        }
    });
}

#[test]
fn close_ends_sessions_with_its_code_behind_what_is_due() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let mut control = node.dial_control();
        Ask::post("/v1/push/alice").text("last").over(&mut control);
        let closed = Ask::delete("/v1/uids/alice?code=4321&reason=go%20away").over(&mut control);
        closed.expect(&json!({"uid": "alice", "sessions": 1}));
        alice.expect_text("last");
        alice.expect_close(4321, "go away");
        Ask::delete("/v1/uids/alice").over(&mut control).expect(&json!({"uid": "alice", "sessions": 0}));
        for query in ["code=1005", "code=999", "code=0", &format!("reason={}", "x".repeat(124))] {
            Ask::delete(&format!("/v1/uids/alice?{query}")).over(&mut control).expect_problem(Problem::Close, "");
        }
        for query in ["code=x", "code=70000", "code=", "why=not"] {
            Ask::delete(&format!("/v1/uids/alice?{query}")).over(&mut control).expect_problem(Problem::Malformed, "");
        }
    });
}

#[test]
fn types_that_are_no_message_are_refused() {
    let node = nodes().with_control().start(1);
    for media_type in ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain; charset=latin1", "x"] {
        let answer = Ask::post("/v1/push/alice").body(media_type, "hi").to(&node);
        answer.expect_problem(Problem::MediaType, "expected");
    }
    let mut control = node.dial_control();
    control.send_bytes(b"POST /v1/push/alice HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi");
    control.receive_response().expect_problem(Problem::MediaType, "text/*");
    Ask::post("/v1/push/alice").body("text/plain", b"\xff").to(&node).expect_problem(Problem::Malformed, "UTF-8");
}

#[test]
fn what_is_not_there_is_told() {
    let node = nodes().with_control().start(1);
    Ask::get("/v1").to(&node).expect_problem(Problem::NotFound, "");
    Ask::get("/v2/counts").to(&node).expect_problem(Problem::NotFound, "openapi.json");
    let description = Ask::get("/v1/openapi.json").to(&node).json();
    for (path, operations) in description["paths"].as_object().expect("paths by name") {
        for method in operations.as_object().expect("operations by method").keys() {
            let path = format!("{} {path}", method.to_uppercase());
            Ask::get("/v1/online").to(&node).expect_problem(Problem::NotFound, &path);
        }
    }
    Ask::get("/v1/online").to(&node).expect_problem(Problem::NotFound, "who is online is at /v1/uids");
    for (method, target, allow) in [
        ("GET", "/v1/push", "POST"),
        ("PUT", "/v1/push/alice", "POST"),
        ("POST", "/v1/uids/alice", "GET,HEAD,DELETE"),
        ("DELETE", "/v1/counts", "GET,HEAD"),
    ] {
        let answer = Ask::new(method, target).to(&node);
        answer.expect_problem(Problem::MethodNotAllowed, "Allow");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
    }
}

#[test]
fn bodies_and_lists_are_bounded() {
    let bounds = |config: &mut Config| (config.push_bytes_max, config.push_uids_max) = (Some(1000), 3);
    nodes().with_control().with(bounds).each(|node| {
        let mut alice = node.log_in("alice");
        let push = Ask::post("/v1/push/alice");
        assert_eq!(push.clone().text(&"x".repeat(1000)).to(node).status, 200);
        alice.expect_text("x".repeat(1000));
        push.clone().text(&"x".repeat(1001)).to(node).expect_problem(Problem::TooLarge, "1000 bytes");
        // So large that it is still on its way when the answer comes, with and without its length.
        push.clone().text(&"x".repeat(4_000_000)).to(node).expect_problem(Problem::TooLarge, "1000 bytes");
        let mut control = node.dial_control();
        push.body("text/plain", "").with("Transfer-Encoding", "chunked").send(&mut control);
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        control.send_bytes(chunk.repeat(100).as_bytes());
        control.receive_response().expect_problem(Problem::TooLarge, "1000 bytes");
        let list = |count, text: &str| json!({"uids": vec!["nobody"; count], "text": text});
        assert_eq!(Ask::post("/v1/push").json(&list(3, "x")).to(node).status, 200);
        Ask::post("/v1/push").json(&list(4, "x")).to(node).expect_problem(Problem::TooLarge, "4 uids");
        let long = list(1, &"x".repeat(1001));
        Ask::post("/v1/push").json(&long).to(node).expect_problem(Problem::TooLarge, "1001 bytes");
        let except = "/v1/broadcast?except=a&except=b&except=c&except=d";
        Ask::post(except).text("x").to(node).expect_problem(Problem::TooLarge, "4 uids");
        alice.expect_silence();
    });
}

#[test]
fn slow_programs_are_cut_and_hold_up_nobody() {
    let short = |config: &mut Config| {
        config.control_body_timeout = Duration::from_millis(200);
        config.control_idle_timeout = Duration::from_millis(500);
    };
    nodes().with_control().with(short).each(|node| {
        let mut silent = node.dial_control();
        let mut head = node.dial_control();
        head.send_bytes(b"POST /v1/push/a HTTP/1.1\r\nHost:");
        let mut body = node.dial_control();
        Ask::post("/v1/push/a").with("Content-Type", "text/plain").with("Content-Length", "5").send(&mut body);
        body.send_bytes(b"hi");
        assert_eq!(Ask::get("/v1/counts").to(node).status, 200);
        body.receive_response().expect_problem(Problem::BodyTimeout, "200ms");
        for client in [&mut silent, &mut head] {
            client.receive_to_end();
        }
    });
}

#[test]
fn key_is_done_once() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        let push = Ask::post("/v1/push/alice").text("once").with("Idempotency-Key", "\"k1\"");
        let first = push.to(node);
        assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
        let again = push.to(node);
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
        assert_eq!(first.body, again.body);
        alice.expect_text("once");
        alice.expect_silence();
        let other = Ask::post("/v1/push/alice").text("other").with("Idempotency-Key", "k1");
        other.to(node).expect_problem(Problem::KeyReused, "another request");
        // What was certainly not done may be tried again.
        let bad = Ask::post("/v1/push/alice").body("text/plain", b"\xff").with("Idempotency-Key", "k2");
        bad.to(node).expect_problem(Problem::Malformed, "UTF-8");
        assert_eq!(Ask::post("/v1/push/alice").text("good").with("Idempotency-Key", "k2").to(node).status, 200);
        alice.expect_text("good");
        Ask::post("/v1/push/alice")
            .text("x")
            .with("Idempotency-Key", "a b")
            .to(node)
            .expect_problem(Problem::Malformed, "");
        let batch = Ask::post("/v1/batch").body("application/x-ndjson", "{}\n").with("Idempotency-Key", "k3");
        batch.to(node).expect_problem(Problem::Malformed, "leave it out");
        let list = json!({"uids": ["alice"], "text": "once more"});
        let ask = Ask::post("/v1/push").json(&list).with("Idempotency-Key", "k4");
        assert_eq!(ask.to(node).body, ask.to(node).body);
        alice.expect_text("once more");
        let ask = Ask::post("/v1/broadcast").text("to all").with("Idempotency-Key", "k5");
        assert_eq!(ask.to(node).body, ask.to(node).body);
        alice.expect_text("to all");
        alice.expect_silence();
    });
}

#[test]
fn window_of_a_key_ends_and_its_room_is_bounded() {
    let narrow = |config: &mut Config| {
        config.idempotency_window = Duration::from_millis(100);
        config.idempotency_bytes_max = 1024;
    };
    let node = nodes().with_control().with(narrow).start(1);
    let mut alice = node.log_in("alice");
    let push = |key: &str| Ask::post("/v1/push/alice").text("x").with("Idempotency-Key", key).to(&node);
    eventually("a key's window is over, and the message is sent again", || {
        push("k");
        node.stats().delivered >= 2
    });
    alice.expect_text("x");
    alice.expect_text("x");
    node.reload(|config| config.idempotency_window = Duration::from_secs(3600));
    let refused =
        (0..10).map(|index| push(&format!("key {index}").replace(' ', "-"))).find(|answer| answer.status == 503);
    let refused = refused.expect("ten answers have no room");
    refused.expect_problem(Problem::KeysFull, "no room");
    assert!(refused.header("retry-after").is_some());
}

/// Answers of any length were added without a check, so those that were kept could exceed the bound.
#[test]
fn kept_answers_never_pass_their_bound() {
    const BOUND: usize = 256 << 10;
    let node = nodes().with_control().with(|config| config.idempotency_bytes_max = BOUND).start(1);
    let list = |uids: usize| json!({"uids": vec!["nobody"; uids], "text": "x"});
    let mut kept = Vec::new();
    let refused = loop {
        let key = format!("key-{}", kept.len());
        let answer = Ask::post("/v1/push").json(&list(520)).with("Idempotency-Key", &key).to(&node);
        if answer.status != 200 {
            break answer;
        }
        kept.push((key, answer.body));
    };
    refused.expect_problem(Problem::KeysFull, "no room");
    let bytes: usize = kept.iter().map(|(_, body)| body.len()).sum();
    assert!((1..=BOUND).contains(&bytes), "{bytes} bytes of {} answers are kept", kept.len());
    for (key, body) in &kept {
        let again = Ask::post("/v1/push").json(&list(520)).with("Idempotency-Key", key).to(&node);
        assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), body), "{key}");
    }
    // A request that can never have room gets no Retry-After.
    let never = Ask::post("/v1/push").json(&list(5000)).with("Idempotency-Key", "long").to(&node);
    never.expect_problem(Problem::TooLarge, "without a key");
    assert_eq!(never.header("retry-after"), None);
}

#[test]
fn api_describes_itself() {
    let node = nodes().with_control().start(1);
    let described = Ask::get("/v1/openapi.json").to(&node).json();
    assert_eq!(described["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let paths = described["paths"].as_object().expect("it has paths");
    for path in ["/v1/push", "/v1/push/{uid}", "/v1/broadcast", "/v1/batch", "/v1/uids", "/v1/uids/{uid}", "/v1/counts"]
    {
        assert!(paths.contains_key(path), "{path}");
    }
}

#[test]
fn api_answers_while_clients_flood_the_shards() {
    let node = nodes().with_control().with(|config| config.shards = NonZeroUsize::MIN).start(1);
    let mut alice = node.log_in("alice");
    let mut flooder = node.log_in("flooder");
    let mut twin = flooder.twin();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let frames = vec![support::Sent::text("nobody:x"); 1000];
            for _ in 0..200 {
                twin.send_together(&frames);
            }
        });
        let mut control = node.dial_control();
        for round in 0..100 {
            let answer = Ask::post("/v1/push/alice").text(&round.to_string()).over(&mut control);
            assert_eq!(answer.json()["outcome"], "delivered");
            alice.expect_text(round.to_string());
        }
    });
    flooder.expect_silence();
}
