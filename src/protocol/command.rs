//! The commands of clients, the same for every protocol.

use std::ops::Range;

use crate::rights::Rights;

/// The byte range of a part of a client's message. It neither copies nor borrows the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of its first byte.
    pub start: usize,
    /// Index after its last byte.
    pub end: usize,
}

impl Span {
    /// Returns the range to index a slice with.
    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start..self.end
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
        let is_within = |span: Span| span.start <= span.end && span.end <= length;
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
