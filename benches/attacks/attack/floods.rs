//! Floods of what costs the sender little.

use std::time::{Duration, Instant};

use super::{Field, Notes};
use crate::attacks::peer::{End, Peer, ends};
use crate::support::Sent;

/// About what a socket takes in one call.
const CHUNK: usize = 64 << 10;

/// How long an end may take that is due at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends `unit` again and again behind `first`, on all connections in turn, each as fast as it is taken; every other one
/// reads what comes.
fn flood(field: &Field, notes: &mut Notes, first: &[u8], unit: &[u8]) {
    let mut peers = Peer::log_in_many(field.address, "flood", field.scale.flooders).expect("the node takes log-ins");
    let chunk = unit.repeat(CHUNK / unit.len() + 1);
    let mut buffer = vec![0; CHUNK];
    // Where in the chunk each is.
    let mut at = vec![0; peers.len()];
    for peer in &mut peers {
        assert_eq!(peer.push(first), first.len(), "a new connection has room");
    }
    let end = Instant::now() + field.scale.flood;
    let mut sent = 0;
    while Instant::now() < end {
        for (index, peer) in peers.iter_mut().enumerate() {
            let taken = peer.push(&chunk[at[index]..]);
            at[index] = (at[index] + taken) % chunk.len();
            sent += taken;
            if index % 2 == 0 {
                peer.discard(&mut buffer).ok();
            }
        }
    }
    notes.see(format!("{} units", sent / unit.len()));
    // Half of them never read, and are resets; that is theirs to do.
    peers.into_iter().for_each(Peer::reset);
}

pub(super) fn pings(field: &Field, notes: &mut Notes) {
    flood(field, notes, &[], &Sent::ping("x".repeat(100)).bytes());
}

pub(super) fn fragments(field: &Field, notes: &mut Notes) {
    flood(field, notes, &Sent::text("").unfinished().bytes(), &Sent::continuation("").unfinished().bytes());
}

/// The shortest there are: to a user of one byte who is not there, and what has no colon, which is answered.
pub(super) fn tiny(field: &Field, notes: &mut Notes) {
    flood(field, notes, &[], &[Sent::text("x:x").bytes(), Sent::text("x").bytes()].concat());
}

/// Lengths that nobody has memory for.
pub(super) fn giants(field: &Field, notes: &mut Notes) {
    let lengths = [(2 << 20, 1009), (u64::from(u32::MAX), 1009), ((1 << 63) - 1, 1009), (u64::MAX, 1002)];
    let end = Instant::now() + field.scale.flood;
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        for (length, code) in lengths {
            let mut peers =
                Peer::log_in_many(field.address, "giant", field.scale.flooders).expect("the node takes log-ins");
            let frame = Sent::binary("x:").announcing(length).bytes();
            peers.iter_mut().for_each(|peer| _ = peer.push(&frame));
            let ends = ends(peers, |peer| peer.end_within(AT_ONCE));
            rounds += 1;
            if rounds <= lengths.len() || ends.iter().any(|(end, _)| *end != End::Close(code)) {
                notes.ends(&format!("{length} announced"), &ends, &[End::Close(code)]);
            }
        }
    }
    notes.see(format!("{} connections", rounds * field.scale.flooders));
}

/// Texts that are not UTF-8, in two writes and two fragments cut at every byte.
pub(super) fn utf8(field: &Field, notes: &mut Notes) {
    // Overlong, a surrogate, past the last character, a lone continuation, a sequence that breaks off.
    const BAD: [&[u8]; 5] = [b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82"];
    let mut texts = Vec::new();
    for bad in BAD {
        texts.push([b"x:olha a \xc3\xa9gua".as_slice(), bad].concat());
        texts.push([b"x:olha".as_slice(), bad, b"depois"].concat());
    }
    let mut cases = Vec::new();
    for text in &texts {
        let whole = Sent::text(text).bytes();
        cases.extend((1..whole.len()).map(|cut| (whole[..cut].to_vec(), whole[cut..].to_vec())));
        cases.extend(
            (0..=text.len())
                .map(|cut| (Sent::text(&text[..cut]).unfinished().bytes(), Sent::continuation(&text[cut..]).bytes())),
        );
    }
    let mut peers = Peer::log_in_many(field.address, "cut", cases.len()).expect("the node takes log-ins");
    for half in [0, 1] {
        for (peer, (first, second)) in peers.iter_mut().zip(&cases) {
            peer.push(if half == 0 { first } else { second });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ends = ends(peers, |peer| peer.end_within(AT_ONCE));
    notes.ends("cut", &ends, &[End::Close(1007)]);
}
