//! Connections of other programs that hold a place on control: idle, slow, or busy, none of them keeps others out.

mod support;

use std::time::Duration;

use pombo::{Config, Problem};
use serde_json::json;
use support::{Ask, Client, Held, Node, Program, nodes};

/// Places that control keeps for probes, beside `control_connections_max`.
const PROBE_PLACES: usize = 16;

const HOUR: Duration = Duration::from_secs(3600);

/// A node with few places for other programs, and so much time for each that only a lack of places ends a connection.
fn crowded(connections_max: usize) -> Node {
    let config = move |config: &mut Config| {
        config.control_connections_max = connections_max;
        config.control_idle_timeout = HOUR;
        config.control_body_timeout = HOUR;
    };
    nodes().with_control().with(config).start(1)
}

#[track_caller]
fn is_answered(node: &Node) {
    assert_eq!(Ask::get("/healthz").to(node).body, "ok\n");
    assert_eq!(Ask::post("/v1/push/nobody").text("hi").to(node).json(), json!({"uid": "nobody", "outcome": "offline"}));
}

/// 256 connections that said nothing held every place: neither `/healthz` nor a push was answered.
#[test]
fn idle_and_slow_connections_do_not_keep_others_out() {
    let body = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Type: ");
    for held in [
        String::new(),
        "POST /v1/push/alice HTTP/1.1\r\nHost: loc".to_owned(),
        body("/v1/push/alice") + "text/plain\r\n\r\nhi",
        body("/v1/batch") + "application/x-ndjson\r\n\r\n{\"u",
    ] {
        let node = crowded(4);
        let slow: Vec<_> = (0..60)
            .map(|_| {
                let mut client = node.dial_control();
                // Those that gave way are gone by then.
                client.try_send_bytes(held.as_bytes()).ok();
                client
            })
            .collect();
        for _ in 0..3 {
            is_answered(&node);
        }
        drop(slow);
    }
}

#[test]
fn the_longest_idle_connection_gives_way() {
    let node = crowded(2);
    let counts = Ask::get("/v1/counts");
    let [mut first, mut second, mut third] = [(); 3].map(|()| node.dial_control());
    assert_eq!(counts.over(&mut first).status, 200);
    assert_eq!(counts.over(&mut second).status, 200);
    assert_eq!(counts.over(&mut first).status, 200);
    assert_eq!(counts.over(&mut third).status, 200);
    second.expect_end();
    for client in [&mut first, &mut third] {
        assert_eq!(counts.over(client).status, 200);
    }
}

#[test]
fn a_probe_takes_nobodys_place() {
    let node = crowded(1);
    let mut first = node.dial_control();
    assert_eq!(Ask::get("/v1/counts").over(&mut first).status, 200);
    for path in ["/healthz", "/readyz"].repeat(5) {
        assert_eq!(Ask::get(path).to(&node).status, 200);
    }
    assert_eq!(Ask::get("/v1/counts").over(&mut first).status, 200);
}

/// A head had the time of an idle connection, a minute, however slowly it came.
#[test]
fn a_slow_head_is_cut_at_the_time_of_a_request() {
    let short = |config: &mut Config| {
        config.control_idle_timeout = HOUR;
        config.control_body_timeout = Duration::from_millis(200);
    };
    nodes().with_control().with(short).each(|node| {
        let mut idle = node.dial_control();
        assert_eq!(Ask::get("/healthz").over(&mut idle).status, 200);
        for before in [&Ask::get("/healthz"), &Ask::post("/v1/push/nobody").text("hi")] {
            let mut slow = node.dial_control();
            assert_eq!(before.over(&mut slow).status, 200);
            slow.send_bytes(b"GET /healthz HTTP/1.1\r\nHo");
            slow.expect_end();
        }
        // The time of a head does not run while there is none.
        assert_eq!(Ask::get("/healthz").over(&mut idle).status, 200);
    });
}

/// Requests that wait for a shard keep their places; others wait, and the longest waiting is refused for a newcomer.
#[test]
#[cfg(target_os = "linux")]
fn requests_that_are_served_give_way_to_nobody_and_probes_are_answered() {
    let arguments = ["--control-connections-max", "2", "--control-answer-timeout", "10m"];
    let program = Program::start_with_control(&[], &arguments);
    let dial = || Client::dial(program.control());
    let push = || {
        let mut client = dial();
        Ask::post("/v1/push/nobody").text("hi").send(&mut client);
        client
    };
    assert_eq!(Ask::get("/readyz").over(&mut dial()).status, 200);
    let Some(held) = Held::shard(program.id(), 0) else { return };
    let mut served = [push(), push()];
    let mut waiting: Vec<_> = (0..PROBE_PLACES).map(|_| push()).collect();
    for _ in 0..5 {
        let mut refused = waiting.remove(0);
        assert_eq!(Ask::get("/readyz").over(&mut dial()).status, 200);
        let answer = refused.receive_response();
        answer.expect_problem(Problem::Busy, "2 other requests");
        assert_eq!(answer.header("retry-after"), Some("1"));
        refused.expect_end();
        // Its place is taken again.
        waiting.push(push());
    }
    drop(held);
    for client in served.iter_mut().chain(&mut waiting) {
        assert_eq!(client.receive_response().status, 200);
    }
}
