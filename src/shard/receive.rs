//! The part of a turn that receives, decodes and routes the messages of clients.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tracing::error;

use super::budget::{Budget, Cost};
use super::close::{CloseReason, Unsent};
use super::io::{Network, SessionKey, Socket};
use super::session::{Phase, StalledMessage, Unread};
use super::stall::Stall;
use super::{Shard, tally};
use crate::frame::{self, Event, Reader, Violation, close};
use crate::mailbox::{Room, SHARE_FROM};
use crate::message::{Kind, Payload};
use crate::protocol::{Command, Malformed, Message, Protocol, Recipient, Span};
use crate::rights::Rights;
use crate::router;
use crate::uid::{self, UidHash};

/// A message on which decoding panics, in the library's own tests only.
#[cfg(test)]
pub(crate) const PANIC_PAYLOAD: &[u8] = b"\0panic";

/// The result of decoding one frame. Decoding does not touch the shard; [`Shard::perform`] does what an action asks
/// for.
enum Action<'a> {
    /// A message that its protocol understands.
    Command {
        kind: Kind,
        message: Payload<'a>,
        command: Command,
    },
    /// A message that its protocol does not understand.
    Malformed(Malformed),
    Ping(&'a [u8]),
    Pong,
    Close {
        code: Option<u16>,
    },
    /// A frame that does not end its message, and its length.
    Fragment {
        bytes: usize,
    },
    /// A part of a frame, and its length: the rest has yet to arrive.
    Incomplete {
        bytes: usize,
    },
    Violation(Violation),
    /// Decoding panicked.
    Panicked,
}

/// The session whose input is decoded, with copies of the fields that decoding needs.
#[derive(Clone, Copy)]
struct Sender {
    key: SessionKey,
    rights: Rights,
    protocol: Protocol,
}

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    /// All bytes were decoded.
    AllDecoded,
    /// A budget is spent: decoding continues in the next turn.
    BudgetSpent,
    /// A message has no room in the mail: the session is not read until the message was taken.
    Stalled,
    /// The session has closed.
    Closed,
}

impl<N: Network> Shard<N> {
    /// Reads each session on the run list once, until the turn's budget is spent.
    pub(super) fn receive_ready(&mut self) {
        let mut slice = self.slice(self.now);
        for _ in 0..self.lists.run_len() {
            if self.is_saturated() {
                return;
            }
            let Some((key, session)) = self.lists.next_run(&mut self.sessions) else { continue };
            match session.unread.take() {
                Some(unread) => self.resume(key, unread),
                None => self.receive(key),
            }
            self.account(key);
            self.enforce_memory_max();
            self.serve_between_reads(&mut slice);
        }
    }

    /// Whether this turn takes in no more work: its budget is spent, or a log is full and must be flushed first.
    pub(super) fn is_saturated(&self) -> bool {
        self.budget.is_spent() || self.logs.is_full()
    }

    /// Decodes the rest of what was received in an earlier turn.
    fn resume(&mut self, key: SessionKey, mut unread: Box<Unread>) {
        let stop = self.decode(key, &mut unread.bytes, &mut unread.at);
        // One of its messages may have ended it.
        let Some(session) = self.sessions.get(key) else { return };
        if stop == StopReason::AllDecoded {
            if session.flags.is_readable {
                self.enqueue(key);
            }
            return;
        }
        // If decoding stalled, `stall` has left the message in a new `Unread`.
        unread.stalled = session.unread.take().and_then(|unread| unread.stalled);
        session.unread = (stop != StopReason::Closed).then_some(unread);
        if stop == StopReason::BudgetSpent {
            self.enqueue(key);
        }
    }

