//! Writes server frames: without a mask (RFC 6455, section 5.1), never fragmented.
//!
//! Also finds where frames written earlier end, so that an outbox can drop whole ones.

use super::close;
use crate::message::Kind;

/// Longest header of a server frame: two bytes and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;
/// Longest reason in a close frame: a control frame's 125 bytes less the code.
const REASON_BYTES_MAX: usize = 123;

/// A frame's opcode (RFC 6455, section 5.2); the discriminant is its code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of a connection.
    Close = 0x8,
    /// A question whether the peer is there.
    Ping = 0x9,
    /// The answer to a ping, or an unsolicited heartbeat.
    Pong = 0xA,
}

impl Opcode {
    /// Returns whether this is a control frame: at most 125 bytes, allowed between the fragments of a message.
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl From<Kind> for Opcode {
    #[inline]
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text,
            Kind::Binary => Self::Binary,
        }
    }
}

/// The header of a final server frame, for a payload that is in another buffer.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    /// How many of `bytes` are used: 2, 4 or 10.
    length: u8,
}

impl Header {
    /// Makes the header for `payload_length` bytes, the length in its shortest form.
    #[inline]
    pub fn new(opcode: Opcode, payload_length: usize) -> Self {
        debug_assert!(!opcode.is_control() || payload_length <= 125, "control frame of {payload_length} bytes");
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = 0x80 | opcode as u8;
        let length = match payload_length {
            0..=125 => {
                bytes[1] = payload_length as u8;
                2
            }
            126..=0xFFFF => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload_length as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(payload_length as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, length }
    }

    /// Returns the header's 2 to 10 bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Appends a whole frame to `out`.
#[inline]
pub fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    if payload.len() <= 125 {
        out.extend_from_slice(&[0x80 | opcode as u8, payload.len() as u8]);
    } else {
        out.extend_from_slice(Header::new(opcode, payload.len()).as_slice());
    }
    out.extend_from_slice(payload);
}

/// Appends a close frame; `reason` is cut to 123 bytes, between characters.
pub fn encode_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    debug_assert!(close::is_valid_from_peer(code), "close code {code} may not be sent");
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(Header::new(Opcode::Close, 2 + end).as_slice());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

/// The length of a frame, and whether it may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the frame, header and payload.
    pub length: usize,
    /// Whether it is a control frame, which is never dropped.
    pub is_control: bool,
}

/// Returns the extent of the server frame whose header starts at `frames[0]`.
///
/// `None` when `frames` ends inside the header; the payload need not be there.
#[inline]
pub fn extent(frames: &[u8]) -> Option<Extent> {
    let [first, second, rest @ ..] = frames else { return None };
    debug_assert!(second & 0x80 == 0, "a server frame has no mask");
    let length = match second & 0x7F {
        126 => 4 + usize::from(u16::from_be_bytes(*rest.first_chunk()?)),
        127 => 10 + usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?,
        length => 2 + usize::from(length),
    };
    Some(Extent { length, is_control: first & 0x08 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(opcode: Opcode, payload_length: usize, expected: &[u8]) {
        let header = Header::new(opcode, payload_length);
        assert_eq!(header.as_slice(), expected);
        let length = expected.len() + payload_length;
        assert_eq!(extent(expected), Some(Extent { length, is_control: opcode.is_control() }));
        for cut in 0..expected.len() {
            assert_eq!(extent(&expected[..cut]), None, "cut at {cut}");
        }
        let payload = vec![b'x'; payload_length];
        let mut out = b"before".to_vec();
        encode(&mut out, opcode, &payload);
        assert_eq!(out, [b"before", expected, &payload].concat());
    }

    #[test]
    fn lengths_take_their_shortest_form() {
        check(Opcode::Text, 0, &[0x81, 0]);
        check(Opcode::Binary, 64, &[0x82, 64]);
        check(Opcode::Text, 125, &[0x81, 125]);
        check(Opcode::Text, 126, &[0x81, 126, 0, 126]);
        check(Opcode::Binary, 65535, &[0x82, 126, 0xFF, 0xFF]);
        check(Opcode::Binary, 65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        check(Opcode::Continuation, 1, &[0x80, 1]);
        check(Opcode::Ping, 0, &[0x89, 0]);
        check(Opcode::Pong, 125, &[0x8A, 125]);
    }

    #[test]
    fn kinds_have_their_opcodes() {
        assert_eq!(Opcode::from(Kind::Text), Opcode::Text);
        assert_eq!(Opcode::from(Kind::Binary), Opcode::Binary);
    }

    #[track_caller]
    fn check_close(code: u16, reason: &str, kept: &str) {
        let mut out = Vec::new();
        encode_close(&mut out, code, reason);
        assert_eq!(out[0], 0x88);
        assert_eq!(usize::from(out[1]), 2 + kept.len());
        assert_eq!(out[2..4], code.to_be_bytes());
        assert_eq!(&out[4..], kept.as_bytes());
    }

    #[test]
    fn close_reason_is_cut_between_characters() {
        check_close(1000, "", "");
        check_close(4001, "replaced by a newer login", "replaced by a newer login");
        check_close(1008, &"x".repeat(123), &"x".repeat(123));
        check_close(1008, &"x".repeat(124), &"x".repeat(123));
        check_close(1008, &"é".repeat(62), &"é".repeat(61));
        check_close(1008, &format!("{}€", "x".repeat(122)), &"x".repeat(122));
        check_close(1008, &"🐦".repeat(40), &"🐦".repeat(30));
    }
}
