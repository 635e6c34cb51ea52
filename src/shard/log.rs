//! The broadcasts of a turn, encoded once for all sessions of the shard that receive the same encoding.
//!
//! Each session remembers up to which position it has taken the log. The flush sends it the rest straight from the log,
//! and copies only what the socket refuses. When every session has taken everything, the log is emptied; positions go
//! on from where they were.

use bytes::Bytes;

use crate::frame::{self, Opcode};
use crate::mailbox::SHARE_FROM;
use crate::message::{Kind, Payload};

/// Length from which on a log is full: no more broadcasts are taken before the next flush.
const BYTES_MAX: usize = 1 << 20;

/// Memory that an empty log keeps, in bytes.
const RETAINED_MAX: usize = 64 << 10;

/// A place in the stream of all broadcasts of a shard in one encoding, in bytes on the wire.
pub type Position = u64;

/// The broadcasts of a turn in one encoding.
#[derive(Debug, Default)]
pub struct Log {
    /// Encoded frames, one after the other, without shared payloads.
    bytes: Vec<u8>,
    frames: Vec<LogFrame>,
    /// Position of the first byte.
    start: Position,
    /// Position behind the last byte.
    end: Position,
    /// Whether the payload of any frame is shared, and so not in `bytes`.
    has_shared: bool,
}

#[derive(Debug)]
struct LogFrame {
    start: Position,
    /// Index in `bytes` of the frame's header, and of its payload behind that unless it is shared.
    at: usize,
    shared: Option<Bytes>,
}

/// A run of bytes of the log.
#[derive(Debug, Clone, Copy)]
pub enum Run<'a> {
    Encoded(&'a [u8]),
    Shared(&'a Bytes, usize),
}

impl<'a> Run<'a> {
    pub fn as_slice(self) -> &'a [u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Shared(bytes, from) => &bytes[from..],
        }
    }
}

impl Log {
    #[inline]
    pub fn end(&self) -> Position {
        self.end
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start >= BYTES_MAX as u64
    }

    /// Appends a broadcast.
    pub fn push(&mut self, kind: Kind, payload: Payload<'_>) {
        let length = payload.as_slice().len();
        let at = self.bytes.len();
        let opcode = Opcode::from(kind);
        let shared = if length < SHARE_FROM {
            frame::encode(&mut self.bytes, opcode, payload.as_slice());
            None
        } else {
            self.has_shared = true;
            self.bytes.extend_from_slice(frame::Header::new(opcode, length).as_slice());
            Some(payload.into_shared())
        };
        self.frames.push(LogFrame { start: self.end, at, shared });
        let on_wire = self.bytes.len() - at + self.frames.last().and_then(|f| f.shared.as_ref()).map_or(0, Bytes::len);
        self.end += on_wire as u64;
    }

    /// Empties the log; every session must have taken it.
    pub fn clear(&mut self) {
        self.start = self.end;
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_MAX);
        self.frames.clear();
        self.frames.shrink_to(RETAINED_MAX / size_of::<LogFrame>());
        self.has_shared = false;
    }

    /// Returns all bytes from `from` on, if they are contiguous.
    #[inline]
    pub(crate) fn only_piece(&self, from: Position) -> Option<&[u8]> {
        if self.has_shared { None } else { Some(&self.bytes[(from - self.start) as usize..]) }
    }

    /// Calls `take` with the runs of bytes in `from..to` until it returns false.
    #[inline]
    pub fn runs<'a>(&'a self, from: Position, to: Position, mut take: impl FnMut(Run<'a>) -> bool) {
        if from == to {
            return;
        }
        if !self.has_shared {
            let (from, to) = ((from - self.start) as usize, (to - self.start) as usize);
            take(Run::Encoded(&self.bytes[from..to]));
            return;
        }
        self.runs_among_shared(from, to, take);
    }

    /// Returns the start of the first frame that starts at `position` or later; the end of the log if there is none.
    pub(crate) fn frame_from(&self, position: Position) -> Position {
        let index = self.frames.partition_point(|frame| frame.start < position);
        self.frames.get(index).map_or(self.end, |frame| frame.start)
    }

    /// Returns how many frames end behind `from`: those that a session at this position has not got whole.
    pub(crate) fn frames_from(&self, from: Position) -> usize {
        let is_begun = self.frame_from(from) != from;
        usize::from(is_begun) + self.frames.len() - self.frames.partition_point(|frame| frame.start < from)
    }

    fn runs_among_shared<'a>(&'a self, from: Position, to: Position, mut take: impl FnMut(Run<'a>) -> bool) {
        let first = self.frames.partition_point(|frame| frame.start <= from) - 1;
        for (index, frame) in self.frames.iter().enumerate().skip(first) {
            if frame.start >= to {
                return;
            }
            let encoded_end = self.frames.get(index + 1).map_or(self.bytes.len(), |next| next.at);
            let skip = from.saturating_sub(frame.start) as usize;
            let encoded = &self.bytes[frame.at..encoded_end];
            if skip < encoded.len() && !take(Run::Encoded(&encoded[skip..])) {
                return;
            }
            if let Some(shared) = &frame.shared
                && !take(Run::Shared(shared, skip.saturating_sub(encoded.len())))
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(log: &Log, from: Position, to: Position) -> Vec<u8> {
        let mut all = Vec::new();
        log.runs(from, to, |run| {
            all.extend_from_slice(run.as_slice());
            true
        });
        all
    }

    #[test]
    fn any_tail_is_the_tail_of_all_frames() {
        for sizes in [&[1, 2, 3][..], &[SHARE_FROM], &[1, SHARE_FROM, 5, SHARE_FROM + 1, SHARE_FROM, 7]] {
            let (mut log, mut expected, mut starts) = (Log::default(), Vec::new(), Vec::new());
            log.push(Kind::Text, Payload::Borrowed(b"earlier"));
            log.clear();
            let start = log.end();
            for &size in sizes {
                starts.push(expected.len());
                let payload = vec![b'a' + size as u8 % 7; size];
                frame::encode(&mut expected, Opcode::Binary, &payload);
                log.push(Kind::Binary, Payload::Borrowed(&payload));
            }
            assert_eq!(log.end() - start, expected.len() as u64);
            for cut in 0..=expected.len() {
                assert_eq!(bytes(&log, start + cut as u64, log.end()), expected[cut..], "from {cut}");
                let next = starts.iter().copied().find(|&at| at >= cut).unwrap_or(expected.len());
                assert_eq!(log.frame_from(start + cut as u64), start + next as u64);
                let ends = starts.iter().copied().skip(1).chain([expected.len()]);
                assert_eq!(log.frames_from(start + cut as u64), ends.filter(|&end| end > cut).count());
            }
            for window in starts.windows(2) {
                let (from, to) = (window[0], window[1]);
                assert_eq!(bytes(&log, start + from as u64, start + to as u64), expected[from..to]);
            }
        }
    }

    #[test]
    fn is_full_by_bytes_and_empty_when_cleared() {
        let mut log = Log::default();
        assert!(log.is_empty());
        let message = Bytes::from(vec![0; BYTES_MAX]);
        log.push(Kind::Binary, Payload::Shared(message));
        assert!(log.is_full() && !log.is_empty());
        log.clear();
        assert!(log.is_empty() && !log.is_full());
    }
}
