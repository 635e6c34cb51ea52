//! `GET /v1/stats`: every count of every shard, whoever may ask, and also while the node drains.

mod support;

use std::thread;
use std::time::Duration;

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
