//! The seam between a shard and the world: clock, sockets, readiness.
//!
//! A shard does no I/O of its own. Two implementors stand behind the seam: mio's poller with real
//! sockets (`transport`), and memory, where benchmarks and simulations drive the same turns.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant, SystemTime};

pub use super::sessions::SessionKey;

/// A connected byte stream that never blocks.
///
/// Calls that would have to wait fail with [`io::ErrorKind::WouldBlock`].
pub trait Socket {
    /// Receives into `buffer`; 0 is the end of what the peer sends.
    ///
    /// # Errors
    /// As the socket's.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Receives behind the content of `buffer`, into its spare capacity, which isn't empty.
    ///
    /// # Errors
    /// As the socket's.
    fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize>;

    /// Sends what the socket takes of `pieces`, in one call; without pieces, what it still holds back.
    ///
    /// # Errors
    /// As the socket's.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Says that nothing more will be sent (a FIN); receiving goes on.
    ///
    /// # Errors
    /// As the socket's; [`io::ErrorKind::WouldBlock`] when there must be room first, to be called again then.
    fn finish(&mut self) -> io::Result<()>;

    /// Whether more may be received at once, though the last call gave less than it might have.
    ///
    /// Nothing will tell of that: a stream that is encrypted has received it already.
    fn has_unread(&self) -> bool {
        false
    }

    /// Whether bytes that [`Socket::send`] took still wait inside for room.
    fn has_unsent(&self) -> bool {
        false
    }
}

/// What a shard wants to be told of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to receive.
    Readable,
    /// Bytes to receive, or room to send.
    ReadableAndWritable,
}

/// What happened on a socket; edge-triggered, so told once.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Whose socket it is.
    pub session: SessionKey,
    /// There may be something to receive.
    pub is_readable: bool,
    /// There may be room to send.
    pub is_writable: bool,
    /// The peer will send no more, or the connection has failed: a short read is not the last.
    pub is_read_closed: bool,
}

/// A shard's poller and clock.
pub trait Network {
    /// The streams that it polls.
    type Socket: Socket;

    /// Returns the time.
    fn now(&self) -> Instant;

    /// Returns the time of the wall_time clock, which may jump, back as well as ahead, and goes on while the machine is suspended.
    fn wall_time(&self) -> SystemTime;

    /// Waits for at most `time_out` (for ever if `None`) until something happens or the shard is woken; adds to `ready`.
    ///
    /// # Errors
    /// When the poller is broken; the shard can't go on then.
    fn poll(&mut self, time_out: Option<Duration>, ready: &mut Vec<Readiness>) -> io::Result<()>;

    /// Starts to watch `socket` for [`Interest::Readable`]; tells at once what is ready already.
    ///
    /// # Errors
    /// When the kernel refuses; the connection is lost then.
    fn add(&mut self, socket: &mut Self::Socket, session: SessionKey) -> io::Result<()>;

    /// Changes what is told of `socket`; tells at once what is ready already.
    ///
    /// # Errors
    /// As for [`Network::add`].
    fn watch(&mut self, socket: &mut Self::Socket, session: SessionKey, interest: Interest) -> io::Result<()>;

    /// Ends watching `socket`, which is about to be dropped.
    fn remove(&mut self, socket: &mut Self::Socket);
}
