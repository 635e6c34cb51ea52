//! The part of a turn that sends: everything that is due to a socket goes out in one call.

use std::io::{self, IoSlice};
use std::time::Instant;

use super::Shard;
use super::io::{Interest, Network, SessionKey, Socket};
use super::log::{Log, Position, Run};
use super::outbox::Outbox;
use super::session::{Phase, Session};
use super::slice::Slice;
use crate::frame::Opcode;
use crate::message::Payload;
use crate::metrics::Stats;

/// Most pieces (`iovec`s) in one send call.
const PIECES_MAX: usize = 64;

impl Outbox {
    /// Appends a run of the broadcast log.
    pub(super) fn append_run(&mut self, run: Run<'_>) -> bool {
        match run {
            Run::Encoded(bytes) => self.append(bytes),
            Run::Shared(payload, from) => self.append_shared(payload.slice(from..)),
        }
        true
    }
}

impl<N: Network> Shard<N> {
    /// Sends what is due to every session, in slices of time from `now` on; requests and mail are served between
    /// slices.
    ///
    /// It flushes each session that is dirty at its start once. Sessions that become dirty meanwhile have to wait for
    /// the next turn, which follows at once: receivers that drain large outboxes become writable as fast as they are
    /// sent to, and would keep the flush from ending.
    pub(super) fn flush(&mut self, now: Instant) {
        let mut slice = self.slice(now);
        for _ in 0..self.lists.dirty_len() {
            self.flush_dirty();
            self.serve_between_sends(&mut slice);
        }
        // Broadcasts may be added between slices. That ends, since each costs the turn's budget its receivers.
        while !self.logs.is_empty() {
            let ends = self.logs.ends();
            self.fan_out(&mut slice);
            if self.logs.ends() == ends {
                self.logs.clear();
            }
        }
    }

    /// Sends each session the broadcasts that it has not taken yet.
    fn fan_out(&mut self, slice: &mut Slice) {
        let mut slot = 0;
        while let Some((key, session)) = self.sessions.next_session(slot) {
            slot = key.slot() + 1;
            if self.logs.has_due(session) {
                match session.phase {
                    Phase::Open => {
                        self.flush_session(key);
                        self.enforce_memory_max();
                    }
                    // It began to close before these broadcasts.
                    Phase::Closing | Phase::Lingering => _ = self.logs.skip(session),
                }
            }
            self.serve_during_fan_out(slice);
        }
    }

    /// Flushes the next dirty session.
    #[inline]
    pub(super) fn flush_dirty(&mut self) {
        if let Some(key) = self.lists.next_dirty(&mut self.sessions) {
            self.flush_session(key);
            self.enforce_memory_max();
        }
    }

    /// Sends everything that is due to a session. Bytes that the socket refuses stay in the outbox, or are shed by the
    /// slow-consumer policy.
    pub(super) fn flush_session(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        session.listed.clear_dirty();
        if session.phase != Phase::Open {
            self.logs.skip(session);
        }
        let log = self.logs.of(session.protocol.encoding());
        if !session.flags.is_blocked {
            let sent = loop {
                match send_once(session, log, &mut self.stats) {
                    Sent::Piece => {}
                    sent => break sent,
                }
            };
            match sent {
                // The most common case by far: a receiver of a broadcast without an outbox.
                Sent::All if session.is_settled() => return,
                Sent::All | Sent::Piece => return self.all_sent(key),
                Sent::Refused => {
                    if let Err(error) = self.block(key) {
                        return self.connection_lost(key, &error);
                    }
                }
                Sent::Lost(error) => return self.connection_lost(key, &error),
            }
        }
        self.keep_log(key);
        self.account(key);
    }

    /// Finishes a flush that has sent everything: returns the outbox to the pool, sends a late pong, stops watching for
    /// writability, and ends the stream of a closing session.
    #[inline]
    fn all_sent(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        session.flags.has_pong = false;
        let outbox = session.outbox.take();
        if session.held.get() > 0 {
            self.memory.update(session);
        }
        if let Some(mut outbox) = outbox {
            self.memory.remove_outbox(&mut outbox);
            let late_pong = outbox.take_late_pong();
            self.outboxes.put_back(outbox);
            // Nothing may follow a close frame.
            if let Some(payload) = late_pong
                && session.phase == Phase::Open
            {
                session.flags.has_pong = true;
                self.stats.frames_out += 1;
                self.append(key, |outbox| outbox.push(Opcode::Pong, &Payload::Borrowed(&payload)));
                return;
            }
        }
        if session.flags.is_watched {
            session.flags.is_watched = false;
            let watched = self.network.watch(&mut session.socket, key, Interest::Readable);
            if let Err(error) = watched {
                return self.connection_lost(key, &error);
            }
        }
        if session.phase == Phase::Closing {
            self.finish(key);
        }
    }

