//! An application message's kind, and what became of a push.

/// Kind of a data message: which opcode carries it (RFC 6455, section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8 text; checked where it came in.
    Text,
    /// Bytes, delivered unchanged.
    Binary,
}

/// What became of a push to one uid.
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
    /// Every session of the uid is a slow consumer whose outbox had no room.
    Shed,
}