    /// Receives once, and decodes the bytes.
    fn receive(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        if let Some((buffer, _)) = session.reader.direct() {
            let space = buffer.capacity() - buffer.len();
            let received = session.socket.receive_onto(buffer);
            self.note_direct_receive(key, received, space);
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let received = session.socket.receive(&mut scratch);
        if let Some(length) = self.note_received(key, received, scratch.len()) {
            let mut at = 0;
            let stop = self.decode(key, &mut scratch[..length], &mut at);
            self.keep_undecoded(key, &scratch[at..length], stop);
        }
        self.scratch = scratch;
    }

    /// Handles the result of a receive call into a buffer of `space` bytes; returns how many bytes to decode, if any.
    pub(super) fn note_received(
        &mut self,
        key: SessionKey,
        received: io::Result<usize>,
        space: usize,
    ) -> Option<usize> {
        let tick = self.tick;
        let session = self.sessions.present(key)?;
        match received {
            Ok(0) => {
                session.flags.is_readable = false;
                self.end_of_input(key);
                None
            }
            Ok(length) => {
                session.heard = tick;
                session.flags.is_pinged = false;
                // A short read means that the socket is empty, unless the poller has seen the end of the stream, or TLS
                // has more.
                session.flags.is_readable =
                    length == space || session.flags.is_read_closed || session.socket.has_unread();
                self.stats.bytes_in += length as u64;
                if let Some(meter) = &mut session.meter {
                    meter.received(length, &self.settings, tick);
                }
                Some(length)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                session.flags.is_readable = false;
                if let Some(meter) = &mut session.meter {
                    meter.caught_up();
                }
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.enqueue(key);
                None
            }
            Err(error) => {
                self.connection_lost(key, &error);
                None
            }
        }
    }

    /// Handles the result of a receive call straight into the buffer of a message.
    fn note_direct_receive(&mut self, key: SessionKey, received: io::Result<usize>, space: usize) {
        let Some(length) = self.note_received(key, received, space) else {
            // Unless the session has ended, its reader must know that the direct read is over before it is used
            // again.
            if let Some(session) = self.sessions.get(key) {
                session.reader.direct_done(usize::MAX).ok();
            }
            return;
        };
        let Some(session) = self.sessions.present(key) else { return };
        let sender = Sender { key, rights: session.rights, protocol: session.protocol };
        let mut reader = std::mem::take(&mut session.reader);
        // Accounted for without the reader: a message that it completes will count for its receivers, and must not
        // count twice.
        self.account(key);
        let message_bytes_max = self.settings.message_bytes_max;
        let action = catch_panic(|| classify(sender.protocol, reader.direct_done(message_bytes_max), length));
        let mut budget = Budget::CONNECTION;
        let before = self.stats.frames_in;
        let stop = self.perform(sender, action, &mut budget);
        self.put_reader_back(key, reader);
        let stop = stop.unwrap_or(StopReason::AllDecoded);
        self.charge(key, self.stats.frames_in - before, stop == StopReason::AllDecoded);
        self.keep_undecoded(key, &[], stop);
    }

    /// Keeps the bytes that were not decoded, and queues the session to be read again if it can be.
    fn keep_undecoded(&mut self, key: SessionKey, rest: &[u8], stop: StopReason) {
        // One of its messages may have ended it.
        let Some(session) = self.sessions.get(key) else { return };
        if !rest.is_empty() && stop != StopReason::Closed {
            // If decoding stalled, `stall` has made the `Unread` already.
            session.unread.get_or_insert_default().bytes = rest.to_vec();
        }
        if stop != StopReason::Stalled && session.has_input() {
            self.enqueue(key);
        }
    }

    /// Decodes `bytes` from `at` on, frame by frame, and performs the action of each; advances `at`.
    fn decode(&mut self, key: SessionKey, bytes: &mut [u8], at: &mut usize) -> StopReason {
        let Some(session) = self.sessions.present(key) else { return StopReason::Closed };
        let sender = Sender { key, rights: session.rights, protocol: session.protocol };
        let mut reader = std::mem::take(&mut session.reader);
        let mut budget = Budget::CONNECTION;
        let is_metered = session.meter.is_some();
        if let Some(meter) = &session.meter {
            // Each message costs one delivery at least, so that this bounds the number of messages.
            budget.deliveries = budget.deliveries.min(meter.messages_left());
        }
        if reader.bytes_held() > 0 {
            // Without the reader, as in `note_direct_receive`.
            self.account(key);
        }
        let message_bytes_max = self.settings.message_bytes_max;
        let before = self.stats.frames_in;
        let mut was_between = false;
        let stop = loop {
            if *at == bytes.len() {
                break StopReason::AllDecoded;
            }
            if budget.is_spent() || self.is_saturated() {
                break StopReason::BudgetSpent;
            }
            let action = catch_panic(|| {
                let (taken, event) = reader.read(&mut bytes[*at..], message_bytes_max);
                *at += taken;
                classify(sender.protocol, event, taken)
            });
            let stop = self.perform(sender, action, &mut budget);
            was_between |= !reader.is_mid_message();
            if let Some(stop) = stop {
                break stop;
            }
        };
        if was_between && let Some(session) = self.sessions.get(key) {
            // A message that is incomplete now is another one than before, with a deadline of its own.
            session.flags.is_mid_message = false;
        }
        self.put_reader_back(key, reader);
        if is_metered {
            self.charge(key, self.stats.frames_in - before, stop == StopReason::AllDecoded);
        }
        stop
    }

    /// Puts the reader back into its session, and sets the deadline of a message that has begun.
    fn put_reader_back(&mut self, key: SessionKey, reader: Reader) {
        let tick = self.tick;
        // One of its messages may have closed or ended it.
        let Some(session) = self.sessions.get(key).filter(|session| session.phase == Phase::Open) else { return };
        let is_mid_message = reader.is_mid_message();
        session.reader = reader;
        if is_mid_message && !session.flags.is_mid_message {
            session.message_since = tick;
            session.flags.is_mid_message = true;
            let deadline = tick.after(self.settings.message_timeout);
            self.wake_at(key, deadline);
        } else {
            session.flags.is_mid_message = is_mid_message;
        }
    }

    /// Performs the action of one frame; returns the reason if decoding must stop.
    #[inline]
    fn perform(&mut self, sender: Sender, action: Action<'_>, budget: &mut Budget) -> Option<StopReason> {
        let key = sender.key;
        self.stats.frames_in += 1;
        let closings = self.closings;
        let mut cost = Cost { deliveries: 1, bytes: 0 };
        let mut stop = None;
        match action {
            Action::Command { kind, message, command: Command::Send { recipient, payload } } => {
                if sender.rights.allow(recipient.right()) {
                    (cost, stop) = self.route(key, kind, message, recipient, payload);
                } else {
                    match recipient {
                        Recipient::Uid(_) => self.stats.forbidden_unicasts += 1,
                        Recipient::Everybody => self.stats.forbidden_broadcasts += 1,
                    }
                    cost.bytes = self.send_error(sender, recipient.refusal());
                }
            }
            Action::Command { kind, message, command: Command::Echo } => {
                cost.bytes = message.as_slice().len();
                self.deliver_to(key, &mut Message::new(kind, message));
            }
            Action::Malformed(Malformed(text)) => {
                self.stats.invalid += 1;
                cost.bytes = self.send_error(sender, text);
            }
            Action::Ping(payload) => {
                self.pong(key, payload);
                // Decoding stops until the pong was sent. So a peer that reads gets a pong for each of its pings, in
                // order, and one that does not read gets only the latest.
                stop = Some(StopReason::BudgetSpent);
            }
            Action::Pong => {}
            // Received bytes are work, even if no message comes of them.
            Action::Fragment { bytes } => cost.bytes = bytes,
            Action::Incomplete { bytes } => {
                self.stats.frames_in -= 1;
                cost.bytes = bytes;
            }
            Action::Close { code } => {
                self.answer_close(key, code);
                return Some(StopReason::Closed);
            }
            Action::Violation(violation) => {
                self.stats.violations += 1;
                let reason = violation.to_string();
                self.close(key, CloseReason::with_text(violation.close_code(), &reason), Unsent::Keep);
                return Some(StopReason::Closed);
            }
            Action::Panicked => {
                self.stats.panics += 1;
                error!(shard = self.index, session = %key, "a session's code panicked, the session ends");
                let reason = CloseReason::of(close::INTERNAL_ERROR);
                self.close(key, reason, Unsent::Keep);
                return Some(StopReason::Closed);
            }
        }
        budget.spend(cost);
        self.budget.spend(cost);
        self.enforce_memory_max();
        // The sender may have been closed to free memory, or as the slow receiver of its own message.
        if self.closings == closings || self.is_open(key) { stop } else { Some(StopReason::Closed) }
    }

    /// Sends a client an error about its message, in the encoding of its protocol; returns the length in bytes.
    #[cold]
    fn send_error(&mut self, sender: Sender, text: &str) -> usize {
        let Some(error) = sender.protocol.error(text) else { return 0 };
        self.reply(sender.key, &error);
        error.len()
    }

    /// Routes a message: to sessions of this shard, or into the mail for another. Returns the cost, and the reason if
    /// decoding must stop.
    #[inline]
    fn route(
        &mut self,
        key: SessionKey,
        kind: Kind,
        message: Payload<'_>,
        recipient: Recipient,
        span: Span,
    ) -> (Cost, Option<StopReason>) {
        let payload = match &message {
            Payload::Borrowed(bytes) => Payload::Borrowed(&bytes[span.range()]),
            Payload::Shared(bytes) => Payload::Shared(bytes.slice(span.range())),
        };
        let bytes = payload.as_slice().len();
        match recipient {
            Recipient::Everybody => {
                // A large payload is copied once, and shared by this shard's log and the mail to the others.
                let payload = if bytes < SHARE_FROM { payload } else { Payload::Shared(payload.into_shared()) };
                // Broadcasts keep their order: while others wait, this one waits behind them, even if there is room by
                // now.
                if self.stalled.has_broadcasts() || self.mailbox.broadcast(kind, &payload) == Room::Full {
                    let (uid, span) = (Span::new(0, 0), Span::new(0, bytes));
                    let message = payload.into_shared();
                    self.stall(
                        key,
                        Stall::Broadcast,
                        StalledMessage { hash: UidHash(0), kind, message, uid, payload: span },
                    );
                    return (Cost { deliveries: 1, bytes }, Some(StopReason::Stalled));
                }
                tally::broadcast();
                self.stats.broadcasts_sent += 1;
                (Cost { deliveries: 1 + self.broadcast(&mut Message::new(kind, payload)), bytes }, None)
            }
            Recipient::Uid(name) => {
                let uid = &message.as_slice()[name.range()];
                let cost = Cost { deliveries: 1, bytes };
                if let Some(session) = self.registry.last_recipient(uid) {
                    debug_assert_eq!(*self.registry.find(self.hasher.hash(uid), uid), [session]);
                    tally::unicast();
                    tally::reached(1);
                    self.deliver_to(session, &mut Message::new(kind, payload));
                    return (cost, None);
                }
                if uid.len() > uid::BYTES_MAX {
                    tally::unicast();
                    self.stats.offline += 1;
                    return (cost, None);
                }
                let hash = self.hasher.hash(uid);
                let to = router::shard_of(hash, self.mailbox.shard_count());
                if to == self.index {
                    tally::unicast();
                    if let Some(session) = self.registry.find_only(hash, uid) {
                        tally::reached(1);
                        self.deliver_to(session, &mut Message::new(kind, payload));
                        return (cost, None);
                    }
                    let (_, cost) = self.deliver(hash, uid, &mut Message::new(kind, payload));
                    return (cost, None);
                }
                if self.mailbox.unicast(to, hash, uid, kind, &payload) == Room::Full {
                    let message = message.into_shared();
                    self.stall(
                        key,
                        Stall::Unicast { to },
                        StalledMessage { hash, kind, message, uid: name, payload: span },
                    );
                    return (cost, Some(StopReason::Stalled));
                }
                tally::unicast();
                (cost, None)
            }
        }
    }
}

/// Runs the decoding of one frame; a panic in it ends the session, not the shard.
///
/// Decoding holds no reference to the shard. It may leave the reader and the received bytes half changed; both are
/// dropped with the session.
#[inline]
fn catch_panic<'a>(decode: impl FnOnce() -> Action<'a>) -> Action<'a> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or(Action::Panicked)
}

