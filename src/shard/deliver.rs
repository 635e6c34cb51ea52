//! The part of a turn that puts messages into outboxes and the broadcast log.

use super::budget::Cost;
use super::close::{CloseReason, Unsent};
use super::io::{Network, SessionKey};
use super::lists::WorkLists;
use super::log::Position;
use super::memory::Memory;
use super::outbox::Outbox;
use super::pool::OutboxPool;
use super::session::{Phase, Session};
use super::{Shard, tally};
use crate::config::SlowConsumer;
use crate::frame::{HEADER_BYTES_MAX, Opcode, close};
use crate::mailbox::Letter;
use crate::message::{Delivery, Kind, Payload, Shed};
use crate::protocol::{Encoding, Message};
use crate::uid::UidHash;

impl<N: Network> Shard<N> {
    /// Delivers a message to the sessions of a uid that this shard owns; returns what that cost, too.
    #[inline]
    pub(super) fn deliver(&mut self, hash: UidHash, uid: &[u8], message: &mut Message<'_>) -> (Delivery, Cost) {
        let cost = Cost { deliveries: 1, bytes: message.payload().as_slice().len() };
        match *self.registry.find(hash, uid) {
            [] => {
                self.stats.offline += 1;
                (Delivery::Offline, cost)
            }
            [session] => {
                tally::reached(1);
                (self.deliver_to(session, message), cost)
            }
            ref sessions => {
                let sessions = sessions.to_vec();
                (self.deliver_to_each(&sessions, message), cost.times(sessions.len()))
            }
        }
    }

    /// Delivers a message to all sessions of a uid.
    fn deliver_to_each(&mut self, sessions: &[SessionKey], message: &mut Message<'_>) -> Delivery {
        tally::reached(sessions.len());
        let mut delivery = Delivery::Offline;
        for &session in sessions {
            let next = if self.is_open(session) {
                self.deliver_to(session, message)
            } else {
                // It was cut a moment ago, for what it holds.
                self.stats.shed_closed += 1;
                Delivery::Shed(Shed::Lost)
            };
            delivery = add(delivery, next);
            // After each: together they may take many times what one message is.
            self.enforce_memory_max();
        }
        delivery
    }

    /// Delivers a message to one open session of a uid.
    #[inline]
    pub(super) fn deliver_to(&mut self, session: SessionKey, message: &mut Message<'_>) -> Delivery {
        match self.push(session, |encoding| message.encoded(encoding)) {
            Ok(()) => {
                self.stats.delivered += 1;
                Delivery::Delivered { sessions: 1 }
            }
            Err(shed) => Delivery::Shed(shed),
        }
    }

    /// Puts a message into the logs, due to every open session; returns how many those are.
    pub(super) fn broadcast(&mut self, message: &mut Message<'_>) -> usize {
        let sessions = self.registry.sessions();
        self.stats.broadcasts += 1;
        self.stats.broadcast_deliveries += sessions as u64;
        let too_long = self.logs.push(message, self.settings.outbox_bytes_max);
        self.stats.shed_newest += too_long as u64;
        sessions - too_long
    }

    /// Puts a message into the logs, due to every open session but those of the uids in `except`.
    pub(super) fn broadcast_except(&mut self, mut message: Message<'_>, except: &[(UidHash, Box<str>)]) -> usize {
        let mut left_out = Vec::new();
        for (hash, uid) in except {
            for session in self.registry.find(*hash, uid.as_bytes()).to_vec() {
                // It may have been cut a moment ago.
                if !self.is_open(session) {
                    continue;
                }
                // What it is due of the log so far moves to its outbox; then it skips what comes now.
                if self.catch_up(session) {
                    left_out.push(session);
                }
                self.enforce_memory_max();
            }
        }
        let sessions = self.broadcast(&mut message);
        let mut skipped = 0;
        for key in left_out {
            // It may have been cut, or lost, for the others.
            let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else { continue };
            // One whose uid is named twice skips it once.
            skipped += usize::from(self.logs.skip(session));
        }
        self.stats.broadcast_deliveries -= skipped as u64;
        sessions - skipped
    }

