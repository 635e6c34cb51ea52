//! Reads what a client sends, in place, one event at a time (RFC 6455, section 5).
//!
//! A session owns a reader; its shard's thread runs it. Whole frames are borrowed from the received bytes.
//! A frame that a read has cut is kept: its header in the reader itself, its payload in a box that exists
//! only while it holds bytes. After a [`Violation`] or a close event the reader is not used again.

use super::{
    Opcode, Violation, close,
    head::{Expected, HEAD_BYTES_MAX, Head},
    mask::unmask,
    partial::{Partial, Progress},
};
use crate::message::Kind;

/// Decoder of one client's frames; sans-I/O.
///
/// 24 bytes; holds no heap memory unless a message or a control frame was cut.
///
/// # Examples
/// ```
/// use pombo::frame::{Event, Reader};
/// use pombo::message::Kind;
///
/// // `Hello`, masked: RFC 6455, section 5.7. It comes in two pieces.
/// let mut bytes = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
/// let (first, second) = bytes.split_at_mut(8);
/// let mut reader = Reader::default();
/// assert!(matches!(reader.read(first, 1024), (8, Ok(None))));
/// let (taken, event) = reader.read(second, 1024);
/// let Ok(Some(Event::Message { kind: Kind::Text, payload })) = event else { panic!("it is a text") };
/// assert_eq!((taken, payload.as_slice()), (3, &b"Hello"[..]));
/// ```
#[derive(Debug, Default)]
pub struct Reader {
    /// The received part of a message or a control frame that a read cut. Only [`Self::resume`] sets
    /// it; it is dropped when the message is complete.
    partial: Option<Box<Partial>>,
    /// The first bytes of a frame header that a read cut.
    head: [u8; HEAD_BYTES_MAX],
    /// How many bytes of `head` have arrived; zero between frames and inside a payload.
    head_length: u8,
}

const _: () = assert!(size_of::<Reader>() <= 40, "every session holds a reader");