/// Turns a frame of `bytes` bytes, as the reader found it, into an action.
#[inline(always)]
fn classify(protocol: Protocol, event: Result<Option<Event<'_>>, Violation>, bytes: usize) -> Action<'_> {
    #[cfg(test)]
    if let Ok(Some(Event::Message { payload, .. })) = &event {
        assert_ne!(payload.as_slice(), PANIC_PAYLOAD, "a test asked for it");
    }
    match event {
        Ok(Some(Event::Message { kind, payload })) => {
            let command = protocol.parse(payload.as_slice());
            if let Ok(command) = &command {
                // Here a fault of the protocol's code ends this session; further on it would end the shard.
                assert!(command.is_within(payload.as_slice().len()), "a part of a command lies outside its message");
            }
            let message = match payload {
                frame::Payload::Borrowed(bytes) => Payload::Borrowed(bytes),
                frame::Payload::Owned(bytes) => Payload::Shared(Bytes::from(bytes)),
            };
            match command {
                Ok(command) => Action::Command { kind, message, command },
                Err(malformed) => Action::Malformed(malformed),
            }
        }
        Ok(Some(Event::Ping(payload))) => Action::Ping(payload),
        Ok(Some(Event::Pong(_))) => Action::Pong,
        Ok(Some(Event::Close { code, .. })) => Action::Close { code },
        Ok(Some(Event::Fragment)) => Action::Fragment { bytes },
        Ok(None) => Action::Incomplete { bytes },
        Err(violation) => Action::Violation(violation),
    }
}
