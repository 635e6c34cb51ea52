//! The event loop that drives every client: one thread, one poller, one buffer to read into and one to write from.
//!
//! A turn polls, reads each ready socket once (edge-triggered: a short read ends its turn), lets the traffic account
//! for the messages that arrived, and then sends everything that a client may send with one call. Nothing is allocated per
//! message. The [`Traffic`] decides the messages, and when each client may send.

mod connections;
mod due;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::BenchError;
use super::client::{self, Client, Ending, Phase, Received, Sent};
use super::latency::latency_histogram;
use super::target::Target;
use super::wire::{self, opcode};

pub(super) use self::due::{Due, Idle, Traffic};

/// Shortest read buffer.
const SCRATCH_BYTES_MIN: usize = 256 * 1024;

/// A poll may sleep this much too long, because it counts in milliseconds: if a message is due within this time, the
/// generator polls without sleep.
const POLL_OVERSLEEP: Duration = Duration::from_millis(2);

/// TCP payload of a segment on loopback, whose packets have up to 64 KiB.
const SEGMENT_BYTES: usize = 65_483;

/// All clients, and the loop that serves them.
pub(super) struct Generator {
    poll: Poll,
    events: Events,
    clock: Instant,
    /// When the whole run must be over.
    deadline: Duration,
    target: Target,
    upgrade_request: Vec<u8>,
    clients: Vec<Client>,
    due: Due,
    /// The buffer into which every socket is read.
    scratch: Vec<u8>,
    /// The buffer from which every send is made.
    out: Vec<u8>,
    payload_max: usize,
    /// Clients that are neither logged in nor ended.
    pub(super) logging_in: u32,
    /// All clients have been logged in: from now on a client that can't log in is lost, like one whose connection ends.
    pub(super) is_established: bool,
    /// Clients that have sent a close frame and wait for the server to end the connection.
    leaving: u32,
    /// Clients whose connection has ended and that will come back.
    returning: Vec<u32>,
    /// Clients that have ended.
    ended: u32,
    /// The first unexpected end after the login, and how many there were.
    pub(super) lost: Option<(String, u64)>,
    /// When a message or a login reply last arrived.
    pub(super) last_arrival: u64,
    /// From the start of a connection to its login reply, in nanoseconds.
    pub(super) login_latency: Histogram<u64>,
    /// Reads that brought something.
    pub(super) receives: u64,
    /// TCP segments of all sends, on loopback.
    pub(super) segments: u64,
}

