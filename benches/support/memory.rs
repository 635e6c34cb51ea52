//! Memory in place of sockets: clients that answer what they get, behind the shard's I/O seam.
//!
//! A client has a burst of encoded frames. It sends it whenever enough messages have come in since the
//! last time, so that what is under way stays constant and every shard's clients need to know nothing of
//! another thread. One network serves one shard and lives on its thread. Polling is the production
//! poller's, with no sockets in it: sleeping and waking cost what they cost in production.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use pombo::frame::{Header, Opcode, unmask};
use pombo::shard::Poller;
use pombo::shard::io::{Interest, Network, Readiness, SessionKey, Socket};

/// Bytes of every message's payload, as delivered.
pub(crate) const PAYLOAD_BYTES: usize = 64;

/// Bytes of a delivered message on the wire.
const FRAME_BYTES: usize = 2 + PAYLOAD_BYTES;

/// Bytes of the answer to a login when its template is empty.
const REPLY_BYTES: usize = 2;

/// Marks the messages of one receiver; stands in front of the payload.
pub(crate) type Tag = [u8; 8];

/// The clients of one shard, and its poller.
pub(crate) struct MemoryNetwork {
    poller: Poller,
    shared: Rc<Shared>,
    /// What the poller reports; always empty, as no socket is in it.
    none: Vec<Readiness>,
}

/// What the clients of a shard have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Clients whose burst may go.
    ready: RefCell<Vec<SessionKey>>,
    /// Whether clients send; not before all are logged in, and not any more when all is to arrive.
    is_running: Cell<bool>,
    /// Messages that the clients have sent.
    pub(crate) sent: Cell<u64>,
    /// Messages that have arrived at the clients.
    pub(crate) arrived: Cell<u64>,
}

/// What a client sends, and for what.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Encoded frames; empty for a client that only receives.
    pub(crate) burst: Rc<[u8]>,
    /// Messages in a burst.
    pub(crate) burst_messages: u64,
    /// Messages that must have come in for the next burst.
    pub(crate) burst_after: u64,
    /// What every message for this client starts with.
    pub(crate) tag: Tag,
}

/// The server's end of one client's connection, and the client.
pub(crate) struct MemorySocket {
    shared: Rc<Shared>,
    script: Script,
    session: Option<SessionKey>,
    /// Messages that have come in since the last burst.
    credit: u64,
    is_listed: bool,
    is_logged_in: bool,
    is_finished: bool,
}

impl MemoryNetwork {
    /// Makes a network without clients.
    pub(crate) fn new(poller: Poller) -> Self {
        Self { poller, shared: Rc::default(), none: Vec::new() }
    }

    /// Returns what the clients have in common.
    pub(crate) fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    /// Makes a client that may send its first burst at once.
    pub(crate) fn client(&self, script: Script) -> MemorySocket {
        let credit = script.burst_after;
        let shared = self.shared();
        let (session, is_listed, is_logged_in, is_finished) = (None, false, false, false);
        MemorySocket { shared, script, session, credit, is_listed, is_logged_in, is_finished }
    }
}

impl Shared {
    /// Lets the clients send.
    pub(crate) fn start(&self) {
        self.is_running.set(true);
    }

    /// Lets no client send any more.
    pub(crate) fn stop(&self) {
        self.is_running.set(false);
    }
}

impl Network for MemoryNetwork {
    type Socket = MemorySocket;

    fn now(&self) -> Instant {
        self.poller.now()
    }

    fn wall_time(&self) -> SystemTime {
        self.poller.wall_time()
    }

    fn poll(&mut self, time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        let is_idle = !self.shared.is_running.get() || self.shared.ready.borrow().is_empty();
        self.poller.poll(if is_idle { time_out } else { Some(Duration::ZERO) }, &mut self.none)?;
        if is_idle {
            return Ok(());
        }
        ready.extend(self.shared.ready.borrow_mut().drain(..).map(|session| Readiness {
            session,
            is_readable: true,
            is_writable: false,
            is_read_closed: false,
        }));
        Ok(())
    }

    fn add(&mut self, socket: &mut MemorySocket, session: SessionKey) -> io::Result<()> {
        socket.session = Some(session);
        socket.list();
        Ok(())
    }

    fn watch(&mut self, _socket: &mut MemorySocket, _session: SessionKey, _interest: Interest) -> io::Result<()> {
        unreachable!("these sockets take everything");
    }

    fn remove(&mut self, _socket: &mut MemorySocket) {}
}

impl MemorySocket {
    fn may_send(&self) -> bool {
        self.credit >= self.script.burst_after && !self.script.burst.is_empty()
    }

    /// Reports to the poller whether the client may send.
    fn list(&mut self) {
        if let Some(session) = self.session
            && !self.is_listed
            && self.may_send()
        {
            self.is_listed = true;
            self.shared.ready.borrow_mut().push(session);
        }
    }
}

impl Socket for MemorySocket {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_finished {
            return Ok(0);
        }
        self.is_listed = false;
        if !self.may_send() || !self.shared.is_running.get() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.credit -= self.script.burst_after;
        buffer[..self.script.burst.len()].copy_from_slice(&self.script.burst);
        self.shared.sent.set(self.shared.sent.get() + self.script.burst_messages);
        self.list();
        Ok(self.script.burst.len())
    }

    fn receive_onto(&mut self, _buffer: &mut Vec<u8>) -> io::Result<usize> {
        unreachable!("no message is that large");
    }

    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut bytes = total;
        if !self.is_logged_in {
            assert!(pieces[0].starts_with(&[0x81, 0]), "the login's answer comes first");
            self.is_logged_in = true;
            bytes -= REPLY_BYTES;
        } else if bytes >= FRAME_BYTES {
            assert_eq!(pieces[0][2..2 + self.script.tag.len()], self.script.tag, "a message for somebody else");
        }
        // A close frame comes when the clients have stopped.
        assert!(
            bytes.is_multiple_of(FRAME_BYTES) || !self.shared.is_running.get(),
            "{bytes} bytes are no whole frames"
        );
        let messages = (bytes / FRAME_BYTES) as u64;
        self.shared.arrived.set(self.shared.arrived.get() + messages);
        self.credit += messages;
        self.list();
        Ok(total)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.is_finished = true;
        Ok(())
    }
}

/// Encodes `count` masked client frames that each carry `to:` and a payload that starts with the tag of `to`.
pub(crate) fn burst(to: &str, count: u64) -> Rc<[u8]> {
    let mask = [0xA1, 0x5E, 0x83, 0x0C];
    let mut message = format!("{to}:").into_bytes();
    message.extend_from_slice(&tag(to));
    message.resize(to.len() + 1 + PAYLOAD_BYTES, b'.');
    let mut frame = Header::new(Opcode::Text, message.len()).as_slice().to_vec();
    frame[1] |= 0x80;
    frame.extend_from_slice(&mask);
    unmask(&mut message, mask);
    frame.extend_from_slice(&message);
    frame.repeat(count as usize).into()
}

/// Returns the tag of a uid: its end, which is its number, filled up to eight bytes.
pub(crate) fn tag(uid: &str) -> Tag {
    let mut tag = *b"--------";
    for (to, from) in tag.iter_mut().rev().zip(uid.bytes().rev()) {
        *to = from;
    }
    tag
}
