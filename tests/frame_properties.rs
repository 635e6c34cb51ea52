//! The frame reader and writer against tungstenite as the reference, under every way of cutting the bytes.

mod reference;

use pombo::{
    frame::{Extent, Opcode, Reader, Violation, close, encode, encode_close, extent},
    message::Kind,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use reference::{Seen, check_against_reference, read, read_directly, reference};
use tokio_tungstenite::tungstenite::protocol::{
    Role,
    frame::{
        Frame, FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

/// Limit that generated messages keep, so that only mutated ones pass it.
const MESSAGE_BYTES_MAX: usize = 200_000;
/// What a client sends: one message in fragments, with control frames between them.
#[derive(Clone, Debug)]
struct Sent {
    kind: Kind,
    payload: Vec<u8>,
    cuts: Vec<Index>,
    controls: Vec<(Index, bool, Vec<u8>)>,
    masks: Vec<[u8; 4]>,
}

impl Sent {
    fn frames(&self) -> Vec<Frame> {
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(self.payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(self.payload.len());
        let (mut from, last) = (0, cuts.len() - 1);
        let mut frames = Vec::new();
        for (number, end) in cuts.into_iter().enumerate() {
            let data = match (number, self.kind) {
                (0, Kind::Text) => Data::Text,
                (0, Kind::Binary) => Data::Binary,
                _ => Data::Continue,
            };
            let piece = self.payload[from..end].to_vec();
            frames.push(Frame::message(piece, OpCode::Data(data), number == last));
            from = end;
        }
        for (place, is_ping, payload) in &self.controls {
            let payload = payload.clone();
            let frame = if *is_ping { Frame::ping(payload) } else { Frame::pong(payload) };
            frames.insert(place.index(frames.len() + 1), frame);
        }
        for (frame, mask) in frames.iter_mut().zip(self.masks.iter().cycle()) {
            frame.header_mut().mask = Some(*mask);
        }
        frames
    }
}

/// Formats frames as a client would send them.
fn wire(frames: Vec<Frame>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.format(&mut bytes).expect("a vector takes everything");
    }
    bytes
}

/// What these frames mean, worked out from the frames themselves.
fn meaning(frames: &[Frame]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut message: Option<(Data, Vec<u8>)> = None;
    for frame in frames {
        let payload = frame.payload().to_vec();
        match frame.header().opcode {
            OpCode::Control(Control::Ping) => seen.push(Seen::Ping(payload)),
            OpCode::Control(Control::Pong) => seen.push(Seen::Pong(payload)),
            OpCode::Control(_) => unreachable!("only pings and pongs are generated here"),
            OpCode::Data(data) => {
                let (_, joined) = message.get_or_insert((data, Vec::new()));
                joined.extend(payload);
                if frame.header().is_final {
                    let (data, joined) = message.take().expect("just inserted");
                    seen.push(if data == Data::Text { Seen::Text(joined) } else { Seen::Binary(joined) });
                }
            }
        }
    }
    seen
}

fn text() -> impl Strategy<Value = String> {
    let pieces =
        vec(prop_oneof![Just("a"), Just("é"), Just("€"), Just("🐦"), Just("hello, world; "), Just("\0")], 0..40);
    pieces.prop_map(|pieces| pieces.concat())
}

fn payload() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        4 => text().prop_map(|text| (Kind::Text, text.into_bytes())),
        4 => vec(any::<u8>(), 0..300).prop_map(|bytes| (Kind::Binary, bytes)),
        1 => (any::<u8>(), 60_000..140_000usize).prop_map(|(byte, length)| (Kind::Binary, vec![byte; length])),
        1 => (text(), 200..400usize).prop_map(|(text, count)| (Kind::Text, text.repeat(count).into_bytes())),
    ]
    .prop_filter("within the limit", |(_, payload)| payload.len() <= MESSAGE_BYTES_MAX)
}

fn sent(payload: impl Strategy<Value = (Kind, Vec<u8>)>) -> impl Strategy<Value = Sent> {
    let cuts = prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<Index>(), 0..6)];
    let controls = vec((any::<Index>(), any::<bool>(), vec(any::<u8>(), 0..=125)), 0..3);
    let masks = vec(any::<[u8; 4]>(), 1..4);
    (payload, cuts, controls, masks).prop_map(|((kind, payload), cuts, controls, masks)| Sent {
        kind,
        payload,
        cuts,
        controls,
        masks,
    })
}

