//! The event loop that drives every client: one thread, one poller, one buffer to read into and one to write from.
//!
//! A turn polls, reads each ready socket once (edge-triggered: a short read ends its turn), lets the traffic account
//! for what arrived, and then sends each client everything that is due to it with one call. Nothing is allocated per
//! message. What the messages are, and who may send when, is the [`Traffic`]'s business.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::super::trust::Trust;
use super::BenchError;
use super::client::{self, Client, Ending, Phase, Received, Sent};
use super::secure::Secure;
use super::wire::{self, opcode};

/// Shortest read buffer.
const SCRATCH_BYTES_MIN: usize = 256 * 1024;

/// Connections from one loopback address. The kernel has 28,232 ephemeral ports by default, and searches long once they
/// are scarce.
const CONNECTIONS_PER_SOURCE: u16 = 8_000;

/// First port of the further loopback addresses: named, since the kernel takes ever longer to find one for an address
/// that is bound, and below those that it gives to others.
const SOURCE_PORT: u16 = 20_000;

/// A poll may sleep this much longer than it should, since it counts in milliseconds: closer to its time, a schedule is
/// kept by polling without sleep.
const POLL_OVERSLEEP: Duration = Duration::from_millis(2);

/// Closings that make no progress for this long are not waited for.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);

/// What is sent, and what is made of arrivals.
pub(super) trait Traffic {
    /// Enters in `due` who may send by `now` without having received anything, and returns how long it is until somebody
    /// may next.
    #[inline]
    fn look(&mut self, _now: u64, _due: &mut Due) -> Duration {
        Duration::MAX
    }

    /// Accounts for a message that `receiver` got at `now`, and enters in `due` who may send because of it.
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due);

    /// Appends to `out` up to `owed` frames of `sender`, which have been due since `since`.
    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>);
}

/// The traffic of clients that only log in and wait.
pub(super) struct Idle;

impl Traffic for Idle {
    fn arrived(&mut self, _receiver: u32, _payload: &[u8], _now: u64, _due: &mut Due) {}

    fn write(&mut self, _sender: u32, _owed: u32, _since: u64, _out: &mut Vec<u8>) {}
}

/// Who may send how much.
pub(super) struct Due {
    /// Clients that something is due to; each once. Blocked clients are not on it.
    list: Vec<u32>,
    credits: Vec<Credit>,
}

#[derive(Clone, Copy, Default)]
struct Credit {
    messages: u32,
    /// When the first of them fell due.
    since: u64,
}

impl Due {
    /// Lets `sender` send `messages` more, from `now` on.
    #[inline]
    pub(super) fn owe(&mut self, sender: u32, messages: u32, now: u64) {
        let credit = &mut self.credits[sender as usize];
        if credit.messages == 0 {
            credit.since = now;
            self.list.push(sender);
        }
        credit.messages += messages;
    }
}

/// Where the server is, and how clients name themselves.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// The `Host` header.
    pub(super) authority: String,
    pub(super) path: String,
    /// By whom the server may be vouched for, and its name; nothing without TLS.
    pub(super) secure: Option<(Trust, String)>,
    pub(super) uid_prefix: String,
}

impl Target {
    pub(super) fn uid(&self, index: u32) -> String {
        format!("{}{index}", self.uid_prefix)
    }

