//! A wall clock that stands before 1970, or after the year 9999: the node says so and does not start.

#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Ask, Client, Program, interpreter, run};
use tempfile::TempDir;

/// Stands in front of the C library: the wall clock shows what a variable says, and every other clock the truth.
const WALL_CLOCK: &str = "#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    const char *shown = getenv(\"WALL_CLOCK\");
    if (result == 0 && shown && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec = atoll(shown);
    return result;
}
";

/// Builds the library; `None` where there is no C compiler.
fn library(folder: &TempDir) -> Option<PathBuf> {
    let mut compiler = interpreter("cc")?;
    let (source, library) = (folder.path().join("wall_clock.c"), folder.path().join("wall_clock.so"));
    std::fs::write(&source, WALL_CLOCK).expect("the folder is writable");
    let (_, code) = run(compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]));
    assert_eq!(code, 0, "the library builds");
    Some(library)
}

/// What the program is started with, by this clock.
fn variables<'a>(library: &'a Path, shown: &'a str) -> [(&'a str, &'a str); 2] {
    [("LD_PRELOAD", library.to_str().expect("ASCII")), ("WALL_CLOCK", shown)]
}

/// Each request panicked, on control and in the gateway, and the node went on without them.
#[test]
fn no_node_starts_by_a_clock_that_dates_cannot_show() {
    let folder = TempDir::new().expect("a folder");
    let Some(library) = library(&folder) else { return };
    for (shown, words) in [
        ("-1000000000", "before 1970"),
        ("-1", "before 1970"),
        ("253402300800", "after 9999"),
        ("900000000000", "after 9999"),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_pombo"));
        program.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        let output = program.envs(variables(&library, shown)).stdin(Stdio::null()).output().expect("it starts");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*output.stdout), (Some(2), &b""[..]), "{shown}: {complaint}");
        let expected = format!("the wall clock shows a time {words}, expected one from 1970 to 9999");
        assert!(complaint.contains(&expected) && !complaint.contains("panicked"), "{shown}: {complaint}");
    }
}

#[test]
fn everything_is_answered_by_the_first_clock_and_the_last() {
    let folder = TempDir::new().expect("a folder");
    let Some(library) = library(&folder) else { return };
    for shown in ["0", "253402300790"] {
        let program = Program::start_with_control(&variables(&library, shown), &[]);
        let mut alice = program.dial().upgraded();
        alice.log_in("alice");
        let mut control = Client::dial(program.control());
        for path in ["/healthz", "/readyz", "/metrics", "/v1/stats", "/v1/uids/alice", "/v1/counts", "/v1/openapi.json"]
        {
            let answer = Ask::get(path).over(&mut control);
            assert_eq!(answer.status, 200, "{path} at {shown}: {answer:?}");
        }
        let pushed = Ask::post("/v1/push/alice").text("hi").over(&mut control);
        assert_eq!(pushed.json()["outcome"], "delivered");
        alice.expect_text("hi");
        assert_eq!(program.logged("panicked"), 0, "at {shown}");
    }
}
