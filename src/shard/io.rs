//! The interface between a shard and the outside world: clock, sockets, poller.
//!
//! A shard does no I/O of its own. There are two kinds of implementors: mio's poller with real
//! sockets (`transport`), and memory, where tests, simulations and benchmarks drive the same turns.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant, SystemTime};

pub use super::sessions::SessionKey;

/// A connected byte stream that never blocks.
///
/// Calls that would have to wait fail with [`io::ErrorKind::WouldBlock`].
pub trait Socket {
    /// Receives into `buffer`; 0 is the end of the peer's stream.
    ///
    /// # Errors
    /// Those of the socket.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Receives behind the content of `buffer`, into its spare capacity, which isn't empty.
    ///
    /// # Errors
    /// Those of the socket.
    fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize>;

    /// Sends as much of `pieces` as the socket takes, in one call; without pieces, bytes that it took earlier and still holds (TLS).
    ///
    /// # Errors
    /// Those of the socket.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends the stream to the peer (a FIN); receiving goes on.
    ///
    /// # Errors
    /// Those of the socket; [`io::ErrorKind::WouldBlock`] if the socket has no room for it: call it again when it has.
    fn finish(&mut self) -> io::Result<()>;

    /// Whether more bytes may be received at once, although the last call did not fill its buffer.
    ///
    /// An encrypted stream may have received them already, and then the poller does not report them.
    fn has_unread(&self) -> bool {
        false
    }

    /// Whether bytes that [`Socket::send`] took are still unsent inside.
    fn has_unsent(&self) -> bool {
        false
    }
}

/// The events of a socket that a poller reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to receive.
    Readable,
    /// Bytes to receive, or room to send.
    ReadableAndWritable,
}

/// An event on a socket; edge-triggered, so it is reported once.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The session of the socket.
    pub session: SessionKey,
    /// There may be bytes to receive.
    pub is_readable: bool,
    /// There may be room to send.
    pub is_writable: bool,
    /// The peer has ended its stream, or the connection has failed: a short read does not mean that the socket is
    /// empty.
    pub is_read_closed: bool,
}

/// A shard's poller and clock.
pub trait Network {
    /// The type of its sockets.
    type Socket: Socket;

    /// Returns the time.
    fn now(&self) -> Instant;

    /// Returns the time of the wall clock. It may jump in either direction, and goes on while the machine is suspended.
    fn wall_time(&self) -> SystemTime;

    /// Waits for at most `time_out` (for ever if `None`) until there is an event or the shard is woken; adds events to
    /// `ready`.
    ///
    /// # Errors
    /// When the poller fails, and with it the shard.
    fn poll(&mut self, time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()>;

    /// Starts to watch `socket` for [`Interest::Readable`]; the next poll reports it if it is ready already.
    ///
    /// # Errors
    /// When the kernel refuses; the caller must then end the session.
    fn add(&mut self, socket: &mut Self::Socket, session: SessionKey) -> io::Result<()>;

    /// Changes the events that `socket` is watched for; the next poll reports it if it is ready already.
    ///
    /// # Errors
    /// As for [`Network::add`].
    fn watch(&mut self, socket: &mut Self::Socket, session: SessionKey, interest: Interest) -> io::Result<()>;

    /// Stops watching `socket`, which is about to be dropped.
    fn remove(&mut self, socket: &mut Self::Socket);
}
