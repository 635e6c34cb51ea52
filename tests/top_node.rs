//! `pombo top` against real nodes, while they work.

mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pombo::Config;
use pombo::config::ControlTls;
use pombo::message::Kind;
use serde_json::Value;
use support::{Authority, Node, nodes};

/// Runs it to its end against the node; returns the lines it printed.
#[track_caller]
fn lines(node: &Node, count: usize) -> Vec<Value> {
    lines_with(node, count, &[])
}

/// The same, with these variables, too.
#[track_caller]
fn lines_with(node: &Node, count: usize, variables: &[(&str, &str)]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    command.args(["top", "--json", "--interval", "100ms", "--count", &count.to_string()]).env_clear();
    command.env("POMBO_CONTROL", node.control_listen().to_string()).envs(variables.iter().copied());
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), complaint.as_str()), (Some(0), ""));
    let printed = String::from_utf8(output.stdout).expect("it prints UTF-8");
    let lines: Vec<_> = printed.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), count, "{printed}");
    lines
}

/// The certificate is for a name that the machine does not have.
#[test]
fn it_needs_no_flag_where_the_node_speaks_tls() {
    let authority = Authority::new();
    authority.issue_by_intermediate("chat.example.org");
    for (control_tls, word) in [(ControlTls::Auto, "auto"), (ControlTls::On, "on")] {
        let change = |config: &mut Config| {
            authority.apply(config);
            config.control_tls = control_tls;
        };
        let node = nodes().with_control().with(change).start(1);
        let certificate = authority.certificate_file();
        let certificate = certificate.to_str().expect("a path in UTF-8");
        lines_with(&node, 1, &[("POMBO_CONTROL_TLS", word), ("POMBO_TLS_CERTIFICATE", certificate)]);
    }
}

#[test]
fn lines_tell_what_the_node_does() {
    nodes().with_control().each(|node| {
        let uids = node.uids(5);
        let clients: Vec<_> = uids.iter().map(|uid| node.log_in(uid)).collect();
        node.log_in("gone").vanish();
        node.eventually("one has gone", |stats| stats.sessions == 5);
        let is_over = AtomicBool::new(false);
        let lines = thread::scope(|scope| {
            let pushing = scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    uids.iter().for_each(|uid| _ = node.push(uid, Kind::Text, "hi"));
                }
            });
            let lines = lines(node, 4);
            is_over.store(true, Ordering::SeqCst);
            pushing.join().expect("pushes end");
            lines
        });
        drop(clients);
        assert_eq!(lines[0]["rates"], Value::Null, "{}", lines[0]);
        for (line, before) in lines[1..].iter().zip(&lines) {
            let totals = |line: &Value, name: &str| line["totals"][name].as_f64().expect("a count");
            assert_eq!(
                (totals(line, "sessions"), totals(line, "uids"), totals(line, "logins")),
                (5.0, 5.0, 6.0),
                "{line}"
            );
            let seconds =
                (line["uptime_ms"].as_f64().expect("a time") - before["uptime_ms"].as_f64().expect("a time")) / 1e3;
            let delivered = totals(line, "delivered") - totals(before, "delivered");
            let rate = line["rates"]["delivered"].as_f64().expect("a rate");
            assert!(delivered > 0.0 && (rate * seconds - delivered).abs() < 1.0, "{rate}/s over {seconds} s: {line}");
            let shards = line["shards"].as_array().expect("the shards");
            assert_eq!(shards.len(), node.shard_count());
            let sessions: f64 = shards.iter().map(|shard| totals(shard, "sessions")).sum();
            assert_eq!(sessions, 5.0, "{line}");
            assert!(shards[0]["turns"]["p99_us"].as_f64() > Some(0.0), "{line}");
            assert_eq!(line["state"], "serving", "{line}");
        }
    });
}
