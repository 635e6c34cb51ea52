//! Memory for sockets and a clock that stands still: a node on one thread, turned by hand.
//!
//! Sockets are edge-triggered like mio's, take as many bytes as a test gives them room for, and keep
//! what they took. [`Node::settle`] turns every shard until all of them would sleep.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::clock::Clock;
use super::frames::{Frame, TEXT, close_code, frames, masked};
use crate::config::{Config, SessionSettings};
use crate::mailbox::{self, ShardWaker};
use crate::metrics::Stats;
use crate::protocol::Protocol;
use crate::rights::Rights;
use crate::router::shard_of;
use crate::shard::io::{Interest, Network, Readiness, SessionKey, Socket};
use crate::shard::{Admission, Handover, LoginNumber, LoginNumbers, Parts, Request, Shard, Turn};
use crate::uid::{Uid, UidHasher};

/// Rounds after which a node that is not quiet never will be.
const ROUNDS_MAX: usize = 1_000_000;

/// Sockets that one poll tells of, as few as sweeping allows for.
const READY_MAX: usize = 256;

/// One connection: both of its directions, and what a test wants to know of it.
#[derive(Debug, Default)]
pub(super) struct Wire {
    input: VecDeque<u8>,
    is_input_ended: bool,
    pub(super) output: Vec<u8>,
    /// Bytes that the socket still takes.
    room: usize,
    /// Bytes that its peer reads between two polls; the socket has room for as many again then.
    reads: usize,
    /// Send calls, refused ones included.
    pub(super) sends: usize,
    /// Where the first piece of the last send lay.
    pub(super) sent_from: usize,
    pub(super) is_finished: bool,
    pub(super) is_removed: bool,
    has_failed: bool,
    is_watched: bool,
    has_become_readable: bool,
    has_become_writable: bool,
}

pub(super) struct MemorySocket(Rc<RefCell<Wire>>);

pub(super) struct MemoryNetwork {
    clock: Rc<Clock>,
    wires: Vec<(SessionKey, Rc<RefCell<Wire>>)>,
    /// Whether the last poll would have slept.
    slept: bool,
}

impl Socket for MemorySocket {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.has_failed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if wire.input.is_empty() {
            return if wire.is_input_ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let length = buffer.len().min(wire.input.len());
        for (to, from) in buffer.iter_mut().zip(wire.input.drain(..length)) {
            *to = from;
        }
        Ok(length)
    }

    fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut room = vec![0; buffer.capacity() - buffer.len()];
        let length = self.receive(&mut room)?;
        buffer.extend_from_slice(&room[..length]);
        Ok(length)
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        wire.sends += 1;
        wire.sent_from = pieces[0].as_ptr() as usize;
        if wire.has_failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if wire.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut sent = 0;
        for piece in pieces {
            let length = piece.len().min(wire.room);
            wire.output.extend_from_slice(&piece[..length]);
            wire.room -= length;
            sent += length;
        }
        Ok(sent)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.borrow_mut().is_finished = true;
        Ok(())
    }
}

impl Network for MemoryNetwork {
    type Socket = MemorySocket;

    fn now(&self) -> Instant {
        self.clock.look()
    }

    fn wall_time(&self) -> SystemTime {
        self.clock.wall_time()
    }

    fn poll(&mut self, time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        for (session, wire) in &self.wires {
            if ready.len() == READY_MAX {
                break;
            }
            let mut wire = wire.borrow_mut();
            if wire.reads > 0 {
                wire.has_become_writable |= wire.room == 0;
                wire.room = wire.reads;
            }
            let is_readable = std::mem::take(&mut wire.has_become_readable);
            let is_writable = wire.is_watched && std::mem::take(&mut wire.has_become_writable);
            if is_readable || is_writable {
                let is_read_closed = wire.is_input_ended || wire.has_failed;
                ready.push(Readiness { session: *session, is_readable, is_writable, is_read_closed });
            }
        }
        self.slept = ready.is_empty() && time_out != Some(Duration::ZERO);
        Ok(())
    }

