//! The commands of clients, the same for every protocol.

use std::ops::Range;

use crate::rights::Rights;

/// The byte range of a part of a client's message, of at most 4 GiB. It neither copies nor borrows the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    // Half the size of a range of `usize`: a command is moved several times on its way through a turn.
    start: u32,
    end: u32,
}

impl Span {
    /// Makes the span of the bytes from `start` on, up to the one before `end`.
    #[inline]
    pub const fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= u32::MAX as usize && end <= u32::MAX as usize, "a message has at most 1 GiB");
        Self { start: start as u32, end: end as u32 }
    }

    /// Returns the range to index a slice with.
    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The recipient of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The sessions of one uid; the span is the uid in the client's message.
    Uid(Span),
    /// Every logged-in session, the sender's too.
    Everybody,
}

impl Recipient {
    /// Returns the error text for a client without the right to send to this recipient.
    pub fn refusal(self) -> &'static str {
        match self {
            Self::Uid(_) => "not allowed to send to a uid, this login lacks the right unicast",
            Self::Everybody => "not allowed to send to all, this login lacks the right broadcast",
        }
    }

    /// Returns the right that a client needs to send to this recipient.
    #[inline]
    pub fn right(self) -> Rights {
        match self {
            Self::Uid(_) => Rights::UNICAST,
            Self::Everybody => Rights::BROADCAST,
        }
    }
}

/// The command in a client's data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a part of the message.
    Send {
        /// The recipient.
        recipient: Recipient,
        /// The part that is delivered.
        payload: Span,
    },
    /// Send the whole message back.
    Echo,
}

impl Command {
    /// Says whether every part lies within a message of `length` bytes.
    #[inline]
    pub fn is_within(&self, length: usize) -> bool {
        let is_within = |span: Span| span.start <= span.end && span.end as usize <= length;
        match *self {
            Self::Send { recipient: Recipient::Uid(uid), payload } => is_within(uid) && is_within(payload),
            Self::Send { recipient: Recipient::Everybody, payload } => is_within(payload),
            Self::Echo => true,
        }
    }
}

/// Why a data message is not a command; the text is the protocol's error message for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);
