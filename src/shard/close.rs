//! The end of a session, so that the peer sees why.
//!
//! The registry entry goes at once. What was accepted is kept or dropped as the reason says; the close
//! frame follows; when all is sent, the end of sending (a FIN). Then what the peer still sends is read
//! and thrown away, until its own end, the time-out, or a bound: closing with input unread would send
//! an RST, and the peer might never see the code (RFC 1122, section 4.2.2.13).

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

/// Steps towards the end of closing sessions that are made in a turn: thousands that leave at once cost as many calls of the
/// kernel, and those who stay have their turn in between.
pub(super) const LINGER_STEPS_PER_TURN: usize = 64;

/// Bytes that a closing session reads and throws away before it gives up on a clean end.
const DISCARD_BYTES_MAX: u32 = 64 << 20;

/// Why the node closes a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloseReason<'a> {
    /// The code of the cause, by which it is counted.
    pub(super) code: u16,
    /// At most 123 bytes are sent.
    pub(super) text: &'a str,
    chosen_by: ChosenBy,
}

/// Who has chosen a close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChosenBy {
    /// The node: the session's protocol may have another code for the cause.
    Node,
    /// A caller of the API: it is sent as it is.
    Caller,
}

impl<'a> CloseReason<'a> {
    /// Returns one of the node's causes (see [`close`]) with another text than the code's own meaning.
    pub(super) fn with_text(code: u16, text: &'a str) -> Self {
        Self { code, text, chosen_by: ChosenBy::Node }
    }

    /// Returns what a caller of the API has chosen.
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

/// What becomes of the messages accepted and not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// They go out in front of the close frame.
    Keep,
    /// They are dropped and counted; the frame begun is finished.
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

    /// The peer sends no more: what is due to it goes out, then the session ends.
    pub(super) fn end_of_input(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        match session.phase {
            Phase::Lingering => self.remove(key),
            // Still sending; a failed connection shows at the next send, a silent one at the time-out.
            Phase::Closing => {}
            Phase::Open => {
                debug!(shard = self.index, session = %key, "session's peer has gone without a close frame");
                if self.begin_close(key, Unsent::Keep) {
                    self.stats.closed_by_peer += 1;
                    // Dirty even if nothing is due, so that the flush ends it.
                    self.append(key, |_| {});
                }
            }
        }
    }

    /// The connection has failed: the session is gone, and what was due to it is counted.
    pub(super) fn connection_lost(&mut self, key: SessionKey, error: &io::Error) {
        self.stats.lost += 1;
        debug!(shard = self.index, session = %key, error = %error, "session lost");
        self.remove(key);
    }

    /// Sends the end of sending, after the last frame.
    pub(super) fn finish(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        match session.socket.finish() {
            Ok(()) => {}
            // The flush comes back here when there is room.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return self.block(key).unwrap_or_else(|error| self.connection_lost(key, &error));
            }
            Err(error) => return self.connection_lost(key, &error),
        }
        session.phase = Phase::Lingering;
        // What has arrived meanwhile, its end maybe, was not looked at.
        session.flags.is_readable = true;
        self.enqueue(key);
    }

    /// Makes so many steps with sessions that leave: sends what is due to one, receives what it still says. They have a list
    /// of their own, so that thousands of them are not looked at in every turn.
    pub(super) fn linger_steps(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(key) = self.lists.next_closing() else { return };
            // It may have ended since it was put here.
            let Some(session) = self.sessions.get(key) else { continue };
            debug_assert_ne!(session.phase, Phase::Open, "an open session is on the closing list");
            if session.listed.is_dirty() {
                self.flush_session(key);
            }
            // It may have ended with what was sent.
            if self.sessions.get(key).is_some_and(|session| session.listed.take_queued()) {
                self.discard(key);
                self.account(key);
            }
            self.enforce_memory_max();
        }
    }

    /// Receives and throws away.
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

    /// Takes an open session out of the registry and stops decoding it; says whether it was open.
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

    /// Takes a session out of the registry and from among the receivers of its encoding, if it is there; tells what that makes of
    /// its uid.
    fn unregister(&mut self, hash: UidHash, encoding: Encoding, key: SessionKey) {
        let removed = self.registry.remove(hash, key);
        if !matches!(removed, Removed::Nothing) {
            self.logs.remove_receiver(encoding);
        }
        let Some(presence) = &self.presence else { return };
        match removed {
            Removed::Last(uid) => presence.tell(uid, Change::Went, self.now),
            Removed::Oldest(uid) => presence.tell(uid.into(), Change::Moved, self.now),
            Removed::Younger | Removed::Nothing => {}
        }
    }

    /// Drops a session, wherever in its life it is.
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
