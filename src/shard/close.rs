//! How a session closes, in the steps that let its peer see the close code.
//!
//! 1. The session leaves the registry. Frames that wait in its outbox are kept or dropped ([`Unsent`]).
//! 2. The close frame is sent behind them, and then the end of sending (a FIN).
//! 3. The session lingers: it reads and discards input until the peer ends, `close_timeout`, or a bound. To close a
//!    socket with unread input would send an RST, and the peer might never see the code (RFC 1122, section 4.2.2.13).

use std::io;

use tracing::debug;

use super::Shard;
use super::io::{Network, SessionKey, Socket};
use super::registry::Removed;
use super::session::Phase;
use crate::frame::close;
use crate::presence::Change;
use crate::protocol::{Encoding, Protocol};
use crate::uid::UidHash;

/// Most steps that a turn makes with closing sessions. Each step is a system call or two: thousands of sessions that
/// close at once must not hold up those that stay.
pub(super) const LINGER_STEPS_PER_TURN: usize = 64;

/// Bytes that a closing session reads and discards before it gives up on a clean end.
const DISCARD_BYTES_MAX: u32 = 64 << 20;

/// Why the node closes a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloseReason<'a> {
    /// The close code of the cause, under which the close is counted.
    pub(super) code: u16,
    /// The reason that the peer is sent, cut after 123 bytes.
    pub(super) text: &'a str,
    chosen_by: ChosenBy,
}

/// Where a close code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChosenBy {
    /// The node: the session's protocol translates it to its own code for the same cause.
    Node,
    /// A caller of the API: it is sent unchanged.
    Caller,
}

impl<'a> CloseReason<'a> {
    /// Returns one of the node's causes (see [`close`]) with another text than the code's own meaning.
    pub(super) fn with_text(code: u16, text: &'a str) -> Self {
        Self { code, text, chosen_by: ChosenBy::Node }
    }

    /// Returns the code and the text that a caller of the API has chosen.
    pub(super) fn by_caller(code: u16, text: &'a str) -> Self {
        Self { code, text, chosen_by: ChosenBy::Caller }
    }

    /// Returns the close code for a client that speaks `protocol`.
    fn code_in(&self, protocol: Protocol) -> u16 {
        match self.chosen_by {
            ChosenBy::Node => protocol.close_code(self.code),
            ChosenBy::Caller => self.code,
        }
    }
}

impl CloseReason<'static> {
    /// Returns one of the node's causes, see [`close`]; its text is the code's own meaning.
    pub(super) fn of(code: u16) -> Self {
        Self::with_text(code, close::meaning(code).unwrap_or_default())
    }
}

/// Whether messages that wait in the outbox are still sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// They go out in front of the close frame.
    Keep,
    /// They are dropped and counted, except for a frame of which a part was sent: that is finished.
    Drop,
}

impl<N: Network> Shard<N> {
    /// Begins to close an open session with a close frame.
    pub(super) fn close(&mut self, key: SessionKey, reason: CloseReason<'_>, unsent: Unsent) {
        if self.begin_close(key, unsent) {
            self.stats.count_close(reason.code);
            debug!(
                shard = self.index,
                session = %key,
                code = reason.code,
                reason = reason.text,
                "session closing"
            );
            self.stats.frames_out += 1;
            let Some(session) = self.sessions.present(key) else { return };
            let code = reason.code_in(session.protocol);
            self.append(key, |outbox| outbox.push_close(code, reason.text));
        }
    }

    /// Answers the peer's close frame with its own code.
    pub(super) fn answer_close(&mut self, key: SessionKey, code: Option<u16>) {
        if self.begin_close(key, Unsent::Keep) {
            self.stats.closed_by_peer += 1;
            debug!(shard = self.index, session = %key, code, "session closed by its peer");
            self.stats.frames_out += 1;
            self.append(key, |outbox| match code {
                Some(code) => outbox.push_close(code, ""),
                None => outbox.push_bare_close(),
            });
        }
    }

    /// Handles the end of the peer's stream: frames that are due to the peer are sent, then the session ends.
    pub(super) fn end_of_input(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        match session.phase {
            Phase::Lingering => self.remove(key),
            // It is still sending. A failed connection shows at the next send, a silent one at `close_timeout`.
            Phase::Closing => {}
            Phase::Open => {
                debug!(shard = self.index, session = %key, "session's peer has gone without a close frame");
                if self.begin_close(key, Unsent::Keep) {
                    self.stats.closed_by_peer += 1;
                    // Marked dirty even with nothing to send: the flush then ends it.
                    self.append(key, |_| {});
                }
            }
        }
    }

