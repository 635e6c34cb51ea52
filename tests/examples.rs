//! The examples do what they say.

mod support;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pombo::Config;
use pombo::config::SlowConsumer;
use rustix::process::{Pid, Signal, kill_process};
use support::{Client, Nodes, Request, interpreter, nodes, run};

/// Cargo builds the examples beside the tests: target/debug/examples, target/debug/deps.
fn example(name: &str) -> PathBuf {
    let mut path = env::current_exe().expect("the path of this test");
    path.pop();
    path.set_file_name("examples");
    path.join(name)
}

#[test]
fn embed_pushes_from_rust_and_drains() {
    let output = Command::new(example("embed")).output().expect("cargo test has built the examples");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Login realizado com sucesso, seu uid é alice\nDelivered { sessions: 1 }\nhi from Rust\nOffline\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{:?}", output.status);
}

#[test]
fn axum_application_pushes_by_its_own_routes() {
    let mut command = Command::new(example("axum_app"));
    let mut child = command.args(["127.0.0.1:0", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it is built");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it prints UTF-8");
    let address = |scheme: &str| {
        let found = line.split([' ', ',', '\n']).find_map(|word| word.strip_prefix(scheme));
        found.unwrap_or_else(|| panic!("no {scheme} in {line:?}")).parse().expect("an address")
    };
    let mut alice = Client::dial(&address("ws://")).upgraded();
    alice.log_in("alice");
    let post = |path: &str, body: &str| {
        let mut back_end = Client::dial(&address("http://"));
        let head = Request::new(&format!("POST {path} HTTP/1.1")).with("Host", "localhost");
        back_end.send_request(&head.with("Content-Length", &body.len().to_string()));
        back_end.send_bytes(body.as_bytes());
        let response = back_end.receive_response();
        (response.status, response.body)
    };
    assert_eq!(post("/users/alice/notices", "order 7 is ready"), (200, "taken by 1\n".to_owned()));
    alice.expect_text("order 7 is ready");
    assert_eq!(post("/users/bob/notices", "x"), (202, "bob is offline\n".to_owned()));

    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process has an id");
    kill_process(pid, Signal::INT).expect("it runs");
    alice.expect_close(1001, "");
    alice.finish_sending();
    assert!(child.wait().expect("it ends").success());
}

/// Nodes that other programs reach over HTTP, and by lines.
fn reachable<'a>() -> Nodes<'a> {
    nodes().with(|config: &mut Config| {
        config.control = Some("127.0.0.1:0".parse().expect("an address"));
        config.text = Some("127.0.0.1:0".parse().expect("an address"));
        config.slow_consumer = SlowConsumer::DropNewest;
    })
}

/// What becomes of a push by this program, in every way that there is.
fn check_push(program: &str, script: &str) {
    if interpreter(program).is_none() {
        return;
    }
    let push = |url: &str, uid: &str, message: &str| {
        let mut command = interpreter(program).expect("it was there");
        run(command.args([script, uid, message]).env("POMBO_URL", url).env_remove("POMBO_CONTROL_TOKEN"))
    };
    let silent = |(printed, code): (String, i32)| {
        assert_eq!((printed.as_str(), code), ("", 1), "{script}");
    };
    reachable().each(|node| {
        let url = format!("http://{}", node.control_addresses().control.as_ref().expect("it is on"));
        let mut alice = node.log_in("alice");
        for message in ["hi", "olá \"1\" & 2%", "-x @y"] {
            assert_eq!(push(&url, "alice", message), ("delivered\n".to_owned(), 0), "{script}");
            alice.expect_text(message);
        }
        assert_eq!(push(&url, "bob", "hi"), ("offline\n".to_owned(), 3), "{script}");
        // A uid that nobody can have is refused, with the reason.
        silent(push(&url, "all", "hi"));
        silent(push(&format!("{url}/no/such"), "alice", "hi"));
        alice.expect_silence();
    });
    silent(push("http://127.0.0.1:1", "alice", "hi"));
}

#[test]
fn php_pushes_over_http() {
    check_push("php", "examples/push.php");
}

#[test]
fn python_pushes_over_http() {
    check_push("python3", "examples/push.py");
}

#[test]
fn node_pushes_over_http() {
    check_push("node", "examples/push.mjs");
}

#[test]
fn curl_pushes_over_http() {
    if interpreter("curl").is_some() {
        check_push("sh", "examples/push.sh");
    }
}

#[test]
fn php_pushes_over_the_text_port() {
    if interpreter("php").is_none() {
        return;
    }
    let push = |address: &str, uids: &[&str]| {
        let mut php = interpreter("php").expect("it was there");
        run(php.args(["examples/text_port.php", "88%"]).args(uids).env("TEXT_PORT_ADDRESS", address))
    };
    reachable().each(|node| {
        let address = node.control_addresses().text.as_ref().expect("it is on").to_string();
        let (mut alice, mut bob) = (node.log_in("alice"), node.log_in("bob"));
        assert_eq!(push(&address, &["alice", "bob"]), ("alice: ok\nbob: ok\n".to_owned(), 0));
        alice.expect_text("{\"uid\":\"alice\",\"percent\":\"88%\"}");
        bob.expect_text("{\"uid\":\"bob\",\"percent\":\"88%\"}");
        assert_eq!(push(&address, &["nobody", "alice"]), ("nobody: fail\nalice: ok\n".to_owned(), 3));
        alice.expect_text("{\"uid\":\"alice\",\"percent\":\"88%\"}");
    });
    assert_eq!(push("127.0.0.1:1", &["alice"]), (String::new(), 1));
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
    let child = Command::new(example("echo")).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn();
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
