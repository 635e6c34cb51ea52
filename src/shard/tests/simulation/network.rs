//! The simulated network: connections that behave as badly as real ones may.
//!
//! A socket may receive or send less than it could, at any byte, be interrupted, refuse, keep bytes that it took unsent
//! (as TLS does), fail, or end one direction. Its events are edge-triggered, in any order, and some are spurious. It
//! does nothing that no kernel does: an event is never missing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;

use super::super::clock::Clock;
use crate::shard::io::{Interest, Network, Readiness, SessionKey, Socket};

/// Room of a socket whose peer reads everything.
pub(super) const UNLIMITED: usize = usize::MAX;

/// Most bytes that an encrypted stream takes without room in its socket.
const AHEAD: usize = 4 << 10;

/// Probabilities of faults, each as one in so many; 0 for never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// A call is interrupted, or receives or sends only a part.
    pub(super) partial: u32,
    /// A spurious event.
    pub(super) spurious: u32,
    /// The poller refuses a socket.
    pub(super) refusal: u32,
}

/// Returns true once in `one_in` times, at random.
pub(super) fn is_one_in(random: &mut Rng, one_in: u32) -> bool {
    one_in > 0 && random.u32(..one_in) == 0
}

/// Keys of sessions with events.
type Ready = Rc<RefCell<Vec<SessionKey>>>;

/// One connection in both directions.
pub(super) struct Wire {
    random: Rng,
    faults: Faults,
    clock: Rc<Clock>,
    /// Bytes that have arrived, of which the server has received those up to `received_to`.
    input: Vec<u8>,
    received_to: usize,
    has_ended: bool,
    pub(super) has_failed: bool,
    /// Bytes that the socket took and the peer has not read.
    pub(super) output: Vec<u8>,
    room: usize,
    is_encrypted: bool,
    /// For an encrypted stream: bytes that were taken and are unsent.
    unsent: usize,
    is_readable: bool,
    is_writable: bool,
    is_watched: bool,
    is_listed: bool,
    ready: Option<Ready>,
    pub(super) session: Option<SessionKey>,
    pub(super) is_finished: bool,
    pub(super) is_removed: bool,
    /// When the server last received bytes.
    pub(super) last_received: Instant,
    /// Total of bytes received, and of bytes taken.
    pub(super) received: u64,
    pub(super) taken: u64,
}

pub(super) struct SimulatedSocket(pub(super) Rc<RefCell<Wire>>);

/// A shard's poller.
pub(super) struct SimulatedNetwork {
    random: Rng,
    faults: Faults,
    clock: Rc<Clock>,
    ready: Ready,
    /// Connections by the slot of their session.
    wires: Vec<Option<Rc<RefCell<Wire>>>>,
    /// The session that ended last: the poller may still report it.
    ended: Option<SessionKey>,
}

impl Wire {
    pub(super) fn new(clock: &Rc<Clock>, faults: Faults, random: &mut Rng) -> Self {
        Self {
            random: random.fork(),
            faults,
            clock: Rc::clone(clock),
            input: Vec::new(),
            received_to: 0,
            has_ended: false,
            has_failed: false,
            output: Vec::new(),
            room: UNLIMITED,
            is_encrypted: is_one_in(random, 4),
            unsent: 0,
            is_readable: false,
            is_writable: false,
            is_watched: false,
            is_listed: false,
            ready: None,
            session: None,
            is_finished: false,
            is_removed: false,
            last_received: clock.now(),
            received: 0,
            taken: 0,
        }
    }

    /// Lets bytes arrive.
    pub(super) fn arrive(&mut self, bytes: &[u8]) {
        if !self.has_ended && !bytes.is_empty() {
            self.input.extend_from_slice(bytes);
            self.raise(true, false);
        }
    }

    /// Whether bytes have arrived that were not received.
    pub(super) fn has_input(&self) -> bool {
        self.received_to < self.input.len()
    }

    /// Whether the peer has ended its stream, or the connection has failed.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended || self.has_failed
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Ends the peer's stream.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.raise(true, false);
    }

    /// Lets the connection fail with the next call.
    pub(super) fn fail(&mut self) {
        self.has_failed = true;
        self.raise(true, true);
    }

    /// Sets the room of the socket to `bytes`.
    pub(super) fn give_room(&mut self, bytes: usize) {
        self.room = bytes;
        if bytes > 0 {
            self.raise(false, true);
        }
    }

    fn raise(&mut self, is_readable: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_writable |= is_writable;
        if let (Some(ready), Some(session)) = (&self.ready, self.session)
            && !self.is_listed
        {
            self.is_listed = true;
            ready.borrow_mut().push(session);
        }
    }

    /// Takes up to `bytes` of room, less with a fault; the socket is reported as writable later if it gave less.
    fn take_room(&mut self, bytes: usize) -> usize {
        let mut taken = bytes.min(self.room);
        if taken > 0 && is_one_in(&mut self.random, self.faults.partial) {
            taken = self.random.usize(..taken);
            self.raise(false, true);
        }
        if self.room != UNLIMITED {
            self.room -= taken;
        }
        taken
    }

    /// Sends unsent bytes as far as there is room; returns whether none are left.
    fn push(&mut self) -> bool {
        if self.unsent > 0 {
            self.unsent -= self.take_room(self.unsent);
        }
        self.unsent == 0
    }
}

