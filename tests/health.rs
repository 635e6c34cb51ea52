//! What a supervisor or a balancer is told: whether the node lives, and whether it takes connections.

mod support;

use std::thread;
use std::time::Duration;

use pombo::{Listen, Problem};
use support::{Ask, Client, Held, Node, Program, Request, Response, Sent, eventually, nodes};
use tempfile::TempDir;

#[track_caller]
fn is_fine(answer: &Response) {
    assert_eq!((answer.status, &*answer.body), (200, "ok\n"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// Takes a 503 whose every reason is in `reasons`.
#[track_caller]
fn is_not(answer: &Response, reasons: &[&str]) {
    assert_eq!(answer.status, 503, "{answer:?}");
    let told: Vec<_> = answer.body.trim_end().split("; ").collect();
    assert_eq!(told, reasons);
}

#[track_caller]
fn ask(node: &Node, path: &str) -> Response {
    Ask::get(path).to(node)
}

#[test]
fn a_node_lives_and_is_ready() {
    nodes().with_control().each(|node| {
        is_fine(&ask(node, "/healthz"));
        is_fine(&ask(node, "/readyz"));
        Ask::post("/readyz").to(node).expect_problem(Problem::MethodNotAllowed, "Allow");
    });
}

#[test]
fn probes_need_no_token_and_may_come_by_any_name() {
    let token = format!("admin push+query+admin {}", "x".repeat(32)).parse().expect("a token");
    let node = nodes().with_control().with(move |config| config.control_tokens = vec![Clone::clone(&token)]).start(1);
    for path in ["/healthz", "/readyz"] {
        is_fine(&Ask::get(path).replacing("Host", "pombo.internal").to(&node));
    }
    assert_eq!(ask(&node, "/metrics").status, 401);
}

#[test]
fn a_node_that_drains_lives_and_is_not_ready() {
    nodes().with_control().with(|config| config.drain_timeout = Duration::from_secs(3600)).each(|node| {
        // Held open by a session of each shard, which is told but stays.
        let held: Vec<_> = (0..node.shard_count()).map(|shard| node.log_in(&node.uid_on(shard, "held"))).collect();
        thread::scope(|threads| {
            threads.spawn(|| node.drain());
            eventually("the node is not ready", || ask(node, "/readyz").status == 503);
            is_not(&ask(node, "/readyz"), &["the node drains"]);
            is_fine(&ask(node, "/healthz"));
            drop(held);
        });
    });
}

#[test]
fn a_full_node_lives_and_is_not_ready() {
    nodes().with_control().with(|config| config.connections_max = 2).each(|node| {
        let (alice, _bob) = (node.log_in("alice"), node.log_in("bob"));
        is_not(&ask(node, "/readyz"), &["2 connections are open, of connections_max = 2"]);
        is_fine(&ask(node, "/healthz"));
        drop(alice);
        eventually("there is room again", || ask(node, "/readyz").status == 200);
        node.reload(|config| config.connections_max = 1);
        is_not(&ask(node, "/readyz"), &["1 connections are open, of connections_max = 1"]);
    });
}

/// A program with a control listener on a Unix socket, whose name is known beforehand.
fn program(descriptors: usize, shards: usize) -> (Program, Listen, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let control = format!("unix:{}", folder.path().join("control").display());
    // No client ends for want of a sign of life, however long a busy machine takes.
    let arguments = ["--control", &control, "--handshake-timeout", "1h", "--heartbeat-interval", "1h"];
    let program = match descriptors {
        0 => Program::start_with_shards(shards, &arguments),
        _ => Program::start_with_descriptors(descriptors, &arguments),
    };
    (program, control.parse().expect("an address"), folder)
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_without_descriptors_says_so_to_new_connections_as_well() {
    const DESCRIPTORS: usize = 64;
    let (program, control, _folder) = program(DESCRIPTORS, 1);
    let ask = |path: &str| Ask::get(path).over(&mut Client::dial(&control));
    is_fine(&ask("/readyz"));

    let clients: Vec<_> = (0..DESCRIPTORS)
        .map(|uid| {
            let mut client = program.dial();
            client.send_bytes(&[Request::upgrade().bytes(), Sent::text(format!("user{uid}")).bytes()].concat());
            client
        })
        .collect();
    program.expect_logged("cannot accept");
    eventually("every descriptor is used", || program.descriptors_below(DESCRIPTORS) == DESCRIPTORS);
    // More often than there are descriptors kept for it.
    for _ in 0..20 {
        is_not(&ask("/readyz"), &["no descriptor is free for another connection"]);
        is_fine(&ask("/healthz"));
    }
    // The connection of the scrape is one of them. Counted are those that the process inherited above its limit, too.
    let mut scraper = Client::dial(&control);
    let scrape = Ask::get("/metrics").over(&mut scraper).body;
    let open = format!("process_open_fds {}\n", program.descriptors_below(usize::MAX));
    assert!(scrape.contains(&open), "a scrape tells {open} in\n{scrape}");
    drop(scraper);
    // Descriptors that a scrape gave up to read the figures by were taken by clients that wait.
    for _ in 0..50 {
        let scrape = ask("/metrics").body;
        for figure in ["process_open_fds 6", "process_max_fds 64", "process_cpu_seconds_total ", "process_threads "] {
            assert!(scrape.contains(figure), "a scrape tells {figure} in\n{scrape}");
        }
    }

    // Idle connections can't keep the reserve for themselves: the longest idle one is closed for the next.
    let idle: Vec<_> = (0..20).map(|_| Client::dial(&control)).collect();
    for _ in 0..5 {
        is_fine(&ask("/healthz"));
    }
    drop(idle);

    drop(clients);
    eventually("it is ready again", || ask("/readyz").status == 200);
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_whose_shard_does_not_answer_says_which() {
    let (program, control, _folder) = program(0, 3);
    let ask = |path: &str| Ask::get(path).over(&mut Client::dial(&control));
    is_fine(&ask("/healthz"));
    let Some(held) = Held::shard(program.id(), 1) else { return };
    is_not(&ask("/healthz"), &["shard 1 did not answer within 2s"]);
    is_fine(&ask("/readyz"));
    drop(held);
    eventually("it answers again", || ask("/healthz").status == 200);
}
