//! The lists of sessions that have work to do: to be read, to be sent to, to be closed.
//!
//! Each session has flags, its [`Listed`], and a list has an entry for each flag that is set. The two can't disagree:
//! only this file sets a flag, and it adds the entry with it. An entry may be stale when it is taken: its session has
//! ended, or its work was done already.

use std::collections::VecDeque;

use super::session::{Phase, Session};
use super::sessions::{SessionKey, Sessions};

/// Entries for which an empty list keeps its memory.
const LENGTH_KEPT: usize = 64;

/// The work lists of a shard.
#[derive(Debug, Default)]
pub(super) struct WorkLists {
    /// Open sessions that may have something to receive or to decode.
    run: VecDeque<SessionKey>,
    /// Sessions with frames in their outbox since their last flush.
    dirty: VecDeque<SessionKey>,
    /// Closing sessions that have something to send or to receive. Apart from the others, so that thousands of them are
    /// not looked at in every turn.
    closing: VecDeque<SessionKey>,
}

/// Which lists a session is on; a part of the session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Listed {
    /// On the run list, or on the closing list to be read.
    is_queued: bool,
    /// On the dirty list, or on the closing list to be sent to.
    is_dirty: bool,
}

impl Listed {
    /// Whether the session is queued to be read.
    #[inline]
    pub(super) fn is_queued(self) -> bool {
        self.is_queued
    }

    /// Whether the session is queued to be sent to.
    #[inline]
    pub(super) fn is_dirty(self) -> bool {
        self.is_dirty
    }

    /// Notes that the session is being read now; returns whether it was queued for that.
    #[inline]
    pub(super) fn take_queued(&mut self) -> bool {
        std::mem::take(&mut self.is_queued)
    }

    /// Notes that the session is being sent to now.
    #[inline]
    pub(super) fn clear_dirty(&mut self) {
        self.is_dirty = false;
    }
}

impl WorkLists {
    /// Queues a session to be read, once, unless it is stalled or paused.
    #[inline]
    pub(super) fn enqueue<S>(&mut self, key: SessionKey, session: &mut Session<S>) {
        if !session.listed.is_queued && !session.flags.is_stalled && !session.flags.is_paused {
            session.listed.is_queued = true;
            let list = if session.phase == Phase::Open { &mut self.run } else { &mut self.closing };
            list.push_back(key);
        }
    }

    /// Queues a session to be sent to, once.
    #[inline]
    pub(super) fn mark_dirty<S>(&mut self, key: SessionKey, session: &mut Session<S>) {
        if !session.listed.is_dirty {
            session.listed.is_dirty = true;
            self.dirty.push_back(key);
        }
    }

    /// Takes the next entry of the run list; returns its session if that is open and still queued.
    #[inline]
    pub(super) fn next_run<'s, S>(
        &mut self,
        sessions: &'s mut Sessions<S>,
    ) -> Option<(SessionKey, &'s mut Session<S>)> {
        let key = self.run.pop_front()?;
        let session = sessions.get(key)?;
        // A closing session may have been read already, through its entry on the closing list.
        if !session.listed.is_queued {
            return None;
        }
        if session.phase != Phase::Open {
            self.closing.push_back(key);
            return None;
        }
        session.listed.is_queued = false;
        Some((key, session))
    }

    /// Takes the next entry of the dirty list; returns its session if that is open.
    #[inline]
    pub(super) fn next_dirty<S>(&mut self, sessions: &mut Sessions<S>) -> Option<SessionKey> {
        let key = self.dirty.pop_front()?;
        let session = sessions.get(key)?;
        if session.phase == Phase::Open {
            return Some(key);
        }
        self.closing.push_back(key);
        None
    }

    /// Takes the next entry of the closing list.
    #[inline]
    pub(super) fn next_closing(&mut self) -> Option<SessionKey> {
        self.closing.pop_front()
    }

    /// Returns the number of entries of the run list.
    pub(super) fn run_len(&self) -> usize {
        self.run.len()
    }

    /// Returns the number of entries of the dirty list.
    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Returns the number of entries of the closing list.
    pub(super) fn closing_len(&self) -> usize {
        self.closing.len()
    }

    /// Whether all lists are empty.
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_empty() && self.dirty.is_empty() && self.closing.is_empty()
    }

    /// Gives back the memory that the lists needed at a peak that is over.
    pub(super) fn trim(&mut self) {
        for list in [&mut self.run, &mut self.dirty, &mut self.closing] {
            if list.len() < list.capacity() / 8 {
                list.shrink_to((2 * list.len()).max(LENGTH_KEPT));
            }
        }
    }

    /// Returns the memory of the lists, in bytes.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn table_bytes(&self) -> usize {
        [&self.run, &self.dirty, &self.closing].map(|list| list.capacity() * size_of::<SessionKey>()).iter().sum()
    }

    /// Asserts that each session with work to do is on the list for it.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn check<S>(&self, sessions: &Sessions<S>) {
        let on = |list: &VecDeque<SessionKey>| list.iter().copied().collect::<std::collections::HashSet<_>>();
        let (run, dirty, closing) = (on(&self.run), on(&self.dirty), on(&self.closing));
        for (key, session) in sessions.iter() {
            let (listed, flags) = (session.listed, session.flags);
            let is_open = session.phase == Phase::Open;
            assert!(
                !listed.is_queued || run.contains(&key) || closing.contains(&key),
                "queued, and on no list: {flags:?}"
            );
            assert!(
                !listed.is_dirty || dirty.contains(&key) || closing.contains(&key),
                "dirty, and on no list: {flags:?}"
            );
            assert!(!closing.contains(&key) || !is_open, "an open session is on the closing list");
            assert!(!(flags.is_stalled || flags.is_paused) || is_open, "{:?} and held back: {flags:?}", session.phase);
            let will_be_read = listed.is_queued || flags.is_stalled || flags.is_paused;
            assert!(!session.has_input() || will_be_read, "has input, and is on no list: {flags:?}");
        }
    }
}
