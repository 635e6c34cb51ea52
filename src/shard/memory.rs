//! The memory that sessions hold, and its bound: this shard's share of `memory_bytes_max`.
//!
//! Counted are incomplete messages, received bytes that are not decoded yet, stalled messages, outboxes, and the
//! shard's mail to others from when it is gathered until it was read. An outbox is counted as it grows. Everything else
//! of a session is looked up once per read and per flush, never per message. So the share is exceeded by one message at
//! most, or by the broadcasts of a turn for one session. A payload that several outboxes share counts in full for each
//! of them, since any of them may be the last to keep it: the sum errs on the safe side.
//!
//! Over the share, the sessions that hold most are flushed, and closed with 4009 if they still hold it, until an eighth
//! of the share is free. Mail is never dropped; an eighth of the share is left to sessions however much mail there is.
//! Only then are sessions sorted by what they hold, so that the cost is spread over as many bytes.

use super::close::{CloseReason, Unsent};
use super::io::{Network, SessionKey};
use super::outbox::Outbox;
use super::session::{Phase, Session};
use super::{Shard, tally};
use crate::frame::close;

/// The memory of a shard's sessions, as two sums: the memory of each session, and the unsent bytes of each outbox.
///
/// Each session and each outbox keeps its part of the sum in a [`Counted`], which only this type changes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Sum of every [`Session::held`], in bytes.
    held: usize,
    /// Sum of every [`Outbox::counted`], in bytes.
    outbox_bytes: usize,
}

/// The bytes of one session, or of one outbox, that a sum of [`Memory`] contains.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted<T>(T);

impl<T: Copy> Counted<T> {
    /// Returns the bytes.
    #[inline]
    pub(super) fn get(self) -> T {
        self.0
    }
}

impl Memory {
    /// Returns the memory that all sessions hold, in bytes.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Returns the unsent bytes in all outboxes.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    /// Updates the sums for the memory that a session holds now.
    #[inline]
    pub(super) fn update<S>(&mut self, session: &mut Session<S>) {
        let holdings = session.holdings();
        let before = std::mem::replace(&mut session.held.0, holdings);
        if let Some(outbox) = &mut session.outbox {
            let waiting = outbox.bytes();
            let before = std::mem::replace(&mut outbox.counted.0, waiting);
            self.outbox_bytes = self.outbox_bytes - before + waiting;
        }
        self.held = self.held - before as usize + holdings as usize;
    }

    /// Adds `bytes` that were appended to an outbox, whose session has counted `held`.
    #[inline]
    pub(super) fn add(&mut self, held: &mut Counted<u32>, outbox: &mut Outbox, bytes: usize) {
        outbox.counted.0 += bytes;
        self.outbox_bytes += bytes;
        // As in `update`, the memory of a session is counted up to 4 GiB.
        let before = held.0;
        held.0 = before.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.held += (held.0 - before) as usize;
        tally::held(self.held);
    }

    /// Takes an outbox that its session gives back out of the sums.
    #[inline]
    pub(super) fn remove_outbox(&mut self, outbox: &mut Outbox) {
        self.outbox_bytes -= std::mem::take(&mut outbox.counted.0);
    }

    /// Takes a session that ends out of the sums.
    pub(super) fn remove<S>(&mut self, session: &mut Session<S>) {
        if let Some(outbox) = &mut session.outbox {
            self.remove_outbox(outbox);
        }
        self.held -= std::mem::take(&mut session.held.0) as usize;
    }

    /// Asserts that the sums are those of `sessions`, each as it is now.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn check<S>(&self, sessions: &super::sessions::Sessions<S>) {
        let (mut held, mut outbox_bytes) = (0, 0);
        for (_, session) in sessions.iter() {
            assert_eq!(
                session.held.0,
                session.holdings(),
                "the memory of a session: {:?}, {:?}",
                session.flags,
                session.phase
            );
            held += session.held.0 as usize;
            if let Some(outbox) = &session.outbox {
                assert_eq!(outbox.counted.0, outbox.bytes(), "the unsent bytes of an outbox");
                outbox_bytes += outbox.counted.0;
            }
        }
        assert_eq!(self.held, held, "the memory of all sessions");
        assert_eq!(self.outbox_bytes, outbox_bytes, "the unsent bytes of all outboxes");
    }
}

impl<N: Network> Shard<N> {
    /// Accounts for the memory that a session holds now; does nothing if the session has ended.
    #[inline]
    pub(super) fn account(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        self.memory.update(session);
    }

    /// Closes the sessions that hold most, if all sessions and the mail together hold more than the shard's share.
    ///
    /// This may close any session: a caller that iterates over sessions must check that each is still open.
    #[inline]
    pub(super) fn enforce_memory_max(&mut self) {
        if self.memory.held() + self.mailbox.memory() > self.settings.memory_bytes_max {
            self.close_largest();
        }
    }

    #[cold]
    fn close_largest(&mut self) {
        // Mail that other shards have read since no longer counts.
        self.mailbox.take_returns();
        let eighth = self.settings.memory_bytes_max / 8;
        // At least an eighth is left to sessions: to close those that hold little would not free any mail.
        let enough = (self.settings.memory_bytes_max - eighth).saturating_sub(self.mailbox.memory()).max(eighth);
        if self.memory.held() <= enough {
            return;
        }
        let holders = self.sessions.iter().filter(|(_, session)| session.held.get() > 0);
        let mut holders: Vec<_> = holders.map(|(key, session)| (session.held.get(), key)).collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        for (_, key) in holders {
            if self.memory.held() <= enough {
                break;
            }
            self.close_for_memory(key);
        }
    }

    /// Closes a session if it still holds most of its memory after a flush; drops it if it is closing already.
    fn close_for_memory(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        if session.phase != Phase::Open {
            // The flush that sends its close frame has yet to come.
            let is_untried = session.listed.is_dirty() && !session.flags.is_blocked;
            return if is_untried { self.flush_session(key) } else { self.remove(key) };
        }
        let had = session.held.get();
        if session.outbox.is_some() && !session.flags.is_blocked {
            self.flush_session(key);
            // The flush may have closed or ended it. And a receiver that keeps up is not closed for a busy turn.
            let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else { return };
            if session.held.get() < had / 2 {
                return;
            }
        }
        self.stats.memory_cuts += 1;
        self.close(key, CloseReason::of(close::MEMORY), Unsent::Drop);
        self.account(key);
    }
}
