//! The part of a turn that puts messages into outboxes and into the broadcast logs.

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
    /// Delivers a message to all sessions of a uid that this shard owns; returns the outcome and the cost.
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
                // The delivery to an earlier session went over `memory_bytes_max`, and this session was closed for
                // that.
                self.stats.shed_closed += 1;
                Delivery::Shed(Shed::Lost)
            };
            delivery = add(delivery, next);
            // After each: copies for many sessions may take many times the memory of one message.
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

    /// Puts a message into the logs, for every open session; returns how many sessions it is due to.
    pub(super) fn broadcast(&mut self, message: &mut Message<'_>) -> usize {
        let sessions = self.registry.sessions();
        self.stats.broadcasts += 1;
        self.stats.broadcast_deliveries += sessions as u64;
        let too_long = self.logs.push(message, self.settings.outbox_bytes_max);
        self.stats.shed_newest += too_long as u64;
        sessions - too_long
    }

    /// As [`Shard::broadcast`], except for the sessions of the uids in `except`.
    pub(super) fn broadcast_except(&mut self, mut message: Message<'_>, except: &[(UidHash, Box<str>)]) -> usize {
        let mut left_out = Vec::new();
        for (hash, uid) in except {
            for session in self.registry.find(*hash, uid.as_bytes()).to_vec() {
                // An earlier session's `catch_up` may have closed this one to free memory.
                if !self.is_open(session) {
                    continue;
                }
                // Earlier broadcasts move to its outbox now, so that it can skip this one alone.
                if self.catch_up(session) {
                    left_out.push(session);
                }
                self.enforce_memory_max();
            }
        }
        // A uid may be listed twice.
        left_out.sort_unstable();
        left_out.dedup();
        let sessions = self.broadcast(&mut message);
        let (mut skipped, mut too_long) = (0, 0);
        for key in left_out {
            // It may have ended or been closed since.
            let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else { continue };
            if self.logs.skip(session) {
                skipped += 1;
            } else {
                // Its log does not have the message, and the session counts among those that don't get it for its length.
                too_long += 1;
            }
        }
        self.stats.broadcast_deliveries -= skipped as u64 + too_long;
        self.stats.shed_newest -= too_long;
        sessions - skipped
    }

    /// Delivers a bounded batch of mail from other shards; the rest waits for the next turn.
    pub(super) fn take_mail(&mut self) {
        while !self.is_saturated() {
            let Some(mut batch) = self.mailbox.next_batch() else { return };
            if let Some(posted) = batch.take_posted() {
                // Mail that was posted since the last poll has not waited: the difference saturates to zero.
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

    /// Appends a data frame to an open session's outbox, behind the broadcasts that are due to it; `encoded` returns
    /// the content in the session's encoding.
    ///
    /// # Errors
    /// When the frame was shed, which is counted already.
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

    /// Sends a client an answer of the node; one that its outbox has no room for is counted as shed, like any message.
    pub(super) fn reply(&mut self, key: SessionKey, text: &str) {
        // The text is in the encoding of the session's protocol already.
        let text = Payload::Borrowed(text.as_bytes());
        if self.push(key, |_| (Kind::Text, &text)).is_ok() {
            self.stats.frames_out += 1;
        }
    }

    /// Makes an outbox ready to take a frame of `length` bytes: moves broadcasts that are due before the frame into the
    /// outbox, and then frees room, by sending, and if the socket refuses, by the slow-consumer policy.
    ///
    /// # Errors
    /// When there is no room for the frame; it is counted as shed already.
    #[inline(never)]
    fn ensure_room(&mut self, key: SessionKey, length: usize) -> Result<(), Shed> {
        let bytes_max = self.settings.outbox_bytes_max;
        if length > bytes_max {
            // Sending makes no room for it.
            return self.apply_slow_consumer(key, length);
        }
        let slow_consumers = self.stats.slow_consumers;
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        let mut is_open = !self.logs.has_due(session) || self.catch_up(key);
        if is_open {
            let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
            let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
            if held + length <= bytes_max {
                return Ok(());
            }
            self.flush_session(key);
            is_open = self.is_open(key);
        }
        if !is_open {
            // It was closed as a slow consumer, or its connection has failed.
            self.stats.shed_closed += 1;
            let was_slow = self.stats.slow_consumers > slow_consumers;
            return Err(if was_slow { Shed::OutboxFull } else { Shed::Lost });
        }
        self.apply_slow_consumer(key, length)
    }

    /// Calls `write` with the session's outbox, a new one from the pool if it has none; then accounts for the appended
    /// bytes and marks the session dirty.
    #[inline]
    pub(super) fn append(&mut self, key: SessionKey, write: impl FnOnce(&mut Outbox)) {
        let Some(session) = self.sessions.present(key) else { return };
        append_to(session, key, &mut self.outboxes, &mut self.lists, &mut self.memory, write);
    }

    /// Moves the broadcasts that are due to a session into its outbox, so that a frame that is appended next comes
    /// behind them.
    ///
    /// Returns whether the session is still open: the broadcasts may be more than it may hold, or its socket may have
    /// failed.
    pub(super) fn catch_up(&mut self, key: SessionKey) -> bool {
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(session) = self.sessions.present(key) else { return false };
        if session.phase != Phase::Open {
            self.logs.skip(session);
            return false;
        }
        let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        if held + self.logs.due_bytes(session) > bytes_max {
            // They don't fit: first the socket takes as much as it can.
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

    /// Applies the setting `slow_consumer` to an open session whose socket takes nothing and whose outbox may have no
    /// room for a frame of `length` bytes. This is the one place where a slow consumer is closed with
    /// 4008, or loses messages; `memory.rs` closes with 4009 over the memory budget.
    ///
    /// # Errors
    /// When the frame has no room; it is counted as shed already. Under [`SlowConsumer::Disconnect`] the session
    /// closes.
    pub(super) fn apply_slow_consumer(&mut self, key: SessionKey, length: usize) -> Result<(), Shed> {
        let bytes_max = self.settings.outbox_bytes_max;
        let Some(session) = self.sessions.present(key) else { return Err(Shed::Lost) };
        let mut outbox = session.outbox.as_mut();
        let mut has_room = outbox.as_ref().map_or(0, |outbox| outbox.bytes()) + length <= bytes_max;
        // A frame that no outbox has room for is not the receiver's fault.
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

    /// Answers a ping. Its pong takes its place in the order of frames, unless an earlier pong is still unsent: then
    /// only the latest ping is answered, once the socket has taken everything else (RFC 6455, section 5.5.3).
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
    memory.add(&mut session.held, outbox, grown);
    lists.mark_dirty(key, session);
}

/// Combines the outcomes of one message at two sessions of a uid: it counts as delivered if any session took it.
fn add(sum: Delivery, next: Delivery) -> Delivery {
    match (sum, next) {
        (Delivery::Delivered { sessions }, Delivery::Delivered { sessions: more }) => {
            Delivery::Delivered { sessions: sessions + more }
        }
        (Delivery::Delivered { .. }, _) => sum,
        _ => next,
    }
}
