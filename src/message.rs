//! An application message's kind and payload, and the outcome of a push.

use bytes::Bytes;

/// Kind of a data message: which opcode carries it (RFC 6455, section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text; checked where the node received it.
    Text,
    /// Bytes, delivered unchanged.
    Binary,
}

/// A payload on its way through the node.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    /// Bytes in the receive buffer; copied where they must outlive the turn.
    Borrowed(&'a [u8]),
    /// Bytes with shared ownership; a clone costs one atomic operation and no copy.
    Shared(Bytes),
}

impl Payload<'_> {
    /// Returns the bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Returns the bytes with shared ownership; copies them once if they are borrowed.
    pub fn into_shared(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// The outcome of a push to one uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The message was accepted into the outbox of this many sessions, at least one.
    Delivered {
        /// Sessions that took it.
        sessions: usize,
    },
    /// Nobody with this uid is logged in.
    Offline,
    /// The uid is online, but none of its sessions took the message.
    Shed(Shed),
}

/// Why no session of a uid took a message; each is counted in [`crate::Stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shed {
    /// The session is a slow consumer: its outbox had no room. The policy `disconnect` closed the session.
    OutboxFull,
    /// The message is longer than an outbox; no session was closed for it.
    TooLong,
    /// The session's connection failed while the message was being delivered.
    Lost,
}

impl Shed {
    /// Each reason, in the order of the table in `docs/push.md`.
    pub const ALL: &'static [Self] = &[Self::OutboxFull, Self::TooLong, Self::Lost];

    /// Returns its name in answers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox-full",
            Self::TooLong => "too-long",
            Self::Lost => "lost",
        }
    }
}
