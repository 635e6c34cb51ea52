//! Holds `docs/push.md` against the code and a running node: its tables, and each of its examples.

mod support;

use std::process::Command;

use pombo::message::Shed;
use pombo::{Listen, Problem};
use support::{Ask, nodes};

const DOCUMENT: &str = include_str!("../docs/push.md");

/// The rows below a head, cell by cell.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    let lines = DOCUMENT.lines().skip_while(|line| *line != head).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

#[test]
fn problems_are_those_of_the_code() {
    let written: Vec<(&str, u16, &str)> = rows("| name | status | title |")
        .iter()
        .map(|row| (row[0], row[1].parse().expect("a status"), row[2]))
        .collect();
    let expected: Vec<_> =
        Problem::ALL.iter().map(|problem| (problem.name(), problem.status(), problem.title())).collect();
    assert_eq!(written, expected);
}

#[test]
fn reasons_to_shed_are_those_of_the_code() {
    let written: Vec<&str> = rows("| `reason` | means |").iter().map(|row| row[0]).collect();
    assert_eq!(written, Shed::ALL.iter().map(|shed| shed.name()).collect::<Vec<_>>());
}

#[test]
fn requests_are_those_of_the_api() {
    let node = nodes().with_control().start(1);
    let described = Ask::get("/v1/openapi.json").to(&node).json();
    let mut expected = vec!["GET /metrics".to_owned()];
    for (path, item) in described["paths"].as_object().expect("it has paths") {
        let methods = item.as_object().expect("a path has methods").keys();
        expected.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    expected.sort_unstable();
    let mut written: Vec<&str> = rows("| request | right | does |").iter().map(|row| row[0]).collect();
    written.sort_unstable();
    assert_eq!(written, expected);
}

/// Whether the block that the text begins with asks a node by curl.
fn is_request(rest: &str) -> bool {
    rest.split("```").next().is_some_and(|block| block.contains("curl "))
}

/// Each example, with the answer that stands behind it.
fn examples() -> Vec<(String, String)> {
    // Those of the command line and of interpreters are run by tests of their own.
    let blocks = DOCUMENT.split("```sh\n").skip(1).filter(|rest| is_request(rest)).map(|rest| {
        let (command, rest) = rest.split_once("```\n").expect("a block ends");
        let answer = rest.trim_start().strip_prefix("```json\n").and_then(|rest| rest.split_once("```"));
        (command.to_owned(), answer.expect("an example has its answer").0.to_owned())
    });
    blocks.collect()
}

#[test]
fn every_example_answers_as_written() {
    let node = nodes().with_control().start(1);
    let Listen::Tcp(control) = node.control_listen() else { panic!("it listens on TCP") };
    let examples = examples();
    assert!(examples.len() >= 8, "there are {} examples", examples.len());
    for (command, answer) in examples {
        let alice = node.log_in("alice");
        // Whom a broadcast that leaves alice out is for.
        let bob = command.contains("broadcast").then(|| node.log_in("bob"));
        let script =
            command.replace("127.0.0.1:1235", &control.to_string()).replace("curl ", "curl --silent --show-error ");
        let output =
            Command::new("sh").args(["-c", &script]).env_remove("http_proxy").output().expect("there is a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), answer.trim_end(), "{command}{stderr}");
        drop(bob);
        drop(alice);
        support::eventually("they are gone", || node.stats().sessions == 0);
    }
}
