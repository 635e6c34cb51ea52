//! What a node tells about itself: every count of every shard, its ceiling, the hours before, its settings.

mod support;

use std::thread;
use std::time::Duration;

use pombo::config::{ConnectionLimit, SETTINGS, Secret};
use pombo::frame::close;
use pombo::metrics::Histogram;
use pombo::{NodeCounts, Problem, Reason, Stats};
use serde_json::{Value, json};
use support::{Ask, Node, nodes};

fn stats(node: &Node) -> Value {
    let answer = Ask::get("/v1/stats").to(node);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    answer.json()
}

#[test]
fn every_count_of_every_shard_is_told() {
    nodes().with_control().with(|config| config.connections_max = 4321).each(|node| {
        let told = stats(node);
        assert_eq!((&told["state"], &told["version"]), (&json!("serving"), &json!(env!("CARGO_PKG_VERSION"))));
        assert_eq!(told["connections_max"], 4321);
        let shards = told["shards"].as_array().expect("a list");
        assert_eq!(shards.len(), node.shard_count());
        let mut fields: Vec<_> = Stats::ALL.iter().map(|metric| metric.field).collect();
        fields.sort_unstable();
        for shard in shards {
            let mut counted: Vec<_> = shard["counts"].as_object().expect("counts by name").keys().collect();
            counted.sort_unstable();
            assert_eq!(counted, fields);
            assert_eq!(shard["turn_time"]["bounds_ns"], json!(Histogram::BOUNDS));
            assert_eq!(shard["turn_time"]["counts"].as_array().map(Vec::len), Some(Histogram::BOUNDS.len() + 1));
        }
        let mut own: Vec<_> = NodeCounts::ALL.iter().map(|metric| metric.field).collect();
        own.sort_unstable();
        assert!(own.iter().all(|field| !fields.contains(field)), "no count is a shard's and the node's: {own:?}");
        let counted: Vec<_> = told["counts"].as_object().expect("counts by name").keys().collect();
        assert_eq!(counted, own);
        assert_eq!(told["push_time"]["bounds_ns"], json!(Histogram::BOUNDS));
        let mut reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        reasons.sort_unstable();
        let mut refusals: Vec<_> = told["refusals"].as_object().expect("counts by name").keys().collect();
        refusals.sort_unstable();
        assert_eq!(refusals, reasons);
        Ask::get("/v1/stats?shard=0").to(node).expect_problem(Problem::Malformed, "expected none");
    });
}

/// The default of `connections_max` was shown, a million, which most machines have no descriptors for.
#[test]
fn ceiling_is_the_least_of_setting_descriptors_and_memory() {
    let ceiling = |node: &Node| {
        let told = stats(node);
        let by = told["connections_limited_by"].as_str().expect("a name").to_owned();
        (told["connections_ceiling"].as_u64().expect("a number"), by)
    };
    let node = nodes().with_control().with(|config| config.connections_max = 7).start(1);
    assert_eq!(ceiling(&node), (7, ConnectionLimit::ConnectionsMax.name().to_owned()));
    assert_eq!(node.handle().connections_ceiling(), (ConnectionLimit::ConnectionsMax, 7));
    node.reload(|config| config.connections_max = 100_000_000);
    let limits = |node: &Node| {
        let text = Ask::get("/metrics").to(node).body;
        let samples = text.lines().filter_map(|line| line.strip_prefix("pombo_connections_limit{by=\""));
        samples
            .map(|sample| sample.split_once("\"} ").expect("a value"))
            .map(|(by, value)| (value.parse().expect("a number"), by.to_owned()))
            .collect::<Vec<(u64, String)>>()
    };
    support::eventually("the reload is taken", || ceiling(&node).1 != "connections_max");
    let least = limits(&node).into_iter().min().expect("there are limits");
    assert_eq!(ceiling(&node), least);
    if let Some(descriptors) = pombo::descriptors::limit() {
        assert!(least.0 < descriptors, "{least:?}");
    }
    assert_eq!(stats(&node)["connections_max"], 100_000_000, "the setting is told as before");
}

