//! Attacks, at a small size, on the program as a process of its own: nobody else loses anything, the attackers are told
//! why they are closed, and what they used comes back.
//!
//! The same attacks at full size, with their figures, are `cargo bench --bench attacks`.

#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "the bench uses the rest of it")]
#[path = "../benches/attacks/mod.rs"]
mod attacks;
mod support;

use std::sync::mpsc::sync_channel;
use std::thread;

use attacks::attack::{ALL, Attack, Field, Notes, Scale};
use attacks::canary;
use attacks::node::Node;
use support::Authority;
use tokio::sync::oneshot;

/// What a node's private memory may be above what it was, without the optimiser and on a machine with other work.
const SLACK: u64 = 32 << 20;

/// What random bytes come from: the same each time, so that a failure is there again.
const SEED: u64 = 6455;

/// Attacks a node of their own one after the other, beside canaries.
#[track_caller]
fn hold_against(names: &[&str]) {
    let chosen: Vec<&Attack> = ALL.iter().filter(|attack| names.contains(&attack.name)).collect();
    assert_eq!(chosen.len(), names.len(), "each is an attack: {names:?}");
    let authority = chosen[0].is_tls.then(Authority::new);
    let mut node = Node::start(authority.as_ref());
    let (there, is_there) = sync_channel(1);
    let (over, stop) = oneshot::channel::<()>();
    let (address, listen) = (node.address, node.canaries.clone());
    let canaries = thread::spawn(move || canary::run(&listen, move || _ = there.send(()), async { _ = stop.await }));
    is_there.recv().expect("the canaries log in");
    for attack in chosen {
        let root = authority.as_ref().map(Authority::root_file);
        let field = Field { address, root, scale: Scale::SMALL, seed: SEED };
        let mut notes = Notes::default();
        let ((), course) = node.process().watch(SLACK, || (attack.run)(&field, &mut notes));
        assert_eq!(notes.faults, Vec::<String>::new(), "{}: {:?}", attack.name, notes.seen);
        assert!(course.recovery.is_some(), "{}: memory or descriptors did not come back: {course:?}", attack.name);
        let growth = course.peak.private.saturating_sub(course.before.private);
        let max = attack.growth_max.map_or(SLACK, |max| (max << 20) + SLACK / 2);
        assert!(growth <= max, "{}: memory grew by {growth} bytes, expected at most {max}", attack.name);
        assert!(node.is_alive(), "{}: the node has ended: {}", attack.name, node.log());
    }
    drop(over);
    let findings = canaries.join().expect("the canaries live");
    assert!(findings.is_well(), "{findings:?}");
    let log = node.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(node.drain(), Some(0), "{log}");
}

#[test]
fn who_drips_a_request_is_told_and_others_do_not_notice() {
    hold_against(&["a byte a second of the request", "a byte a second of the login"]);
}

#[test]
fn who_drips_tls_is_gone_and_others_do_not_notice() {
    hold_against(&["a byte a second of TLS", "random bytes under and in TLS"]);
}

#[test]
fn who_drips_a_message_is_told_and_others_do_not_notice() {
    hold_against(&["a byte a second of a message", "connect and never log in"]);
}

#[test]
fn half_open_peers_are_gone_and_others_do_not_notice() {
    hold_against(&["half-open peers"]);
}

#[test]
fn who_never_reads_is_cut_and_others_do_not_notice() {
    hold_against(&["a reader that never reads, unicast", "a reader that never reads, broadcast"]);
}

#[test]
fn floods_cost_no_memory_and_others_do_not_notice() {
    hold_against(&["pings", "empty fragments", "one-byte messages"]);
}

#[test]
fn what_breaks_the_protocol_is_told_and_others_do_not_notice() {
    hold_against(&["giant lengths", "UTF-8 cut at any byte"]);
}

#[test]
fn random_bytes_end_in_every_state_and_others_do_not_notice() {
    hold_against(&["random bytes in every state"]);
}

#[test]
fn storms_pass_and_others_do_not_notice() {
    hold_against(&["resets at once"]);
    // The load generator comes back.
    if support::sibling(env!("CARGO_BIN_EXE_pombo"), "pombo-bench").is_some() {
        hold_against(&["come back at once, half of them", "come back at once"]);
    }
}
