//! The bytes of a load client, without I/O: masked frames out, plain frames in, and the stamp every message carries.
//!
//! A frame is written in a few copies and three exclusive-ors: uids and filling are masked once, at the start, and
//! every frame uses the same masking key. RFC 6455, section 5.3, asks for a fresh key to protect proxies from browsers'
//! scripts; neither is here, and a server must unmask all the same.

use std::ops::Range;

/// The masking key of every frame sent.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Bytes that a stamp takes in the payload: the shortest message there is.
pub(super) const STAMP_BYTES: usize = 24;

/// Receiver of a broadcast, in a stamp.
pub(super) const EVERYBODY: u32 = (1 << 24) - 1;

/// Connections that a stamp can name.
pub(super) const CONNECTIONS_MAX: u32 = EVERYBODY;

/// Opcodes of RFC 6455, section 5.2.
pub(super) mod opcode {
    pub(in super::super) const CONTINUATION: u8 = 0x0;
    pub(in super::super) const TEXT: u8 = 0x1;
    pub(in super::super) const BINARY: u8 = 0x2;
    pub(in super::super) const CLOSE: u8 = 0x8;
    pub(in super::super) const PING: u8 = 0x9;
    pub(in super::super) const PONG: u8 = 0xa;
}

/// The head of every payload: sender, receiver and number of the message, by which its receiver accounts for it.
///
/// Written as 24 printable ASCII bytes without a colon (six bits a byte), so it is valid text and survives servers that
/// cut a payload at a second colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Index of the connection that sent it; 24 bits.
    pub(super) sender: u32,
    /// Index of the connection meant to get it, or [`EVERYBODY`]; 24 bits.
    pub(super) receiver: u32,
    /// Position among all messages of this sender, from 0; 36 bits.
    pub(super) number: u64,
    /// Number of the run, so that a stray message of another run is recognised; 12 bits.
    pub(super) run: u16,
    /// When it was due to be sent, in nanoseconds of the generator's clock; 48 bits, three days.
    pub(super) due: u64,
}

impl Stamp {
    fn words(self) -> [u64; 3] {
        [
            spread(u64::from(self.sender) | u64::from(self.receiver) << 24),
            spread((self.number & ((1 << 36) - 1)) | u64::from(self.run & 0xfff) << 36),
            spread(self.due & ((1 << 48) - 1)),
        ]
    }

    /// Reads the stamp that `payload` begins with; `None` if there is none.
    #[inline]
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (words, _) = payload.as_chunks::<8>();
        let [parties, order, due, ..] = words else { return None };
        let parties = gather(u64::from_le_bytes(*parties))?;
        let order = gather(u64::from_le_bytes(*order))?;
        let due = gather(u64::from_le_bytes(*due))?;
        Some(Self {
            sender: (parties & 0xff_ffff) as u32,
            receiver: (parties >> 24) as u32,
            number: order & ((1 << 36) - 1),
            run: (order >> 36) as u16,
            due,
        })
    }
}

/// First of the 64 letters that stand for six bits: `;` to `z`.
const LETTERS: u64 = 0x3b3b_3b3b_3b3b_3b3b;

/// Spreads 48 bits over the low six bits of eight bytes, and makes letters of them.
#[inline]
fn spread(bits: u64) -> u64 {
    let bits = (bits & 0xff_ffff) | (bits & 0xffff_ff00_0000) << 8;
    let bits = (bits & 0x0000_0fff_0000_0fff) | (bits & 0x00ff_f000_00ff_f000) << 4;
    let bits = (bits & 0x003f_003f_003f_003f) | (bits & 0x0fc0_0fc0_0fc0_0fc0) << 2;
    bits + LETTERS
}

/// Undoes [`spread`]; `None` if a byte is not one of its letters.
///
/// The lowest byte that is no letter leaves one of its two top bits set, whatever it borrows from those above.
#[inline]
fn gather(letters: u64) -> Option<u64> {
    let bits = letters.wrapping_sub(LETTERS);
    if bits & 0xc0c0_c0c0_c0c0_c0c0 != 0 {
        return None;
    }
    let bits = (bits & 0x003f_003f_003f_003f) | (bits & 0x3f00_3f00_3f00_3f00) >> 2;
    let bits = (bits & 0x0000_0fff_0000_0fff) | (bits & 0x0fff_0000_0fff_0000) >> 4;
    Some((bits & 0xff_ffff) | (bits & 0x00ff_ffff_0000_0000) >> 8)
}

