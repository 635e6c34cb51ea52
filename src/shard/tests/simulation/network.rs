//! The network and the clock of a simulation: connections that behave as badly as real ones may.
//!
//! A socket may give or take less than it could, at any byte, be interrupted, refuse, hold back what it has taken (as
//! TLS does), fail, or end one direction. It tells of itself by edges, some of them spurious, in any order. What it may
//! not do is what no kernel does: stop in the middle without telling when it goes on.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;

use super::super::clock::Clock;
use crate::shard::io::{Interest, Network, Readiness, SessionKey, Socket};

/// Room of a peer that reads all there is.
pub(super) const UNLIMITED: usize = usize::MAX;

/// Bytes that an encrypted stream takes before it has room for them.
const AHEAD: usize = 4 << 10;

/// How likely faults are, each one time in so many; 0 for never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// A call is interrupted, or takes or gives only a part.
    pub(super) partial: u32,
    /// An event that means nothing.
    pub(super) spurious: u32,
    /// The poller refuses a socket.
    pub(super) refusal: u32,
}

/// Says whether one of `one_in` times has come.
pub(super) fn is_one_in(random: &mut Rng, one_in: u32) -> bool {
    one_in > 0 && random.u32(..one_in) == 0
}

/// Sessions that have something to tell, by key.
type Ready = Rc<RefCell<Vec<SessionKey>>>;

/// One connection: both of its directions.
pub(super) struct Wire {
    random: Rng,
    faults: Faults,
    clock: Rc<Clock>,
    /// What has arrived and was not received.
    input: Vec<u8>,
    received_to: usize,
    has_ended: bool,
    pub(super) has_failed: bool,
    /// What was taken, and not looked at by the peer.
    pub(super) output: Vec<u8>,
    room: usize,
    is_encrypted: bool,
    /// Of an encrypted stream: how much was taken without room for it.
    held_back: usize,
    is_readable: bool,
    is_writable: bool,
    is_watched: bool,
    is_listed: bool,
    ready: Option<Ready>,
    pub(super) session: Option<SessionKey>,
    pub(super) is_finished: bool,
    pub(super) is_removed: bool,
    /// When the server received something last.
    pub(super) heard: Instant,
    /// All bytes received, and all taken.
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
    /// By the place of their session.
    wires: Vec<Option<Rc<RefCell<Wire>>>>,
    /// The session that ended last: a poller may tell of it yet.
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
            held_back: 0,
            is_readable: false,
            is_writable: false,
            is_watched: false,
            is_listed: false,
            ready: None,
            session: None,
            is_finished: false,
            is_removed: false,
            heard: clock.now(),
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

    /// Whether something has arrived that was not received.
    pub(super) fn has_input(&self) -> bool {
        self.received_to < self.input.len()
    }

    /// Whether the peer has ended what it sends, or the connection has failed.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended || self.has_failed
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// The peer sends no more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.raise(true, false);
    }

    /// The connection fails with the next call.
    pub(super) fn fail(&mut self) {
        self.has_failed = true;
        self.raise(true, true);
    }

    /// Lets the socket take `bytes` from now on.
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

    /// Takes up to `bytes` of room, all of it unless there is a fault; less than asked for is told of later.
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

    /// Lets go of what is held back as far as there is room; says whether all went.
    fn push(&mut self) -> bool {
        if self.held_back > 0 {
            self.held_back -= self.take_room(self.held_back);
        }
        self.held_back == 0
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
            // The rest comes a moment later.
            wire.raise(true, false);
        }
        wire.received += length as u64;
        wire.heard = wire.clock.now();
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
            wire.held_back = taken;
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
        self.0.borrow().held_back > 0
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

    /// Whether a poll would tell of something.
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
        // Its memory is used again.
        *self.ready.borrow_mut() = keys;
        if !self.wires.is_empty() && is_one_in(&mut self.random, self.faults.spurious) {
            let place = self.random.usize(..self.wires.len());
            let session = self.wires[place].as_ref().map_or(self.ended, |wire| wire.borrow().session);
            if let Some(session) = session {
                let is_writable = self.wires[place].as_ref().is_none_or(|wire| wire.borrow().is_watched);
                ready.push(Readiness { session, is_readable: true, is_writable, is_read_closed: false });
            }
        }
        Ok(())
    }

    fn add(&mut self, socket: &mut SimulatedSocket, session: SessionKey) -> io::Result<()> {
        if is_one_in(&mut self.random, self.faults.refusal) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let place = session.slot() as usize;
        if self.wires.len() <= place {
            self.wires.resize(place + 1, None);
        }
        assert!(self.wires[place].is_none(), "two sessions have one key");
        self.wires[place] = Some(Rc::clone(&socket.0));
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
