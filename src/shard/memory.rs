//! What sessions hold in memory, against this shard's part of `memory_bytes_max`.
//!
//! Counted are the parts of messages that have come, what was received and not decoded, a message that waits for room in
//! the mail, outboxes, and the shard's mail to others, from its gathering until it was read. An outbox is counted as it
//! grows; everything else of a session is looked up once per read and per flush, never per message, and kept as one number
//! beside it; the sum is a plain field of the shard. So the part is passed by one message at most, or by the
//! broadcasts of a turn for one session. A payload that several outboxes share counts for each in full, as it may stay for any of them: the sum errs on the safe side.
//!
//! Past the part, the sessions that hold most are sent what is due to them, and those that hold it still are closed with 4009, until
//! an eighth of the part is free. Mail is not dropped; sessions have an eighth to themselves, whatever is in it. Only then are
//! sessions compared, so that the cost of that is spread over as many bytes.

use super::Shard;
use super::close::{Farewell, Unsent};
use super::io::{Network, SessionKey};
use super::session::Phase;
use crate::frame::close;

impl<N: Network> Shard<N> {
    /// Takes note of what a session holds now; one that has ended meanwhile holds nothing.
    #[inline]
    pub(super) fn account(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        let holdings = session.holdings();
        let before = std::mem::replace(&mut session.held, holdings);
        if let Some(outbox) = &mut session.outbox {
            let waiting = outbox.bytes();
            let before = std::mem::replace(&mut outbox.accounted, waiting);
            self.outbox_bytes = self.outbox_bytes - before + waiting;
        }
        self.held = self.held - before as usize + holdings as usize;
    }

    /// Cuts the sessions that hold most while all sessions and the mail together hold too much.
    ///
    /// Not during fan-out, unless the caller looks whether each session is still open: this may close any of them.
    #[inline]
    pub(super) fn relieve(&mut self) {
        if self.held + self.mailbox.memory() > self.settings.memory_bytes_max {
            self.cut_worst();
        }
    }

    #[cold]
    fn cut_worst(&mut self) {
        // What others have read meanwhile is none any more.
        self.mailbox.take_returns();
        let eighth = self.settings.memory_bytes_max / 8;
        // Sessions have an eighth for themselves: to cut those who hold little frees no mail.
        let enough = (self.settings.memory_bytes_max - eighth).saturating_sub(self.mailbox.memory()).max(eighth);
        if self.held <= enough {
            return;
        }
        let holders = self.sessions.iter().filter(|(_, session)| session.held > 0);
        let mut holders: Vec<_> = holders.map(|(key, session)| (session.held, key)).collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        for (_, key) in holders {
            if self.held <= enough {
                break;
            }
            self.cut(key);
        }
    }

    /// Closes a session for what it holds and its socket does not take; one that has been told already has no more time to
    /// take it.
    fn cut(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        if session.phase != Phase::Open {
            // Told a moment ago, it has not been sent the close frame yet.
            let is_untried = session.listed.is_dirty() && !session.flags.is_blocked;
            return if is_untried { self.flush_session(key) } else { self.remove(key) };
        }
        let had = session.held;
        if session.outbox.is_some() && !session.flags.is_blocked {
            self.flush_session(key);
            // It may have ended, or have been closed, by that; and a receiver that keeps up is not cut for a busy turn.
            let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else { return };
            if session.held < had / 2 {
                return;
            }
        }
        self.stats.memory_cuts += 1;
        self.close(key, Farewell::of(close::MEMORY), Unsent::Drop);
        self.account(key);
    }
}
