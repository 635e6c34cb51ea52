//! Holds `docs/gatewayworker.md` against a node: each call of GatewayWorker's class `Gateway` is there once, and each request
//! does what the page says.

mod support;

use std::collections::BTreeSet;

use pombo::config::DuplicateLogin;
use serde_json::{Value, json};
use support::{Ask, Client, Node, nodes};

const DOCUMENT: &str = include_str!("../docs/gatewayworker.md");

/// The public calls of the class `Gateway` of GatewayWorker 3, `src/Lib/Gateway.php`.
const CALLS: &[&str] = &[
    "bindUid",
    "closeClient",
    "closeCurrentClient",
    "destoryClient",
    "destoryCurrentClient",
    "getAllClientCount",
    "getAllClientIdCount",
    "getAllClientIdList",
    "getAllClientInfo",
    "getAllClientSessions",
    "getAllGroupClientIdCount",
    "getAllGroupClientIdList",
    "getAllGroupIdList",
    "getAllGroupUidCount",
    "getAllGroupUidList",
    "getAllUidCount",
    "getAllUidList",
    "getClientCountByGroup",
    "getClientIdByUid",
    "getClientIdCountByGroup",
    "getClientIdListByGroup",
    "getClientInfoByGroup",
    "getClientSessionsByGroup",
    "getSession",
    "getUidByClientId",
    "getUidCountByGroup",
    "getUidListByGroup",
    "isOnline",
    "isUidOnline",
    "joinGroup",
    "leaveGroup",
    "sendToAll",
    "sendToClient",
    "sendToCurrentClient",
    "sendToGroup",
    "sendToUid",
    "setBusinessWorker",
    "setSession",
    "setSocketSession",
    "unbindUid",
    "ungroup",
    "updateSession",
];

/// The rows of the table of calls, cell by cell.
fn rows() -> Vec<Vec<&'static str>> {
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with("| call of `Gateway`")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The requests of the table, each once.
fn requests() -> BTreeSet<(&'static str, &'static str)> {
    let cells = rows().into_iter().flatten().flat_map(codes);
    cells.filter_map(|code| code.split_once(' ')).filter(|(_, target)| target.starts_with('/')).collect()
}

#[test]
fn every_call_of_gateway_is_in_the_table_once() {
    let mut written: Vec<&str> = rows().iter().flat_map(|row| codes(row[0])).collect();
    written.sort_unstable();
    assert_eq!(written, CALLS);
    for row in rows() {
        let is_request = codes(row[1]).count() == 1 && codes(row[1]).all(|code| code.contains(" /v1/"));
        assert!(is_request || row[1] == "none", "{row:?}");
    }
}

/// Sends a request of the table as the page says; `text` is the message.
fn answer(node: &Node, method: &str, target: &str, text: &str) -> Value {
    let ask = Ask::new(method, target);
    let response = match (method, target) {
        ("POST", "/v1/push") => ask.json(&json!({"uids": ["alice", "bob"], "text": text})).to(node),
        ("POST", _) => ask.text(text).to(node),
        _ => ask.to(node),
    };
    assert_eq!(response.status, 200, "{method} {target}: {response:?}");
    response.json()
}

#[test]
fn every_request_of_the_table_does_what_it_says() {
    let share = |config: &mut pombo::Config| config.duplicate_login = DuplicateLogin::Share;
    let node = nodes().with_control().with(share).start(2);
    let mut tried = 0;
    for (method, target) in requests() {
        let mut alices = [node.log_in("alice"), node.log_in("alice")];
        let mut bob = node.log_in("bob");
        let answer = answer(&node, method, target, target);
        let mut receive = |client: &mut Client| client.expect_text(target);
        match (method, target) {
            ("POST", "/v1/push/alice") => alices.each_mut().into_iter().for_each(receive),
            ("POST", "/v1/push") | ("POST", "/v1/broadcast") => {
                alices.each_mut().into_iter().for_each(&mut receive);
                receive(&mut bob);
            }
            ("POST", "/v1/broadcast?except=alice") => {
                receive(&mut bob);
                bob.send_text("alice:the first that they receive");
                alices.iter_mut().for_each(|alice| alice.expect_text("the first that they receive"));
            }
            ("GET", "/v1/uids/alice") => {
                assert_eq!(answer["online"], true);
                assert_eq!(answer["sessions"].as_array().map(Vec::len), Some(2));
                let session = &answer["sessions"][0];
                assert!(session["address"].is_string() && session["since"].is_string(), "{session}");
            }
            ("GET", "/v1/uids?limit=1000") => {
                assert_eq!(answer["uids"].as_array().map(Vec::len), Some(2));
                assert_eq!(answer["next"], Value::Null);
            }
            ("GET", "/v1/counts") => assert_eq!((&answer["uids"], &answer["sessions"]), (&json!(2), &json!(3))),
            ("DELETE", "/v1/uids/alice") => {
                assert_eq!(answer, json!({"uid": "alice", "sessions": 2}));
                alices.iter_mut().for_each(|alice| alice.expect_close(1008, "closed by the operator"));
            }
            unknown => panic!("nobody has tried {unknown:?}"),
        }
        tried += 1;
        drop((alices, bob));
        node.eventually("they are gone", |stats| stats.sessions == 0);
    }
    assert_eq!(tried, 8);
}

#[test]
fn message_before_a_close_arrives_before_it() {
    nodes().with_control().each(|node| {
        let mut alice = node.log_in("alice");
        answer(node, "POST", "/v1/push/alice", "bye");
        answer(node, "DELETE", "/v1/uids/alice", "");
        alice.expect_text("bye");
        alice.expect_close(1008, "closed by the operator");
    });
}

/// What the page says of nodes that do not know each other: a push to each finds a user, and clients reach their own node.
#[test]
fn several_nodes_are_each_pushed_to() {
    let [one, other] = [1, 2].map(|shards| nodes().with_control().start(shards));
    let (mut alice, mut bob) = (one.log_in("alice"), other.log_in("bob"));
    let outcomes = [&one, &other].map(|node| answer(node, "POST", "/v1/push/alice", "hi")["outcome"].clone());
    assert_eq!(outcomes, [json!("delivered"), json!("offline")]);
    alice.expect_text("hi");
    let sessions = [&one, &other].map(|node| answer(node, "POST", "/v1/broadcast", "to all")["sessions"].clone());
    assert_eq!(sessions, [json!(1), json!(1)]);
    alice.expect_text("to all");
    bob.expect_text("to all");
    alice.send_text("bob:x");
    alice.send_text("all:y");
    alice.expect_text("y");
    bob.expect_silence();
}
