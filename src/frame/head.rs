//! Parses the header of one client frame (RFC 6455, section 5.2), which may be incomplete.

use super::{Opcode, Violation};

/// Longest client frame header: two bytes, a 64-bit length, the mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;

/// A client frame's header, checked against [`Expected`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    /// Whether this is its message's last frame.
    pub(super) is_final: bool,
    pub(super) mask: [u8; 4],
    /// Bytes of the header itself, 6 to [`HEAD_BYTES_MAX`].
    pub(super) length: usize,
    /// Payload bytes after the header; a data frame's stay within `message_bytes_max`.
    pub(super) payload_length: usize,
}

/// The reader's state, which decides which frames may come next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Whether a fragmented message has begun and not ended.
    pub(super) is_continuing: bool,
    /// Payload bytes of its fragments so far.
    pub(super) joined: usize,
    /// The limit on a message's payload, all fragments added up.
    pub(super) message_bytes_max: usize,
}

impl Head {
    /// Reads a header from the front of `bytes`; `None` when the header is not complete.
    ///
    /// # Errors
    /// A violation, as soon as the bytes prove it, without waiting for more.
    #[inline(always)]
    pub(super) fn parse(bytes: &[u8], expected: Expected) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = opcode(first, expected)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7F;
        if opcode.is_control() && short > 125 {
            return Err(Violation::ControlTooLong);
        }
        let Some((announced, mask_at)) = payload_length(bytes, short)? else { return Ok(None) };
        let payload_length = if opcode.is_control() { usize::from(short) } else { within(announced, expected)? };
        let Some(&mask) = bytes.get(mask_at..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
        Ok(Some(Self { opcode, is_final: first & 0x80 != 0, mask, length: mask_at + 4, payload_length }))
    }
}

/// Reads the first byte: the final bit, the reserved bits, the opcode.
#[inline]
fn opcode(first: u8, expected: Expected) -> Result<Opcode, Violation> {
    if first & 0x70 != 0 {
        return Err(Violation::ReservedBits(first >> 4 & 7));
    }
    let opcode = match first & 0x0F {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Text,
        0x2 => Opcode::Binary,
        0x8 => Opcode::Close,
        0x9 => Opcode::Ping,
        0xA => Opcode::Pong,
        reserved => return Err(Violation::ReservedOpcode(reserved)),
    };
    match opcode {
        Opcode::Continuation if !expected.is_continuing => Err(Violation::ContinuationWithoutStart),
        Opcode::Text | Opcode::Binary if expected.is_continuing => Err(Violation::DataInsideMessage),
        Opcode::Close | Opcode::Ping | Opcode::Pong if first & 0x80 == 0 => Err(Violation::FragmentedControl),
        opcode => Ok(opcode),
    }
}

/// Reads the payload length, and returns it with the index of the mask that follows.
#[inline]
fn payload_length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, Violation> {
    match short {
        126 => {
            let Some(long) = bytes.get(2..4).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes(*long));
            if length < 126 { Err(Violation::LengthNotMinimal(length)) } else { Ok(Some((length, 4))) }
        }
        127 => {
            // The top bit is in the first byte: no need to wait for the others.
            if bytes.get(2).is_some_and(|top| top & 0x80 != 0) {
                return Err(Violation::LengthTopBit);
            }
            let Some(long) = bytes.get(2..10).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            let length = u64::from_be_bytes(*long);
            if length <= u64::from(u16::MAX) {
                Err(Violation::LengthNotMinimal(length))
            } else {
                Ok(Some((length, 10)))
            }
        }
        length => Ok(Some((u64::from(length), 2))),
    }
}

/// Returns a data frame's announced length if the message stays within the limit with it.
#[inline]
fn within(announced: u64, expected: Expected) -> Result<usize, Violation> {
    let room = expected.message_bytes_max.saturating_sub(expected.joined);
    match usize::try_from(announced) {
        Ok(length) if length <= room => Ok(length),
        _ => {
            // Both fit 63 bits: a vector never holds more, and a length's top bit is refused.
            let length = announced.saturating_add(expected.joined as u64);
            Err(Violation::MessageTooLarge { length, max: expected.message_bytes_max })
        }
    }
}
