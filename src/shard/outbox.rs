//! The queue of encoded frames that wait for one session's socket; small payloads are copied, large ones shared.
//!
//! A session has one only while frames wait. The header of each frame gives its length, so that frames can be dropped
//! one by one: only whole unsent data frames, never a frame of which a part was sent, never a control frame. A header
//! never spans two chunks.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::memory::Counted;
use crate::frame::{self, HEADER_BYTES_MAX, Opcode};
use crate::mailbox::SHARE_FROM;
use crate::message::Payload;

/// Length from which on a new chunk is begun, so that a long outbox is not moved as it grows.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Unsent bytes in all chunks.
    bytes: usize,
    /// Unsent bytes at the front that must not be dropped: the rest of a frame of which a part was sent, and control
    /// frames.
    fixed: usize,
    /// Of the fixed bytes, those at the front that are the rest of a data frame.
    begun: usize,
    /// Bytes in all chunks that were sent or dropped, but still take up memory.
    gone: usize,
    /// The payload of the latest ping, if its pong waits until everything else was sent.
    late_pong: Option<Vec<u8>>,
    /// Bytes that its shard has counted; see [`Memory`](super::memory::Memory).
    pub(super) counted: Counted<usize>,
}

#[derive(Debug)]
struct Chunk {
    content: Content,
    /// Bytes at the front that were sent or dropped; their memory is freed with the chunk.
    gone: usize,
}

#[derive(Debug)]
enum Content {
    /// Frames, or their headers.
    Copied(Vec<u8>),
    /// The payload of the frame whose header ends the chunk before it.
    Shared(Bytes),
}

impl Chunk {
    fn new(content: Content) -> Self {
        Self { content, gone: 0 }
    }

    /// Returns the unsent bytes.
    #[inline]
    fn as_slice(&self) -> &[u8] {
        match &self.content {
            Content::Copied(bytes) => &bytes[self.gone..],
            Content::Shared(bytes) => &bytes[self.gone..],
        }
    }
}

impl Outbox {
    /// Returns the unsent bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the memory that the frames take up, in bytes, without the spare capacity of chunks.
    pub(crate) fn held(&self) -> usize {
        self.bytes + self.gone
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a frame.
    #[inline]
    pub fn push(&mut self, opcode: Opcode, payload: &Payload<'_>) {
        if let Payload::Shared(bytes) = payload
            && bytes.len() >= SHARE_FROM
        {
            let header = frame::Header::new(opcode, bytes.len());
            self.append(header.as_slice());
            self.append_shared(bytes.clone());
            return;
        }
        let payload = payload.as_slice();
        let tail = self.tail(HEADER_BYTES_MAX + payload.len());
        let before = tail.len();
        frame::encode(tail, opcode, payload);
        self.bytes += tail.len() - before;
    }

    /// Appends a close frame.
    pub(crate) fn push_close(&mut self, code: u16, reason: &str) {
        let tail = self.tail(127);
        let before = tail.len();
        frame::encode_close(tail, code, reason);
        self.bytes += tail.len() - before;
    }

    /// Appends a close frame without a code.
    pub(crate) fn push_bare_close(&mut self) {
        self.append(frame::Header::new(Opcode::Close, 0).as_slice());
    }

    /// Keeps the payload of a pong to be sent after everything else; replaces an earlier one.
    pub(crate) fn set_late_pong(&mut self, payload: &[u8]) {
        self.late_pong = Some(payload.to_vec());
    }

    /// Takes the payload of the pong that waits until everything else was sent.
    pub(crate) fn take_late_pong(&mut self) -> Option<Vec<u8>> {
        self.late_pong.take()
    }

    /// Appends encoded bytes: whole frames, or the continuation of the bytes before.
    pub(crate) fn append(&mut self, encoded: &[u8]) {
        self.tail(encoded.len()).extend_from_slice(encoded);
        self.bytes += encoded.len();
    }

    /// Appends the payload, or the rest of it, of the frame whose header was appended last.
    pub(crate) fn append_shared(&mut self, payload: Bytes) {
        self.bytes += payload.len();
        self.chunks.push_back(Chunk::new(Content::Shared(payload)));
    }

    /// Notes that the first `count` unsent bytes, just appended to an empty outbox, are the rest of a data frame.
    pub(crate) fn fix(&mut self, count: usize) {
        debug_assert_eq!((self.fixed, self.bytes), (0, count));
        (self.fixed, self.begun) = (count, count);
    }

    /// Returns the unsent bytes, if they are contiguous.
    #[inline]
    pub(crate) fn only_piece(&self) -> Option<&[u8]> {
        if self.chunks.len() == 1 { self.chunks.front().map(Chunk::as_slice) } else { None }
    }

    /// Fills `pieces` with the unsent bytes in order; returns how many pieces, and how many bytes they hold.
    #[inline]
    pub fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (piece, chunk) in pieces.iter_mut().zip(&self.chunks) {
            *piece = IoSlice::new(chunk.as_slice());
            bytes += piece.len();
            count += 1;
        }
        (count, bytes)
    }

