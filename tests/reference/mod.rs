//! tungstenite as the reference for the frame reader; by it go the properties, and the fuzz target `frames`.

use std::io::{self, Cursor, Read, Write};

use pombo::frame::{Event, Reader, Violation};
use pombo::message::Kind;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

/// What a reader may hold besides a message: its box with a control frame's 125 bytes.
const OVERHEAD_BYTES_MAX: usize = 256;

/// One event, comparable whoever decoded it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Self {
        match event {
            Event::Message { kind: Kind::Text, payload } => Self::Text(payload.as_slice().to_vec()),
            Event::Message { kind: Kind::Binary, payload } => Self::Binary(payload.as_slice().to_vec()),
            Event::Fragment => unreachable!("not looked at: what fragments join to counts"),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close { code, reason } => Self::Close(code.map(|code| (code, (*reason).to_owned()))),
        }
    }
}

impl From<Message> for Seen {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.as_bytes().to_vec()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(frame) => Self::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string()))),
            Message::Frame(frame) => panic!("a reading socket yields no raw frame: {frame:?}"),
        }
    }
}

/// Reads `bytes` in pieces as `sizes` says, over and over; stops at a violation or a close frame.
pub(crate) fn read(bytes: &[u8], sizes: &[usize], max: usize) -> (Vec<Seen>, Result<(), Violation>) {
    let mut reader = Reader::default();
    let mut seen = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at((*sizes.next().expect("endless")).clamp(1, rest.len()));
        rest = behind;
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            let (length, event) = reader.read(&mut piece[at..], max);
            at += length;
            match event {
                Ok(Some(Event::Fragment)) => {}
                Ok(Some(event)) => seen.push(Seen::from(&event)),
                Ok(None) => break,
                Err(violation) => return (seen, Err(violation)),
            }
            if let Some(Seen::Close(_)) = seen.last() {
                return (seen, Ok(()));
            }
        }
        assert_eq!(at, piece.len(), "no event, so everything was taken");
        let held = reader.bytes_held();
        assert!(held <= max + OVERHEAD_BYTES_MAX, "{held} bytes held");
        assert!(held <= 2 * (bytes.len() - rest.len()) + 2 * OVERHEAD_BYTES_MAX, "{held} bytes held");
    }
    (seen, Ok(()))
}

/// [`read`], but receiving directly whenever the reader offers it.
pub(crate) fn read_directly(bytes: &[u8], size: usize, max: usize) -> (Vec<Seen>, Result<(), Violation>) {
    let mut reader = Reader::default();
    let mut seen = Vec::new();
    let mut at = 0;
    while at < bytes.len() && !matches!(seen.last(), Some(Seen::Close(_))) {
        if let Some((buffer, room)) = reader.direct() {
            let end = bytes.len().min(at + room.min(size));
            buffer.extend_from_slice(&bytes[at..end]);
            at = end;
            match reader.direct_done(max) {
                Ok(event) => seen.extend(whole(event.as_ref())),
                Err(violation) => return (seen, Err(violation)),
            }
            continue;
        }
        let end = bytes.len().min(at + size);
        let mut piece = bytes[at..end].to_vec();
        let (length, event) = reader.read(&mut piece, max);
        at += length;
        match event {
            Ok(event) => seen.extend(whole(event.as_ref())),
            Err(violation) => return (seen, Err(violation)),
        }
    }
    (seen, Ok(()))
}

/// What was seen, unless it is a part of what is to come.
fn whole(event: Option<&Event<'_>>) -> Option<Seen> {
    event.filter(|event| **event != Event::Fragment).map(Seen::from)
}

/// A peer that sends these bytes and listens to nothing.
struct Peer<'a>(Cursor<&'a [u8]>);

impl Read for Peer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite reads of `bytes`, up to a close frame, a violation, or their end.
pub(crate) fn reference(bytes: &[u8], role: Role, max: usize) -> (Vec<Seen>, Result<(), tungstenite::Error>) {
    let config = WebSocketConfig::default().max_message_size(Some(max)).max_frame_size(Some(max));
    let mut socket = WebSocket::from_raw_socket(Peer(Cursor::new(bytes)), role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => seen.push(Seen::from(message)),
            Err(tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (seen, Ok(()));
            }
            Err(error) => return (seen, Err(error)),
        }
        if let Some(Seen::Close(_)) = seen.last() {
            return (seen, Ok(()));
        }
    }
}

/// The same events up to the same frame, and nothing taken that the reference refuses.
///
/// The place where each refuses within a frame differs: the reference looks at whole frames. It also
/// takes a length that is not in its shortest form, and answers a bad close code instead of failing.
/// A frame refused by us alone shows as an event that only the reference has.
#[track_caller]
pub(crate) fn check_against_reference(bytes: &[u8], sizes: &[usize], max: usize) {
    let (seen, end) = read(bytes, sizes, max);
    let (mut by_reference, reference_end) = reference(bytes, Role::Server, max);
    // Its word for a bad code; and it does not know the registered 1014.
    if by_reference.last() == Some(&Seen::Close(Some((1002, "Protocol violation".to_owned())))) {
        by_reference.pop();
    }
    let ours = match &seen[..] {
        [ours @ .., Seen::Close(Some((1014, _)))] => ours,
        ours => ours,
    };
    if end == Ok(()) {
        assert!(reference_end.is_ok(), "taken, but the reference says {:?}", reference_end);
    }
    // A control frame that gives its length in two bytes is too long for us, whatever it then says.
    if let Err(Violation::LengthNotMinimal(_) | Violation::ControlTooLong) = end {
        assert!(by_reference.starts_with(ours));
    } else {
        assert_eq!(ours, &by_reference[..]);
    }
    let whole = read(bytes, &[bytes.len()], max);
    assert_eq!(whole, (seen, end), "the cuts change nothing");
}
