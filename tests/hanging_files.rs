//! A file that hangs whoever reads it, as one on a dead mount does, stops neither the node nor its signals, at the start
//! and at a reload; and it may be replaced.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Authority, HangingFile, Program, eventually};
use tempfile::TempDir;

/// A program that may not have started yet; killed when dropped.
struct Starting(Child);

impl Starting {
    fn spawn(arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_pombo"))
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--shards", "1"])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the program starts"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("an ASCII name")
}

#[test]
fn a_signal_ends_a_node_whose_file_hangs_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("file");
    let mut hanging = HangingFile::put(&path);
    let path = text(&path);
    for arguments in [
        &["--config", path][..],
        &["--control-tokens-file", path],
        &["--auth", "jwt", "--jwt-key-files", path],
        &["--auth", "jwt", "--jwt-secret-file", path],
        &["--auth", "http", "--auth-url", "https://localhost/", "--auth-url-ca", path],
        &["--tls-certificate", path, "--tls-key", path],
        &["--hook-url", "http://localhost/", "--hook-secret-file", path],
        &["--hook-url", "https://localhost/", "--hook-secret-file", "/dev/zero", "--hook-url-ca", path],
    ] {
        let mut program = Starting::spawn(arguments);
        hanging.expect_reader();
        kill_process(Pid::from_child(&program.0), Signal::TERM).expect("it runs");
        let mut status = None;
        eventually(&format!("the node with {arguments:?} ends"), || {
            status = program.0.try_wait().expect("the child is ours");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{arguments:?}");
        hanging = HangingFile::put(Path::new(path));
    }
}

#[test]
fn a_signal_ends_a_node_whose_settings_hang_at_a_reload() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pombo.toml");
    fs::write(&path, "").expect("the folder can be written");
    let mut program = Program::start(&["--config", text(&path)]);
    let mut hanging = HangingFile::put(&path);
    program.hang_up();
    hanging.expect_reader();
    program.terminate();
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn settings_that_hang_are_given_up_and_can_be_replaced() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pombo.toml");
    fs::write(&path, "").expect("the folder can be written");
    let program = Program::start(&["--config", text(&path)]);
    let mut hanging = HangingFile::put(&path);
    program.hang_up();
    hanging.expect_reader();
    program.expect_logged("settings not reloaded, the old ones stay error=not done within 5s");
    hanging.replace("login_reply = 'hello {uid}'");
    program.hang_up();
    program.expect_logged("settings reloaded taken=\"login_reply\"");
}

#[test]
fn settings_without_an_end_are_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_pombo")).args(["--config", "/dev/zero"]).output();
    let output = output.expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told, "error: cannot read the settings in /dev/zero: longer than 1048576 bytes\n");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn files_that_hang_while_the_node_runs_are_given_up_and_can_be_replaced() {
    let folder = TempDir::new().expect("a folder");
    let [tokens, secret] = ["tokens", "secret"].map(|name| folder.path().join(name));
    let authority = Authority::new();
    let (chain, key) = (authority.certificate_file(), authority.key_file());
    let certificate = fs::read_to_string(&chain).expect("the authority has issued it");
    fs::write(&tokens, format!("one admin {}\n", "x".repeat(32))).expect("the folder can be written");
    fs::write(&secret, "x".repeat(32)).expect("the folder can be written");
    let program = Program::start(
        &[
            &["--control", "127.0.0.1:0", "--control-tokens-file", text(&tokens)][..],
            &["--auth", "jwt", "--jwt-secret-file", text(&secret)],
            &["--tls-certificate", text(&chain), "--tls-key", text(&key)],
        ]
        .concat(),
    );
    let mut hanging = [&tokens, &secret, &chain].map(|path| HangingFile::put(path));
    hanging.iter_mut().for_each(HangingFile::expect_reader);
    for line in [
        "control tokens not changed, the old ones stay error=not done within 5s",
        "keys of tokens not changed, the old ones stay error=not done within 5s",
        "certificate not reloaded, the old one stays error=not done within 5s",
    ] {
        program.expect_logged(line);
    }
    hanging[0].replace(&format!("other admin {}\n", "y".repeat(32)));
    hanging[1].replace(&"y".repeat(32));
    hanging[2].replace(&certificate);
    for line in ["control tokens changed tokens=1", "keys of tokens changed keys=1", "certificate reloaded"] {
        program.expect_logged(line);
    }
}
