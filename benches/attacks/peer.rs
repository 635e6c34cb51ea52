//! One connection of an attacker: a blocking socket, driven to wherever the attack begins.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::{Frame, Request, Response, Sent};

/// Longest that an attacker waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Threads that connect many.
const CONNECTORS: usize = 8;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A close frame with this code was the last that came.
    Close(u16),
    /// An answer over HTTP with this status was the last that came.
    Status(u16),
    /// The connection ended, and nothing was said.
    Silence,
    /// It was reset.
    Reset,
    /// It did not end in time.
    Never,
}

/// A connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// What has come, and was not looked at.
    received: Vec<u8>,
    /// Whether what comes is frames: the upgrade's answer has come.
    is_upgraded: bool,
}

impl Peer {
    /// Connects.
    pub(crate) fn dial(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), is_upgraded: false })
    }

    /// Connects and upgrades.
    pub(crate) fn upgrade(address: SocketAddr) -> io::Result<Self> {
        let mut peer = Self::dial(address)?;
        peer.stream.write_all(&Request::upgrade().bytes())?;
        peer.take_head()?;
        Ok(peer)
    }

    /// Connects, upgrades and logs in.
    pub(crate) fn log_in(address: SocketAddr, uid: &str) -> io::Result<Self> {
        let mut peer = Self::dial(address)?;
        peer.stream.write_all(&[Request::upgrade().bytes(), Sent::text(uid).bytes()].concat())?;
        peer.take_head()?;
        match peer.next()? {
            Some(frame) if frame.as_close().is_none() => Ok(peer),
            other => Err(io::Error::other(format!("no login: {other:?}"))),
        }
    }

    /// Logs in this many, under names that begin with `name`.
    pub(crate) fn log_in_many(address: SocketAddr, name: &str, count: usize) -> io::Result<Vec<Self>> {
        Self::many(count, |index| Self::log_in(address, &format!("{name}-{index}")))
    }

    /// Makes this many on several threads.
    pub(crate) fn many(count: usize, make: impl Fn(usize) -> io::Result<Self> + Sync) -> io::Result<Vec<Self>> {
        thread::scope(|threads| {
            let make = &make;
            let connectors: Vec<_> = (0..CONNECTORS)
                .map(|first| threads.spawn(move || (first..count).step_by(CONNECTORS).map(make).collect()))
                .collect();
            let peers = connectors.into_iter().map(|connector| connector.join().expect("a connector does not panic"));
            let peers: Vec<io::Result<Vec<Self>>> = peers.collect();
            Ok(peers.into_iter().collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
        })
    }

    /// Sends as much as the socket takes at once; an end is no error of the attack.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        self.stream.set_nonblocking(true).expect("a socket can be changed");
        let sent = self.stream.write(bytes).unwrap_or(0);
        self.stream.set_nonblocking(false).expect("a socket can be changed");
        sent
    }

    /// Reads what has come and throws it away.
    pub(crate) fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let received = self.stream.read(buffer);
        self.stream.set_nonblocking(false)?;
        received
    }

    /// Ends with a reset, as who pulls the plug and comes back.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket can linger");
    }

    /// Reads to the end within the time, and says what it was.
    pub(crate) fn end_within(mut self, time: Duration) -> End {
        let end = Instant::now() + time;
        let mut last = End::Silence;
        loop {
            if self.is_upgraded {
                while let Some((frame, length)) = Frame::decode(&self.received) {
                    self.received.drain(..length);
                    last = frame.as_close().map_or(End::Silence, |(code, _)| End::Close(code));
                }
            } else if let Some((response, length)) = Response::decode_head(&self.received) {
                self.is_upgraded = response.status == 101;
                self.received.drain(..if self.is_upgraded { length } else { self.received.len() });
                last = if self.is_upgraded { End::Silence } else { End::Status(response.status) };
                continue;
            } else if matches!(last, End::Status(_)) {
                self.received.clear();
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("a time-out that is not zero");
            match self.fill() {
                Ok(0) => return last,
                Ok(_) if Instant::now() < end => {}
                Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    // A close frame that came in front of it has said everything.
                    return if last == End::Silence { End::Reset } else { last };
                }
                _ => return End::Never,
            }
        }
    }

    /// Ends its sending, reads to the end within the time, and says what it was.
    pub(crate) fn finish_within(self, time: Duration) -> End {
        self.stream.shutdown(Shutdown::Write).ok();
        self.end_within(time)
    }

    fn take_head(&mut self) -> io::Result<()> {
        loop {
            if let Some((response, length)) = Response::decode_head(&self.received) {
                self.received.drain(..length);
                self.is_upgraded = response.status == 101;
                let refused = || io::Error::other(format!("no upgrade: {}", response.status));
                return if self.is_upgraded { Ok(()) } else { Err(refused()) };
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.received) {
                self.received.drain(..length);
                return Ok(Some(frame));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let length = self.stream.read(&mut bytes)?;
        self.received.extend_from_slice(&bytes[..length]);
        Ok(length)
    }
}

/// Ends all of them, each read to its end at the same time by several threads; says how often each end was.
pub(crate) fn ends(peers: Vec<Peer>, end: impl Fn(Peer) -> End + Sync) -> Vec<(End, usize)> {
    let mut parts: Vec<Vec<Peer>> = (0..CONNECTORS).map(|_| Vec::new()).collect();
    for (index, peer) in peers.into_iter().enumerate() {
        parts[index % CONNECTORS].push(peer);
    }
    let mut ends: Vec<End> = thread::scope(|threads| {
        let end = &end;
        let readers: Vec<_> = parts
            .into_iter()
            .map(|part| threads.spawn(move || part.into_iter().map(end).collect::<Vec<_>>()))
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("the node's frames are sound")).collect()
    });
    ends.sort_unstable();
    let mut counted: Vec<(End, usize)> = Vec::new();
    for end in ends {
        match counted.last_mut() {
            Some((last, count)) if *last == end => *count += 1,
            _ => counted.push((end, 1)),
        }
    }
    counted
}