/// Text or binary messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
}

impl Kind {
    fn opcode(self) -> u8 {
        match self {
            Kind::Text => opcode::TEXT,
            Kind::Binary => opcode::BINARY,
        }
    }

    /// What fills a message behind its stamp: for binary a byte that is never part of valid UTF-8.
    fn filler(self) -> u8 {
        match self {
            Kind::Text => b'.',
            Kind::Binary => 0xfe,
        }
    }
}

/// Writes the messages of one run: all have one kind and one size, and an address in front.
#[derive(Clone)]
pub(super) struct Writer {
    kind: Kind,
    /// Payload bytes behind `uid:`, stamp included.
    size: usize,
    run: u16,
    /// The filling behind the stamp as the receiver will see it.
    filling: Vec<u8>,
    /// The same, masked, for each phase of the mask.
    masked_fillings: [Vec<u8>; 4],
}

/// Addresses (`uid:`) one behind another, masked from phase 0 on.
pub(super) struct Addresses {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Addresses {
    pub(super) fn new<T: AsRef<str>>(uids: impl IntoIterator<Item = T>) -> Self {
        let mut addresses = Self { bytes: Vec::new(), ends: Vec::new() };
        for uid in uids {
            let start = addresses.bytes.len();
            addresses.bytes.extend_from_slice(uid.as_ref().as_bytes());
            addresses.bytes.push(b':');
            mask(&mut addresses.bytes[start..], 0);
            addresses.ends.push(u32::try_from(addresses.bytes.len()).expect("uids are short and counted in 24 bits"));
        }
        addresses
    }

    pub(super) fn count(&self) -> u32 {
        self.ends.len() as u32
    }

    #[inline]
    pub(super) fn of(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }
}

impl Writer {
    /// Prepares to write messages of `size` payload bytes, at least [`STAMP_BYTES`].
    pub(super) fn new(kind: Kind, size: usize, run: u16) -> Self {
        let filling = vec![kind.filler(); size.saturating_sub(STAMP_BYTES)];
        let masked_fillings = std::array::from_fn(|phase| {
            let mut masked = filling.clone();
            mask(&mut masked, phase);
            masked
        });
        Self { kind, size: STAMP_BYTES + filling.len(), run: run & 0xfff, filling, masked_fillings }
    }

    /// Appends one masked frame to `out`: `address`, a stamp, and the filling.
    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>, address: &[u8], sender: u32, receiver: u32, number: u64, due: u64) {
        push_head(out, self.kind.opcode(), address.len() + self.size);
        out.extend_from_slice(address);
        let phase = address.len() & 3;
        let key = u64::from(u32::from_le_bytes(MASK).rotate_right(8 * phase as u32));
        let key = key | key << 32;
        let mut stamp = [0; STAMP_BYTES];
        let words = Stamp { sender, receiver, number, run: self.run, due }.words();
        for (bytes, word) in stamp.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = (word ^ key).to_le_bytes();
        }
        out.extend_from_slice(&stamp);
        // A stamp is a whole number of keys, so the phase behind it is the one before it.
        out.extend_from_slice(&self.masked_fillings[phase]);
    }

    /// Reads the stamp of a message of this run; `None` if it is not ours, or not as it was sent.
    #[inline]
    pub(super) fn read(&self, payload: &[u8]) -> Option<Stamp> {
        let stamp = Stamp::read(payload)?;
        (stamp.run == self.run && payload[STAMP_BYTES..] == self.filling).then_some(stamp)
    }
}

/// Appends a masked frame with any payload: a login, a pong, a close.
pub(super) fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push_head(out, opcode, payload.len());
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], 0);
}

/// Appends the head of a masked frame, and the key.
#[inline]
fn push_head(out: &mut Vec<u8>, opcode: u8, len: usize) {
    let [a, b, c, d] = MASK;
    match len {
        0..126 => out.extend_from_slice(&[0x80 | opcode, 0x80 | len as u8, a, b, c, d]),
        126..0x1_0000 => {
            let [high, low] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[0x80 | opcode, 0x80 | 126, high, low, a, b, c, d]);
        }
        _ => {
            out.extend_from_slice(&[0x80 | opcode, 0x80 | 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
            out.extend_from_slice(&MASK);
        }
    }
}

fn mask(bytes: &mut [u8], phase: usize) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= MASK[(phase + index) & 3];
    }
}

