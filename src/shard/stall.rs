//! Stalled sessions: each has a message that waits for room in the mail to another shard.
//!
//! A message must be decoded before its destination is known. When the batch for that destination is full, the message
//! stays with its session, counts as memory of the session, and the session is not read until the message was taken.
//! Each destination has a queue of sessions; after each post messages are taken from it, the oldest first, so that a
//! session that sends much does not overtake one that waits. Broadcasts have a queue of their own, since they need room
//! at every destination.

use std::collections::VecDeque;
use std::time::Instant;

use super::budget::Cost;
use super::io::{Network, SessionKey};
use super::session::StalledMessage;
use super::{Shard, tally};
use crate::mailbox::Room;
use crate::message::Payload;
use crate::protocol::Message;

/// Entries for which an empty queue keeps memory.
const RETAINED_MAX: usize = 1024;

/// Most stale entries that a queue keeps beside two for each session; an entry is stale when its session has ended or
/// closed.
const STALE_MAX: usize = 64;

/// The queues of a shard.
#[derive(Debug)]
pub(super) struct Stalls {
    /// By destination: sessions whose message goes there.
    unicasts: Vec<VecDeque<SessionKey>>,
    /// Sessions whose message goes to every shard.
    broadcasts: VecDeque<SessionKey>,
    /// Destinations of the last post; kept for its memory, empty in between.
    posted: Vec<usize>,
}

/// The queue that a stalled session waits in, by the room that its message needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// Its message needs room at this destination.
    Unicast { to: usize },
    /// Its message needs room at every destination.
    Broadcast,
}

impl Stalls {
    pub(super) fn new(shard_count: usize) -> Self {
        Self {
            unicasts: (0..shard_count).map(|_| VecDeque::new()).collect(),
            broadcasts: VecDeque::new(),
            posted: Vec::new(),
        }
    }

    /// Returns how many entries there are, stale ones included.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn len(&self) -> usize {
        self.unicasts.iter().map(VecDeque::len).sum::<usize>() + self.broadcasts.len()
    }

    pub(super) fn has_broadcasts(&self) -> bool {
        !self.broadcasts.is_empty()
    }

    fn queue(&mut self, stall: Stall) -> &mut VecDeque<SessionKey> {
        match stall {
            Stall::Unicast { to } => &mut self.unicasts[to],
            Stall::Broadcast => &mut self.broadcasts,
        }
    }
}

impl<N: Network> Shard<N> {
    /// Stalls a session: keeps a message that the mail had no room for, and does not read the session until it has.
    #[cold]
    pub(super) fn stall(&mut self, key: SessionKey, stall: Stall, message: StalledMessage) {
        let Some(session) = self.sessions.present(key) else { return };
        let unread = session.unread.get_or_insert_default();
        debug_assert!(unread.stalled.is_none(), "a stalled session is not read");
        unread.stalled = Some(message);
        session.flags.is_stalled = true;
        self.stats.mail_stalls += 1;
        // The message counts as received when the mail takes it: see `unstall`.
        self.stats.frames_in -= 1;
        let (most, sessions) = (2 * self.sessions.len() + STALE_MAX, &mut self.sessions);
        let queue = self.stalled.queue(stall);
        if queue.len() >= most {
            queue.retain(|&key| sessions.get(key).is_some_and(|session| session.stalled_message().is_some()));
        }
        queue.push_back(key);
    }

    /// Posts the gathered mail as of `now`, and then takes messages of stalled sessions; at least one broadcast, if
    /// there is room for it, even when the turn's budget is spent.
    pub(super) fn post(&mut self, now: Instant) {
        self.post_and_take(now, 1);
    }

    /// As [`Shard::post`], but during a flush: stalled broadcasts wait for the next turn once the budget is spent or a
    /// log is full.
    pub(super) fn post_mid_flush(&mut self, now: Instant) {
        self.post_and_take(now, 0);
    }

    fn post_and_take(&mut self, now: Instant, broadcasts_min: usize) {
        let mut broadcasts_due = broadcasts_min;
        loop {
            let mut posted = std::mem::take(&mut self.stalled.posted);
            let lost = self.mailbox.post(now, |to| posted.push(to));
            self.stats.mail_batches += posted.len() as u64;
            self.stats.shed_shard_gone += lost as u64;
            for to in posted.drain(..) {
                self.take_waiting(Stall::Unicast { to }, 0);
            }
            self.stalled.posted = posted;
            self.take_waiting(Stall::Broadcast, std::mem::take(&mut broadcasts_due));
            // The messages that were just taken may be for a shard that has ended. Its arenas are back already, so that
            // nothing would wake this shard to post them: post again.
            if !self.mailbox.can_post() {
                break;
            }
        }
        self.enforce_memory_max();
    }