/// A complete message or frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A data message, unmasked, its fragments joined, text checked to be UTF-8.
    Message {
        /// Which opcode carried it.
        kind: Kind,
        /// Its bytes.
        payload: Payload<'a>,
    },
    /// A fragment that is not the last of its message; the reader has kept its payload.
    ///
    /// An event of its own so that the caller can count frames: an empty fragment costs as much to decode as any other.
    Fragment,
    /// A ping, which asks for a pong with the same payload of 0 to 125 bytes.
    Ping(&'a [u8]),
    /// A pong with its payload of 0 to 125 bytes.
    Pong(&'a [u8]),
    /// The close frame; bytes after it are ignored.
    Close {
        /// The code, checked by [`close::is_valid_from_peer`]; `None` when the frame had no body.
        code: Option<u16>,
        /// The reason, at most 123 bytes.
        reason: &'a str,
    },
}

/// A message's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A slice of the input.
    Borrowed(&'a [u8]),
    /// Joined from several reads or frames; can be shared without a copy.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    /// Returns the bytes, wherever they are.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Reader {
    /// Decodes, and unmasks in place, from the front of `input` up to and including one event.
    ///
    /// Returns how many bytes of `input` it took, and the event. `None` means that all of `input` was taken and kept, and no
    /// event is complete yet. A message may have `message_bytes_max` bytes, all fragments added up.
    ///
    /// Copies nothing and allocates nothing for a frame that is whole inside `input` and not part of
    /// a fragmented message.
    ///
    /// # Errors
    /// A violation, as soon as the bytes prove it: of a header before its payload has come, of a
    /// text at its first bad byte. The count has no meaning then.
    #[inline(always)]
    pub fn read<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> (usize, Result<Option<Event<'a>>, Violation>) {
        if self.partial.is_none() && self.head_length == 0 {
            let expected = Expected { is_continuing: false, joined: 0, message_bytes_max };
            match Head::parse(input, expected) {
                Ok(Some(head)) if head.is_final => {
                    // The sum cannot overflow: no slice is longer than `isize::MAX`.
                    if input.len() - head.length >= head.payload_length {
                        let end = head.length + head.payload_length;
                        return (end, whole(head, &mut input[head.length..end]).map(Some));
                    }
                }
                Err(violation) => return (input.len(), Err(violation)),
                Ok(_) => {}
            }
        }
        self.resume(input, message_bytes_max)
    }

    /// The slow path of [`Self::read`]: a frame was cut before `input`, or by its end, or belongs to a fragmented message.
    #[inline(never)]
    fn resume<'a>(
        &'a mut self,
        input: &'a mut [u8],
        message_bytes_max: usize,
    ) -> (usize, Result<Option<Event<'a>>, Violation>) {
        self.partial.take_if(|partial| partial.is_spent());
        let mut at = 0;
        loop {
            if let Some(partial) = &mut self.partial
                && let Some((length, progress)) = partial.fill(&input[at..], message_bytes_max)
            {
                at += length;
                return match progress {
                    Ok(progress) => (at, self.event(progress)),
                    Err(violation) => (at, Err(violation)),
                };
            }
            let (length, head) = self.take_head(&input[at..], message_bytes_max);
            at += length;
            let head = match head {
                Ok(Some(head)) => head,
                Ok(None) => return (at, Ok(None)),
                Err(violation) => return (at, Err(violation)),
            };
            let is_alone = head.is_final && head.opcode != Opcode::Continuation;
            if is_alone && input.len() - at >= head.payload_length {
                let end = at + head.payload_length;
                return (end, whole(head, &mut input[at..end]).map(Some));
            }
            self.partial.get_or_insert_with(|| Box::new(Partial::new())).begin(head);
        }
    }

    /// Takes a frame header, or the part of it that has arrived, from the front of `input`.
    fn take_head(&mut self, input: &[u8], message_bytes_max: usize) -> (usize, Result<Option<Head>, Violation>) {
        let (is_continuing, joined) =
            self.partial.as_ref().map_or((false, 0), |partial| (partial.is_continuing(), partial.joined()));
        let before = usize::from(self.head_length);
        let length = input.len().min(HEAD_BYTES_MAX - before);
        self.head[before..before + length].copy_from_slice(&input[..length]);
        let bytes = &self.head[..before + length];
        match Head::parse(bytes, Expected { is_continuing, joined, message_bytes_max }) {
            Ok(Some(head)) => {
                self.head_length = 0;
                (head.length - before, Ok(Some(head)))
            }
            Ok(None) => {
                self.head_length = u8::try_from(bytes.len()).expect("a head has at most 14 bytes");
                (length, Ok(None))
            }
            Err(violation) => (length, Err(violation)),
        }
    }

    /// Makes the event for the progress of the partial frame or message.
    fn event(&mut self, progress: Progress) -> Result<Option<Event<'_>>, Violation> {
        match progress {
            Progress::Pending => Ok(None),
            Progress::Fragment => Ok(Some(Event::Fragment)),
            Progress::Message(kind) => {
                let message = self.partial.take().map_or_else(Vec::new, |partial| partial.into_message());
                Ok(Some(Event::Message { kind, payload: Payload::Owned(message) }))
            }
            Progress::Control(opcode) => {
                let payload = self.partial.as_ref().map_or(&[][..], |partial| partial.control());
                control(opcode, payload).map(Some)
            }
        }
    }

    /// Returns whether a message, a control frame, or a header has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        self.head_length > 0 || self.partial.as_ref().is_some_and(|partial| !partial.is_spent())
    }

    /// Returns how many bytes of memory it holds for incomplete messages and frames; zero if there are none.
    ///
    /// A control frame that was cut holds some 200 bytes until the next [`Self::read`].
    pub fn bytes_held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes_held())
    }

    /// Offers the message's own buffer to receive into, while more than 64 KiB of a data frame are to
    /// come and enough of the message has arrived.
    ///
    /// Append at most the returned number of bytes, then call [`Self::direct_done`] before any other
    /// method. The number is the buffer's spare capacity, so the caller may fill the buffer. The capacity doubles
    /// with the bytes that have arrived; it never goes straight to the announced length.
    pub fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        self.partial.as_mut()?.direct()
    }

    /// Takes the bytes that were appended to [`Self::direct`]'s buffer, which may be none.
    ///
    /// # Errors
    /// As [`Self::read`].
    ///
    /// # Panics
    /// When more bytes were appended than `direct` allowed and than the frame has left.
    pub fn direct_done<'a>(&'a mut self, message_bytes_max: usize) -> Result<Option<Event<'a>>, Violation> {
        match &mut self.partial {
            Some(partial) if partial.is_receiving() => {
                let progress = partial.take(message_bytes_max)?;
                self.event(progress)
            }
            _ => Ok(None),
        }
    }
}