fn small() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        text().prop_map(|text| (Kind::Text, text.into_bytes())),
        vec(any::<u8>(), 0..140).prop_map(|bytes| (Kind::Binary, bytes)),
    ]
}

fn frames_of(sent: &[Sent]) -> Vec<Frame> {
    sent.iter().flat_map(Sent::frames).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_a_client_sends_is_what_is_read_however_it_is_cut(
        sent in vec(sent(payload()), 1..6),
        sizes in vec(prop_oneof![1..20usize, 20..2000usize, 2000..100_000usize], 1..8),
    ) {
        let frames = frames_of(&sent);
        let expected = meaning(&frames);
        let bytes = wire(frames);
        let (by_reference, end) = reference(&bytes, Role::Server, MESSAGE_BYTES_MAX);
        prop_assert!(end.is_ok());
        prop_assert!(by_reference == expected, "the reference agrees with what was encoded");
        for sizes in [&[bytes.len()][..], &[65_536], &sizes] {
            let (seen, end) = read(&bytes, sizes, MESSAGE_BYTES_MAX);
            prop_assert_eq!(end, Ok(()));
            prop_assert!(seen == expected, "in pieces of {:?}", sizes);
        }
        for size in [65_536, sizes[0].max(100)] {
            let (seen, end) = read_directly(&bytes, size, MESSAGE_BYTES_MAX);
            prop_assert_eq!(end, Ok(()));
            prop_assert!(seen == expected, "directly in pieces of {:?}", size);
        }
    }

    #[test]
    fn every_single_cut_and_every_equal_piece_reads_the_same(sent in vec(sent(small()), 1..4)) {
        let frames = frames_of(&sent);
        let expected = meaning(&frames);
        let bytes = wire(frames);
        for cut in 1..bytes.len() {
            let (seen, end) = read(&bytes, &[cut, bytes.len()], MESSAGE_BYTES_MAX);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(&seen, &expected, "cut at {}", cut);
        }
        for size in 1..=16 {
            let (seen, end) = read(&bytes, &[size], MESSAGE_BYTES_MAX);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(&seen, &expected, "in pieces of {}", size);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_taken_or_refused_as_the_reference_does(
        bytes in vec(any::<u8>(), 0..200),
        sizes in vec(1..50usize, 1..4),
        max in prop_oneof![Just(125usize), Just(1000)],
    ) {
        check_against_reference(&bytes, &sizes, max);
    }

    #[test]
    fn frames_with_random_headers_are_taken_or_refused_as_the_reference_does(
        headers in vec((any::<u8>(), any::<u8>(), any::<[u8; 4]>(), vec(any::<u8>(), 0..10), any::<bool>()), 1..8),
        sizes in vec(1..50usize, 1..4),
    ) {
        let mut bytes = Vec::new();
        for (first, second, mask, payload, is_well_formed) in headers {
            // Most random headers are bad at once; let some through so that their sequence is tried.
            let (first, second) = if is_well_formed {
                let opcode = [0, 1, 2, 8, 9, 10][usize::from(first & 0x7F) % 6];
                (first & 0x80 | opcode, 0x80 | payload.len() as u8)
            } else {
                (first, second)
            };
            bytes.extend([first, second]);
            bytes.extend(mask);
            bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| (byte & 0x7F) ^ key));
        }
        check_against_reference(&bytes, &sizes, 125);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn good_frames_with_one_byte_changed_are_taken_or_refused_as_the_reference_does(
        sent in vec(sent(small()), 1..4),
        changes in vec((any::<Index>(), any::<u8>()), 1..3),
        sizes in vec(1..50usize, 1..4),
    ) {
        let mut bytes = wire(frames_of(&sent));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        check_against_reference(&bytes, &sizes, 150);
    }

    #[test]
    fn close_frames_are_taken_or_refused_as_the_reference_does(
        code in prop_oneof![any::<u16>(), 990..1020u16],
        reason in prop_oneof![text().prop_map(String::into_bytes), vec(any::<u8>(), 0..123)],
        length in 0..=125usize,
        mask in any::<[u8; 4]>(),
        size in 1..200usize,
    ) {
        let mut body = [&code.to_be_bytes()[..], &reason].concat();
        body.truncate(length);
        let header = FrameHeader { mask: Some(mask), ..FrameHeader::default() };
        let bytes = wire(vec![Frame::from_payload(header, body.into())]);
        check_against_reference(&bytes, &[size], 125);
    }

    #[test]
    fn text_is_refused_with_its_first_bad_byte_in_one_frame_or_several(
        pieces in vec(prop_oneof![
            3 => text().prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..4),
            1 => Just(b"\xF0\x9F\x90".to_vec()),
            1 => Just(b"\xED\xA0\x80".to_vec()),
        ], 1..8),
        cuts in vec(any::<Index>(), 0..4),
        size in 1..9usize,
        mask in any::<[u8; 4]>(),
    ) {
        let sent = Sent { kind: Kind::Text, payload: pieces.concat(), cuts, controls: Vec::new(), masks: vec![mask] };
        let frames = sent.frames();
        let expected = first_bad_place(&frames);
        let bytes = wire(frames);
        let mut reader = Reader::default();
        let refused = bytes.iter().position(|byte| reader.read(&mut [*byte], MESSAGE_BYTES_MAX).1.is_err());
        prop_assert_eq!(refused.map(|index| index + 1), expected);
        let end = if expected.is_some() { Err(Violation::TextNotUtf8) } else { Ok(()) };
        prop_assert_eq!(read(&bytes, &[size], MESSAGE_BYTES_MAX).1, end);
        prop_assert_eq!(read(&bytes, &[bytes.len()], MESSAGE_BYTES_MAX).1, end);
    }
}

