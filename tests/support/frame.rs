//! Frames as the tests' client sends them, well-formed or not, and as it receives them.

use std::fmt;

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The mask of every frame, so that a server which forgets to unmask is found.
const MASK: [u8; 4] = [0xA1, 0x5E, 0x83, 0x0C];

/// A frame to send; made well-formed, and then spoilt where a test wants it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// FIN and reserved bits, in the places that they have on the wire.
    flags: u8,
    opcode: u8,
    is_masked: bool,
    length_form: LengthForm,
    /// Announced in place of the payload's own length.
    announced: Option<u64>,
    payload: Vec<u8>,
}

/// How many bytes the payload's length is written with.
#[derive(Clone, Copy, Debug)]
enum LengthForm {
    Shortest,
    Two,
    Eight,
}

impl Sent {
    fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref().to_vec();
        Self { flags: 0x80, opcode, is_masked: true, length_form: LengthForm::Shortest, announced: None, payload }
    }

    pub(crate) fn text(payload: impl AsRef<[u8]>) -> Self {
        Self::new(TEXT, payload)
    }

    pub(crate) fn binary(payload: impl AsRef<[u8]>) -> Self {
        Self::new(BINARY, payload)
    }

    pub(crate) fn continuation(payload: impl AsRef<[u8]>) -> Self {
        Self::new(CONTINUATION, payload)
    }

    pub(crate) fn ping(payload: impl AsRef<[u8]>) -> Self {
        Self::new(PING, payload)
    }

    pub(crate) fn pong(payload: impl AsRef<[u8]>) -> Self {
        Self::new(PONG, payload)
    }

    pub(crate) fn close(code: u16, reason: &str) -> Self {
        Self::close_body([&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// A close frame with any body.
    pub(crate) fn close_body(body: impl AsRef<[u8]>) -> Self {
        Self::new(CLOSE, body)
    }

    /// Any opcode, reserved ones too.
    pub(crate) fn opcode(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self::new(opcode, payload)
    }

    /// More fragments follow.
    pub(crate) fn unfinished(mut self) -> Self {
        self.flags &= !0x80;
        self
    }

    /// With these of the three reserved bits set.
    pub(crate) fn reserved(mut self, bits: u8) -> Self {
        self.flags |= bits << 4;
        self
    }

    pub(crate) fn unmasked(mut self) -> Self {
        self.is_masked = false;
        self
    }

    /// The length in 16 bits, whether or not that is its shortest form.
    pub(crate) fn length_in_two_bytes(mut self) -> Self {
        self.length_form = LengthForm::Two;
        self
    }

    /// The length in 64 bits, whether or not that is its shortest form.
    pub(crate) fn length_in_eight_bytes(mut self) -> Self {
        self.length_form = LengthForm::Eight;
        self
    }

    /// Announces this length, whatever follows.
    pub(crate) fn announcing(mut self, length: u64) -> Self {
        self.announced = Some(length);
        self
    }

    /// The bytes on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = self.announced.unwrap_or(self.payload.len() as u64);
        let mask_bit = if self.is_masked { 0x80 } else { 0 };
        let mut bytes = vec![self.flags | self.opcode];
        match self.length_form {
            LengthForm::Shortest if length <= 125 => bytes.push(mask_bit | length as u8),
            LengthForm::Shortest | LengthForm::Two if length <= 0xFFFF => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        if self.is_masked {
            bytes.extend_from_slice(&MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend_from_slice(&self.payload);
        }
        bytes
    }
}

/// A frame that the server sent: whole, without a mask and without reserved bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn text(payload: impl AsRef<[u8]>) -> Self {
        Self { opcode: TEXT, payload: payload.as_ref().to_vec() }
    }

    pub(crate) fn binary(payload: impl AsRef<[u8]>) -> Self {
        Self { opcode: BINARY, payload: payload.as_ref().to_vec() }
    }

    pub(crate) fn ping(payload: impl AsRef<[u8]>) -> Self {
        Self { opcode: PING, payload: payload.as_ref().to_vec() }
    }

    pub(crate) fn pong(payload: impl AsRef<[u8]>) -> Self {
        Self { opcode: PONG, payload: payload.as_ref().to_vec() }
    }

    /// Decodes the frame at the front of `bytes`; returns it with its length on the wire, once it is all there.
    ///
    /// # Panics
    /// When a server may not send such a frame.
    #[track_caller]
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, second, rest @ ..] = bytes else { return None };
        let opcode = first & 0x0F;
        assert_eq!(first & 0xF0, 0x80, "the server's frames are whole and have no reserved bits");
        assert!(matches!(opcode, TEXT | BINARY | CLOSE | PING | PONG), "the server sent opcode {opcode:#x}");
        assert_eq!(second & 0x80, 0, "the server's frames have no mask");
        let (head, length) = match second & 0x7F {
            126 => (4, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
            length => (2, u64::from(length)),
        };
        let form = [(2, 0..=125), (4, 126..=0xFFFF), (10, 0x1_0000..=u64::MAX)];
        assert!(form.iter().any(|(size, range)| *size == head && range.contains(&length)), "a length in a longer form");
        assert!(opcode < CLOSE || length <= 125, "the server sent a control frame of {length} bytes");
        let end = head + usize::try_from(length).expect("a length that fits this machine");
        let payload = bytes.get(head..end)?.to_vec();
        Some((Self { opcode, payload }, end))
    }

    /// Code and reason, of a close frame that has them.
    pub(crate) fn as_close(&self) -> Option<(u16, &str)> {
        match &self.payload[..] {
            [high, low, reason @ ..] if self.opcode == CLOSE => {
                let reason = std::str::from_utf8(reason).expect("a close reason is UTF-8");
                Some((u16::from_be_bytes([*high, *low]), reason))
            }
            _ => None,
        }
    }

    /// Whether this is a close frame with this code, and a reason that contains `words`.
    pub(crate) fn is_close(&self, code: u16, words: &str) -> bool {
        self.as_close().is_some_and(|(other, reason)| other == code && reason.contains(words))
    }

    /// The payload as text, for looking into it.
    #[track_caller]
    pub(crate) fn as_text(&self) -> &str {
        assert_eq!(self.opcode, TEXT, "expected a text frame, got {self:?}");
        std::str::from_utf8(&self.payload).expect("the server's text is UTF-8")
    }
}

/// Short enough for a test's failure: `text "hi"`, `close 1009 "message …"`.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 150;
        let (name, payload) = match (self.opcode, &self.payload[..]) {
            (TEXT, payload) => ("text".to_owned(), payload),
            (BINARY, payload) => ("binary".to_owned(), payload),
            (PING, payload) => ("ping".to_owned(), payload),
            (PONG, payload) => ("pong".to_owned(), payload),
            (_, [high, low, reason @ ..]) => (format!("close {}", u16::from_be_bytes([*high, *low])), reason),
            (_, payload) => ("close".to_owned(), payload),
        };
        let shown = &payload[..payload.len().min(SHOWN_MAX)];
        let more = if payload.len() > SHOWN_MAX { format!("… ({} bytes)", payload.len()) } else { String::new() };
        match std::str::from_utf8(shown) {
            Ok(text) => write!(f, "{name} {text:?}{more}"),
            Err(_) => write!(f, "{name} b\"{}\"{more}", shown.escape_ascii()),
        }
    }
}