/// A server's frame: where its payload lies in the bytes it was read from, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Whether it is the last of its message.
    pub(super) last: bool,
    pub(super) opcode: u8,
    /// The payload ends where the frame does.
    pub(super) payload: Range<usize>,
}

/// How a server can break the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a frame with reserved bits set ({0:#04x})")]
    Reserved(u8),
    #[error("a masked frame")]
    Masked,
    #[error("a frame of {0} bytes, more than anything that was sent")]
    Long(u64),
    #[error("a frame with the unknown opcode {0}")]
    Opcode(u8),
    #[error("a control frame that is fragmented or over 125 bytes")]
    Control,
    #[error("fragments out of order")]
    Fragment,
}

/// Finds the frame that `bytes` begin with; `None` if it is incomplete.
///
/// # Errors
/// A violation, as soon as the head shows it; a payload may have `payload_max` bytes.
#[inline]
pub(super) fn read_frame(bytes: &[u8], payload_max: usize) -> Result<Option<Frame>, Violation> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    let opcode = first & 0x0f;
    if first & 0x70 != 0 {
        return Err(Violation::Reserved(first));
    }
    if second & 0x80 != 0 {
        return Err(Violation::Masked);
    }
    let (head, len) = match second {
        126 => {
            let Some(&[high, low]) = bytes.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            (4, u64::from(u16::from_be_bytes([high, low])))
        }
        127 => {
            let Some(len) = bytes.get(2..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
            (10, u64::from_be_bytes(*len))
        }
        short => (2, u64::from(short)),
    };
    match opcode {
        opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => {}
        opcode::CLOSE | opcode::PING | opcode::PONG if second <= 125 && first & 0x80 != 0 => {}
        opcode::CLOSE | opcode::PING | opcode::PONG => return Err(Violation::Control),
        unknown => return Err(Violation::Opcode(unknown)),
    }
    if len > payload_max as u64 {
        return Err(Violation::Long(len));
    }
    let end = head + len as usize;
    Ok((bytes.len() >= end).then_some(Frame { last: first & 0x80 != 0, opcode, payload: head..end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_stamp(stamp: Stamp) {
        let mut bytes = Vec::new();
        for word in stamp.words() {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(bytes.len(), STAMP_BYTES);
        assert!(bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'), "{bytes:?}");
        assert_eq!(Stamp::read(&bytes), Some(stamp));
        for index in 0..STAMP_BYTES {
            for bad in [0, b':', b'{', 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[index] = bad;
                assert_eq!(Stamp::read(&bytes), None, "byte {index} is {bad:#x}");
            }
        }
    }

    #[test]
    fn stamps_survive_and_other_bytes_are_refused() {
        check_stamp(Stamp { sender: 0, receiver: 0, number: 0, run: 0, due: 0 });
        check_stamp(Stamp { sender: 1, receiver: 2, number: 3, run: 4, due: 5 });
        check_stamp(Stamp {
            sender: 0xab_cdef,
            receiver: EVERYBODY,
            number: 0xf_edcb_a987,
            run: 0xfff,
            due: 0x1234_5678_9abc,
        });
        check_stamp(Stamp {
            sender: 0xff_ffff,
            receiver: 0xff_ffff,
            number: (1 << 36) - 1,
            run: 0xfff,
            due: (1 << 48) - 1,
        });
        assert_eq!(Stamp::read(b""), None);
        assert_eq!(Stamp::read(&[b';'; STAMP_BYTES - 1]), None);
    }

    /// What a server makes of the frame: its opcode and unmasked payload.
    fn unmasked(frame: &[u8]) -> (u8, Vec<u8>) {
        let mut plain = frame.to_vec();
        assert_eq!(plain[1] & 0x80, 0x80);
        plain[1] &= 0x7f;
        let head = match plain[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let key: [u8; 4] = plain[head..head + 4].try_into().expect("a key behind the head");
        plain.drain(head..head + 4);
        let frame = read_frame(&plain, usize::MAX).expect("no violation").expect("all there");
        assert!(frame.last);
        assert_eq!(frame.payload.end, plain.len());
        let payload = plain[frame.payload].iter().enumerate().map(|(index, byte)| byte ^ key[index & 3]).collect();
        (frame.opcode, payload)
    }

    #[test]
    fn messages_survive_at_every_size_and_phase() {
        for kind in [Kind::Text, Kind::Binary] {
            for size in [24, 25, 64, 100, 101, 125, 126, 65_400, 65_535, 65_536, 70_000] {
                for uid in ["", "u", "u1", "u12", "u123", "all"] {
                    let addresses = Addresses::new(["first", uid]);
                    let writer = Writer::new(kind, size, 77);
                    let mut out = Vec::new();
                    writer.write(&mut out, addresses.of(1), 5, 6, 7, 8);
                    let (opcode, payload) = unmasked(&out);
                    assert_eq!(opcode, kind.opcode());
                    assert_eq!(payload.len(), uid.len() + 1 + size);
                    let (address, body) = payload.split_at(uid.len() + 1);
                    assert_eq!(address, format!("{uid}:").as_bytes());
                    assert_eq!(std::str::from_utf8(body).is_ok(), kind == Kind::Text || size == STAMP_BYTES);
                    let stamp = Stamp { sender: 5, receiver: 6, number: 7, run: 77, due: 8 };
                    assert_eq!(writer.read(body), Some(stamp));
                    assert_eq!(writer.read(&body[..body.len() - 1]), None);
                    assert_eq!(Writer::new(kind, size, 78).read(body), None, "another run's");
                }
            }
        }
    }

    #[test]
    fn any_payload_survives() {
        for len in [0, 1, 125, 126, 300, 65_536] {
            let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let mut out = Vec::new();
            push_frame(&mut out, opcode::PONG, &payload);
            if len <= 125 {
                assert_eq!(unmasked(&out), (opcode::PONG, payload));
            }
        }
    }

    #[track_caller]
    fn check_frame(bytes: &[u8], expected: Result<Option<(bool, u8, Range<usize>)>, Violation>) {
        let frame = read_frame(bytes, 70_000);
        assert_eq!(frame.map(|frame| frame.map(|frame| (frame.last, frame.opcode, frame.payload))), expected);
    }

    #[test]
    fn frames() {
        check_frame(b"", Ok(None));
        check_frame(b"\x81", Ok(None));
        check_frame(b"\x81\x02h", Ok(None));
        check_frame(b"\x81\x02hi", Ok(Some((true, opcode::TEXT, 2..4))));
        check_frame(b"\x81\x02hi\x81", Ok(Some((true, opcode::TEXT, 2..4))));
        check_frame(b"\x01\x00", Ok(Some((false, opcode::TEXT, 2..2))));
        check_frame(b"\x80\x00", Ok(Some((true, opcode::CONTINUATION, 2..2))));
        check_frame(b"\x89\x01p", Ok(Some((true, opcode::PING, 2..3))));
        check_frame(b"\x88\x02\x03\xe8", Ok(Some((true, opcode::CLOSE, 2..4))));
        check_frame(b"\x82\x7e\x00", Ok(None));
        check_frame(b"\x82\x7e\x00\x01z", Ok(Some((true, opcode::BINARY, 4..5))));
        check_frame(b"\x82\x7f\0\0\0\0\0\0\0", Ok(None));
        check_frame(b"\x82\x7f\0\0\0\0\0\0\0\x01z", Ok(Some((true, opcode::BINARY, 10..11))));
        check_frame(b"\x82\x7f\0\0\0\0\0\x01\x11\x71", Err(Violation::Long(70_001)));
        check_frame(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Err(Violation::Long(u64::MAX)));
        check_frame(b"\x89\x7e\x00\x80", Err(Violation::Control));
        check_frame(b"\x09\x00", Err(Violation::Control));
        check_frame(b"\x81\x80", Err(Violation::Masked));
        check_frame(b"\xc1\x00", Err(Violation::Reserved(0xc1)));
        check_frame(b"\x83\x00", Err(Violation::Opcode(3)));
    }
}
