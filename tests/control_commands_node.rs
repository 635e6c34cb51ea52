//! `pombo push`, `online` and `kick` against real nodes.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use pombo::Config;
use support::{Client, Node, Nodes, nodes};

fn reachable<'a>() -> Nodes<'a> {
    nodes().with(|config: &mut Config| config.control = Some("127.0.0.1:0".parse().expect("an address")))
}

/// Runs the command against the node; returns its standard output and exit code.
#[track_caller]
fn pombo(node: &Node, arguments: &[&str], input: &[u8]) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    command.args(arguments).env_clear();
    command.env("POMBO_CONTROL", node.control_addresses().control.as_ref().expect("it is on").to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(input).ok();
    let output = child.wait_with_output().expect("the program ends");
    (String::from_utf8(output.stdout).expect("it prints UTF-8"), output.status.code().expect("it exits"))
}

fn printed(text: &str, code: i32) -> (String, i32) {
    (text.to_owned(), code)
}

#[test]
fn push_online_and_kick() {
    reachable().each(|node| {
        assert_eq!(pombo(node, &["push", "ü/1", "hi"], b""), printed("ü/1 is offline\n", 3));
        assert_eq!(pombo(node, &["push", "--all", "hi"], b""), printed("everybody is offline\n", 3));
        assert_eq!(pombo(node, &["online", "ü/1"], b""), printed("ü/1 is offline\n", 3));
        assert_eq!(pombo(node, &["kick", "ü/1"], b""), printed("ü/1 is offline\n", 3));
        let (mut client, mut other) = (node.log_in("ü/1"), node.log_in("a&b"));
        assert_eq!(pombo(node, &["push", "ü/1", "olá"], b""), printed("taken by 1 session\n", 0));
        client.expect_text("olá");
        assert_eq!(pombo(node, &["push", "--binary", "ü/1"], b"\xff\n"), printed("taken by 1 session\n", 0));
        client.expect_binary(b"\xff\n");
        assert_eq!(pombo(node, &["push", "--all", "--except", "a&b", "x"], b""), printed("taken by 1 session\n", 0));
        client.expect_text("x");
        other.converse(&mut client);
        let (shown, code) = pombo(node, &["online", "ü/1"], b"");
        let from = format!("ü/1 is online, 1 session\n  from {} since ", client.local_address());
        assert!(shown.starts_with(&from) && code == 0, "{shown}");
        let kick = ["kick", "ü/1", "--code", "4000", "--reason", "no & more"];
        assert_eq!(pombo(node, &kick, b""), printed("closed 1 session\n", 0));
        client.expect_close(4000, "no & more");
        // What the node refuses is an error, with its reason.
        assert_eq!(pombo(node, &["push", "all", "x"], b"").1, 1);
        assert_eq!(pombo(node, &["kick", "a&b", "--code", "1006"], b"").1, 1);
        other.expect_silence();
    });
}

#[test]
fn everybody_who_is_online_is_listed() {
    // More than the node tells in one answer.
    const COUNT: usize = 1100;
    let node = reachable().start(2);
    assert_eq!(pombo(&node, &["online"], b""), printed("", 3));
    let mut clients: Vec<Client> = (0..COUNT).map(|number| node.log_in(&format!("user{number:04}"))).collect();
    let (shown, code) = pombo(&node, &["online"], b"");
    let mut uids: Vec<&str> = shown.lines().collect();
    uids.sort_unstable();
    let expected: Vec<String> = (0..COUNT).map(|number| format!("user{number:04}")).collect();
    assert_eq!((uids, code), (expected.iter().map(String::as_str).collect(), 0));

    let (pages, code) = pombo(&node, &["online", "--json"], b"");
    let counts: Vec<usize> = pages
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON"))
        .map(|page| page["uids"].as_array().expect("a list").len())
        .collect();
    assert_eq!((counts, code), (vec![1000, 100], 0));
    clients.truncate(1);
    node.eventually("the others have gone", |stats| stats.sessions == 1);
    assert_eq!(pombo(&node, &["online"], b""), printed("user0000\n", 0));
}

#[test]
fn lines_are_pushed_in_order_and_counted() {
    const COUNT: usize = 20_000;
    reachable().each(|node| {
        let mut alice = node.log_in("alice");
        let lines: String = (0..COUNT).map(|number| format!("line \"{number}\"\n")).collect();
        let (printed_now, code) = pombo(node, &["push", "--lines", "alice"], lines.as_bytes());
        assert_eq!((printed_now.as_str(), code), ("20000 taken, 0 offline, 0 shed, 0 failed\n", 0));
        for number in 0..COUNT {
            alice.expect_text(format!("line \"{number}\""));
        }
        assert_eq!(
            pombo(node, &["push", "--lines", "bob"], b"a\nb"),
            printed("0 taken, 2 offline, 0 shed, 0 failed\n", 3)
        );
        assert_eq!(
            pombo(node, &["push", "--lines", "alice"], b""),
            printed("0 taken, 0 offline, 0 shed, 0 failed\n", 0)
        );
        // As Windows ends its lines.
        let mut carol = node.log_in(&node.uid_on(0, "carol"));
        let crossed = pombo(node, &["push", "--lines", carol.name()], b"a\r\n\r\nb\rc\r\n");
        assert_eq!(crossed, ("3 taken, 0 offline, 0 shed, 0 failed\n".to_owned(), 0));
        for text in ["a", "", "b\rc"] {
            carol.expect_text(text);
        }
        drop(carol);
        node.eventually("carol has gone", |stats| stats.sessions == 1);
        let all = pombo(node, &["push", "--lines", "--all"], b"a\n\nb\n");
        assert_eq!(all, printed("3 taken, 0 offline, 0 shed, 0 failed\n", 0));
        for line in ["a", "", "b"] {
            alice.expect_text(line);
        }
        let (answers, code) = pombo(node, &["push", "--lines", "--json", "alice"], b"x\n");
        assert!(answers.contains("\"sessions\":1") && code == 0, "{answers}");
        alice.expect_text("x");
        // One bad line among good ones: nobody can have that uid.
        assert_eq!(
            pombo(node, &["push", "--lines", "all"], b"x\n"),
            printed("0 taken, 0 offline, 0 shed, 1 failed\n", 1)
        );
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_is_reached_by_the_name_of_an_abstract_socket() {
    let control = pombo::Listen::Abstract(format!("pombo-test-control-{}", std::process::id()));
    let node = nodes().with(|config| config.control = Some(control.clone())).start(1);
    assert_eq!(pombo(&node, &["push", "alice", "hi"], b""), printed("alice is offline\n", 3));
}

/// A line goes out as it comes, not at the end of input, and after a pause too.
#[test]
fn lines_go_out_as_they_come() {
    reachable().each(|node| {
        let mut alice: Client = node.log_in("alice");
        let control = node.control_addresses().control.as_ref().expect("it is on").to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
        command.args(["push", "--lines", "alice"]).env_clear().env("POMBO_CONTROL", control);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut input = child.stdin.take().expect("it is piped");
        for line in ["first", "second", "third"] {
            writeln!(input, "{line}").expect("it reads");
            alice.expect_text(line);
        }
        drop(input);
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3 taken, 0 offline, 0 shed, 0 failed\n");
    });
}
