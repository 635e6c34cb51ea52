//! Encodes frames as a client does, and decodes the frames of a shard.

use crate::frame::unmask;

const MASK: [u8; 4] = [0xA1, 0x5E, 0x83, 0x0C];

/// First bytes of frames, by opcode.
pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8A;

/// A frame that arrived: its first byte, and its payload.
pub(super) type Frame = (u8, Vec<u8>);

#[track_caller]
pub(super) fn close_code((first, payload): &Frame) -> u16 {
    assert_eq!(*first, CLOSE);
    u16::from_be_bytes([payload[0], payload[1]])
}

/// A client's frame.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len());
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let from = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[from..], MASK);
    bytes
}

/// A server's frame.
pub(super) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

fn header(first: u8, length: usize) -> Vec<u8> {
    match length {
        0..=125 => vec![first, length as u8],
        126..=0xFFFF => [&[first, 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

/// Cuts a server's bytes into whole frames and the rest.
pub(super) fn frames(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert!(
            second & 0x80 == 0 && [TEXT, BINARY, CLOSE, PING, PONG].contains(first),
            "no frame: {first:x} {second:x}"
        );
        let (length, head) = match (second, rest) {
            (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a @ .., _]) if a.len() >= 8 => {
                (usize::try_from(u64::from_be_bytes(a[..8].try_into().expect("eight"))).expect("it fits"), 10)
            }
            (126 | 127, _) => break,
            (length, _) => (usize::from(*length), 2),
        };
        if bytes.len() < head + length {
            break;
        }
        frames.push((*first, bytes[head..head + length].to_vec()));
        bytes = &bytes[head + length..];
    }
    (frames, bytes)
}
