//! One logged-in connection.

use bytes::Bytes;

use super::expiry::Expiry;
use super::handover::{LoginNumber, Permit};
use super::lists::Listed;
use super::log::Position;
use super::memory::Counted;
use super::meter::Meter;
use super::outbox::Outbox;
use super::wheel::Tick;
use crate::clock::WallTime;
use crate::frame::Reader;
use crate::message::Kind;
use crate::peer::Peer;
use crate::protocol::{Protocol, Span};
use crate::rights::Rights;
use crate::uid::UidHash;

/// A session; touched by its shard's thread only, from hand-over to close.
///
/// Every field here costs each idle connection its bytes; rare state is boxed.
#[derive(Debug)]
pub(crate) struct Session<S> {
    pub(crate) socket: S,
    pub(crate) reader: Reader,
    /// Bytes received and not decoded yet: a budget ran out, or the session must wait.
    pub(crate) unread: Option<Box<Unread>>,
    /// Its token buckets; absent while no rate is limited.
    pub(crate) meter: Option<Box<Meter>>,
    /// Frames that wait for the socket; absent when none do.
    pub(crate) outbox: Option<Box<Outbox>>,
    /// Position up to which it has taken the broadcast log of its encoding; between turns the end of that log.
    pub(crate) log_from: Position,
    pub(crate) hash: UidHash,
    pub(crate) login: LoginNumber,
    pub(crate) peer: Option<Peer>,
    pub(crate) _permit: Permit,
    /// When it was handed over; not computed from a clock again, so that each query gets the same time.
    pub(crate) since: WallTime,
    /// When bytes were last received.
    pub(crate) heard: Tick,
    /// While a message is arriving: when its first byte came.
    pub(crate) message_since: Tick,
    /// While closing: when to stop waiting for the peer.
    pub(crate) close_by: Tick,
    /// The tick of its entry on the wheel; entries for other ticks are stale.
    pub(crate) timer: Tick,
    /// Memory it holds, as of its last [`Memory::update`](super::memory::Memory::update).
    pub(crate) held: Counted<u32>,
    /// The serial number of its key; [`super::sessions::Sessions::insert`] draws it.
    pub(crate) serial: u32,
    /// When its credential expires.
    pub(crate) expires: Expiry,
    /// While closing: bytes received and discarded.
    pub(crate) discarded: u32,
    pub(crate) phase: Phase,
    /// The protocol of its client: decides what its messages mean, and in which encoding it receives messages.
    pub(crate) protocol: Protocol,
    /// The messages that its client may send.
    pub(crate) rights: Rights,
    pub(crate) flags: Flags,
    pub(crate) listed: Listed,
}

impl<S> Session<S> {
    /// Whether there may be something to receive or to decode.
    pub(super) fn has_input(&self) -> bool {
        self.unread.is_some() || self.flags.is_readable
    }

    /// Whether a flush that has sent everything is done: no outbox to return, no memory to account for, no watch to
    /// change, no end of the stream to send.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        let is_idle = self.outbox.is_none() && self.held.get() == 0 && self.phase == Phase::Open;
        is_idle && !self.flags.is_watched && !self.flags.has_pong
    }

    /// Returns its message that waits for room in the mail, if there is one.
    pub(super) fn stalled_message(&self) -> Option<&StalledMessage> {
        self.unread.as_deref().and_then(|Unread { stalled, .. }| stalled.as_ref())
    }

    /// Returns the memory that its peer can make it hold, in bytes: by sending, and by not reading.
    pub(super) fn holdings(&self) -> u32 {
        let unread = self.unread.as_ref().map_or(0, |unread| unread.holdings());
        let outbox = self.outbox.as_ref().map_or(0, |outbox| outbox.held());
        u32::try_from(self.reader.bytes_held() + unread + outbox).unwrap_or(u32::MAX)
    }
}

/// The phase of a session's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Logged in; in the registry.
    Open,
    /// Its last frames wait for the socket; its input is discarded.
    Closing,
    /// Everything was sent, the end of the stream included; it waits for the peer's end.
    Lingering,
}

/// The state of the socket, and the conditions that hold the session back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// There may be bytes to receive.
    pub(crate) is_readable: bool,
    /// The poller has seen the end of the peer's stream: a short read does not mean that the socket is empty.
    pub(crate) is_read_closed: bool,
    /// The socket refused bytes and has not become writable since.
    pub(crate) is_blocked: bool,
    /// The poller watches for writability.
    pub(crate) is_watched: bool,
    /// Not read, as its message waits for room in the mail.
    pub(crate) is_stalled: bool,
    /// Not read, as it is over its rate.
    pub(crate) is_paused: bool,
    /// A ping was sent since bytes were last received.
    pub(crate) is_pinged: bool,
    /// A part of a message has arrived.
    pub(crate) is_mid_message: bool,
    /// A pong is in the outbox.
    pub(crate) has_pong: bool,
}

/// Received bytes that are not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    pub(crate) bytes: Vec<u8>,
    /// Index at which decoding continues.
    pub(crate) at: usize,
    /// A message that was decoded before these bytes, and that the mail had no room for; see [`super::stall`].
    pub(crate) stalled: Option<StalledMessage>,
}

impl Unread {
    fn holdings(&self) -> usize {
        self.bytes.capacity() + self.stalled.as_ref().map_or(0, StalledMessage::bytes)
    }
}

/// A message that waits for room in the mail.
#[derive(Debug)]
pub(crate) struct StalledMessage {
    /// Hash of the recipient's uid; 0 for a broadcast.
    pub(crate) hash: UidHash,
    /// Text or binary.
    pub(crate) kind: Kind,
    /// The message as it was received.
    pub(crate) message: Bytes,
    /// The recipient's uid in `message`; empty for a broadcast.
    pub(crate) uid: Span,
    /// The payload in `message`.
    pub(crate) payload: Span,
}

impl StalledMessage {
    /// Returns the memory that it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.message.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::transport::Stream;

    /// Grown unseen, this would cost every idle connection; see `docs/performance.md` before raising it.
    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<Session<Stream>>() <= 192, "{} bytes", size_of::<Session<Stream>>());
    }
}
