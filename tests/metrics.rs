//! What a node counts is told to Prometheus, with what happened in it.

mod support;

use std::collections::BTreeMap;

use pombo::message::Kind;
use pombo::metrics::{FAMILIES, FamilyKind};
use pombo::{NodeCounts, Stats};
use support::{Ask, Client, Node, Sent, eventually, nodes};

/// The samples of a scrape, by name and labels as they are written.
fn scrape(node: &Node) -> BTreeMap<String, f64> {
    let answer = Ask::get("/metrics").to(node);
    assert_eq!(answer.status, 200, "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    samples.map(|line| sample(line).unwrap_or_else(|| panic!("{line:?} is no sample"))).collect()
}

/// Asks for what is counted, in OpenMetrics.
fn openmetrics() -> Ask {
    Ask::get("/metrics").with("Accept", "application/openmetrics-text; version=1.0.0")
}

/// The sum of a histogram's counts over its labels.
fn counted(scrape: &BTreeMap<String, f64>, name: &str) -> f64 {
    scrape.iter().filter(|(key, _)| key.split('{').next() == Some(&format!("{name}_count"))).map(|(_, n)| n).sum()
}

#[test]
fn every_family_of_the_tables_is_told_and_no_other() {
    let node = nodes().with_control().start(2);
    let told = openmetrics().to(&node).body;
    let mut told: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut expected: Vec<_> = Stats::ALL
        .iter()
        .map(|metric| metric.family)
        .chain(NodeCounts::ALL.iter().map(|metric| metric.family))
        .chain(FAMILIES.iter().map(|family| family.name))
        .collect();
    expected.sort_unstable();
    expected.dedup();
    told.sort_unstable();
    assert_eq!(told, expected);
    let info = FAMILIES.iter().filter(|family| family.kind == FamilyKind::Info);
    assert_eq!(info.map(|family| family.name).collect::<Vec<_>>(), ["pombo_build"]);
}

/// Both formats have the same samples; in plain text each family has its help, its type, and the name of its samples.
#[test]
fn format_is_the_one_that_is_asked_for() {
    let node = nodes().with_control().start(2);
    let open = openmetrics().to(&node);
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.body.ends_with("# EOF\n"));
    let accepted = [None, Some("*/*"), Some("text/plain"), Some("application/json")];
    for accept in accepted {
        let ask = Ask::get("/metrics");
        let plain = accept.map_or_else(|| ask.clone(), |accept| ask.clone().with("Accept", accept)).to(&node);
        assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"), "{accept:?}");
        let mut family = ("", "");
        let mut families = 0;
        for line in plain.body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = (help.split(' ').next().expect("a name"), "");
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                assert_eq!((name, family.1), (family.0, ""), "its sentence comes first, and once");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                family = (name, kind);
                families += 1;
            } else {
                let sample = line.split(['{', ' ']).next().expect("a name");
                let end = sample.strip_prefix(family.0);
                let ends: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(end.is_some_and(|end| ends.contains(&end)), "{line} is none of {family:?}");
            }
        }
        assert_eq!(families, open.body.lines().filter(|line| line.starts_with("# TYPE ")).count());
        let names = |body: &str| -> Vec<String> {
            let samples = body.lines().filter(|line| !line.starts_with('#'));
            samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
        };
        assert_eq!(names(&plain.body), names(&open.body), "both have the same samples");
    }
}

#[test]
fn pushes_are_told_by_what_became_of_them() {
    nodes().with_control().each(|node| {
        let _alice = node.log_in("alice");
        Ask::post("/v1/push/alice").text("1").to(node);
        Ask::post("/v1/push/nobody").text("2").to(node);
        Ask::post("/v1/push").json(&serde_json::json!({"uids": ["alice", "all"], "text": "3"})).to(node);
        let batch = "{\"uid\":\"alice\",\"text\":\"4\"}\n{\"uid\":\"nobody\",\"text\":\"5\"}\n{}\n";
        let mut caller = node.dial_control();
        assert_eq!(Ask::post("/v1/batch").body("application/x-ndjson", batch).over(&mut caller).status, 200);
        // Its lines are answered while it goes on, behind the head of the answer.
        eventually("the batch is over", || scrape(node)["pombo_pushes_total{outcome=\"delivered\"}"] == 3.0);
        Ask::post("/v1/broadcast").text("6").to(node);
        // Not one of them is a message.
        assert_eq!(Ask::post("/v1/push/all").text("7").to(node).status, 422);
        assert_eq!(Ask::get("/v1/nothing").to(node).status, 404);
        assert_eq!(Ask::get("/elsewhere").to(node).status, 404);
        let scrape = scrape(node);
        for (name, expected) in [
            ("pombo_pushes_total{outcome=\"delivered\"}", 3.0),
            ("pombo_pushes_total{outcome=\"offline\"}", 2.0),
            ("pombo_pushes_total{outcome=\"refused\"}", 2.0),
            ("pombo_pushes_total{outcome=\"shed\"}", 0.0),
            ("pombo_pushes_total{outcome=\"unknown\"}", 0.0),
            ("pombo_api_problems_total{problem=\"uid\"}", 1.0),
            ("pombo_api_problems_total{problem=\"not-found\"}", 2.0),
            ("pombo_api_problems_total{problem=\"malformed\"}", 0.0),
            // Two of one, a list, a batch, and a broadcast.
            ("pombo_push_seconds_count", 5.0),
        ] {
            assert_eq!(scrape.get(name), Some(&expected), "{name}");
        }
    });
}

