//! The part of a turn that puts messages into outboxes and the broadcast log.

use super::close::{Farewell, Unsent};
use super::io::{Network, SessionKey};
use super::session::Phase;
use super::{Shard, log};
use crate::config::SlowConsumer;
use crate::frame::{HEADER_BYTES_MAX, Opcode, close};
use crate::mailbox::Letter;
use crate::message::{Delivery, Kind, Payload};
use crate::uid::UidHash;

impl<N: Network> Shard<N> {
    /// Delivers a message to the sessions of a uid that this shard owns.
    #[inline]
    pub(super) fn deliver(&mut self, hash: UidHash, uid: &[u8], kind: Kind, payload: &Payload<'_>) -> Delivery {
        match *self.registry.find(hash, uid) {
            [] => {
                self.stats.offline += 1;
                Delivery::Offline
            }
            [session] => self.deliver_to(session, kind, payload),
            ref sessions => {
                let sessions = sessions.to_vec();
                let taken = sessions.into_iter().filter(|&session| self.push(session, kind.into(), payload)).count();
                self.count_delivery(taken)
            }
        }
    }

    /// Delivers a message to the one session of a uid.
    #[inline]
    pub(super) fn deliver_to(&mut self, session: SessionKey, kind: Kind, payload: &Payload<'_>) -> Delivery {
        let is_taken = self.push(session, kind.into(), payload);
        self.count_delivery(usize::from(is_taken))
    }

    fn count_delivery(&mut self, sessions: usize) -> Delivery {
        self.stats.delivered += sessions as u64;
        if sessions == 0 { Delivery::Shed } else { Delivery::Delivered { sessions } }
    }

    /// Puts a message into the log, due to every open session; returns how many those are.
    pub(super) fn broadcast(&mut self, kind: Kind, payload: Payload<'_>) -> usize {
        let sessions = self.registry.sessions();
        self.stats.broadcasts += 1;
        self.stats.broadcast_deliveries += sessions as u64;
        if sessions > 0 {
            self.log.push(kind, payload);
        }
        sessions
    }

    /// Delivers a bounded batch of mail from other shards; the rest waits for the next turn.
    pub(super) fn take_mail(&mut self) {
        while !self.is_saturated() {
            let Some(mut batch) = self.mailbox.next_batch() else { return };
            while let Some(letter) = batch.take() {
                let cost = self.take_letter(letter);
                self.budget.spend(cost);
                if self.is_saturated() {
                    break;
                }
            }
            self.mailbox.put_back(batch);
        }
    }

    fn take_letter(&mut self, letter: Letter<'_>) -> super::Cost {
        self.stats.mail_letters += 1;
        match letter {
            Letter::Unicast { hash, uid, kind, payload } => {
                self.deliver(hash, uid, kind, &payload);
                super::Cost { deliveries: 1, bytes: payload.as_slice().len() }
            }
            Letter::Broadcast { kind, payload } => {
                let bytes = payload.as_slice().len();
                super::Cost { deliveries: 1 + self.broadcast(kind, payload), bytes }
            }
        }
    }

    /// Appends a data frame to an open session's outbox, behind the broadcasts due to it; says whether it was taken.
    #[inline]
    pub(super) fn push(&mut self, key: SessionKey, opcode: Opcode, payload: &Payload<'_>) -> bool {
        let length = HEADER_BYTES_MAX + payload.as_slice().len();
        let Some(session) = self.sessions.get(key) else { return false };
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let is_next = session.log_from == self.log.end() && held + length <= self.settings.outbox_bytes_max;
        if !is_next && !self.make_way(key, length) {
            return false;
        }
        self.append(key, |outbox| outbox.push(opcode, payload))
    }

