//! The broadcasts of a turn, encoded once for all sessions of the shard that take the same encoding.
//!
//! There is one log for each encoding; a broadcast is written to those that have a receiver. Positions run on for ever; each session remembers up to where it has taken the log. A session is
//! sent the rest straight from here; only what its socket refuses is copied for it. When every session
//! has everything, the log is emptied, and positions go on from where they were.

use bytes::Bytes;

use crate::frame::{self, HEADER_BYTES_MAX, Opcode};
use crate::mailbox::SHARE_FROM;
use crate::message::{Kind, Payload};
use crate::protocol::{Encoding, Message};

/// Bytes from which on no more broadcasts are taken before the next flush.
const BYTES_MAX: usize = 1 << 20;

/// Memory that an empty log keeps, in bytes.
const RETAINED_MAX: usize = 64 << 10;

/// A place in the stream of all broadcasts of a shard, in bytes on the wire.
pub type Position = u64;

/// The logs of a shard, by encoding, and how many open sessions receive each.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    logs: [Log; Encoding::COUNT],
    /// Kept by [`Logs::join`] and [`Logs::leave`].
    receivers: [usize; Encoding::COUNT],
}

impl Logs {
    /// Counts one more open session that receives `encoding`.
    pub(crate) fn join(&mut self, encoding: Encoding) {
        self.receivers[encoding as usize] += 1;
    }

    /// Counts one fewer.
    pub(crate) fn leave(&mut self, encoding: Encoding) {
        debug_assert!(self.receivers[encoding as usize] > 0, "more sessions leave than have joined");
        self.receivers[encoding as usize] -= 1;
    }

    /// Returns how many open sessions receive `encoding`.
    #[cfg(all(test, not(pombo_loom)))]
    pub(crate) fn receivers(&self, encoding: Encoding) -> usize {
        self.receivers[encoding as usize]
    }

    /// Returns the log of an encoding.
    #[inline]
    pub(crate) fn of(&self, encoding: Encoding) -> &Log {
        &self.logs[encoding as usize]
    }

    /// As [`Logs::of`], to change it.
    #[inline]
    pub(crate) fn of_mut(&mut self, encoding: Encoding) -> &mut Log {
        &mut self.logs[encoding as usize]
    }

    /// Returns the end of every log: it moves with each broadcast that has a receiver.
    pub(crate) fn ends(&self) -> [Position; Encoding::COUNT] {
        self.logs.each_ref().map(Log::end)
    }

    /// Appends a broadcast to each log that somebody receives, unless its frame is longer than `frame_bytes_max` there; returns how
    /// many sessions do not get it for that.
    pub(crate) fn push(&mut self, message: &mut Message<'_>, frame_bytes_max: usize) -> usize {
        let mut too_long = 0;
        for &encoding in Encoding::ALL {
            let receivers = self.receivers[encoding as usize];
            if receivers == 0 {
                continue;
            }
            let (kind, payload) = message.encoded(encoding);
            if HEADER_BYTES_MAX + payload.as_slice().len() > frame_bytes_max {
                too_long += receivers;
                continue;
            }
            self.logs[encoding as usize].push(kind, payload.clone());
        }
        too_long
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.logs.iter().all(Log::is_empty)
    }

    /// Whether no more broadcasts are to be taken before the next flush.
    pub(crate) fn is_full(&self) -> bool {
        self.logs.iter().any(Log::is_full)
    }

    /// Forgets everything; every session must have taken it.
    pub(crate) fn clear(&mut self) {
        self.logs.iter_mut().for_each(Log::clear);
    }
}

/// The broadcasts of a turn in one encoding.
#[derive(Debug, Default)]
pub struct Log {
    /// Encoded frames back to back, without the payloads that are shared.
    bytes: Vec<u8>,
    frames: Vec<LogFrame>,
    /// Position of the first byte held.
    start: Position,
    /// Position behind the last byte held.
    end: Position,
    /// Whether any frame's payload is shared, so that it doesn't stand in `bytes`.
    has_shared: bool,
}

#[derive(Debug)]
struct LogFrame {
    start: Position,
    /// Where the frame's header, and its payload unless that is shared, starts in `bytes`.
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

    /// Forgets everything; every session must have taken it.
    pub fn clear(&mut self) {
        self.start = self.end;
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_MAX);
        self.frames.clear();
        self.frames.shrink_to(RETAINED_MAX / size_of::<LogFrame>());
        self.has_shared = false;
    }

    /// Returns everything from `from` on if it lies in one piece.
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

    /// Returns where the first frame starts that begins at `position` or behind it; the end if none does.
    pub(crate) fn frame_from(&self, position: Position) -> Position {
        let index = self.frames.partition_point(|frame| frame.start < position);
        self.frames.get(index).map_or(self.end, |frame| frame.start)
    }

    /// Returns how many frames a session that has taken the log up to `from` has not got to their end.
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
