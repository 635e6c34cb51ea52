//! The examples do what they say.

use std::env;
use std::process::Command;

#[test]
fn embed_pushes_from_rust_and_drains() {
    // Cargo builds the examples beside the tests: target/debug/examples, target/debug/deps.
    let mut path = env::current_exe().expect("the path of this test");
    path.pop();
    path.set_file_name("examples");
    let output = Command::new(path.join("embed")).output().expect("cargo test has built the examples");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Login realizado com sucesso, seu uid é alice\nDelivered { sessions: 1 }\nhi from Rust\nOffline\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{:?}", output.status);
}