    /// The address that a client connects from, where it matters.
    fn source(&self, index: u32) -> Option<SocketAddr> {
        let (block, place) =
            (index / u32::from(CONNECTIONS_PER_SOURCE), (index % u32::from(CONNECTIONS_PER_SOURCE)) as u16);
        let spread = block > 0 && self.address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block);
        spread.then(|| SocketAddr::from((source, SOURCE_PORT + place)))
    }
}

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
    /// What every socket is read into.
    scratch: Vec<u8>,
    /// What every send is written into.
    out: Vec<u8>,
    payload_max: usize,
    /// Clients that are neither logged in nor ended.
    pub(super) logging_in: u32,
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
            due: Due { list: Vec::new(), credits: vec![Credit::default(); connections as usize] },
            scratch: vec![0; SCRATCH_BYTES_MIN.max(2 * payload_max)],
            out: Vec::new(),
            payload_max,
            logging_in: 0,
            ended: 0,
            lost: None,
            last_arrival: 0,
            login_latency: latency_histogram(),
            receives: 0,
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

    /// Begins one more connection.
    pub(super) fn connect_next(&mut self) -> Result<(), BenchError> {
        let index = self.connections();
        let address = self.target.address;
        let failed = |source| BenchError::Connect { address, source };
        let mut client = Client::connect(address, self.target.source(index), self.now()).map_err(failed)?;
        if let Some((trust, host)) = &self.target.secure {
            client.secure = Some(Box::new(Secure::new(trust.connection(host).map_err(failed)?)));
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut client.socket, Token(index as usize), interest).map_err(failed)?;
        self.clients.push(client);
        self.logging_in += 1;
        Ok(())
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
        // Someone who may send already need not wait for anything.
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
        self.flush(traffic)
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

    /// Takes in what was read, and returns how much of it; the rest is the beginning of a frame.
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

    /// Sends the uid.
    fn log_in(&mut self, index: usize) -> Result<(), Ending> {
        let mut frame = Vec::new();
        wire::push_frame(&mut frame, opcode::TEXT, self.target.uid(index as u32).as_bytes());
        self.clients[index].phase = Phase::LoggingIn;
        let sent = self.clients[index].send(&frame)?;
        self.note(index, sent)
    }

    /// Takes in a frame that is not just one more whole message.
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
            // The server ends the connection first (RFC 6455, section 7.1.1), so that TIME_WAIT is its, and no port of
            // ours is lost to the next run.
            opcode::CLOSE if client.phase == Phase::Closing => return Ok(()),
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

    /// Puts an end to a connection, and says whether the run can go on.
    #[cold]
    fn end(&mut self, index: usize, ending: Ending) -> Result<(), BenchError> {
        let client = &mut self.clients[index];
        // Nothing can be done about a socket that can't be deregistered or shut; it is closed with the generator.
        let _ = self.poll.registry().deregister(&mut client.socket);
        let _ = client.socket.shutdown(std::net::Shutdown::Both);
        self.ended += 1;
        let uid = self.target.uid(index as u32);
        match (mem::replace(&mut client.phase, Phase::Ended), ending) {
            (Phase::Connecting, Ending::Broken(source)) => {
                Err(BenchError::Connect { address: self.target.address, source })
            }
            (Phase::Connecting | Phase::Upgrading | Phase::LoggingIn, ending) => {
                Err(BenchError::Login { uid, ending: ending.to_string() })
            }
            (Phase::Open, ending) => {
                let (_, count) = self.lost.get_or_insert_with(|| (format!("the connection of {uid} was {ending}"), 0));
                *count += 1;
                Ok(())
            }
            (Phase::Closing | Phase::Ended, _) => Ok(()),
        }
    }

    /// Closes every connection with code 1000, and waits a little for the server to do its part.
    pub(super) fn close(mut self) -> Result<(), BenchError> {
        let mut frame = Vec::new();
        wire::push_frame(&mut frame, opcode::CLOSE, &1000_u16.to_be_bytes());
        for index in 0..self.clients.len() {
            if self.clients[index].phase != Phase::Open {
                continue;
            }
            self.clients[index].phase = Phase::Closing;
            let sent = self.clients[index].send(&frame);
            if let Err(ending) = sent.and_then(|sent| self.note(index, sent)) {
                self.end(index, ending)?;
            }
        }
        let mut progress = (self.ended, Instant::now());
        while self.ended < self.connections() && progress.1.elapsed() < CLOSING_PATIENCE {
            self.turn(&mut Idle, Duration::from_millis(100))?;
            if self.ended != progress.0 {
                progress = (self.ended, Instant::now());
            }
        }
        Ok(())
    }
}

/// An empty histogram of nanoseconds, up to ten minutes, to three digits.
pub(super) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_source(address: &str, index: u32, expected: Option<&str>) {
        let target = Target {
            address: address.parse().expect("an address"),
            authority: String::new(),
            path: String::new(),
            secure: None,
            uid_prefix: "u".into(),
        };
        assert_eq!(target.source(index).map(|source| source.to_string()).as_deref(), expected);
    }

    #[test]
    fn sources_spread_on_loopback() {
        check_source("127.0.0.1:1234", 0, None);
        check_source("127.0.0.1:1234", 7_999, None);
        check_source("127.0.0.1:1234", 8_000, Some("127.0.0.2:20000"));
        check_source("127.0.0.1:1234", 16_003, Some("127.0.0.3:20003"));
        check_source("192.0.2.1:1234", 40_000, None);
        check_source("[::1]:1234", 40_000, None);
    }

    #[test]
    fn who_may_send_is_on_the_list_once() {
        let mut due = Due { list: Vec::new(), credits: vec![Credit::default(); 2] };
        due.owe(1, 2, 10);
        due.owe(1, 3, 20);
        due.owe(0, 1, 30);
        assert_eq!(due.list, [1, 0]);
        assert_eq!((due.credits[1].messages, due.credits[1].since), (5, 10));
    }
}
