//! A node without free descriptors: it waits without spinning, says so once, and goes on as soon as one is free.

#![cfg(target_os = "linux")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::{Ask, Client, DEADLINE, Program, Request, Sent, eventually};
use tempfile::TempDir;

const BEGUN: &str = "cannot accept";
const OVER: &str = "accepting again";

/// Asks for an upgrade and a login in one go, and waits for nothing.
fn ask(program: &Program, uid: usize) -> Client {
    let mut client = program.dial().named(&format!("user{uid}"));
    client.send_bytes(&[Request::upgrade().bytes(), Sent::text(format!("user{uid}")).bytes()].concat());
    client
}

fn served(clients: &mut [Client]) -> usize {
    clients.iter_mut().map(|client| usize::from(client.has_received())).sum()
}

/// A program all of whose descriptors are used, and its clients: those that are served, and those that wait.
fn exhausted() -> (Program, Vec<Client>, Vec<Client>) {
    const DESCRIPTORS: usize = 64;
    let program = Program::start_with_descriptors(DESCRIPTORS, &["--handshake-timeout", "1h"]);
    let room = DESCRIPTORS - program.descriptors_below(DESCRIPTORS);
    let mut clients: Vec<_> = (0..room + 10).map(|uid| ask(&program, uid)).collect();
    program.expect_logged(BEGUN);
    eventually("every descriptor is used", || served(&mut clients) == room);
    // The kernel hands connections over in the order in which they came.
    let waiting = clients.split_off(room);
    (program, clients, waiting)
}

#[track_caller]
fn is_logged_in(client: &mut Client) {
    client.expect_upgrade();
    client.expect_login_reply();
}

#[test]
fn waits_without_spinning_and_goes_on_as_soon_as_a_descriptor_is_free() {
    let (program, mut served, mut waiting) = exhausted();
    served.iter_mut().for_each(is_logged_in);

    let (cpu_time, began) = (program.cpu_time(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let (used, elapsed) = (program.cpu_time() - cpu_time, began.elapsed());
    assert!(used < elapsed / 10, "{used:?} of CPU time in {elapsed:?}");

    // Those who are in go on.
    let (mut alice, mut bob) = (served.remove(0), served.remove(0));
    alice.converse(&mut bob);

    // One for one, first come, first served.
    for gone in [alice, bob] {
        let began = Instant::now();
        drop(gone);
        is_logged_in(&mut waiting[0]);
        // Many times what it takes, and far less than any other wait of the node's.
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        served.push(waiting.remove(0));
        assert!(!waiting[0].has_received());
    }
    assert_eq!((program.logged(BEGUN), program.logged(OVER)), (1, 0), "told once, however often it fails");

    // With room for all of them it is over.
    drop(served);
    waiting.iter_mut().for_each(is_logged_in);
    program.expect_logged(OVER);
    assert_eq!((program.logged(BEGUN), program.logged(OVER)), (1, 1));
}

#[test]
fn who_gives_up_waiting_takes_no_descriptor() {
    let (program, served, mut waiting) = exhausted();
    let mut last = waiting.pop().expect("there are ten");
    drop(waiting);
    let began = Instant::now();
    drop(served);
    is_logged_in(&mut last);
    assert!(began.elapsed() < DEADLINE / 2);
    program.expect_logged(OVER);
}

/// Kept 64 descriptors, of which the node used half: it had 167 connections, of a ceiling of 132.
#[test]
fn ceiling_is_what_can_connect() {
    const DESCRIPTORS: usize = 200;
    let folder = TempDir::new().expect("a folder");
    let control = format!("unix:{}", folder.path().join("control").display());
    let arguments = ["--control", &control, "--handshake-timeout", "1h", "--heartbeat-interval", "1h"];
    let program = Program::start_with_descriptors(DESCRIPTORS, &arguments);
    let control = control.parse().expect("an address");
    let ask_control = |path: &str| Ask::get(path).over(&mut Client::dial(&control));
    let stats = || ask_control("/v1/stats").json();
    let told = stats();
    let ceiling = told["connections_ceiling"].as_u64().expect("a number");
    assert_eq!(told["connections_limited_by"], "descriptors");
    program.expect_logged("open files allow fewer connections");

    let mut clients: Vec<_> = (0..DESCRIPTORS).map(|uid| ask(&program, uid)).collect();
    program.expect_logged(BEGUN);
    eventually("the ceiling is reached, and not passed", || {
        let connections = stats()["connections"].as_u64().expect("a number");
        assert!(connections <= ceiling, "{connections} connections of {ceiling}");
        connections == ceiling
    });
    eventually("they are served", || served(&mut clients) as u64 == ceiling);
    assert_eq!(stats()["unready"][0], "no descriptor is free for another connection");
    assert_eq!(stats()["connections_ceiling"], ceiling, "it does not change with the connections");
}

#[test]
fn room_for_all_connections_is_made_at_the_start() {
    let program = Program::start(&["--connections-max", "3000"]);
    assert!(program.descriptor_room() >= 3000);
}
