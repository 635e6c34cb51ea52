//! The part of a turn that receives, decodes and routes what clients send.

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

/// A message that makes the per-session code panic. Only the library's own tests are built with it.
#[cfg(test)]
pub(crate) const PANIC_PAYLOAD: &[u8] = b"\0panic";

/// What a frame asks for, found without touching the shard.
enum Action<'a> {
    /// A message that asks for something.
    Command {
        kind: Kind,
        message: Payload<'a>,
        command: Command,
    },
    /// A message that asks for nothing.
    Malformed(Malformed),
    Ping(&'a [u8]),
    Pong,
    Close {
        code: Option<u16>,
    },
    /// A frame of a message that goes on, of so many bytes.
    Fragment {
        bytes: usize,
    },
    /// The bytes, so many, end inside a frame.
    Incomplete {
        bytes: usize,
    },
    Violation(Violation),
    /// The per-session code panicked.
    Panicked,
}

/// The session whose input is decoded, as it was when that began.
#[derive(Clone, Copy)]
struct Sender {
    key: SessionKey,
    rights: Rights,
    protocol: Protocol,
}

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    /// All bytes are decoded.
    AllDecoded,
    /// A budget is spent; others have their turn first.
    BudgetSpent,
    /// A message has no room in the mail: the session waits until the message was taken.
    Stalled,
    /// The session isn't open any more.
    Closed,
}

impl<N: Network> Shard<N> {
    /// Gives each session on the run list its share, until the turn's budget is spent.
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

    /// Whether no more may be taken in before what is due was sent.
    pub(super) fn is_saturated(&self) -> bool {
        self.budget.is_spent() || self.logs.is_full()
    }

    /// Decodes what was received in an earlier turn.
    fn resume(&mut self, key: SessionKey, mut unread: Box<Unread>) {
        let stop = self.decode(key, &mut unread.bytes, &mut unread.at);
        // It may have ended by what it sent.
        let Some(session) = self.sessions.get(key) else { return };
        if stop == StopReason::AllDecoded {
            if session.flags.is_readable {
                self.enqueue(key);
            }
            return;
        }
        // Decoding may have put a message there that has no room in the mail.
        unread.stalled = session.unread.take().and_then(|unread| unread.stalled);
        session.unread = (stop != StopReason::Closed).then_some(unread);
        if stop == StopReason::BudgetSpent {
            self.enqueue(key);
        }
    }

    /// Receives once and decodes it.
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

    /// Takes note of a receive call into `space` bytes: returns how many came, if any.
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
                // A short read is the last unless the event said that the end is near, or the socket says so itself.
                session.flags.is_readable =
                    length == space || session.flags.is_read_closed || session.socket.has_unread();
                self.stats.bytes_in += length as u64;
                if let Some(meter) = &mut session.meter {
                    meter.received(length);
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

    /// Goes on after a receive call straight into a message's buffer.
    fn note_direct_receive(&mut self, key: SessionKey, received: io::Result<usize>, space: usize) {
        let Some(length) = self.note_received(key, received, space) else {
            // The reader must hear of it all the same, before it is used again; unless the session has ended.
            if let Some(session) = self.sessions.get(key) {
                session.reader.direct_done(usize::MAX).ok();
            }
            return;
        };
        let Some(session) = self.sessions.present(key) else { return };
        let sender = Sender { key, rights: session.rights, protocol: session.protocol };
        let mut reader = std::mem::take(&mut session.reader);
        // A message that it completes is its receivers' from now on, and must not count twice.
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

    /// Keeps the bytes that were not decoded, and puts the session where it can go on.
    fn keep_undecoded(&mut self, key: SessionKey, rest: &[u8], stop: StopReason) {
        // It may have ended by what it sent.
        let Some(session) = self.sessions.get(key) else { return };
        if !rest.is_empty() && stop != StopReason::Closed {
            // Decoding may have put a message there that has no room in the mail.
            session.unread.get_or_insert_default().bytes = rest.to_vec();
        }
        if stop != StopReason::Stalled && (session.unread.is_some() || session.flags.is_readable) {
            self.enqueue(key);
        }
    }

    /// Decodes `bytes` from `at` on and does what each frame asks for.
    fn decode(&mut self, key: SessionKey, bytes: &mut [u8], at: &mut usize) -> StopReason {
        let Some(session) = self.sessions.present(key) else { return StopReason::Closed };
        let sender = Sender { key, rights: session.rights, protocol: session.protocol };
        let mut reader = std::mem::take(&mut session.reader);
        let mut budget = Budget::CONNECTION;
        let is_metered = session.meter.is_some();
        if let Some(meter) = &session.meter {
            // Each message costs one at least.
            budget.deliveries = budget.deliveries.min(meter.messages_left());
        }
        if reader.bytes_held() > 0 {
            // As in `note_direct_receive`.
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
            // What is under way now, if anything, is another message than before.
            session.flags.is_mid_message = false;
        }
        self.put_reader_back(key, reader);
        if is_metered {
            self.charge(key, self.stats.frames_in - before, stop == StopReason::AllDecoded);
        }
        stop
    }

    /// Puts the reader back into its session, and a deadline to a message that has begun.
    fn put_reader_back(&mut self, key: SessionKey, reader: Reader) {
        let tick = self.tick;
        // It may have ended, or begun to close, by what it sent.
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

    /// Does what one frame asks for; says why decoding must stop, if it must.
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
                // What comes behind waits until the pong is out: a peer that reads is answered each of its pings, in
                // order, and one that doesn't only the latest.
                stop = Some(StopReason::BudgetSpent);
            }
            Action::Pong => {}
            // What was taken in is work, whether or not anything comes of it.
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
        // It may have been cut just now, or closed by what it sent to itself.
        if self.closings == closings || self.is_open(key) { stop } else { Some(StopReason::Closed) }
    }

    /// Tells a client what was wrong with its message, in its protocol's words; returns how many bytes that takes.
    #[cold]
    fn send_error(&mut self, sender: Sender, text: &str) -> usize {
        let Some(error) = sender.protocol.error(text) else { return 0 };
        self.reply(sender.key, &error);
        error.len()
    }

    /// Sends a message on its way: to a session of this shard, or into the mail for another.
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
                // One copy for this shard's log and the others' mail.
                let payload = if bytes < SHARE_FROM { payload } else { Payload::Shared(payload.into_shared()) };
                // A broadcast joins the queue of those that wait, even if there has been room since.
                if self.stalled.has_broadcasts() || self.mailbox.broadcast(kind, &payload) == Room::Full {
                    let (uid, span) = (Span { start: 0, end: 0 }, Span { start: 0, end: bytes });
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

/// Runs the per-session code; a panic in it ends the session, not the shard.
///
/// That code holds no reference to the shard: what it may leave half done, the reader and the bytes
/// received, is thrown away with the session.
#[inline]
fn catch_panic<'a>(decode: impl FnOnce() -> Action<'a>) -> Action<'a> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or(Action::Panicked)
}

/// Says what a frame asks for, having taken `bytes`.
#[inline(always)]
fn classify(protocol: Protocol, event: Result<Option<Event<'_>>, Violation>, bytes: usize) -> Action<'_> {
    #[cfg(test)]
    if let Ok(Some(Event::Message { payload, .. })) = &event {
        assert_ne!(payload.as_slice(), PANIC_PAYLOAD, "a test asked for it");
    }
    match event {
        Ok(Some(Event::Message { kind, payload })) => {
            let command = protocol.parse(payload.as_slice());
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