    fn add(&mut self, socket: &mut MemorySocket, session: SessionKey) -> io::Result<()> {
        self.wires.push((session, Rc::clone(&socket.0)));
        let mut wire = socket.0.borrow_mut();
        wire.has_become_readable = !wire.input.is_empty() || wire.is_input_ended;
        Ok(())
    }

    fn watch(&mut self, socket: &mut MemorySocket, _session: SessionKey, interest: Interest) -> io::Result<()> {
        let mut wire = socket.0.borrow_mut();
        wire.is_watched = interest == Interest::ReadableAndWritable;
        wire.has_become_readable |= !wire.input.is_empty() || wire.is_input_ended;
        wire.has_become_writable = wire.room > 0;
        Ok(())
    }

    fn remove(&mut self, socket: &mut MemorySocket) {
        socket.0.borrow_mut().is_removed = true;
        self.wires.retain(|(_, wire)| !Rc::ptr_eq(wire, &socket.0));
    }
}

/// A node whose shards all run on the test's thread.
pub(super) struct Node {
    pub(super) shards: Vec<Shard<MemoryNetwork>>,
    has_ended: Vec<bool>,
    clock: Rc<Clock>,
    handovers: Vec<flume::Sender<Handover<MemorySocket>>>,
    requests: Vec<flume::Sender<Request>>,
    wakers: Vec<ShardWaker>,
    pub(super) hasher: UidHasher,
    admission: Admission,
    logins: LoginNumbers,
}

/// The other end of a session.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) uid: String,
    pub(super) wire: Rc<RefCell<Wire>>,
}

/// The defaults, with an empty answer to logins.
pub(super) fn settings() -> SessionSettings {
    SessionSettings { login_reply: String::new(), ..Config::default().session() }
}

impl Node {
    pub(super) fn new(shards: usize, settings: SessionSettings) -> Self {
        Self::with_mailboxes(shards, settings, 1 << 20)
    }