/// It said that it served, and nothing else, while `/readyz` was answered with 503.
#[test]
fn node_that_accepts_nobody_says_why() {
    let node = nodes().with_control().with(|config| config.connections_max = 1).start(1);
    assert_eq!(stats(&node)["unready"], json!([]));
    let alice = node.log_in("alice");
    let told = stats(&node);
    let reason = "1 connections are open, of connections_max = 1";
    assert_eq!((&told["state"], &told["unready"]), (&json!("serving"), &json!([reason])));
    assert_eq!(Ask::get("/readyz").to(&node).body, format!("{reason}\n"));
    drop(alice);
    support::eventually("it accepts again", || stats(&node)["unready"] == json!([]));
}

#[test]
fn what_the_process_uses_and_where_its_page_is_are_told() {
    let node = nodes().with_control().start(2);
    let told = stats(&node);
    assert!(told["process"]["resident_bytes"].as_u64() > Some(0), "{told}");
    assert!(told["process"]["cpu_seconds"].as_f64() > Some(0.0), "{told}");
    assert!(told["memory_bytes_max"].as_u64() > Some(0));
    assert_eq!(told["page"].as_str().map(|page| &page[..17]), Some("http://127.0.0.1:"));
    node.reload(|config| config.page = false);
    support::eventually("it is told no longer", || stats(&node).get("page").is_none());
}

#[test]
fn hours_before_are_kept() {
    let node = nodes().with_control().start(2);
    let _alice = node.log_in("alice");
    let history = |query: &str| Ask::get(&format!("/v1/history{query}")).to(&node).json();
    support::eventually("a sample is taken with alice in it", || {
        history("")["sessions"].as_array().is_some_and(|sessions| sessions.last() == Some(&json!(1)))
    });
    let told = history("");
    let times = told["uptime_ms"].as_array().expect("a list");
    assert!(times[0].as_u64() > Some(0) && times.is_sorted_by_key(|at| at.as_u64()), "{told}");
    for (name, column) in told.as_object().expect("columns") {
        let length = column.as_array().map(Vec::len);
        assert!(name == "interval_ms" || length == Some(times.len()), "{name}: {told}");
    }
    assert!(told["deliveries"][0].is_u64() && told["cpu_ms"][0].is_u64() && told["resident_bytes"][0].is_u64());
    assert_eq!(history("?since=99999999999999")["uptime_ms"], json!([]));
    let after_first = history(&format!("?since={}", times[0]));
    assert_eq!(
        after_first["uptime_ms"].as_array().map_or(0, |rest| rest.iter().filter(|at| *at == &times[0]).count()),
        0
    );
    Ask::get("/v1/history?since=x").to(&node).expect_problem(Problem::Malformed, "since is no number");
}

#[test]
fn settings_are_those_in_force_and_hold_no_secret() {
    const SECRET: &str = "do-not-show-this-do-not-show-this";
    let node = nodes().with_control().with(|config| config.jwt_secret = Some(Secret::new(SECRET))).start(1);
    let ask = || Ask::get("/v1/settings").to(&node);
    assert!(!ask().body.contains("do-not-show"), "{}", ask().body);
    let setting = |key: &str| {
        let told = ask().json();
        let all = told["settings"].as_array().expect("a list").clone();
        assert_eq!(all.len(), SETTINGS.len());
        all.into_iter().find(|setting| setting["key"] == key).expect("it is in the table")
    };
    assert_eq!(
        (&setting("jwt_secret")["value"], &setting("jwt_secret")["changed"]),
        (&json!("(hidden)"), &json!(true))
    );
    assert_eq!(setting("login_timeout")["changed"], false);
    node.reload(|config| config.login_timeout = Duration::from_secs(77));
    support::eventually("the reload is shown", || setting("login_timeout")["changed"] == true);
    let told = setting("login_timeout");
    assert!(told["live"] == true && told["value"] != told["default"], "{told}");
}