/// How many bytes of the wire prove that one text message, in these frames, is not UTF-8.
fn first_bad_place(frames: &[Frame]) -> Option<usize> {
    let is_hopeless = |text: &[u8]| std::str::from_utf8(text).is_err_and(|error| error.error_len().is_some());
    let (mut place, mut joined) = (0, Vec::new());
    for frame in frames {
        place += frame.len() - frame.payload().len();
        for byte in frame.payload() {
            place += 1;
            joined.push(*byte);
            if is_hopeless(&joined) {
                return Some(place);
            }
        }
    }
    std::str::from_utf8(&joined).is_err().then_some(place)
}

#[derive(Clone, Debug)]
enum Written {
    Data(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        3 => payload().prop_map(|(kind, payload)| Written::Data(kind, payload)),
        1 => vec(any::<u8>(), 0..=125).prop_map(Written::Ping),
        1 => vec(any::<u8>(), 0..=125).prop_map(Written::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_what_a_client_reads_and_extent_walks_it(
        written in vec(written(), 0..8),
        code in (0..close::ALL.len()).prop_map(|index| close::ALL[index].0),
        reason in text(),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let mut extents = Vec::new();
        for item in written {
            let from = bytes.len();
            let (opcode, payload, seen) = match item {
                Written::Data(Kind::Text, payload) => (Opcode::Text, payload.clone(), Seen::Text(payload)),
                Written::Data(Kind::Binary, payload) => (Opcode::Binary, payload.clone(), Seen::Binary(payload)),
                Written::Ping(payload) => (Opcode::Ping, payload.clone(), Seen::Ping(payload)),
                Written::Pong(payload) => (Opcode::Pong, payload.clone(), Seen::Pong(payload)),
            };
            encode(&mut bytes, opcode, &payload);
            expected.push(seen);
            extents.push(Extent { length: bytes.len() - from, is_control: opcode.is_control() });
        }
        let from = bytes.len();
        encode_close(&mut bytes, code, &reason);
        extents.push(Extent { length: bytes.len() - from, is_control: true });

        let (mut seen, end) = reference(&bytes, Role::Client, MESSAGE_BYTES_MAX);
        prop_assert!(end.is_ok());
        let Some(Seen::Close(Some((seen_code, seen_reason)))) = seen.pop() else {
            return Err(TestCaseError::fail("no close frame at the end"));
        };
        prop_assert_eq!(seen_code, code);
        prop_assert!(reason.starts_with(&seen_reason));
        prop_assert!(seen_reason.len() > 119 || seen_reason == reason, "cut only where it must be");
        prop_assert!(seen == expected, "the client reads what was written");

        let mut at = 0;
        for expected in extents {
            prop_assert_eq!(extent(&bytes[at..]), Some(expected));
            at += expected.length;
        }
        prop_assert_eq!((at, extent(&bytes[at..])), (bytes.len(), None));
    }
}