    /// Delivers a bounded batch of mail from other shards; the rest waits for the next turn.
    pub(super) fn take_mail(&mut self) {
        while !self.is_saturated() {
            let Some(mut batch) = self.mailbox.next_batch() else { return };
            if let Some(posted) = batch.take_posted() {
                // What was posted since the last poll has not waited for this shard.
                self.stats.mail_wait.note(self.now.saturating_duration_since(posted));
            }
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

    fn take_letter(&mut self, letter: Letter<'_>) -> Cost {
        self.stats.mail_letters += 1;
        match letter {
            Letter::Unicast { hash, uid, kind, payload } => {
                let (_, cost) = self.deliver(hash, uid, &mut Message::new(kind, payload));
                self.enforce_memory_max();
                cost
            }
            Letter::Broadcast { kind, payload } => {
                let bytes = payload.as_slice().len();
                Cost { deliveries: 1 + self.broadcast(&mut Message::new(kind, payload)), bytes }
            }
        }
    }

    /// Appends a data frame to an open session's outbox, behind the broadcasts due to it; `encoded` returns its content in the
    /// session's encoding.
    ///
    /// # Errors
    /// When it was not taken, which is counted by then.
    #[inline]
    pub(super) fn push<'m>(
        &mut self,
        key: SessionKey,
        encoded: impl FnOnce(Encoding) -> (Kind, &'m Payload<'m>),
    ) -> Result<(), Shed> {
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        debug_assert_eq!(session.phase, Phase::Open, "nothing is sent behind a close frame");
        let encoding = session.protocol.encoding();
        let (kind, payload) = encoded(encoding);
        let opcode = Opcode::from(kind);
        let length = HEADER_BYTES_MAX + payload.as_slice().len();
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let is_next = !self.logs.has_due(session) && held + length <= self.settings.outbox_bytes_max;
        if is_next {
            append_to(session, key, &mut self.outboxes, &mut self.lists, &mut self.memory, |outbox| {
                outbox.push(opcode, payload);
            });
            return Ok(());
        }
        self.ensure_room(key, length)?;
        self.append(key, |outbox| outbox.push(opcode, payload));
        Ok(())
    }

    /// Answers a client; an answer that its outbox has no room for is counted as shed like any message.
    pub(super) fn reply(&mut self, key: SessionKey, text: &str) {
        // It is in its protocol's words already.
        let text = Payload::Borrowed(text.as_bytes());
        if self.push(key, |_| (Kind::Text, &text)).is_ok() {
            self.stats.frames_out += 1;
        }
    }

    /// Moves what is due to a session before a frame of `length` bytes out of the way.
    ///
    /// # Errors
    /// When there is no room for the frame, which is counted by then.
    #[inline(never)]
    fn ensure_room(&mut self, key: SessionKey, length: usize) -> Result<(), Shed> {
        let slow_consumers = self.stats.slow_consumers;
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        if self.logs.has_due(session) && !self.catch_up(key) {
            self.stats.shed_closed += 1;
            // The broadcasts in front of it may have been too much.
            let was_slow = self.stats.slow_consumers > slow_consumers;
            return Err(if was_slow { Shed::OutboxFull } else { Shed::Lost });
        }
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        if held + length <= self.settings.outbox_bytes_max { Ok(()) } else { self.flush_for_room(key, length) }
    }

    /// Gives `write` the session's outbox, from the pool if it has none; counts what was appended, and marks the session dirty.
    #[inline]
    pub(super) fn append(&mut self, key: SessionKey, write: impl FnOnce(&mut Outbox)) {
        let Some(session) = self.sessions.present(key) else { return };
        append_to(session, key, &mut self.outboxes, &mut self.lists, &mut self.memory, write);
    }

    /// Moves the broadcasts that an open session has not taken into its outbox, so that what comes next stays behind.
    ///
    /// Says whether the session is still open: there may be too much for it, or its socket may have failed.
    pub(super) fn catch_up(&mut self, key: SessionKey) -> bool {
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(session) = self.sessions.present(key) else { return false };
        if session.phase != Phase::Open {
            self.logs.skip(session);
            return false;
        }
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        if held + self.logs.due_bytes(session) > bytes_max {
            // Too much to keep: the socket takes what it can first.
            self.flush_session(key);
            return self.is_open(key);
        }
        self.take_log(key);
        true
    }

    /// Moves everything that is due to a session of its log into its outbox, whatever the outbox's bound says.
    pub(super) fn take_log(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        let (from, to) = (session.log_from, self.logs.of_session(session).end());
        if from != to {
            session.log_from = to;
            self.copy_log(key, from, to);
        }
    }

    /// Copies a part of its log into a session's outbox, whatever the outbox's bound says.
    pub(super) fn copy_log(&mut self, key: SessionKey, from: Position, to: Position) {
        let Some(session) = self.sessions.present(key) else { return };
        let log = self.logs.of(session.protocol.encoding());
        append_to(session, key, &mut self.outboxes, &mut self.lists, &mut self.memory, |outbox| {
            log.runs(from, to, |run| outbox.append_run(run));
        });
    }

    /// Makes room for a frame of `length` bytes: by sending, and if the socket refuses by the slow-consumer policy.
    ///
    /// # Errors
    /// When there is none even so, which is counted by then.
    pub(super) fn flush_for_room(&mut self, key: SessionKey, length: usize) -> Result<(), Shed> {
        let slow_consumers = self.stats.slow_consumers;
        self.flush_session(key);
        // It may have been cut or lost just now.
        if !self.is_open(key) {
            self.stats.shed_closed += 1;
            let was_slow = self.stats.slow_consumers > slow_consumers;
            return Err(if was_slow { Shed::OutboxFull } else { Shed::Lost });
        }
        self.apply_slow_consumer(key, length)
    }

    /// Makes room for a frame of `length` bytes in the outbox of an open session whose socket takes nothing: the one place where a
    /// slow consumer is cut, or loses messages, as the setting `slow_consumer` says.
    ///
    /// # Errors
    /// When the frame has no room, which is counted by then; under [`SlowConsumer::Disconnect`] the session closes.
    pub(super) fn apply_slow_consumer(&mut self, key: SessionKey, length: usize) -> Result<(), Shed> {
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        let mut outbox = session.outbox.as_mut();
        let mut has_room = outbox.as_ref().map_or(0, |outbox| outbox.bytes()) + length <= bytes_max;
        // No receiver is to blame for a frame that no outbox has room for.
        let is_too_long = length > bytes_max;
        if !has_room && !is_too_long {
            match self.settings.slow_consumer {
                SlowConsumer::Disconnect => {
                    self.stats.slow_consumers += 1;
                    self.close(key, CloseReason::of(close::SLOW_CONSUMER), Unsent::Drop);
                }
                SlowConsumer::DropNewest => {}
                SlowConsumer::DropOldest => {
                    while !has_room
                        && let Some(outbox) = &mut outbox
                        && outbox.drop_oldest()
                    {
                        self.stats.shed_oldest += 1;
                        has_room = outbox.bytes() + length <= bytes_max;
                    }
                    self.account(key);
                }
            }
        }
        if has_room {
            return Ok(());
        }
        self.stats.shed_newest += 1;
        Err(if is_too_long { Shed::TooLong } else { Shed::OutboxFull })
    }

    /// Answers a ping in its place, unless the answer to an earlier one is still there: then when the socket has taken
    /// everything else, and of several the latest only (RFC 6455, section 5.5.3).
    pub(super) fn pong(&mut self, key: SessionKey, payload: &[u8]) {
        let Some(session) = self.sessions.present(key) else { return };
        if session.flags.has_pong
            && let Some(outbox) = &mut session.outbox
        {
            return outbox.set_late_pong(payload);
        }
        session.flags.has_pong = true;
        if self.logs.has_due(session) && !self.catch_up(key) {
            return;
        }
        self.stats.frames_out += 1;
        self.append(key, |outbox| outbox.push(Opcode::Pong, &Payload::Borrowed(payload)));
    }
}

/// As [`Shard::append`], for a session that was looked up already.
#[inline]
fn append_to<S>(
    session: &mut Session<S>,
    key: SessionKey,
    outboxes: &mut OutboxPool,
    lists: &mut WorkLists,
    memory: &mut Memory,
    write: impl FnOnce(&mut Outbox),
) {
    let outbox = session.outbox.get_or_insert_with(|| outboxes.take());
    let before = outbox.bytes();
    write(outbox);
    let grown = outbox.bytes() - before;
    memory.add(session, grown);
    lists.mark_dirty(key, session);
}

/// Adds what became of a message at one more session of the uid: it counts as delivered when any took it.
fn add(sum: Delivery, next: Delivery) -> Delivery {
    match (sum, next) {
        (Delivery::Delivered { sessions }, Delivery::Delivered { sessions: more }) => {
            Delivery::Delivered { sessions: sessions + more }
        }
        (Delivery::Delivered { .. }, _) => sum,
        _ => next,
    }
}
