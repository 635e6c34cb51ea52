//! The node on a Unix socket: the same protocol, beside TCP or alone.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use pombo::message::{Delivery, Kind};
use pombo::{Config, Listen, Server, StartError};
use support::{Client, Request, nodes};
use tempfile::TempDir;

/// A folder of its own, and a path for a socket in it.
fn socket() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("pombo.sock");
    (folder, path)
}

#[test]
fn speaks_the_plain_protocol() {
    let (_folder, path) = socket();
    let on_path = |config: &mut Config| config.listen = vec![Listen::Unix(path.clone())];
    nodes().with(on_path).each_pair(|node, alice, bob| {
        assert_eq!(*node.address(), Listen::Unix(path.clone()));
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        alice.converse(&mut bob);
        alice.send_text("all:hi");
        alice.expect_text("hi");
        bob.expect_text("hi");
        let large = "x".repeat(1_000_000);
        alice.send_text(format!("{}:{large}", bob.name()));
        bob.expect_text(&large);
        assert_eq!(node.push(bob.name(), Kind::Text, "pushed"), Delivery::Delivered { sessions: 1 });
        bob.expect_text("pushed");
        bob.send(&support::Sent::text("x").unmasked());
        bob.expect_close(1002, "not masked");
        bob.expect_end();
        alice.expect_silence();
    });
}

#[test]
fn answers_http() {
    let (_folder, path) = socket();
    nodes().with(|config| config.listen = vec![Listen::Unix(path.clone())]).each(|node| {
        let mut client = node.dial();
        client.send_request(&Request::upgrade().without("Upgrade"));
        assert_eq!(client.receive_response().status, 400);
        client.expect_end();
    });
}

#[test]
fn users_of_both_sockets_reach_each_other() {
    let (_folder, path) = socket();
    let unix = Listen::Unix(path);
    nodes().with(|config| config.listen.push(unix.clone())).each_pair(|node, alice, bob| {
        let mut alice = node.log_in(alice);
        let mut over_unix = Client::dial(&unix).upgraded();
        over_unix.log_in(bob);
        alice.converse(&mut over_unix);
        // A second login replaces the first, whichever socket it comes by.
        let mut over_tcp = node.log_in(bob);
        over_unix.expect_close(4001, "replaced");
        over_unix.expect_end();
        alice.converse(&mut over_tcp);
    });
}

#[test]
fn socket_file_goes_with_the_node() {
    let (_folder, path) = socket();
    nodes().with(|config| config.listen = vec![Listen::Unix(path.clone())]).each(|node| {
        assert!(path.exists());
        let mut alice = node.log_in("alice");
        node.drain();
        alice.expect_close(1001, "");
        assert!(!path.exists());
    });
}

#[test]
fn socket_file_that_nobody_listens_on_is_replaced() {
    let (_folder, path) = socket();
    drop(UnixListener::bind(&path).expect("the path is free"));
    assert!(path.exists(), "it outlives its listener");
    nodes().with(|config| config.listen = vec![Listen::Unix(path.clone())]).each(|node| {
        node.log_in("alice").expect_silence();
    });
}

#[test]
fn socket_file_that_somebody_listens_on_is_left_alone() {
    let (_folder, path) = socket();
    let other = UnixListener::bind(&path).expect("the path is free");
    let refused = Server::bind(Config { control: None, listen: vec![Listen::Unix(path.clone())], ..Config::default() });
    assert!(matches!(refused, Err(StartError::Listen { .. })), "{refused:?}");
    assert!(path.exists());
    drop(other);

    let (_folder, path) = socket();
    std::fs::write(&path, "no socket").expect("the folder can be written");
    let refused = Server::bind(Config { control: None, listen: vec![Listen::Unix(path.clone())], ..Config::default() });
    let Err(error @ StartError::Listen { .. }) = refused else { panic!("{refused:?}") };
    // It asked whether another pombo was running.
    assert!(error.to_string().ends_with("(that file is no socket, and stays: choose another path)"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "no socket");
}

#[cfg(target_os = "linux")]
#[test]
fn abstract_socket_has_no_file_and_speaks_the_plain_protocol() {
    let listen = Listen::Abstract(format!("pombo-test-{}", std::process::id()));
    nodes().with(|config| config.listen = vec![listen.clone()]).each_pair(|node, alice, bob| {
        assert_eq!(*node.address(), listen);
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        alice.converse(&mut bob);
        let taken = Server::bind(Config { control: None, listen: vec![listen.clone()], ..Config::default() });
        assert!(matches!(taken, Err(StartError::Listen { .. })), "{taken:?}");
        assert!(!std::path::Path::new(&format!("@{}", std::process::id())).exists());
    });
    // Its name is free as soon as the node has ended.
    nodes().with(|config| config.listen = vec![listen.clone()]).each(|node| node.log_in("alice").expect_silence());
}

/// The permissions of a socket's file.
fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn mode_of_the_file_is_that_of_the_setting() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = ["listen", "control", "text"].map(|name| folder.path().join(name));
    for expected in [0o600, 0o666, 0o660] {
        let [listen, control, text] = paths.clone().map(Listen::Unix);
        let node = nodes().with(|config| {
            config.listen = vec![listen.clone()];
            config.control = Some(control.clone());
            config.text = Some(text.clone());
            config.unix_socket_mode = Some(expected);
        });
        let node = node.start(1);
        for path in &paths {
            assert_eq!(mode(path), expected, "{}", path.display());
        }
        node.log_in("alice").expect_silence();
    }
}

#[test]
fn mode_of_the_file_is_the_umask_s_without_the_setting() {
    let (_folder, path) = socket();
    // What a plain program makes of the same umask.
    let beside = path.with_extension("beside");
    let _beside = UnixListener::bind(&beside).expect("the path is free");
    let _node = nodes().with(|config| config.listen = vec![Listen::Unix(path.clone())]).start(1);
    assert_eq!(mode(&path), mode(&beside));
}

#[test]
fn full_backlog_of_somebody_else_is_no_stale_file_and_is_not_waited_for() {
    let (_folder, path) = socket();
    let other = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    let address = socket2::SockAddr::unix(&path).expect("a path");
    other.bind(&address).expect("the path is free");
    other.listen(0).expect("a socket can do that");
    // Until there is no room for another.
    let mut waiting = Vec::new();
    loop {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("a socket can do that");
        if client.connect(&address).is_err() {
            break;
        }
        waiting.push(client);
    }
    let refused = Server::bind(Config { control: None, listen: vec![Listen::Unix(path.clone())], ..Config::default() });
    assert!(matches!(refused, Err(StartError::Listen { .. })), "{refused:?}");
    assert!(path.exists());
}