/// It counted once for each shard, and so did a push to everybody.
#[test]
fn a_broadcast_counts_once_whoever_sends_it() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let counts = || {
            let scrape = scrape(node);
            let count = |sender| scrape[&format!("pombo_broadcasts_total{{sender=\"{sender}\"}}")];
            (count("client"), count("program"), scrape["pombo_broadcasts_taken_total"])
        };
        let shards = f64::from(u8::try_from(node.shard_count()).expect("a few shards"));
        assert_eq!(counts(), (0.0, 0.0, 0.0));
        alice.send_text("all:1");
        assert_eq!(Ask::post("/v1/broadcast").text("2").to(node).status, 200);
        assert_eq!(node.broadcast(Kind::Text, "3"), 2);
        for _ in 0..3 {
            alice.receive();
            bob.receive();
        }
        eventually("each shard has all of them", || counts() == (1.0, 2.0, 3.0 * shards));
        let own = node.handle().counts();
        assert_eq!(own.broadcasts_pushed, 2);
    });
}

#[test]
fn lines_of_the_text_port_are_told() {
    let node = nodes().with_control().with(|config| config.text = Some("127.0.0.1:0".parse().expect("an address")));
    let node = node.start(1);
    let mut text = Client::dial(node.control_addresses().text.as_ref().expect("it has one"));
    text.send_bytes(b"{\"uid\":\"nobody\"}\nnobody\n{}\n{\"uid\":");
    text.finish_sending();
    text.expect_bytes(b"fail\nfail\nfail\nfail\n");
    let scrape = scrape(&node);
    assert_eq!(scrape["pombo_text_refused_total"], 3.0);
    assert_eq!(scrape["pombo_pushes_total{outcome=\"offline\"}"], 1.0);
}

#[test]
fn mail_between_shards_is_told_with_its_waits() {
    nodes().with_control().each_pair(|node, alice, bob| {
        let (mut alice_client, mut bob_client) = (node.log_in(alice), node.log_in(bob));
        let before = scrape(node);
        alice_client.send(&Sent::text(format!("{bob}:hi")));
        bob_client.expect_text("hi");
        let after = scrape(node);
        let crossed = node.handle().shard_of(alice) != node.handle().shard_of(bob);
        let waits =
            counted(&after, "pombo_shard_mail_wait_seconds") - counted(&before, "pombo_shard_mail_wait_seconds");
        assert_eq!(waits, if crossed { 1.0 } else { 0.0 });
        assert_eq!(after["pombo_mailbox_batches"], 0.0);
        // The two answers to log-ins, and the message.
        assert_eq!(after["pombo_frames_queued_total"], 3.0);
        assert!(after["pombo_sends_total"] <= 3.0);
    });
}

#[test]
fn bytes_that_wait_for_a_slow_reader_are_told_until_they_are_gone() {
    let small = |config: &mut pombo::Config| config.send_buffer_bytes = Some(4 << 10);
    nodes().with_control().with(small).each(|node| {
        let mut slow = node.log_in_with_small_buffer("slow");
        assert_eq!(scrape(node)["pombo_outbox_bytes"], 0.0);
        let message = vec![b'x'; 200 << 10];
        for _ in 0..4 {
            node.push("slow", Kind::Binary, message.clone());
        }
        eventually("most of it waits", || scrape(node)["pombo_outbox_bytes"] > f64::from(400 << 10));
        assert!(scrape(node)["pombo_outbox_bytes"] <= f64::from(801 << 10));
        for _ in 0..4 {
            slow.expect_binary(&message);
        }
        eventually("nothing waits", || scrape(node)["pombo_outbox_bytes"] == 0.0);
        // One that goes with bytes waiting takes them with it.
        for _ in 0..4 {
            node.push("slow", Kind::Binary, message.clone());
        }
        eventually("most of it waits again", || scrape(node)["pombo_outbox_bytes"] > 0.0);
        drop(slow);
        eventually("they went with it", || scrape(node)["pombo_outbox_bytes"] == 0.0);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn figures_of_the_process_are_told() {
    let node = nodes().with_control().start(1);
    let scrape = scrape(&node);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - scrape["process_start_time_seconds"];
    assert!((-2.0..86_400.0).contains(&age), "{age} s");
    for name in ["process_resident_memory_bytes", "process_virtual_memory_bytes", "process_threads"] {
        assert!(scrape[name] > 0.0, "{name}");
    }
    assert!(scrape["process_open_fds"] < scrape["process_max_fds"]);
    assert_eq!(
        scrape["pombo_connections_max"],
        f64::from(u32::try_from(pombo::Config::default().connections_max).unwrap_or(u32::MAX))
    );
}