    pub(super) fn with_mailboxes(shards: usize, settings: SessionSettings, mailbox_bytes_max: usize) -> Self {
        let clock = Rc::new(Clock::new(Duration::ZERO));
        let hasher = UidHasher::fixed(11);
        let settings = Arc::new(settings);
        let wakers: Vec<_> = (0..shards).map(|_| ShardWaker::new(Arc::new(|| Ok(())))).collect();
        let (mut all, mut handover_senders, mut request_senders) = (Vec::new(), Vec::new(), Vec::new());
        for (index, mailbox) in mailbox::wire(&wakers, mailbox_bytes_max).into_iter().enumerate() {
            let (handover_sender, handovers) = flume::bounded(1024);
            let (request_sender, requests) = flume::bounded(1024);
            handover_senders.push(handover_sender);
            request_senders.push(request_sender);
            let network = MemoryNetwork { clock: Rc::clone(&clock), wires: Vec::new(), slept: false };
            let (hasher, settings) = (hasher.clone(), Arc::clone(&settings));
            let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence: None };
            all.push(Shard::new(network, parts));
        }
        Self {
            shards: all,
            has_ended: vec![false; shards],
            clock,
            handovers: handover_senders,
            requests: request_senders,
            wakers,
            hasher,
            admission: Admission::default(),
            logins: LoginNumbers::default(),
        }
    }

    /// Returns the shard that owns `uid`.
    pub(super) fn shard_of(&self, uid: &str) -> usize {
        shard_of(self.hasher.hash(uid.as_bytes()), self.shards.len())
    }

    /// Returns a uid that `shard` owns, starting with `name`.
    pub(super) fn uid_on(&self, shard: usize, name: &str) -> String {
        let named = |number| format!("{name}{number}");
        (0..).map(named).find(|uid| self.shard_of(uid) == shard).expect("every shard owns some uid")
    }

    pub(super) fn draw(&self) -> LoginNumber {
        self.logins.draw()
    }

    /// Hands a connection over, `sent` being what came behind its login frame; turns nothing.
    pub(super) fn hand_over(&self, uid: &str, login: LoginNumber, sent: &[u8]) -> Client {
        self.hand_over_session(uid, Protocol::Plain, login, sent, None)
    }

    fn hand_over_session(
        &self,
        uid: &str,
        protocol: Protocol,
        login: LoginNumber,
        sent: &[u8],
        expires: Option<SystemTime>,
    ) -> Client {
        let wire = Rc::new(RefCell::new(Wire { room: usize::MAX, ..Wire::default() }));
        let handover = Handover {
            socket: MemorySocket(Rc::clone(&wire)),
            unread: sent.to_vec(),
            uid: Uid::new(uid.as_bytes(), 256, &self.hasher).expect("the text is a uid"),
            protocol,
            rights: Rights::ALL,
            expires,
            login,
            peer: None,
            permit: self.admission.admit(usize::MAX).expect("there is no bound"),
        };
        self.handovers[self.shard_of(uid)].send(handover).expect("the shard is there");
        self.wakers[self.shard_of(uid)].wake();
        Client { uid: uid.to_owned(), wire }
    }

    /// Logs `uid` in, and takes its (empty) answer.
    #[track_caller]
    pub(super) fn login(&mut self, uid: &str) -> Client {
        self.login_until(uid, None)
    }

    /// Logs `uid` in with a credential whose time is over in so long by the wall clock.
    #[track_caller]
    pub(super) fn login_for(&mut self, uid: &str, time: Duration) -> Client {
        self.login_until(uid, Some(self.clock.wall_time() + time))
    }

    #[track_caller]
    fn login_until(&mut self, uid: &str, expires: Option<SystemTime>) -> Client {
        let client = self.hand_over_session(uid, Protocol::Plain, self.draw(), &[], expires);
        self.settle();
        assert_eq!(client.take(), [(TEXT, Vec::new())]);
        client.wire.borrow_mut().sends = 0;
        client
    }

    /// Logs in a client that speaks `protocol`; returns the answers to its login, too.
    #[track_caller]
    pub(super) fn login_as(&mut self, protocol: Protocol, uid: &str) -> (Client, Vec<String>) {
        let client = self.hand_over_session(uid, protocol, self.draw(), &[], None);
        self.settle();
        let answers = client.texts();
        client.wire.borrow_mut().sends = 0;
        (client, answers)
    }

    /// Logs in so many users, `user0` and so on, and takes their answers.
    #[track_caller]
    pub(super) fn log_in_many(&mut self, users: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        while clients.len() < users {
            // As many as there is room for on their way in.
            let next = clients.len()..users.min(clients.len() + 1000);
            clients.extend(next.map(|index| self.hand_over(&format!("user{index}"), self.draw(), &[])));
            self.settle();
        }
        clients.iter().for_each(|client| assert_eq!(client.take(), [(TEXT, Vec::new())]));
        clients
    }

    pub(super) fn request(&self, shard: usize, request: Request) {
        self.request_silently(shard, request);
        self.wakers[shard].wake();
    }

    /// Puts a request where the shard would find it if it looked, and says nothing.
    pub(super) fn request_silently(&self, shard: usize, request: Request) {
        self.requests[shard].send(request).expect("the shard is there");
    }

    pub(super) fn ring(&self, shard: usize) {
        self.wakers[shard].wake();
    }

    /// Turns one shard once.
    pub(super) fn turn(&mut self, shard: usize) {
        if self.has_ended[shard] {
            return;
        }
        self.has_ended[shard] = self.shards[shard].turn() == Turn::Last;
        // Each session is looked at: with thousands, and thousands of turns, that would take minutes.
        if self.shards[shard].sessions.len() <= 256 {
            self.shards[shard].check_invariants();
        }
    }

    /// Turns every shard once; says whether one had something to do.
    pub(super) fn round(&mut self) -> bool {
        (0..self.shards.len()).fold(false, |is_busy, shard| {
            self.turn(shard);
            let turned = &self.shards[shard];
            // What a sweep has just made is not sent yet.
            let is_idle = turned.network.slept && turned.idle_for() != Some(Duration::ZERO);
            is_busy || !(self.has_ended[shard] || is_idle)
        })
    }

    /// Turns the shards until all would sleep.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        assert!((0..ROUNDS_MAX).any(|_| !self.round()), "the shards never come to rest");
    }

    /// Lets time pass, in steps of a tick, the shards being quiet at each.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.jump(Duration::from_millis(50));
            self.settle();
        }
    }

    /// Lets time pass at once; turns nothing.
    pub(super) fn jump(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// Sets the wall clock ahead, as it also looks when the machine was suspended.
    pub(super) fn set_ahead(&self, time: Duration) {
        self.clock.set_ahead(time);
    }

    /// Sets the wall clock back.
    pub(super) fn set_back(&self, time: Duration) {
        self.clock.set_back(time);
    }

    /// Lets `time` pass with each look at the clock.
    pub(super) fn slow_down(&self, time: Duration) {
        self.clock.slow_down(time);
    }

    pub(super) fn has_ended(&self, shard: usize) -> bool {
        self.has_ended[shard]
    }

    /// Lets go of the way by which connections come in, as the gateway does when it ends.
    pub(super) fn end_logins(&mut self) {
        self.handovers.clear();
    }

    /// Returns what all shards have counted.
    pub(super) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.shards.iter().for_each(|shard| sum.add(&shard.stats()));
        sum
    }
}

