//! What clients ask for, whatever protocol they speak.

use std::ops::Range;

use crate::rights::Rights;

/// Where a part of a client's message stands in it, in bytes: what is received is neither copied nor borrowed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of its first byte.
    pub start: usize,
    /// Index behind its last byte.
    pub end: usize,
}

impl Span {
    /// Returns it as what slices are indexed by.
    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// Who receives a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The sessions of one uid, which stands there in the message.
    Uid(Span),
    /// Every logged-in session, the sender's too.
    Everybody,
}

impl Recipient {
    /// Returns what a client without the right to send to this recipient is told.
    pub fn refusal(self) -> &'static str {
        match self {
            Self::Uid(_) => "not allowed to send to a uid, this login lacks the right unicast",
            Self::Everybody => "not allowed to send to all, this login lacks the right broadcast",
        }
    }

    /// Returns what a client must have the right to.
    #[inline]
    pub fn right(self) -> Rights {
        match self {
            Self::Uid(_) => Rights::UNICAST,
            Self::Everybody => Rights::BROADCAST,
        }
    }
}

/// What a data message of a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// To send a part of it.
    Send {
        /// Who receives it.
        recipient: Recipient,
        /// The part that is delivered.
        payload: Span,
    },
    /// To send all of it back.
    Echo,
}

/// Why a data message asks for nothing; the protocol's own words for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);
