//! The examples do what they say.

mod support;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use support::Client;

fn example(name: &str) -> Command {
    // Cargo builds the examples beside the tests: target/debug/examples, target/debug/deps.
    let mut path = env::current_exe().expect("the path of this test");
    path.pop();
    path.set_file_name("examples");
    Command::new(path.join(name))
}

#[test]
fn embed_pushes_from_rust_and_drains() {
    let output = example("embed").output().expect("cargo test has built the examples");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Login realizado com sucesso, seu uid é alice\nDelivered { sessions: 1 }\nhi from Rust\nOffline\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{:?}", output.status);
}

/// An example that runs until the test ends, whichever way it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn echo_sends_back_what_it_is_sent() {
    let child = example("echo").arg("127.0.0.1:0").stdout(Stdio::piped()).spawn();
    let mut echo = Running(child.expect("cargo test has built the examples"));
    let mut line = String::new();
    let output = echo.0.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("it says where it listens");
    let address = line.trim_end().strip_prefix("listening on ").unwrap_or_else(|| panic!("got {line:?}"));
    let mut client = Client::dial(&address.parse().expect("an address")).upgraded();
    for message in ["alice", "all:hi", ""] {
        client.send_text(message);
        client.expect_text(message);
        client.send_binary(message);
        client.expect_binary(message);
    }
}
