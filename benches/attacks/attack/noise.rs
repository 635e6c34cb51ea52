//! Random bytes in every state of a connection, from one seed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::{Field, Notes};
use crate::attacks::peer::{End, Peer, ends};
use crate::support::{Request, Sent, secure};

/// Longest that one of them sends.
const BYTES_MAX: u64 = 4096;

/// How long an end may take once they have ended their sending: the longest of a node's times, and some.
const END: Duration = Duration::from_secs(10);

/// Numbers that look random, the same from the same seed (Steele, Lea and Flood, SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        (0..1 + self.below(length_max)).map(|_| self.next() as u8).collect()
    }

    /// Frames that are nearly sound: a byte here and there is another one.
    fn frames(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < BYTES_MAX / 2 {
            let payload = self.bytes(200);
            let frame = match self.below(6) {
                0 => Sent::text(&payload),
                1 => Sent::binary(&payload).unfinished(),
                2 => Sent::continuation(&payload),
                3 => Sent::ping(&payload[..payload.len().min(125)]),
                4 => Sent::text(String::from_utf8_lossy(&payload).as_bytes()),
                _ => Sent::opcode(self.below(16) as u8, &payload),
            };
            bytes.extend(frame.bytes());
            if self.below(4) == 0 {
                let at = bytes.len() - 1 - self.below(8.min(bytes.len() as u64)) as usize;
                bytes[at] = self.next() as u8;
            }
        }
        bytes
    }
}

/// Sends its own bytes by each, in pieces, and sees all of them end.
fn send(field: &Field, notes: &mut Notes, state: &str, mut peers: Vec<Peer>, bytes: impl Fn(&mut Random) -> Vec<u8>) {
    let mut random = Random(field.seed ^ state.len() as u64);
    let mut left: Vec<Vec<u8>> = peers.iter().map(|_| bytes(&mut random)).collect();
    while left.iter().any(|bytes| !bytes.is_empty()) {
        for (peer, bytes) in peers.iter_mut().zip(&mut left) {
            let piece = bytes.len().min(1 + random.below(BYTES_MAX / 2) as usize);
            peer.push(&bytes[..piece]);
            // What the node does not take any more it has refused.
            bytes.drain(..piece);
        }
    }
    for (end, count) in ends(peers, |peer| peer.finish_within(END)) {
        notes.see(format!("{state}: {count} {end:?}"));
        if end == End::Never {
            notes.faults.push(format!("{state}: {count} did not end within {END:?}"));
        }
    }
}

pub(super) fn plain(field: &Field, notes: &mut Notes) {
    let (count, address) = (field.scale.noise, field.address);
    let dialled = || Peer::many(count, |_| Peer::dial(address)).expect("the node accepts");
    let upgraded = || Peer::many(count, |_| Peer::upgrade(address)).expect("the node upgrades");
    let logged_in = |name: &str| Peer::log_in_many(address, name, count).expect("the node takes log-ins");
    let noise = |random: &mut Random| random.bytes(BYTES_MAX);
    send(field, notes, "connected", dialled(), noise);
    let request = |random: &mut Random| {
        let mut request = Request::upgrade().with("Origin", "http://localhost").bytes();
        let at = random.below(request.len() as u64) as usize;
        request[at] = random.next() as u8;
        [request, random.bytes(64)].concat()
    };
    send(field, notes, "request with a byte changed", dialled(), request);
    send(field, notes, "upgraded", upgraded(), noise);
    send(field, notes, "login in frames", upgraded(), Random::frames);
    send(field, notes, "logged in", logged_in("noise"), noise);
    send(field, notes, "frames", logged_in("noisy"), Random::frames);
    let begun = |random: &mut Random| {
        let first = Sent::text("x:").unfinished().bytes();
        [first, random.frames()].concat()
    };
    send(field, notes, "in a message", logged_in("begun"), begun);
    let closed = |random: &mut Random| [Sent::close(1000, "").bytes(), random.bytes(BYTES_MAX)].concat();
    send(field, notes, "behind a close", logged_in("ended"), closed);
}

pub(super) fn tls(field: &Field, notes: &mut Notes) {
    let count = field.scale.noise;
    let dialled = Peer::many(count, |_| Peer::dial(field.address)).expect("the node accepts");
    let record = |random: &mut Random| {
        // A handshake's head, so that its first byte does not give it away.
        let body = random.bytes(BYTES_MAX);
        [&[0x16, 3, 1], &(body.len() as u16).to_be_bytes()[..], &body].concat()
    };
    for (end, count) in records(dialled, field.seed, record) {
        notes.see(format!("in the handshake: {count} {end:?}"));
        if end == End::Never {
            notes.faults.push(format!("in the handshake: {count} did not end within {END:?}"));
        }
    }
    let root = field.root.as_ref().expect("this node speaks TLS");
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(root).expect("a certificate");
    roots.add(root).expect("it is a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("rustls knows the versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let mut random = Random(field.seed);
    for _ in 0..count / 5 {
        let socket = TcpStream::connect(field.address).expect("the node accepts");
        socket.set_read_timeout(Some(END)).expect("a time-out that is not zero");
        let mut stream = secure(socket, Arc::clone(&config)).expect("a handshake");
        // Sealed soundly, and then a record that is not.
        let login = [Request::upgrade().bytes(), Sent::text("sealed").bytes(), random.frames()].concat();
        stream.write_all(&login).and_then(|()| stream.flush()).ok();
        stream.sock.write_all(&[&[0x17, 3, 3, 0, 64], &random.bytes(64)[..], &[0; 64]].concat()).ok();
        stream.sock.shutdown(std::net::Shutdown::Write).ok();
        let mut rest = Vec::new();
        let end = stream.sock.read_to_end(&mut rest);
        if end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            notes.faults.push(format!("a broken record: not ended within {END:?}"));
        }
    }
    notes.see(format!("in records: {} ended", count / 5));
}

/// Sends a record by each, and collects their ends, which are bytes of TLS and no frames.
fn records(mut peers: Vec<Peer>, seed: u64, record: impl Fn(&mut Random) -> Vec<u8>) -> Vec<(End, usize)> {
    let mut random = Random(seed);
    peers.iter_mut().for_each(|peer| _ = peer.push(&record(&mut random)));
    ends(peers, |mut peer| {
        peer.stream.shutdown(std::net::Shutdown::Write).ok();
        peer.stream.set_read_timeout(Some(END)).expect("a time-out that is not zero");
        match peer.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => End::Silence,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => End::Never,
            Err(_) => End::Reset,
        }
    })
}