/// The console links to them, and they need no token.
#[test]
fn pages_of_the_documentation_are_served() {
    let token = |config: &mut pombo::Config| {
        config.control_tokens = vec!["a query 0123456789abcdef0123456789abcdef".parse().expect("a token")];
    };
    let node = nodes().with_control().with(token).start(1);
    let console = Ask::get("/console").to(&node).body;
    let links: Vec<&str> = console.split("href=\"docs/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() > 3, "{links:?}");
    for link in links {
        let page = Ask::get(&format!("/docs/{link}")).to(&node);
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain; charset=utf-8")), "{link}");
        assert!(page.body.starts_with("# "), "{link}");
    }
    Ask::get("/docs/none.md").to(&node).expect_problem(Problem::NotFound, "watching.md");
}

#[test]
fn counts_stand_with_the_shard_that_made_them() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let before = stats(node);
        let (_alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        for _ in 0..3 {
            Ask::post(&format!("/v1/push/{alice}")).text("hi").to(node);
        }
        Ask::delete(&format!("/v1/uids/{}", bob.name())).to(node);
        bob.expect_close(close::POLICY, "closed by the operator");
        let told = stats(node);
        let (mine, theirs) = (node.handle().shard_of(alice), node.handle().shard_of(bob.name()));
        let shard = |index: usize| &told["shards"][index];
        assert_eq!((&shard(mine)["counts"]["delivered"], &shard(mine)["counts"]["sessions"]), (&json!(3), &json!(1)));
        assert_eq!(shard(theirs)["closes"], json!({"1008": 1}), "only those that were");
        assert_eq!(shard(theirs)["counts"]["kicked"], 1);
        for (index, shard) in told["shards"].as_array().expect("a list").iter().enumerate() {
            let is_theirs = index == mine || index == theirs;
            assert_eq!(shard["counts"]["logins"].as_u64() > Some(0), is_theirs, "shard {index}");
            let turns = shard["turn_time"]["counts"].as_array().expect("a list").iter();
            let turns: u64 = turns.map(|count| count.as_u64().expect("a number")).sum();
            assert!(turns > 0 && shard["turn_time"]["sum_ns"].as_u64() > Some(0), "{shard}");
        }
        assert!(told["connections"].as_u64() >= Some(1), "{told}");
        for clock in ["at_ms", "uptime_ms"] {
            assert!(told[clock].as_u64() >= before[clock].as_u64(), "{clock}: {} after {}", told[clock], before[clock]);
        }
    });
}

/// They stood in each shard as 0, and how long pushes took stood nowhere.
#[test]
fn what_no_shard_counts_stands_once() {
    nodes().with_control().each(|node| {
        let _alice = node.log_in("alice");
        for uid in ["alice", "nobody", "nobody"] {
            Ask::post(&format!("/v1/push/{uid}")).text("hi").to(node);
        }
        Ask::post("/v1/broadcast").text("hi").to(node);
        let told = stats(node);
        for (field, expected) in [("pushes_delivered", 1), ("pushes_offline", 2), ("broadcasts_pushed", 1)] {
            assert_eq!(told["counts"][field], expected, "{field}");
        }
        let times = told["push_time"]["counts"].as_array().expect("a list").iter();
        assert_eq!(times.map(|count| count.as_u64().expect("a number")).sum::<u64>(), 4);
        let counts = node.handle().counts();
        assert_eq!((counts.pushes_delivered, counts.pushes_offline, counts.push_time.count()), (1, 2, 4));
    });
}

#[test]
fn refusals_are_counted_by_reason() {
    let node = nodes().with_control().start(1);
    let mut stranger = node.dial();
    stranger.send_bytes(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(stranger.receive_head().status, 405);
    support::eventually("it is counted, once", || {
        let told = stats(&node);
        let counts = told["refusals"].as_object().expect("counts by name");
        counts.iter().filter(|(_, count)| **count != 0).eq([(&"page_method".to_owned(), &json!(1))])
    });
}

#[test]
fn drain_is_seen_to_its_end() {
    let slow = |config: &mut pombo::Config| config.drain_timeout = Duration::from_secs(3600);
    let node = nodes().with_control().with(slow).start(1);
    // Their turns to go are spread over the time there is, so the node drains until they have gone.
    let clients = ["alice", "bob", "carol"].map(|name| node.log_in(name));
    thread::scope(|threads| {
        threads.spawn(|| node.drain());
        support::eventually("it drains", || stats(&node)["state"] == "draining");
        Ask::get("/v1/counts").to(&node).expect_problem(Problem::Draining, "drains");
        assert_eq!(stats(&node)["shards"].as_array().map(Vec::len), Some(1));
        drop(clients);
    });
}
