//! What strangers write never makes up a line of the log, nor a command to the terminal that shows it.

mod support;

use serde_json::Value;
use support::{Program, Request, Sent};

/// An end of line and a made-up one, colours, a bell, a changed reading direction, and a delete.
const HOSTILE: &str = "a\r\n2026-01-01T00:00:00.000000Z ERROR made up\x1b[31m\x07\u{202e}\x7f\u{9b}31m";

/// A uid may be any text without a colon.
fn log_in_as_hostile(program: &Program) {
    let uid = HOSTILE.replace(':', ";");
    let mut client = program.dial().upgraded();
    client.log_in(&uid);
    client.expect_silence();
    client.send(&Sent::close(1000, &uid));
    client.expect_close(1000, "");
    client.expect_end();
}

fn send_hostile_headers(program: &Program) {
    let hostile = "\x1b[31m\u{9b}31m\u{7f}";
    for request in [
        Request::upgrade().with("X-Forwarded-For", "\u{202e}\u{9b}"),
        Request::upgrade().without("Upgrade").with("Origin", "\u{9b}31m"),
        Request::upgrade().with("Origin", "\u{9b}31m"),
        Request::upgrade().with("Authorization", "Bearer \u{9b}secret"),
        Request::upgrade().with("Cookie", hostile),
        Request::upgrade().first_line(&format!("GET /{hostile} HTTP/1.1")),
        Request::upgrade().first_line("GET /%1b%5b31m?token=secret%0d%0a HTTP/1.1"),
        Request::upgrade().first_line(hostile),
    ] {
        let mut client = program.dial();
        client.send_request(&request);
        let head = client.receive_head();
        assert!(!format!("{head:?}").contains("secret"), "nothing of a request gets into its answer: {head:?}");
    }
}

#[track_caller]
fn check(format: &str, is_unescaped: impl Fn(char) -> bool, is_line: impl Fn(&str) -> bool) {
    let arguments = ["--log-level", "trace", "--log-format", format, "--trusted-proxies", "127.0.0.1"];
    let program = Program::start(&arguments);
    log_in_as_hostile(&program);
    send_hostile_headers(&program);
    program.dial().upgraded().log_in("last");
    program.expect_logged("last");
    for line in program.log() {
        let line = String::from_utf8(line).expect("a log is UTF-8");
        assert!(is_line(&line), "{}", line.escape_debug());
        assert!(!line.contains(&is_unescaped), "{}", line.escape_debug());
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
fn lines_for_people_are_ours() {
    check(
        "human",
        |character| character.is_control() || character == '\u{202e}',
        |line| {
            let mut words = line.split_whitespace();
            let is_time = words.next().is_some_and(|word| word.len() == 27 && word.ends_with('Z'));
            is_time
                && !line.starts_with("2026-01-01T00:00:00.000000Z")
                && words.next().is_some_and(|level| level != "made")
        },
    );
}

#[test]
fn lines_for_collectors_are_ours() {
    // A program reads these, and somebody at a terminal now and then.
    check(
        "json",
        |character| character.is_control() || character == '\u{202e}',
        |line| serde_json::from_str(line).is_ok_and(|line: Value| line["level"].is_string()),
    );
}