impl Client {
    /// Sends bytes as they are.
    pub(super) fn send_bytes(&self, bytes: &[u8]) {
        let mut wire = self.wire.borrow_mut();
        wire.input.extend(bytes);
        wire.has_become_readable = true;
    }

    pub(super) fn send_frame(&self, first: u8, payload: &[u8]) {
        self.send_bytes(&masked(first, payload));
    }

    pub(super) fn send(&self, text: &str) {
        self.send_frame(TEXT, text.as_bytes());
    }

    /// Closes the client's direction.
    pub(super) fn end(&self) {
        let mut wire = self.wire.borrow_mut();
        wire.is_input_ended = true;
        wire.has_become_readable = true;
    }

    /// Lets the connection fail with the next call.
    pub(super) fn fail(&self) {
        let mut wire = self.wire.borrow_mut();
        wire.has_failed = true;
        wire.has_become_readable = true;
    }

    /// Lets the socket take `bytes` more, from now on.
    pub(super) fn give_room(&self, bytes: usize) {
        let mut wire = self.wire.borrow_mut();
        wire.room = bytes;
        wire.has_become_writable = bytes > 0;
    }

    /// Lets the peer read so many bytes between two polls, from now on.
    pub(super) fn read_slowly(&self, bytes: usize) {
        self.wire.borrow_mut().reads = bytes;
    }

    /// Takes what has arrived; it must be whole frames.
    #[track_caller]
    pub(super) fn take(&self) -> Vec<Frame> {
        let output = std::mem::take(&mut self.wire.borrow_mut().output);
        let (frames, rest) = frames(&output);
        assert!(rest.is_empty(), "{} bytes of a frame cut short", rest.len());
        frames
    }

    /// Takes what has arrived; it must be whole text messages.
    #[track_caller]
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |(first, payload)| {
            assert_eq!(first, TEXT);
            String::from_utf8(payload).expect("text is UTF-8")
        };
        self.take().into_iter().map(text).collect()
    }

    /// Takes what has arrived; it must be a close frame: its code.
    #[track_caller]
    pub(super) fn closed(&self) -> u16 {
        match &self.take()[..] {
            [frame] => close_code(frame),
            other => panic!("expected a close frame, got {other:?}"),
        }
    }

    pub(super) fn sends(&self) -> usize {
        self.wire.borrow().sends
    }
}
