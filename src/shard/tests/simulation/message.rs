//! Messages that contain their sender, number and recipient; and the frames of a server, as a client decodes them.

/// The beginning of every message that can be identified; no answer of the server begins like this.
const MARK: u8 = 1;

/// Bytes of a message before its filling.
pub(super) const HEAD_BYTES: usize = 10;

/// The recipient number of a broadcast.
pub(super) const EVERYBODY: usize = 127;

/// The recipient number of a broadcast with exceptions.
pub(super) const EVERYBODY_BUT: usize = 126;

/// Period of the filling, in bytes.
const PERIOD: usize = 128;

/// The filling twice, so that a whole period can be copied from any phase on.
const FILLING: [u8; 2 * PERIOD] = {
    let mut bytes = [0; 2 * PERIOD];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = (index * 37 % PERIOD) as u8;
        index += 1;
    }
    bytes
};

/// The identity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// A connection's number, or the caller's.
    pub(super) sender: usize,
    /// The number of the message among those of its sender, to any recipient.
    pub(super) number: usize,
    /// The number of the recipient's uid, or that of a broadcast.
    pub(super) to: usize,
}

impl Identity {
    /// Returns the phase at which the filling of this message begins.
    fn phase(self) -> usize {
        (self.sender + 3 * self.number + 5 * self.to) % PERIOD
    }

    /// Writes the message, with `length` bytes if it is not longer without filling; it is valid UTF-8.
    pub(super) fn write(self, length: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(MARK);
        write_number(self.sender, 2, out);
        write_number(self.number, 3, out);
        write_number(self.to, 1, out);
        write_number(length.max(HEAD_BYTES), 3, out);
        while out.len() < start + length {
            let left = (start + length - out.len()).min(PERIOD);
            out.extend_from_slice(&FILLING[self.phase()..self.phase() + left]);
        }
    }

    /// Reads a message, and asserts that it is unchanged; `None` when it can't be identified.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let (&MARK, rest) = message.split_first()? else { return None };
        assert!(message.len() >= HEAD_BYTES, "a message was cut: {message:x?}");
        let (sender, number, to) = (read_number(&rest[..2]), read_number(&rest[2..5]), read_number(&rest[5..6]));
        let identity = Self { sender, number, to };
        assert_eq!(read_number(&rest[6..9]), message.len(), "{identity:?} has another length");
        for piece in message[HEAD_BYTES..].chunks(PERIOD) {
            let expected = &FILLING[identity.phase()..identity.phase() + piece.len()];
            assert!(piece == expected, "{identity:?} has other bytes");
        }
        Some(identity)
    }
}

/// Writes a number in `digits` digits of seven bits.
fn write_number(number: usize, digits: usize, out: &mut Vec<u8>) {
    debug_assert!(number < 1 << (7 * digits));
    out.extend((0..digits).map(|digit| (number >> (7 * digit)) as u8 & 0x7F));
}

fn read_number(digits: &[u8]) -> usize {
    digits.iter().rev().fold(0, |number, &digit| number << 7 | usize::from(digit))
}

/// Returns the range of the payload of the frame at the front of a server's bytes; `None` when the frame is incomplete.
pub(super) fn payload_of(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert!(first & 0x70 == 0 && first & 0x80 != 0, "the server sends whole messages without extensions: {first:x}");
    assert!(second & 0x80 == 0, "the server masks nothing");
    let (length, head) = match second {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    (bytes.len() >= head + length).then_some(head..head + length)
}