    /// Takes the messages of a queue, the oldest first, while there is room for them. When the budget is spent or a log is
    /// full, it takes broadcasts only until it has taken `broadcasts_min`.
    fn take_waiting(&mut self, stall: Stall, broadcasts_min: usize) {
        let mut taken = 0;
        while let Some(&key) = self.stalled.queue(stall).front() {
            // The session may have ended, or begun to close, while its message waited.
            let session = self.sessions.get(key);
            if let Some(StalledMessage { hash, kind, message, uid, payload }) =
                session.and_then(|session| session.stalled_message())
            {
                let (hash, kind, message, uid) = (*hash, *kind, message.clone(), *uid);
                let payload = Payload::Shared(message.slice(payload.range()));
                let room = match stall {
                    Stall::Unicast { to } => self.mailbox.unicast(to, hash, &message[uid.range()], kind, &payload),
                    Stall::Broadcast if self.is_saturated() && taken >= broadcasts_min => Room::Full,
                    Stall::Broadcast => self.mailbox.broadcast(kind, &payload),
                };
                match (room, stall) {
                    (Room::Full, _) => return,
                    (Room::Left, Stall::Unicast { .. }) => tally::unicast(),
                    (Room::Left, Stall::Broadcast) => {
                        tally::broadcast();
                        self.stats.broadcasts_sent += 1;
                        let deliveries = self.broadcast(&mut Message::new(kind, payload));
                        self.budget.spend(Cost { deliveries, bytes: 0 });
                    }
                }
                self.unstall(key);
                taken += 1;
            }
            self.stalled.queue(stall).pop_front();
        }
        // The memory of a long queue is freed.
        let queue = self.stalled.queue(stall);
        if queue.capacity() > RETAINED_MAX {
            queue.shrink_to(RETAINED_MAX);
        }
    }

    /// Asserts that each stalled session has a message, is in one queue, and waits for a batch that is full.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn check_stalls(&mut self) {
        let mut waiting = 0;
        for to in 0..self.mailbox.shard_count() {
            waiting += self.check_queue(Stall::Unicast { to }, self.mailbox.room(to));
        }
        let room = if self.mailbox.takes_broadcast() && !self.is_saturated() { Room::Left } else { Room::Full };
        waiting += self.check_queue(Stall::Broadcast, room);
        let mut stalled = 0;
        for (_, session) in self.sessions.iter() {
            let has_message = session.stalled_message().is_some();
            assert_eq!(session.flags.is_stalled, has_message, "a session is stalled if it has a message that waits");
            stalled += usize::from(has_message);
        }
        assert_eq!(waiting, stalled, "each stalled session is in one queue, once");
    }

    /// Returns how many stalled sessions are in a queue; asserts that there are none if there is room for their
    /// messages.
    #[cfg(all(test, not(pombo_loom)))]
    fn check_queue(&mut self, stall: Stall, room: Room) -> usize {
        let queue = self.stalled.queue(stall).clone();
        let sessions = &mut self.sessions;
        let waits = |&&key: &&SessionKey| sessions.get(key).is_some_and(|session| session.stalled_message().is_some());
        let waiting = queue.iter().filter(waits).count();
        assert!(waiting == 0 || room == Room::Full, "{waiting} sessions wait although there is room: {stall:?}");
        waiting
    }

    /// Resumes a stalled session whose message was taken.
    fn unstall(&mut self, key: SessionKey) {
        self.stats.frames_in += 1;
        let Some(session) = self.sessions.present(key) else { return };
        session.flags.is_stalled = false;
        if let Some(unread) = &mut session.unread {
            unread.stalled = None;
        }
        session.unread.take_if(|unread| unread.at == unread.bytes.len());
        // The stall was not the client's fault: time in which it could not send does not use up its patience.
        if !session.flags.is_paused
            && let Some(meter) = &mut session.meter
        {
            meter.caught_up();
        }
        let (is_all, has_input) = (session.unread.is_none(), session.has_input());
        self.charge(key, 1, is_all);
        if has_input {
            self.enqueue(key);
        }
        self.account(key);
    }
}