    /// Moves what is due to a session before a frame of `length` bytes out of the way; says whether the frame has room.
    #[inline(never)]
    fn make_way(&mut self, key: SessionKey, length: usize) -> bool {
        let log_end = self.log.end();
        let Some(session) = self.sessions.get(key) else { return false };
        if session.log_from != log_end && !self.catch_up(key) {
            self.stats.shed_closed += 1;
            return false;
        }
        let Some(session) = self.sessions.get(key) else { return false };
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        held + length <= self.settings.outbox_bytes_max || self.make_room(key, length)
    }

    /// Gives `write` the session's outbox, from the pool if it has none, and marks the session dirty.
    #[inline]
    pub(super) fn append(&mut self, key: SessionKey, write: impl FnOnce(&mut super::outbox::Outbox)) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        write(session.outbox.get_or_insert_with(|| self.outboxes.take()));
        if !session.flags.is_dirty {
            session.flags.is_dirty = true;
            self.dirty.push_back(key);
        }
        true
    }

    /// Moves the broadcasts that an open session has not taken into its outbox, so that what comes next stays behind.
    ///
    /// Says whether the session is still open: there may be too much for it, or its socket may have failed.
    pub(super) fn catch_up(&mut self, key: SessionKey) -> bool {
        let (log_end, bytes_max) = (self.log.end(), self.settings.outbox_bytes_max);
        let Some(session) = self.sessions.get(key) else { return false };
        if session.phase != Phase::Open {
            session.log_from = log_end;
            return false;
        }
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let due = (log_end - session.log_from) as usize;
        if held + due > bytes_max {
            // Too much to keep: the socket takes what it can first.
            self.flush_session(key);
            return self.is_open(key);
        }
        self.take_log(key, log_end);
        true
    }

    /// Copies the log up to `to` into the session's outbox, whatever its bound says.
    pub(super) fn take_log(&mut self, key: SessionKey, to: log::Position) {
        let log = std::mem::take(&mut self.log);
        if let Some(session) = self.sessions.get(key) {
            let from = std::mem::replace(&mut session.log_from, to);
            self.append(key, |outbox| log.runs(from, to, |run| outbox.append_run(run)));
        }
        self.log = log;
    }

    /// Makes room for `length` bytes: by sending, and if the socket refuses by the slow-consumer policy.
    ///
    /// Says whether there is room now.
    pub(super) fn make_room(&mut self, key: SessionKey, length: usize) -> bool {
        self.flush_session(key);
        let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else {
            // It was cut or lost just now.
            self.stats.shed_closed += 1;
            return false;
        };
        let fits = |held: usize| held + length <= self.settings.outbox_bytes_max;
        let Some(outbox) = &mut session.outbox else { return true };
        if fits(outbox.bytes()) {
            return true;
        }
        match self.settings.slow_consumer {
            SlowConsumer::Disconnect => {
                self.stats.slow_consumers += 1;
                self.stats.shed_newest += 1;
                self.close(key, Farewell::of(close::SLOW_CONSUMER), Unsent::Drop);
                return false;
            }
            SlowConsumer::DropNewest => {}
            SlowConsumer::DropOldest => {
                while !fits(outbox.bytes()) && outbox.drop_oldest() {
                    self.stats.shed_oldest += 1;
                }
                if fits(outbox.bytes()) {
                    return true;
                }
            }
        }
        self.stats.shed_newest += 1;
        false
    }

    /// Answers a ping in its place, unless the answer to an earlier one is still there: then when the socket has taken
    /// everything else, and of several the latest only (RFC 6455, section 5.5.3).
    pub(super) fn pong(&mut self, key: SessionKey, payload: &[u8]) {
        let log_end = self.log.end();
        let Some(session) = self.sessions.get(key) else { return };
        if session.flags.has_pong
            && let Some(outbox) = &mut session.outbox
        {
            return outbox.set_late_pong(payload);
        }
        session.flags.has_pong = true;
        if session.log_from != log_end && !self.catch_up(key) {
            return;
        }
        self.append(key, |outbox| outbox.push(Opcode::Pong, &Payload::Borrowed(payload)));
    }
}
