//! A message, or a control frame, that has not arrived completely yet.
//!
//! Boxed, because most sessions have none most of the time. Fragments and pieces of frames join in
//! one buffer, which grows with the bytes that have arrived: a header that announces a megabyte costs nothing
//! until the megabyte comes.

use super::{Opcode, Violation, head::Head, mask::unmask};
use crate::message::Kind;

/// Longest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// A payload with more bytes than this to come is received straight into the message's buffer.
const DIRECT_BYTES_MIN: usize = 64 * 1024;
/// Smallest buffer for a message that arrives in several reads, unless the message is smaller.
const BUFFER_BYTES_MIN: usize = 256;
/// Bytes of a message that must have arrived before [`Partial::direct`] offers its buffer: the offered room is
/// of the same size, and small rooms would only multiply the receive calls.
const DIRECT_ARRIVED_MIN: usize = 16 * 1024;

/// An incomplete message, and the incomplete frame, which may be a control frame between the message's fragments.
#[derive(Debug)]
pub(super) struct Partial {
    /// The message's bytes so far, fragments joined. `..taken` is unmasked and checked; the vector is longer only
    /// between [`Self::direct`] and [`Self::take`].
    message: Vec<u8>,
    /// How many bytes of `message` are unmasked and checked.
    taken: usize,
    /// How many bytes of a text message are known to be UTF-8: all of `..taken`, except at most three
    /// bytes of a character whose end has not arrived.
    utf8: usize,
    /// The message's kind from its first frame's header to its end; `None` outside a message.
    kind: Option<Kind>,
    /// The frame whose payload has not arrived completely.
    frame: Option<Frame>,
    /// Payload of an incomplete control frame, still masked; it is unmasked when it is complete.
    control: [u8; CONTROL_BYTES_MAX],
    /// How much of `control` has arrived.
    control_length: u8,
}

/// A frame whose payload has not arrived completely.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    /// Mask, rotated so that its first byte is for the next payload byte.
    mask: [u8; 4],
    /// Payload bytes still to come.
    remaining: usize,
}

/// The event that a piece of payload has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// None: more of this frame's payload is to come.
    Pending,
    /// A fragment that is not the last of its message.
    Fragment,
    /// A message; [`Partial::into_message`] has it.
    Message(Kind),
    /// A control frame; [`Partial::control`] has it.
    Control(Opcode),
}

impl Partial {
    /// Makes an empty one.
    pub(super) fn new() -> Self {
        Self {
            message: Vec::new(),
            taken: 0,
            utf8: 0,
            kind: None,
            frame: None,
            control: [0; CONTROL_BYTES_MAX],
            control_length: 0,
        }
    }

    /// Begins a frame; its payload comes next.
    pub(super) fn begin(&mut self, head: Head) {
        match head.opcode {
            Opcode::Text => self.kind = Some(Kind::Text),
            Opcode::Binary => self.kind = Some(Kind::Binary),
            Opcode::Continuation => {}
            Opcode::Close | Opcode::Ping | Opcode::Pong => self.control_length = 0,
        }
        let Head { opcode, is_final, mask, payload_length, .. } = head;
        self.frame = Some(Frame { opcode, is_final, mask, remaining: payload_length });
    }

    /// Copies payload from the front of `input`; returns how many bytes it took, and the progress.
    ///
    /// `None` when no frame waits for payload.
    pub(super) fn fill(
        &mut self,
        input: &[u8],
        message_bytes_max: usize,
    ) -> Option<(usize, Result<Progress, Violation>)> {
        let frame = self.frame?;
        let piece = &input[..input.len().min(frame.remaining)];
        meter::copied(piece.len());
        if frame.opcode.is_control() {
            return Some((piece.len(), Ok(self.fill_control(frame, piece))));
        }
        self.reserve(frame, piece.len(), message_bytes_max);
        self.message.extend_from_slice(piece);
        Some((piece.len(), self.take(message_bytes_max)))
    }

    fn fill_control(&mut self, frame: Frame, piece: &[u8]) -> Progress {
        let from = usize::from(self.control_length);
        let end = from + piece.len();
        self.control[from..end].copy_from_slice(piece);
        self.control_length = u8::try_from(end).expect("a control frame's head announced at most 125 bytes");
        if piece.len() < frame.remaining {
            self.frame = Some(Frame { remaining: frame.remaining - piece.len(), ..frame });
            return Progress::Pending;
        }
        unmask(&mut self.control[..end], frame.mask);
        self.frame = None;
        Progress::Control(frame.opcode)
    }

    /// Unmasks and checks the bytes that were appended to `message` since the last call.
    ///
    /// # Panics
    /// When no data frame waits for payload, or more bytes were appended than it has left.
    pub(super) fn take(&mut self, message_bytes_max: usize) -> Result<Progress, Violation> {
        let mut frame = self.frame.expect("only called with a frame under way");
        let piece = &mut self.message[self.taken..];
        let length = piece.len();
        assert!(length <= frame.remaining, "more was appended than the frame has left");
        meter::examined(length);
        let is_ascii = unmask(piece, frame.mask);
        frame.mask.rotate_left(length % 4);
        frame.remaining -= length;
        // The header's length was checked; this checks again because a reload may have lowered the limit since.
        if self.message.len() > message_bytes_max {
            let length = self.message.len() as u64;
            return Err(Violation::MessageTooLarge { length, max: message_bytes_max });
        }
        if self.kind == Some(Kind::Text) {
            self.check_text(is_ascii)?;
        }
        self.taken = self.message.len();
        if frame.remaining > 0 {
            self.frame = Some(frame);
            return Ok(Progress::Pending);
        }
        self.frame = None;
        match self.kind {
            Some(_) if !frame.is_final => Ok(Progress::Fragment),
            Some(Kind::Text) if self.utf8 < self.taken => Err(Violation::TextNotUtf8),
            Some(kind) => Ok(Progress::Message(kind)),
            None => unreachable!("a data frame has set the kind, or was refused"),
        }
    }