impl Socket for SimulatedSocket {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        if wire.has_failed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let arrived = wire.input.len() - wire.received_to;
        if arrived == 0 {
            return if wire.has_ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let is_faulty = is_one_in(&mut wire.random, wire.faults.partial);
        if is_faulty && is_one_in(&mut wire.random, 8) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut length = arrived.min(buffer.len());
        if is_faulty {
            length = wire.random.usize(1..=length);
        }
        let end = wire.received_to + length;
        buffer[..length].copy_from_slice(&wire.input[wire.received_to..end]);
        wire.received_to = end;
        if end == wire.input.len() {
            wire.input.clear();
            wire.received_to = 0;
        } else if length < buffer.len() && !wire.is_encrypted {
            // The rest is reported by an event of its own.
            wire.raise(true, false);
        }
        wire.received += length as u64;
        wire.last_received = wire.clock.now();
        Ok(length)
    }

    fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let held = buffer.len();
        let end = buffer.capacity();
        buffer.resize(end, 0);
        let received = self.receive(&mut buffer[held..]);
        buffer.truncate(held + received.as_ref().map_or(0, |length| *length));
        received
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        assert!(!wire.is_finished, "something is sent behind the end");
        if wire.has_failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if is_one_in(&mut wire.random, wire.faults.partial.saturating_mul(8)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let due = pieces.iter().map(|piece| piece.len()).sum();
        let mut left = if wire.is_encrypted {
            if !wire.push() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = usize::min(due, AHEAD);
            wire.unsent = taken;
            wire.push();
            taken
        } else {
            assert!(due > 0, "nothing is sent");
            match wire.take_room(due) {
                0 => return Err(io::ErrorKind::WouldBlock.into()),
                taken => taken,
            }
        };
        let taken = left;
        for piece in pieces {
            let length = piece.len().min(left);
            wire.output.extend_from_slice(&piece[..length]);
            left -= length;
        }
        wire.taken += taken as u64;
        Ok(taken)
    }

    fn finish(&mut self) -> io::Result<()> {
        let wire = &mut *self.0.borrow_mut();
        if wire.has_failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !wire.push() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.is_finished = true;
        Ok(())
    }

    fn has_unread(&self) -> bool {
        let wire = self.0.borrow();
        wire.is_encrypted && wire.has_input()
    }

    fn has_unsent(&self) -> bool {
        self.0.borrow().unsent > 0
    }
}

impl SimulatedNetwork {
    pub(super) fn new(clock: &Rc<Clock>, faults: Faults, random: &mut Rng) -> Self {
        Self {
            random: random.fork(),
            faults,
            clock: Rc::clone(clock),
            ready: Rc::default(),
            wires: Vec::new(),
            ended: None,
        }
    }

    /// Whether a poll would return an event.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }
}

impl Network for SimulatedNetwork {
    type Socket = SimulatedSocket;

    fn now(&self) -> Instant {
        self.clock.look()
    }

    fn wall_time(&self) -> SystemTime {
        self.clock.wall_time()
    }

    fn poll(&mut self, _time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        let mut keys = std::mem::take(&mut *self.ready.borrow_mut());
        if keys.len() > 1 {
            let middle = self.random.usize(..keys.len());
            keys.rotate_left(middle);
        }
        for session in keys.drain(..) {
            let Some(Some(wire)) = self.wires.get(session.slot() as usize) else { continue };
            let mut wire = wire.borrow_mut();
            if wire.session != Some(session) {
                continue;
            }
            wire.is_listed = false;
            let is_readable = std::mem::take(&mut wire.is_readable);
            let is_writable = wire.is_watched && std::mem::take(&mut wire.is_writable);
            let is_read_closed = wire.is_over();
            if is_readable || is_writable {
                ready.push(Readiness { session, is_readable, is_writable, is_read_closed });
            }
        }
        // The slot is used again.
        *self.ready.borrow_mut() = keys;
        if !self.wires.is_empty() && is_one_in(&mut self.random, self.faults.spurious) {
            let host = self.random.usize(..self.wires.len());
            let session = self.wires[host].as_ref().map_or(self.ended, |wire| wire.borrow().session);
            if let Some(session) = session {
                let is_writable = self.wires[host].as_ref().is_none_or(|wire| wire.borrow().is_watched);
                ready.push(Readiness { session, is_readable: true, is_writable, is_read_closed: false });
            }
        }
        Ok(())
    }

    fn add(&mut self, socket: &mut SimulatedSocket, session: SessionKey) -> io::Result<()> {
        if is_one_in(&mut self.random, self.faults.refusal) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let host = session.slot() as usize;
        if self.wires.len() <= host {
            self.wires.resize(host + 1, None);
        }
        assert!(self.wires[host].is_none(), "two sessions have one key");
        self.wires[host] = Some(Rc::clone(&socket.0));
        let mut wire = socket.0.borrow_mut();
        wire.ready = Some(Rc::clone(&self.ready));
        wire.session = Some(session);
        if wire.has_input() || wire.is_over() {
            wire.raise(true, false);
        }
        Ok(())
    }

    fn watch(&mut self, socket: &mut SimulatedSocket, session: SessionKey, interest: Interest) -> io::Result<()> {
        let mut wire = socket.0.borrow_mut();
        assert_eq!(wire.session, Some(session), "a socket is watched that isn't this session's");
        if is_one_in(&mut self.random, self.faults.refusal) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        wire.is_watched = interest == Interest::ReadableAndWritable;
        let (is_readable, has_room) = (wire.has_input() || wire.is_over(), wire.room > 0 || wire.has_failed);
        wire.is_writable = false;
        wire.raise(is_readable, has_room);
        Ok(())
    }

    fn remove(&mut self, socket: &mut SimulatedSocket) {
        let mut wire = socket.0.borrow_mut();
        wire.is_removed = true;
        if let Some(session) = wire.session.take() {
            self.wires[session.slot() as usize] = None;
            self.ended = Some(session);
        }
    }
}