    /// Marks a session as blocked, and watches its socket for writability.
    ///
    /// # Errors
    /// When the poller refuses; the caller must then end the session with [`Shard::connection_lost`].
    pub(super) fn block(&mut self, key: SessionKey) -> io::Result<()> {
        self.stats.sends_refused += 1;
        let Some(session) = self.sessions.present(key) else { return Ok(()) };
        session.flags.is_blocked = true;
        if session.flags.is_watched {
            return Ok(());
        }
        session.flags.is_watched = true;
        self.network.watch(&mut session.socket, key, Interest::ReadableAndWritable)
    }

    /// Resumes sending to a session whose socket has room again.
    pub(super) fn unblock(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        session.flags.is_blocked = false;
        if session.outbox.is_some() || session.socket.has_unsent() {
            self.lists.mark_dirty(key, session);
        }
    }

    /// Copies the broadcasts that the socket refused from the log into the outbox, frame by frame: those that the
    /// outbox has room for, and those that the slow-consumer policy makes room for.
    fn keep_log(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        if !self.logs.has_due(session) {
            return;
        }
        // A frame of which a part was sent must be finished, whatever the outbox's bound says.
        let from = session.log_from;
        let begun_to = self.logs.of_session(session).frame_from(from);
        let begun = (begun_to - from) as usize;
        if begun > 0 {
            session.log_from = begun_to;
            self.copy_log(key, from, begun_to);
            if let Some(outbox) = self.sessions.present(key).and_then(|session| session.outbox.as_mut()) {
                outbox.fix(begun);
            }
        }
        while let Some(session) = self.sessions.present(key)
            && session.phase == Phase::Open
            && self.logs.has_due(session)
        {
            let from = session.log_from;
            let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
            if held + self.logs.due_bytes(session) <= self.settings.outbox_bytes_max {
                return self.take_log(key);
            }
            let next = self.logs.of_session(session).frame_from(from + 1);
            // First moved past, so that a frame that is shed is not counted again when the policy closes the session.
            session.log_from = next;
            if self.apply_slow_consumer(key, (next - from) as usize).is_ok() {
                self.copy_log(key, from, next);
            }
        }
    }
}

/// Makes one send call with the bytes that are due to a session.
#[inline]
fn send_once<S: Socket>(session: &mut Session<S>, log: &Log, stats: &mut Stats) -> Sent {
    let held = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
    let due = held + (log.end() - session.log_from) as usize;
    if due == 0 && !session.socket.has_unsent() {
        return Sent::All;
    }
    stats.sends += 1;
    let only_piece = match &session.outbox {
        Some(outbox) if held == due => outbox.only_piece(),
        Some(_) => None,
        None => log.only_piece(session.log_from),
    };
    let (offered, sent) = match only_piece {
        Some(piece) => (due, session.socket.send(&[IoSlice::new(piece)])),
        None => send_pieces(&mut session.socket, session.outbox.as_deref(), log, session.log_from),
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Sent::Piece,
        Err(error) => return Sent::Lost(error),
    };
    stats.bytes_out += sent as u64;
    let from_outbox = sent.min(held);
    session.log_from += (sent - from_outbox) as Position;
    let is_held_back = session.socket.has_unsent();
    if sent == due && !is_held_back {
        return Sent::All;
    }
    if from_outbox > 0
        && let Some(outbox) = &mut session.outbox
    {
        outbox.sent(from_outbox);
    }
    if sent == offered && !is_held_back { Sent::Piece } else { Sent::Refused }
}

/// Sends the outbox and behind it the log from `log_from` on, at most [`PIECES_MAX`] pieces; returns how many bytes
/// were offered, and the result of the call.
fn send_pieces<S: Socket>(
    socket: &mut S,
    outbox: Option<&Outbox>,
    log: &Log,
    log_from: Position,
) -> (usize, io::Result<usize>) {
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    let (mut count, mut offered) = outbox.map_or((0, 0), |outbox| outbox.pieces(&mut pieces));
    if outbox.is_none_or(|outbox| outbox.bytes() == offered) {
        log.runs(log_from, log.end(), |run| {
            let Some(piece) = pieces.get_mut(count) else { return false };
            *piece = IoSlice::new(run.as_slice());
            offered += piece.len();
            count += 1;
            true
        });
    }
    (offered, socket.send(&pieces[..count]))
}

/// The outcome of a send call.
enum Sent {
    /// Nothing is due any more.
    All,
    /// The socket took all that was offered; more is due.
    Piece,
    /// The socket took less than was offered.
    Refused,
    /// The connection has failed.
    Lost(io::Error),
}
