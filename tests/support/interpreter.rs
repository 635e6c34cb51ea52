//! Programs of other languages, for tests of what is written in those.

use std::env;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Prepares to run `name`, or says why the test is skipped.
///
/// # Panics
/// If there is no such program under `CI=true`.
pub(crate) fn interpreter(name: &str) -> Option<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        let mut command = Command::new(name);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).stdin(Stdio::null());
        return Some(command);
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "no {name} on PATH, which CI must have");
    // Not by `eprintln!`, which the test harness keeps to itself.
    writeln!(io::stderr(), "skipped: no {name} on PATH").ok();
    None
}

/// Runs it to its end; returns its standard output and exit code.
///
/// # Panics
/// If it does not start, was killed, or prints what is not UTF-8.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> (String, i32) {
    // What it complains of is seen beside the test's own failure.
    let output = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status));
    (String::from_utf8(output.stdout).expect("programs print UTF-8"), code)
}