    /// Checks the bytes from `utf8` on to be UTF-8; `is_ascii` says whether the bytes from `taken` on are ASCII.
    fn check_text(&mut self, is_ascii: bool) -> Result<(), Violation> {
        if is_ascii && self.utf8 == self.taken {
            self.utf8 = self.message.len();
            return Ok(());
        }
        meter::examined_again(self.taken - self.utf8);
        match simdutf8::compat::from_utf8(&self.message[self.utf8..]) {
            Ok(text) => self.utf8 += text.len(),
            // Cut inside a character, whose end may still arrive.
            Err(error) if error.error_len().is_none() => self.utf8 += error.valid_up_to(),
            Err(_) => return Err(Violation::TextNotUtf8),
        }
        Ok(())
    }

    /// Makes room for `more` bytes: twice the bytes needed, but no more than the longest that the
    /// message can become.
    fn reserve(&mut self, frame: Frame, more: usize, message_bytes_max: usize) {
        let needed = self.message.len() + more;
        if needed > self.message.capacity() {
            let longest = if frame.is_final { self.message.len() + frame.remaining } else { message_bytes_max };
            self.grow((needed * 2).max(BUFFER_BYTES_MIN).min(longest).max(needed));
        }
    }

    fn grow(&mut self, capacity: usize) {
        meter::moved(self.message.len());
        self.message.reserve_exact(capacity - self.message.len());
    }

    /// See [`super::Reader::direct`].
    pub(super) fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let frame = self.frame.filter(|frame| !frame.opcode.is_control())?;
        let arrived = self.message.len();
        if frame.remaining <= DIRECT_BYTES_MIN || arrived < DIRECT_ARRIVED_MIN {
            return None;
        }
        if self.message.capacity() - arrived < DIRECT_ARRIVED_MIN {
            self.grow((arrived * 2).min(arrived + frame.remaining));
        }
        let room = self.message.capacity() - arrived;
        // Not offered for a fragment that is shorter than the room that earlier fragments reserved.
        (room <= frame.remaining).then_some((&mut self.message, room))
    }

    /// Returns whether a message has begun and not ended.
    pub(super) fn is_continuing(&self) -> bool {
        self.kind.is_some()
    }

    /// Returns whether a data frame waits for payload.
    pub(super) fn is_receiving(&self) -> bool {
        self.frame.is_some_and(|frame| !frame.opcode.is_control())
    }

    /// Returns whether neither a message nor a frame is incomplete.
    pub(super) fn is_spent(&self) -> bool {
        self.kind.is_none() && self.frame.is_none()
    }

    /// Returns how many payload bytes of the message have arrived.
    pub(super) fn joined(&self) -> usize {
        self.message.len()
    }

    /// Returns how many bytes of memory this takes up.
    pub(super) fn bytes_held(&self) -> usize {
        size_of::<Self>() + self.message.capacity()
    }

    /// Returns the payload of the control frame that [`Self::fill`] completed last.
    pub(super) fn control(&self) -> &[u8] {
        &self.control[..usize::from(self.control_length)]
    }

    /// Returns the message, which is complete.
    pub(super) fn into_message(self) -> Vec<u8> {
        self.message
    }
}

/// Counts copies and checks of payload bytes, so that tests can prove that each byte is copied and checked once.
#[cfg(test)]
pub(super) mod meter {
    use std::cell::Cell;

    /// Bytes counted on this thread since the last [`reset`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(in crate::frame) struct Count {
        /// Copied from the input into a buffer of the reader.
        pub(in crate::frame) copied: usize,
        /// Unmasked and looked at.
        pub(in crate::frame) examined: usize,
        /// Checked again, because a character was cut there.
        pub(in crate::frame) examined_again: usize,
        /// Moved, at worst, because a buffer grew.
        pub(in crate::frame) moved: usize,
    }

    thread_local! {
        static COUNT: Cell<Count> = const { Cell::new(Count { copied: 0, examined: 0, examined_again: 0, moved: 0 }) };
    }

    fn add(change: impl FnOnce(&mut Count)) {
        let mut count = COUNT.get();
        change(&mut count);
        COUNT.set(count);
    }

    pub(in crate::frame) fn reset() -> Count {
        COUNT.take()
    }
    pub(super) fn copied(bytes: usize) {
        add(|count| count.copied += bytes);
    }
    pub(super) fn examined(bytes: usize) {
        add(|count| count.examined += bytes);
    }
    pub(super) fn examined_again(bytes: usize) {
        add(|count| count.examined_again += bytes);
    }
    pub(super) fn moved(bytes: usize) {
        add(|count| count.moved += bytes);
    }
}

/// Outside tests nothing is counted.
#[cfg(not(test))]
mod meter {
    pub(super) fn copied(_: usize) {}
    pub(super) fn examined(_: usize) {}
    pub(super) fn examined_again(_: usize) {}
    pub(super) fn moved(_: usize) {}
}
