//! The network of a running shard: mio's poller, TCP and Unix streams, and TLS over TCP.
//!
//! Bytes are received and sent with rustix, whose calls go straight to the kernel on Linux. The C library's `recv` and `send`
//! are thread cancellation points, which costs 3 % of the CPU of a busy relay.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Source;
use mio::{Events, Poll, Registry, Token, Waker};
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};

use super::io::{Interest, Network, Readiness, SessionKey, Socket};
use super::tls::Tls;
use crate::clock;
use crate::mailbox::Wake;

/// Most events that one poll returns.
const EVENTS_MAX: usize = 1024;

/// The token of the waker; every other token is a session key.
const WAKER: Token = Token(usize::MAX);

/// A token must hold a whole key.
const _: () = assert!(usize::BITS >= u64::BITS, "pombo needs a machine with 64-bit words");

fn token(session: SessionKey) -> Token {
    Token(session.to_bits() as usize)
}

/// A client's stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(mio::net::TcpStream),
    /// Over a Unix socket.
    Unix(mio::net::UnixStream),
    /// Over TCP, encrypted; boxed, so that the others stay small.
    Tls(Box<Tls>),
}

impl Socket for Stream {
    #[inline]
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Tls(stream) = self {
            return stream.receive(buffer);
        }
        let (received, _) = rustix::net::recv(self.as_fd(), buffer, RecvFlags::empty())?;
        Ok(received)
    }

    fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        if let Self::Tls(stream) = self {
            return stream.receive_onto(buffer);
        }
        let (received, _) = rustix::net::recv(self.as_fd(), spare_capacity(buffer), RecvFlags::empty())?;
        Ok(received)
    }

    #[inline]
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Self::Tls(stream) = self {
            return stream.send(pieces);
        }
        match pieces {
            // `send` costs the kernel less than `writev`.
            [piece] => Ok(rustix::net::send(self.as_fd(), piece, SendFlags::NOSIGNAL)?),
            pieces => Ok(rustix::io::writev(self.as_fd(), pieces)?),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.finish(),
        }
    }

    #[inline]
    fn has_unread(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_unread())
    }

    #[inline]
    fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_unsent())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.socket().as_fd(),
        }
    }
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(stream) => stream.socket_mut(),
        }
    }
}

/// mio's poller: epoll on Linux, kqueue on macOS.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
}

impl Poller {
    /// Makes a poller, and a function that wakes it from another thread.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new() -> io::Result<(Self, Wake)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        Ok((Self { poll, events: Events::with_capacity(EVENTS_MAX) }, Arc::new(move || waker.wake())))
    }

    fn registry(&self) -> &Registry {
        self.poll.registry()
    }
}

impl Network for Poller {
    type Socket = Stream;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_time(&self) -> SystemTime {
        clock::now()
    }

    fn poll(&mut self, time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, time_out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            ready.push(Readiness {
                session: SessionKey::from_bits(event.token().0 as u64),
                is_readable: event.is_readable() || event.is_error(),
                is_writable: event.is_writable(),
                is_read_closed: event.is_read_closed() || event.is_error(),
            });
        }
        Ok(())
    }

    fn add(&mut self, socket: &mut Stream, session: SessionKey) -> io::Result<()> {
        self.registry().register(socket.source(), token(session), mio::Interest::READABLE)
    }

    fn watch(&mut self, socket: &mut Stream, session: SessionKey, interest: Interest) -> io::Result<()> {
        let interest = match interest {
            Interest::Readable => mio::Interest::READABLE,
            Interest::ReadableAndWritable => mio::Interest::READABLE | mio::Interest::WRITABLE,
        };
        self.registry().reregister(socket.source(), token(session), interest)
    }

    fn remove(&mut self, socket: &mut Stream) {
        // Fails only for a socket that isn't registered; and closing it deregisters it anyway.
        self.registry().deregister(socket.source()).ok();
    }
}