    /// Removes the first `count` unsent bytes: they were sent.
    pub fn sent(&mut self, mut count: usize) {
        debug_assert!(count <= self.bytes);
        if count == self.bytes {
            self.clear();
            return;
        }
        while count >= self.fixed {
            count -= self.fixed;
            let fixed = std::mem::take(&mut self.fixed);
            self.begun = 0;
            self.skip(0, fixed);
            if count == 0 {
                return;
            }
            let extent = self.extent_at(0);
            self.fixed = extent.length;
            self.begun = if extent.is_control { 0 } else { extent.length };
        }
        self.fixed -= count;
        self.begun = self.begun.saturating_sub(count);
        self.skip(0, count);
    }

    /// Drops the oldest whole unsent data frame; returns whether there was one.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        loop {
            if self.fixed == self.bytes {
                return false;
            }
            let first = self.split_behind_fixed();
            let extent = self.extent_at(first);
            if extent.is_control {
                self.fixed += extent.length;
                continue;
            }
            self.skip(first, extent.length);
            return true;
        }
    }

    /// Drops every whole unsent data frame; returns how many.
    pub(crate) fn drop_all(&mut self) -> u64 {
        let mut dropped = 0;
        while self.drop_oldest() {
            dropped += 1;
        }
        dropped
    }

    /// Drops everything; returns how many data frames had not been sent whole.
    pub(crate) fn abandon(&mut self) -> u64 {
        let frames = u64::from(self.begun > 0) + self.drop_all();
        self.clear();
        frames
    }

    /// Empties the outbox for its next session; it keeps the memory of one chunk.
    pub(crate) fn clear(&mut self) {
        self.chunks.truncate(1);
        match self.chunks.front_mut() {
            Some(Chunk { content: Content::Copied(bytes), gone }) => {
                bytes.clear();
                *gone = 0;
            }
            _ => self.chunks.clear(),
        }
        (self.bytes, self.fixed, self.begun, self.gone) = (0, 0, 0, 0);
    }

    /// Returns the memory that an empty outbox keeps, in bytes.
    pub(crate) fn retained(&self) -> usize {
        let chunk = match self.chunks.front() {
            Some(Chunk { content: Content::Copied(bytes), .. }) => bytes.capacity(),
            _ => 0,
        };
        chunk + self.chunks.capacity() * size_of::<Chunk>() + size_of::<Self>()
    }

    /// Asserts the invariants of an outbox.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(
            self.chunks.iter().map(|chunk| chunk.as_slice().len()).sum::<usize>(),
            self.bytes,
            "bytes are counted"
        );
        assert!(self.begun <= self.fixed && self.fixed <= self.bytes, "{} begun, {} fixed", self.begun, self.fixed);
        assert_eq!(
            self.chunks.iter().map(|chunk| chunk.gone).sum::<usize>(),
            self.gone,
            "bytes that are gone are counted"
        );
        // Behind the fixed bytes there are only whole frames.
        let mut content: Vec<u8> = Vec::new();
        self.chunks.iter().for_each(|chunk| content.extend(chunk.as_slice()));
        let mut rest = &content[self.fixed..];
        while let Some(extent) = frame::extent(rest) {
            assert!(extent.length <= rest.len(), "the last frame is incomplete");
            rest = &rest[extent.length..];
        }
        assert!(rest.is_empty(), "{} bytes are no frame", rest.len());
    }

    /// Returns the chunk to append `length` bytes to.
    #[inline]
    fn tail(&mut self, length: usize) -> &mut Vec<u8> {
        match self.chunks.back() {
            Some(Chunk { content: Content::Copied(bytes), .. })
                if bytes.is_empty() || bytes.len() + length <= CHUNK_BYTES => {}
            _ => self.chunks.push_back(Chunk::new(Content::Copied(Vec::new()))),
        }
        match self.chunks.back_mut() {
            Some(Chunk { content: Content::Copied(bytes), .. }) => bytes,
            _ => unreachable!("a copied chunk was just made sure of"),
        }
    }

    /// Returns the extent of the frame at the front of chunk `index`.
    fn extent_at(&self, index: usize) -> frame::Extent {
        frame::extent(self.chunks[index].as_slice()).expect("a header is never cut over two chunks")
    }

    /// Removes bytes that were sent or dropped, from the front of chunk `index` on; frees chunks that are empty then.
    fn skip(&mut self, index: usize, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let chunk = &mut self.chunks[index];
            let step = count.min(chunk.as_slice().len());
            chunk.gone += step;
            self.gone += step;
            count -= step;
            if chunk.as_slice().is_empty() {
                self.gone -= chunk.gone;
                self.chunks.remove(index);
            }
        }
    }

    /// Splits a chunk, if need be, so that the first byte behind the fixed ones begins a chunk; returns that chunk's
    /// index.
    fn split_behind_fixed(&mut self) -> usize {
        let mut left = self.fixed;
        let mut index = 0;
        while left > 0 {
            let held = self.chunks[index].as_slice().len();
            if held > left {
                // The fixed bytes are copied to a chunk of their own; their old memory stays with the rest of this one.
                let bytes = self.chunks[index].as_slice()[..left].to_vec();
                self.chunks[index].gone += left;
                self.gone += left;
                self.chunks.insert(index, Chunk::new(Content::Copied(bytes)));
                return index + 1;
            }
            left -= held;
            index += 1;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(outbox: &Outbox) -> Vec<u8> {
        outbox.chunks.iter().flat_map(Chunk::as_slice).copied().collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Data(usize),
        Control,
        Sent(usize),
        DropOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop_oneof![0_usize..300, SHARE_FROM..SHARE_FROM + 2].prop_map(Step::Data),
            1 => Just(Step::Control),
            2 => (0_usize..5000).prop_map(Step::Sent),
            3 => Just(Step::DropOldest),
        ]
    }

    proptest! {
        /// Against a list of whole frames: bytes, order, and which frame a drop takes.
        #[test]
        fn agrees_with_a_list_of_frames(steps in proptest::collection::vec(step(), 0..120)) {
            let mut outbox = Outbox::default();
            // Unsent part of each frame, whether it was begun, whether it is control.
            let mut naive: VecDeque<(Vec<u8>, bool, bool)> = VecDeque::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Data(length) => {
                        let payload = Bytes::from(vec![number as u8; length]);
                        let mut frame = Vec::new();
                        frame::encode(&mut frame, Opcode::Binary, &payload);
                        naive.push_back((frame, false, false));
                        outbox.push(Opcode::Binary, &Payload::Shared(payload));
                    }
                    Step::Control => {
                        let mut frame = Vec::new();
                        frame::encode(&mut frame, Opcode::Ping, b"p");
                        naive.push_back((frame, false, true));
                        outbox.push(Opcode::Ping, &Payload::Borrowed(b"p"));
                    }
                    Step::Sent(count) => {
                        let mut left = count.min(outbox.bytes());
                        outbox.sent(left);
                        while left > 0 {
                            let (frame, begun, _) = &mut naive[0];
                            let step = left.min(frame.len());
                            frame.drain(..step);
                            *begun = true;
                            left -= step;
                            if frame.is_empty() {
                                naive.pop_front();
                            }
                        }
                    }
                    Step::DropOldest => {
                        let oldest = naive.iter().position(|(_, begun, control)| !begun && !control);
                        prop_assert_eq!(outbox.drop_oldest(), oldest.is_some());
                        if let Some(oldest) = oldest {
                            naive.remove(oldest);
                        }
                    }
                }
                let expected: Vec<u8> = naive.iter().flat_map(|(frame, ..)| frame.iter().copied()).collect();
                prop_assert_eq!(outbox.bytes(), expected.len());
                prop_assert_eq!(content(&outbox), expected);
            }
            let unfinished = naive.iter().filter(|(.., control)| !control).count() as u64;
            prop_assert_eq!(outbox.abandon(), unfinished);
            prop_assert!(outbox.is_empty());
        }
    }

    #[test]
    fn emptied_it_keeps_one_small_chunk() {
        let mut outbox = Outbox::default();
        outbox.push(Opcode::Text, &Payload::Borrowed(b"x"));
        outbox.push(Opcode::Text, &Payload::Shared(Bytes::from(vec![0; SHARE_FROM])));
        outbox.sent(outbox.bytes());
        assert!(outbox.is_empty());
        assert!(outbox.retained() < 1024, "{}", outbox.retained());
    }
}