    /// Ends a session whose connection has failed; messages that were due to it are counted as shed.
    pub(super) fn connection_lost(&mut self, key: SessionKey, error: &io::Error) {
        self.stats.lost += 1;
        debug!(shard = self.index, session = %key, error = %error, "session lost");
        self.remove(key);
    }

    /// Sends the end of the stream, after the last frame.
    pub(super) fn finish(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        match session.socket.finish() {
            Ok(()) => {}
            // TLS has no room for its `close_notify`. The flush calls this again when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return self.block(key).unwrap_or_else(|error| self.connection_lost(key, &error));
            }
            Err(error) => return self.connection_lost(key, &error),
        }
        session.phase = Phase::Lingering;
        // Input that arrived while it was sending was not read; the peer's end may be behind it.
        session.flags.is_readable = true;
        self.enqueue(key);
    }

    /// Makes at most `steps` steps with closing sessions. A step sends the frames that are due to a session, and reads
    /// and discards its input.
    pub(super) fn linger_steps(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(key) = self.lists.next_closing() else { return };
            // It may have ended while it waited on the list.
            let Some(session) = self.sessions.get(key) else { continue };
            debug_assert_ne!(session.phase, Phase::Open, "an open session is on the closing list");
            if session.listed.is_dirty() {
                self.flush_session(key);
            }
            // The flush may have ended it.
            if self.sessions.get(key).is_some_and(|session| session.listed.take_queued()) {
                self.discard(key);
                self.account(key);
            }
            self.enforce_memory_max();
        }
    }

    /// Receives once, and discards the input.
    fn discard(&mut self, key: SessionKey) {
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(session) = self.sessions.present(key) {
            let received = session.socket.receive(&mut scratch);
            if let Some(length) = self.note_received(key, received, scratch.len())
                && let Some(session) = self.sessions.present(key)
            {
                session.discarded = session.discarded.saturating_add(length as u32);
                if session.discarded > DISCARD_BYTES_MAX {
                    self.remove(key);
                } else if session.flags.is_readable {
                    self.enqueue(key);
                }
            }
        }
        self.scratch = scratch;
    }

    /// Takes an open session out of the registry, and stops reading it; returns whether it was open.
    fn begin_close(&mut self, key: SessionKey, unsent: Unsent) -> bool {
        let close_by = self.tick.after(self.settings.close_timeout);
        let Some(session) = self.sessions.present(key) else { return false };
        if session.phase != Phase::Open {
            return false;
        }
        let (hash, encoding) = (session.hash, session.protocol.encoding());
        self.closings += 1;
        self.unregister(hash, encoding, key);
        match unsent {
            Unsent::Keep => self.take_log(key),
            Unsent::Drop => {
                let Some(session) = self.sessions.present(key) else { return false };
                let dropped = session.outbox.as_mut().map_or(0, |outbox| outbox.drop_all());
                self.stats.shed_closed += self.logs.due_frames(session) + dropped;
                self.logs.skip(session);
            }
        }
        let Some(session) = self.sessions.present(key) else { return false };
        session.phase = Phase::Closing;
        session.reader = Default::default();
        session.unread = None;
        (session.flags.is_stalled, session.flags.is_paused) = (false, false);
        session.meter = None;
        session.close_by = close_by;
        session.flags.is_readable = true;
        self.enqueue(key);
        self.wake_at(key, close_by);
        self.account(key);
        true
    }

    /// Takes a session out of the registry and from the receivers of its encoding, if it is registered; reports its
    /// uid's change of presence.
    fn unregister(&mut self, hash: UidHash, encoding: Encoding, key: SessionKey) {
        let removed = self.registry.remove(hash, key);
        if !matches!(removed, Removed::Nothing) {
            self.logs.remove_receiver(encoding);
        }
        let Some(presence) = &self.presence else { return };
        match removed {
            Removed::Last(uid) => presence.send(uid, Change::Offline, self.now),
            Removed::Oldest(uid) => presence.send(uid.into(), Change::Moved, self.now),
            Removed::Younger | Removed::Nothing => {}
        }
    }

    /// Drops a session in any phase.
    pub(super) fn remove(&mut self, key: SessionKey) {
        self.closings += 1;
        let Some(mut session) = self.sessions.remove(key) else {
            debug_assert!(false, "session {key} ends twice");
            return;
        };
        if session.phase == Phase::Open {
            let encoding = session.protocol.encoding();
            self.unregister(session.hash, encoding, key);
            self.stats.shed_closed += self.logs.due_frames(&session);
        }
        self.memory.remove(&mut session);
        if let Some(outbox) = &mut session.outbox {
            self.stats.shed_closed += outbox.abandon();
        }
        self.network.remove(&mut session.socket);
        debug!(shard = self.index, session = %key, peer = session.peer.map(tracing::field::display), "session ended");
    }
}
