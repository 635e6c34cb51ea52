//! Those who are slow, or say nothing, at each stage of a connection's life.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::{Field, Notes};
use crate::attacks::peer::{End, Peer, ends};
use crate::support::{Request, Sent};

/// Times of a node under attack: see [`crate::attacks::node::TIMES`].
const HANDSHAKE: Duration = Duration::from_secs(2);
const LOGIN: Duration = Duration::from_secs(3);
const MESSAGE: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a time-out may come late by: the sweep's step, and a machine with other work.
const LATE: Duration = Duration::from_secs(2);

/// Sends a byte of `bytes` at a time by each until the node's time for that is over, and collects their ends.
fn drip(field: &Field, mut peers: Vec<Peer>, bytes: &[u8], time: Duration) -> Vec<(End, usize)> {
    let end = Instant::now() + time + LATE / 2;
    for byte in bytes.iter().cycle() {
        for peer in &mut peers {
            peer.push(std::slice::from_ref(byte));
        }
        if Instant::now() >= end {
            break;
        }
        thread::sleep(field.scale.drip.min(end.saturating_duration_since(Instant::now())));
    }
    ends(peers, |peer| peer.end_within(LATE))
}

fn dial(field: &Field) -> Vec<Peer> {
    Peer::many(field.scale.patient, |_| Peer::dial(field.address)).expect("the node accepts")
}

fn upgrade(field: &Field) -> Vec<Peer> {
    Peer::many(field.scale.patient, |_| Peer::upgrade(field.address)).expect("the node upgrades")
}

fn log_in(field: &Field, name: &str) -> Vec<Peer> {
    Peer::log_in_many(field.address, name, field.scale.patient).expect("the node takes log-ins")
}

pub(super) fn request(field: &Field, notes: &mut Notes) {
    let request = Request::upgrade().with("X-Padding", &"x".repeat(4000)).bytes();
    let ends = drip(field, dial(field), &request, HANDSHAKE);
    notes.ends("dripped", &ends, &[End::Status(408)]);
}

pub(super) fn tls(field: &Field, notes: &mut Notes) {
    let mut hello = Vec::new();
    let config = crate::support::Authority::new().client(rustls::DEFAULT_VERSIONS);
    let name = field.address.ip().into();
    let mut connection = ClientConnection::new(config, name).expect("a client's side of TLS");
    connection.write_tls(&mut hello).expect("a vector takes all");
    // There is nobody yet to say anything to.
    let ends = drip(field, dial(field), &hello, HANDSHAKE);
    notes.ends("dripped", &ends, &[End::Silence]);
}

pub(super) fn login(field: &Field, notes: &mut Notes) {
    let login = Sent::text("x".repeat(200)).bytes();
    let ends = drip(field, upgrade(field), &login, LOGIN);
    notes.ends("dripped", &ends, &[End::Close(1008)]);
}

pub(super) fn message(field: &Field, notes: &mut Notes) {
    let message = Sent::text(format!("nobody:{}", "x".repeat(4000))).bytes();
    let ends = drip(field, log_in(field, "dripping"), &message, MESSAGE);
    notes.ends("dripped", &ends, &[End::Close(1008)]);
}

pub(super) fn mute(field: &Field, notes: &mut Notes) {
    let (dialled, upgraded) = (dial(field), upgrade(field));
    let (dialled, upgraded) = thread::scope(|threads| {
        let dialled = threads.spawn(|| ends(dialled, |peer| peer.end_within(HANDSHAKE + LATE)));
        let upgraded = ends(upgraded, |peer| peer.end_within(LOGIN + LATE));
        (dialled.join().expect("the node ends them"), upgraded)
    });
    // A peer that has sent nothing gets no answer.
    notes.ends("never asked", &dialled, &[End::Silence]);
    notes.ends("never logged in", &upgraded, &[End::Close(1008)]);
}

/// Some answer nothing any more; others have ended their sending, and stay.
pub(super) fn half_open(field: &Field, notes: &mut Notes) {
    let (silent, closed) = (log_in(field, "silent"), log_in(field, "closed"));
    let begun = Instant::now();
    let shut = |peer: &Peer| -> io::Result<()> { peer.stream.shutdown(std::net::Shutdown::Write) };
    closed.iter().try_for_each(shut).expect("they are connected");
    thread::sleep((HEARTBEAT * 2 + LATE / 2).saturating_sub(begun.elapsed()));
    let (silent, closed) = (ends(silent, |peer| peer.end_within(LATE)), ends(closed, |peer| peer.end_within(LATE)));
    notes.ends("silent", &silent, &[End::Close(4005)]);
    notes.ends("half-closed", &closed, &[End::Silence, End::Close(1000)]);
}