/// Makes an event of a final frame with its complete payload, which it unmasks.
#[inline(always)]
fn whole(head: Head, payload: &mut [u8]) -> Result<Event<'_>, Violation> {
    let is_ascii = unmask(payload, head.mask);
    let kind = match head.opcode {
        Opcode::Text if is_ascii || simdutf8::basic::from_utf8(payload).is_ok() => Kind::Text,
        Opcode::Text => return Err(Violation::TextNotUtf8),
        Opcode::Binary => Kind::Binary,
        opcode => return control(opcode, payload),
    };
    Ok(Event::Message { kind, payload: Payload::Borrowed(payload) })
}

/// Makes an event of a control frame's unmasked payload.
fn control(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match opcode {
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => close_event(payload),
        Opcode::Continuation | Opcode::Text | Opcode::Binary => unreachable!("data frames do not come here"),
    }
}

/// Checks a close frame's body (RFC 6455, sections 5.5.1 and 7.4).
fn close_event(body: &[u8]) -> Result<Event<'_>, Violation> {
    let Some((code, reason)) = body.split_first_chunk() else {
        return if body.is_empty() {
            Ok(Event::Close { code: None, reason: "" })
        } else {
            Err(Violation::CloseBodyTooShort)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !close::is_valid_from_peer(code) {
        return Err(Violation::CloseCodeInvalid(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReasonNotUtf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests {
    use super::{super::partial::meter, *};

    const MAX: usize = 1 << 20;
    const MASK: [u8; 4] = [0xA1, 0x5E, 0x83, 0x0C];

    /// A client frame, `first` being its first byte, with the length in its shortest form.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(0x80 | length as u8),
            length @ 126..=0xFFFF => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&MASK);
        let from = bytes.len();
        bytes.extend_from_slice(payload);
        unmask(&mut bytes[from..], MASK);
        bytes
    }

    /// Shows an event as the tables write it: `"text hi"`, `"ping x"`, `"close 1000 bye"`.
    fn describe(event: &Event<'_>) -> String {
        match event {
            Event::Message { kind: Kind::Text, payload } => format!("text {}", payload.as_slice().escape_ascii()),
            Event::Message { kind: Kind::Binary, payload } => format!("binary {}", payload.as_slice().escape_ascii()),
            Event::Fragment => "fragment".to_owned(),
            Event::Ping(payload) => format!("ping {}", payload.escape_ascii()),
            Event::Pong(payload) => format!("pong {}", payload.escape_ascii()),
            Event::Close { code: Some(code), reason } => format!("close {code} {reason}"),
            Event::Close { code: None, reason } => format!("close none {reason}"),
        }
    }

    /// Reads `bytes` in pieces of at most `piece`; returns the events, and the violation that ended the reading.
    fn read_all(bytes: &[u8], piece: usize, max: usize) -> (Vec<String>, Result<(), Violation>) {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let mut at = 0;
            loop {
                let (length, event) = reader.read(&mut piece[at..], max);
                at += length;
                match event {
                    Ok(Some(Event::Fragment)) => {}
                    Ok(Some(event)) => events.push(describe(&event)),
                    Ok(None) => {
                        assert_eq!(at, piece.len(), "no event, so all of the input is taken");
                        break;
                    }
                    Err(violation) => return (events, Err(violation)),
                }
            }
        }
        assert!(!reader.is_mid_message(), "nothing is left over");
        (events, Ok(()))
    }

    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: &[&str]) {
        let bytes = frames.concat();
        for piece in [1, 2, 3, 5, 7, 13, 64, 1000, bytes.len()] {
            let (events, end) = read_all(&bytes, piece, MAX);
            assert_eq!(events, expected, "in pieces of {piece}");
            assert_eq!(end, Ok(()), "in pieces of {piece}");
        }
    }

    /// The violation must come with the last byte and not before, in whatever pieces.
    #[track_caller]
    fn check_violation(frames: &[Vec<u8>], expected: Violation) {
        let bytes = frames.concat();
        for piece in [1, 2, 3, 5, 7, bytes.len()] {
            let (_, end) = read_all(&bytes, piece, MAX);
            assert_eq!(end, Err(expected), "in pieces of {piece}");
        }
        let mut reader = Reader::default();
        let (last, before) = bytes.split_last().expect("a violation takes at least one byte");
        for byte in before {
            let mut byte = [*byte];
            let (_, event) = reader.read(&mut byte, MAX);
            assert!(event.is_ok(), "too early: {event:?}");
        }
        assert_eq!(reader.read(&mut [*last], MAX).1, Err(expected), "with the last byte");
    }

    #[test]
    fn messages() {
        check(&[frame(0x81, b"")], &["text "]);
        check(&[frame(0x81, b"alice")], &["text alice"]);
        check(&[frame(0x82, b"\xff\0:")], &["binary \\xff\\x00:"]);
        check(&[frame(0x81, b"a"), frame(0x82, b"b"), frame(0x81, b"c")], &["text a", "binary b", "text c"]);
        check(&[frame(0x81, "seu uid é alice 🐦".as_bytes())], &["text seu uid \\xc3\\xa9 alice \\xf0\\x9f\\x90\\xa6"]);
        for length in [124, 125, 126, 127, 128, 255, 65535, 65536, 65537] {
            let text = "x".repeat(length);
            check(&[frame(0x81, text.as_bytes())], &[&format!("text {text}")]);
        }
    }

    #[test]
    fn fragments_join() {
        check(&[frame(0x01, b"a"), frame(0x80, b"b")], &["text ab"]);
        check(&[frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")], &["text "]);
        check(&[frame(0x02, b"1"), frame(0x00, b"2"), frame(0x00, b""), frame(0x80, b"3")], &["binary 123"]);
        check(&[frame(0x01, b"\xF0\x9F"), frame(0x00, b"\x90"), frame(0x80, b"\xA6")], &["text \\xf0\\x9f\\x90\\xa6"]);
        check(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x81, b"c")], &["text ab", "text c"]);
    }

    #[test]
    fn control_frames_come_at_once_even_inside_a_message() {
        check(&[frame(0x89, b"")], &["ping "]);
        check(&[frame(0x8A, b"x")], &["pong x"]);
        check(&[frame(0x89, &[b'p'; 125])], &[&format!("ping {}", "p".repeat(125))]);
        check(
            &[frame(0x01, b"a"), frame(0x89, b"1"), frame(0x00, b"b"), frame(0x8A, b"2"), frame(0x80, b"c")],
            &["ping 1", "pong 2", "text abc"],
        );
    }

    #[test]
    fn close_frames() {
        check(&[frame(0x88, b"")], &["close none "]);
        check(&[frame(0x88, b"\x03\xE8")], &["close 1000 "]);
        check(&[frame(0x88, b"\x03\xE9tab closed")], &["close 1001 tab closed"]);
        check(&[frame(0x88, "\x0F\0é".as_bytes())], &["close 3840 é"]);
        check_violation(&[frame(0x88, b"\x03")], Violation::CloseBodyTooShort);
        check_violation(&[frame(0x88, b"\x03\xED")], Violation::CloseCodeInvalid(1005));
        check_violation(&[frame(0x88, b"\x00\x00")], Violation::CloseCodeInvalid(0));
        check_violation(&[frame(0x88, b"\x03\xE8\xFF")], Violation::CloseReasonNotUtf8);
        check_violation(&[frame(0x88, b"\x03\xE8\xC3")], Violation::CloseReasonNotUtf8);
    }

    #[test]
    fn bad_headers_are_refused_with_the_byte_that_proves_it() {
        check_violation(&[vec![0x81, 0x05]], Violation::Unmasked);
        check_violation(&[vec![0x89, 0x7F]], Violation::Unmasked);
        check_violation(&[vec![0xC1]], Violation::ReservedBits(4));
        check_violation(&[vec![0xF1]], Violation::ReservedBits(7));
        for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            check_violation(&[vec![0x80 | opcode]], Violation::ReservedOpcode(opcode));
            check_violation(&[frame(0x81, b"a"), vec![opcode]], Violation::ReservedOpcode(opcode));
        }
        check_violation(&[vec![0x08]], Violation::FragmentedControl);
        check_violation(&[vec![0x09]], Violation::FragmentedControl);
        check_violation(&[vec![0x0A]], Violation::FragmentedControl);
        check_violation(&[vec![0x89, 0xFE]], Violation::ControlTooLong);
        check_violation(&[vec![0x88, 0xFF]], Violation::ControlTooLong);
        check_violation(&[vec![0x81, 0xFE, 0, 125]], Violation::LengthNotMinimal(125));
        check_violation(&[vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]], Violation::LengthNotMinimal(65535));
        check_violation(&[vec![0x82, 0xFF, 0x80]], Violation::LengthTopBit);
    }

    #[test]
    fn fragments_out_of_order_are_refused() {
        check_violation(&[vec![0x80]], Violation::ContinuationWithoutStart);
        check_violation(&[vec![0x00]], Violation::ContinuationWithoutStart);
        check_violation(&[frame(0x81, b"a"), vec![0x80]], Violation::ContinuationWithoutStart);
        check_violation(&[frame(0x01, b"a"), frame(0x80, b"b"), vec![0x00]], Violation::ContinuationWithoutStart);
        check_violation(&[frame(0x01, b"a"), vec![0x81]], Violation::DataInsideMessage);
        check_violation(&[frame(0x01, b"a"), frame(0x89, b""), vec![0x02]], Violation::DataInsideMessage);
    }

    #[test]
    fn text_is_refused_with_its_first_bad_byte() {
        let begin = |payload: &[u8]| {
            let mut bytes = frame(0x81, &[payload, &[b'x'; 20]].concat());
            bytes.truncate(bytes.len() - 20);
            bytes
        };
        check_violation(&[begin(b"\xFF")], Violation::TextNotUtf8);
        check_violation(&[begin(b"good so far\x80")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xC0")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xC3x")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xE0\x80")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xED\xA0")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xF4\x90")], Violation::TextNotUtf8);
        check_violation(&[begin(b"\xF0\x9F\x90x")], Violation::TextNotUtf8);
        check_violation(&[frame(0x81, b"\xC3")], Violation::TextNotUtf8);
        check_violation(&[frame(0x01, b"\xC3"), frame(0x80, b"")[..6].to_vec()], Violation::TextNotUtf8);
        check_violation(&[frame(0x01, b"\xF0\x9F"), frame(0x00, b"\x90"), frame(0x80, b"x")], Violation::TextNotUtf8);
    }

    #[track_caller]
    fn check_limit(frames: &[Vec<u8>], max: usize, expected: Result<(), u64>) {
        let bytes = frames.concat();
        let expected = expected.map_err(|length| Violation::MessageTooLarge { length, max });
        for piece in [1, 2, 9, bytes.len()] {
            assert_eq!(read_all(&bytes, piece, max).1, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn limit_is_kept_over_all_fragments_as_soon_as_it_is_announced() {
        check_limit(&[frame(0x81, b"12345")], 5, Ok(()));
        check_limit(&[vec![0x81, 0x86]], 5, Err(6));
        check_limit(&[frame(0x81, b"")], 0, Ok(()));
        check_limit(&[vec![0x81, 0x81]], 0, Err(1));
        check_limit(&[vec![0x82, 0xFE, 0xFF, 0xFF]], 65534, Err(65535));
        check_limit(&[[&[0x82, 0xFF, 0x7F][..], &[0xFF; 7]].concat()], MAX, Err(u64::MAX / 2));
        check_limit(&[frame(0x01, b"123"), frame(0x80, b"45")], 5, Ok(()));
        check_limit(&[frame(0x01, b"123"), vec![0x80, 0x83]], 5, Err(6));
        check_limit(&[frame(0x02, b"12345"), [&[0x80, 0xFF, 0x7F][..], &[0xFF; 7]].concat()], 5, Err(u64::MAX / 2 + 5));
        // Control frames have a limit of their own.
        check_limit(&[frame(0x89, b"123456")], 5, Ok(()));
    }

    #[test]
    fn an_idle_reader_holds_nothing() {
        let mut reader = Reader::default();
        assert_eq!((reader.is_mid_message(), reader.bytes_held()), (false, 0));
        let mut bytes = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
        let (rest, last) = (&mut bytes[..], 9);
        let (length, event) = reader.read(&mut rest[..last + 3], MAX);
        assert_eq!((length, event.map(|event| event.is_some())), (9, Ok(true)));
        // Half a header is no heap.
        assert_eq!(reader.read(&mut rest[9..12], MAX), (3, Ok(None)));
        assert_eq!((reader.is_mid_message(), reader.bytes_held()), (true, 0));
        // A whole payload behind a cut header is borrowed all the same.
        let payload = Payload::Borrowed(b"two");
        assert_eq!(reader.read(&mut rest[12..], MAX), (6, Ok(Some(Event::Message { kind: Kind::Text, payload }))));
        assert_eq!((reader.is_mid_message(), reader.bytes_held()), (false, 0));
    }

    #[test]
    fn a_cut_message_is_owned_and_then_let_go() {
        let mut reader = Reader::default();
        let mut bytes = frame(0x82, &[7; 1000]);
        assert_eq!(reader.read(&mut bytes[..500], MAX), (500, Ok(None)));
        assert!(reader.is_mid_message());
        assert!((492..1000 + 300).contains(&reader.bytes_held()), "{}", reader.bytes_held());
        let (_, event) = reader.read(&mut bytes[500..], MAX);
        let Ok(Some(Event::Message { kind: Kind::Binary, payload: Payload::Owned(message) })) = event else {
            panic!("{event:?}");
        };
        assert_eq!(message, [7; 1000]);
        assert_eq!(message.capacity(), 1000, "so that it becomes shared bytes as it is");
        assert_eq!((reader.is_mid_message(), reader.bytes_held()), (false, 0));
    }

    #[test]
    fn a_cut_control_frame_is_let_go_with_the_next_read() {
        let mut reader = Reader::default();
        let mut bytes = frame(0x89, b"ping");
        assert_eq!(reader.read(&mut bytes[..8], MAX), (8, Ok(None)));
        assert!(reader.is_mid_message());
        assert_eq!(reader.read(&mut bytes[8..], MAX), (2, Ok(Some(Event::Ping(b"ping")))));
        assert!(!reader.is_mid_message());
        assert!(reader.bytes_held() <= 256, "{}", reader.bytes_held());
        assert_eq!(reader.read(&mut [], MAX), (0, Ok(None)));
        assert_eq!(reader.bytes_held(), 0);
    }

    #[test]
    fn a_limit_lowered_under_a_message_ends_it() {
        let mut reader = Reader::default();
        let mut bytes = frame(0x82, &[7; 1000]);
        assert_eq!(reader.read(&mut bytes[..500], MAX), (500, Ok(None)));
        let (_, event) = reader.read(&mut bytes[500..], 600);
        assert_eq!(event, Err(Violation::MessageTooLarge { length: 1000, max: 600 }));
    }

    #[test]
    fn each_byte_is_copied_and_examined_once_however_it_is_cut() {
        let text = "ação 🐦 x".repeat(20_000);
        let (first, rest) = text.as_bytes().split_at(100_001);
        let (second, third) = rest.split_at(7);
        let frames =
            [frame(0x01, first), frame(0x89, b"p"), frame(0x00, second), frame(0x80, third), frame(0x81, b"x")];
        let bytes = frames.concat();
        for piece in [1, 2, 3, 10, 100, 1000, 4096, 65_536, 100_000, bytes.len()] {
            meter::reset();
            let (events, end) = read_all(&bytes, piece, MAX);
            let count = meter::reset();
            assert_eq!((events.len(), end), (3, Ok(())));
            // A control frame and the short message at the end may be cut, and copied, too.
            assert!((text.len()..=text.len() + 2).contains(&count.copied), "pieces of {piece}: {count:?}");
            assert!(count.examined <= text.len() + 2, "pieces of {piece}: {count:?}");
            assert!(count.examined_again <= 3 * (2 + bytes.len() / piece), "pieces of {piece}: {count:?}");
            assert!(count.moved <= 2 * text.len(), "pieces of {piece}: {count:?}");
        }
    }

    #[test]
    fn many_small_fragments_do_not_move_the_message_each_time() {
        let mut bytes = frame(0x02, b"x");
        for _ in 0..20_000 {
            bytes.extend(frame(0x00, b"y"));
        }
        bytes.extend(frame(0x80, b"z"));
        meter::reset();
        assert_eq!(read_all(&bytes, bytes.len(), MAX).1, Ok(()));
        let count = meter::reset();
        assert_eq!((count.copied, count.examined), (20_002, 20_002));
        assert!(count.moved <= 2 * 20_002, "{count:?}");
    }

    /// Receives `bytes` as a session does: into a scratch buffer of 64 KiB, or directly when offered.
    fn receive(bytes: &[u8]) -> (Vec<String>, usize) {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        let (mut at, mut direct_bytes, mut held_max) = (0, 0, 0);
        while at < bytes.len() {
            if let Some((buffer, room)) = reader.direct() {
                assert_eq!(room, buffer.capacity() - buffer.len(), "filling the spare capacity is right");
                let end = bytes.len().min(at + room);
                buffer.extend_from_slice(&bytes[at..end]);
                direct_bytes += end - at;
                at = end;
                events.extend(reader.direct_done(MAX).expect("no violation").as_ref().map(describe));
            } else {
                let end = bytes.len().min(at + 65_536);
                let mut scratch = bytes[at..end].to_vec();
                let mut taken = 0;
                loop {
                    let (length, event) = reader.read(&mut scratch[taken..], MAX);
                    taken += length;
                    match event.expect("no violation") {
                        Some(event) => events.push(describe(&event)),
                        None => break,
                    }
                }
                at = end;
            }
            held_max = held_max.max(reader.bytes_held());
            assert!(reader.bytes_held() <= 2 * at + 512, "no more than twice what has arrived");
        }
        assert!(!reader.is_mid_message());
        assert!(held_max <= MAX + 256, "{held_max}");
        (events, direct_bytes)
    }

    #[test]
    fn large_payloads_are_received_directly_and_not_copied() {
        let text = "é".repeat(MAX / 2);
        meter::reset();
        let (events, direct_bytes) = receive(&[frame(0x81, text.as_bytes()), frame(0x81, b"next")].concat());
        let count = meter::reset();
        assert_eq!(events, [format!("text {}", text.as_bytes().escape_ascii()), "text next".to_owned()]);
        assert!(direct_bytes >= MAX - 3 * 65_536, "{direct_bytes}");
        assert!(count.copied <= MAX - direct_bytes + 4, "{count:?}");
        assert_eq!(count.examined - count.copied, direct_bytes, "{count:?}");

        let half = vec![1; MAX / 2];
        let (events, direct_bytes) = receive(&[frame(0x02, &half), frame(0x89, b""), frame(0x80, &half)].concat());
        assert_eq!(events[..2], ["fragment", "ping "]);
        assert_eq!(events.len(), 3);
        assert!(direct_bytes >= MAX / 2, "{direct_bytes}");
    }

    #[test]
    fn direct_is_offered_only_for_much_of_a_data_frame() {
        let offered = |bytes: &[u8]| {
            let mut reader = Reader::default();
            let mut rest = bytes.to_vec();
            while let (taken, Ok(Some(event))) = reader.read(&mut rest, MAX) {
                assert_eq!(event, Event::Fragment);
                rest.drain(..taken);
            }
            reader.direct().is_some()
        };
        let large = frame(0x82, &[0; 200_000]);
        assert!(!offered(&large[..0]));
        assert!(!offered(&large[..14]), "nothing has arrived");
        assert!(!offered(&large[..14 + 16 * 1024 - 1]), "too little has arrived");
        assert!(offered(&large[..14 + 16 * 1024]));
        assert!(offered(&large[..14 + 200_000 - 65_537]));
        assert!(!offered(&large[..14 + 200_000 - 65_536]), "too little is to come");
        assert!(!offered(&frame(0x02, &[0; 200_000])), "no frame is under way");
        let two = |second: &[u8]| [&frame(0x02, &[0; 400_000])[..], &frame(0x80, second)[..20_000]].concat();
        assert!(offered(&two(&[0; 500_000])));
        assert!(!offered(&two(&[0; 100_000])), "room for more than this frame is reserved already");
        assert!(!offered(&[&frame(0x02, &[0; 200_000])[..], &frame(0x89, b"ping")[..8]].concat()), "a ping is");
        assert_eq!(Reader::default().direct_done(MAX), Ok(None));
    }

    #[test]
    fn direct_finds_the_same_violations() {
        let mut reader = Reader::default();
        let mut bytes = frame(0x81, &[&[b'x'; 100_000][..], &[0xFF], &[b'x'; 100_000]].concat());
        assert_eq!(reader.read(&mut bytes[..14 + 99_990], MAX).1, Ok(None));
        let (buffer, _) = reader.direct().expect("100,000 bytes are to come");
        buffer.extend_from_slice(&bytes[14 + 99_990..14 + 100_000]);
        assert_eq!(reader.direct_done(MAX), Ok(None));
        let (buffer, _) = reader.direct().expect("100,000 bytes are to come");
        buffer.extend_from_slice(&bytes[14 + 100_000..14 + 100_001]);
        assert_eq!(reader.direct_done(MAX), Err(Violation::TextNotUtf8));
    }

    #[test]
    #[should_panic(expected = "more was appended than the frame has left")]
    fn direct_refuses_what_it_did_not_allow() {
        let mut reader = Reader::default();
        let mut bytes = frame(0x82, &[0; 100_000]);
        assert_eq!(reader.read(&mut bytes[..14 + 20_000], MAX).1, Ok(None));
        reader.direct().expect("80,000 bytes are to come").0.extend_from_slice(&[0; 80_001]);
        let _ = reader.direct_done(MAX);
    }
}