impl Generator {
    /// Prepares to serve `connections` clients whose messages have up to `payload_max` bytes.
    pub(super) fn new(target: Target, connections: u32, payload_max: usize, deadline: Duration) -> io::Result<Self> {
        let upgrade_request = client::upgrade_request(&target.authority, &target.path);
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clock: Instant::now(),
            deadline,
            target,
            upgrade_request,
            clients: Vec::with_capacity(connections as usize),
            due: Due::new(connections),
            scratch: vec![0; SCRATCH_BYTES_MIN.max(2 * payload_max)],
            out: Vec::new(),
            payload_max,
            logging_in: 0,
            is_established: false,
            leaving: 0,
            returning: Vec::new(),
            ended: 0,
            lost: None,
            last_arrival: 0,
            login_latency: latency_histogram(),
            receives: 0,
            segments: 0,
        })
    }

    /// Nanoseconds since the generator was made.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    pub(super) fn due(&mut self) -> &mut Due {
        &mut self.due
    }

    pub(super) fn connections(&self) -> u32 {
        self.clients.len() as u32
    }

    /// Where the server is.
    pub(super) fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// Whether a client is leaving or coming back.
    pub(super) fn is_moving(&self) -> bool {
        self.logging_in > 0 || self.leaving > 0
    }

    /// One turn: waits up to `wait` for events, serves them, and sends what is due.
    ///
    /// # Errors
    /// When a connection fails before it is logged in, and when the whole run's time is over. A connection that ends
    /// later is counted in [`Generator::lost`].
    pub(super) fn turn<T: Traffic>(&mut self, traffic: &mut T, wait: Duration) -> Result<(), BenchError> {
        if self.clock.elapsed() > self.deadline {
            return Err(BenchError::Deadline { deadline: self.deadline });
        }
        // Zero capacity takes no memory; the events come back below.
        let mut events = mem::replace(&mut self.events, Events::with_capacity(0));
        // If a client may send already, the poll must not sleep.
        let wait = wait.min(traffic.look(self.now(), &mut self.due).saturating_sub(POLL_OVERSLEEP));
        let wait = if self.due.list.is_empty() { wait } else { Duration::ZERO };
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(BenchError::Poll { source: error }),
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if let Err(ending) = self.serve(index, event, traffic) {
                self.end(index, ending)?;
            }
        }
        self.events = events;
        traffic.look(self.now(), &mut self.due);
        self.flush(traffic)?;
        if self.due.leaving.is_empty() && self.returning.is_empty() { Ok(()) } else { self.change_over() }
    }

    fn serve<T: Traffic>(&mut self, index: usize, event: &Event, traffic: &mut T) -> Result<(), Ending> {
        match self.clients[index].phase {
            Phase::Ended => return Ok(()),
            Phase::Connecting => {
                if !self.clients[index].connected()? {
                    return Ok(());
                }
                self.clients[index].phase = Phase::Upgrading;
                self.want(index, Interest::READABLE)?;
                let sent = self.clients[index].send(&self.upgrade_request)?;
                self.note(index, sent)?;
            }
            _ => {}
        }
        if event.is_writable() && self.clients[index].is_blocked() && self.clients[index].resume()? == Sent::All {
            self.want(index, Interest::READABLE)?;
            if self.due.credits[index].messages > 0 {
                self.due.list.push(index as u32);
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(index, event.is_read_closed() || event.is_error(), traffic)?;
        }
        Ok(())
    }

    /// Reads what the socket has; to the end of file if one is known to be there.
    fn read<T: Traffic>(&mut self, index: usize, to_the_end: bool, traffic: &mut T) -> Result<(), Ending> {
        loop {
            let Received::Bytes { filled, full } = self.clients[index].receive(&mut self.scratch)? else {
                return Ok(());
            };
            self.receives += 1;
            let used = self.digest(index, filled, traffic)?;
            self.clients[index].keep(&self.scratch[used..filled]);
            if !full && !to_the_end {
                return Ok(());
            }
        }
    }

    /// Handles the bytes that were read, and returns how many; the rest is the beginning of a frame.
    fn digest<T: Traffic>(&mut self, index: usize, filled: usize, traffic: &mut T) -> Result<usize, Ending> {
        let now = self.now();
        let mut at = 0;
        if self.clients[index].phase == Phase::Upgrading {
            let Some(end) = client::read_upgrade_response(&self.scratch[..filled])? else { return Ok(0) };
            at = end;
            self.log_in(index)?;
        }
        let mut data = self.clients[index].phase == Phase::Open && self.clients[index].fragments.is_none();
        while let Some(frame) = wire::read_frame(&self.scratch[at..filled], self.payload_max)? {
            let start = at;
            at += frame.payload.end;
            if data && frame.last && matches!(frame.opcode, opcode::TEXT | opcode::BINARY) {
                self.last_arrival = now;
                let payload = &self.scratch[start + frame.payload.start..at];
                traffic.arrived(index as u32, payload, now, &mut self.due);
                continue;
            }
            self.take_other(index, start, frame, now, traffic)?;
            data = self.clients[index].phase == Phase::Open && self.clients[index].fragments.is_none();
        }
        Ok(at)
    }

    /// Handles a frame that is not a complete data message.
    #[cold]
    fn take_other<T: Traffic>(
        &mut self,
        index: usize,
        start: usize,
        frame: wire::Frame,
        now: u64,
        traffic: &mut T,
    ) -> Result<(), Ending> {
        let payload = &self.scratch[start + frame.payload.start..start + frame.payload.end];
        let client = &mut self.clients[index];
        match frame.opcode {
            // The server closes the TCP connection first (RFC 6455, section 7.1.1), so that TIME_WAIT is on its side, and
            // the next run can use the generator's ports.
            opcode::CLOSE if matches!(client.phase, Phase::Closing | Phase::Leaving) => return Ok(()),
            opcode::CLOSE => return Err(client::read_close(payload)),
            opcode::PING => {
                let mut pong = Vec::new();
                wire::push_frame(&mut pong, opcode::PONG, payload);
                let sent = client.send(&pong)?;
                return self.note(index, sent);
            }
            opcode::PONG => return Ok(()),
            _ => {}
        }
        let mut whole = match (client.fragments.take(), frame.opcode) {
            (None, opcode::TEXT | opcode::BINARY) => Vec::new(),
            (Some(fragments), opcode::CONTINUATION) => fragments,
            _ => return Err(wire::Violation::Fragment.into()),
        };
        if whole.len() + payload.len() > self.payload_max {
            return Err(wire::Violation::Long((whole.len() + payload.len()) as u64).into());
        }
        whole.extend_from_slice(payload);
        if !frame.last {
            client.fragments = Some(whole);
            return Ok(());
        }
        self.last_arrival = now;
        match client.phase {
            Phase::LoggingIn => {
                client.phase = Phase::Open;
                self.logging_in -= 1;
                self.login_latency.saturating_record(now - client.started);
                if self.is_established {
                    traffic.came_back(index as u32, now, &mut self.due);
                }
            }
            Phase::Open => traffic.arrived(index as u32, &whole, now, &mut self.due),
            _ => {}
        }
        Ok(())
    }

    /// Sends every client on the list what is due to it.
    fn flush<T: Traffic>(&mut self, traffic: &mut T) -> Result<(), BenchError> {
        let mut list = mem::take(&mut self.due.list);
        for &sender in &list {
            let index = sender as usize;
            let client = &mut self.clients[index];
            if client.phase != Phase::Open || client.is_blocked() {
                continue;
            }
            let credit = mem::take(&mut self.due.credits[index]);
            self.out.clear();
            traffic.write(sender, credit.messages, credit.since, &mut self.out);
            if self.out.is_empty() {
                continue;
            }
            self.segments += self.out.len().div_ceil(SEGMENT_BYTES) as u64;
            let sent = client.send(&self.out);
            if let Err(ending) = sent.and_then(|sent| self.note(index, sent)) {
                self.end(index, ending)?;
            }
        }
        list.clear();
        self.due.list = list;
        Ok(())
    }

    /// Asks for writability if the socket is blocked.
    #[inline]
    fn note(&mut self, index: usize, sent: Sent) -> Result<(), Ending> {
        match sent {
            Sent::All => Ok(()),
            Sent::Blocked => self.want(index, Interest::READABLE | Interest::WRITABLE),
        }
    }

    fn want(&mut self, index: usize, interest: Interest) -> Result<(), Ending> {
        Ok(self.poll.registry().reregister(&mut self.clients[index].socket, Token(index), interest)?)
    }
}
