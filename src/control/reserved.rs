//! The stream of one control connection. When it is dropped, its descriptor goes back to the reserve.
//!
//! The connection's task owns it. Wherever it is dropped, in hyper or during a TLS handshake, the gateway can't take its
//! descriptor.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::descriptors::Reserve;
use crate::listener::Connection;

/// A connection of control.
pub(super) struct Reserved {
    /// Present until the drop.
    connection: Option<Connection>,
    reserve: Reserve,
}

impl Reserved {
    pub(super) fn new(connection: Connection, reserve: Reserve) -> Self {
        Self { connection: Some(connection), reserve }
    }

    /// Returns the peer's address; `None` for a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.connection {
            Some(Connection::Tcp(_, peer)) => Some(*peer),
            Some(Connection::Unix(_)) | None => None,
        }
    }

    /// Waits for the first byte of a TCP connection, and leaves it to be read; `None` for a Unix socket, or at the end.
    pub(super) async fn peek(&self) -> io::Result<Option<u8>> {
        let Some(Connection::Tcp(stream, _)) = &self.connection else { return Ok(None) };
        let mut first = [0];
        Ok((stream.peek(&mut first).await? > 0).then_some(first[0]))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Deregistered from tokio's poller first, because the descriptor stays open.
        let ending: io::Result<OwnedFd> = match self.connection.take() {
            Some(Connection::Tcp(stream, _)) => stream.into_std().map(OwnedFd::from),
            Some(Connection::Unix(stream)) => stream.into_std().map(OwnedFd::from),
            None => return,
        };
        if let Ok(ending) = ending {
            self.reserve.take_back(ending);
        }
        // Refills the reserve if another descriptor was taken in place of a spare.
        self.reserve.fill();
    }
}

/// Delegates to the stream of whichever kind.
macro_rules! delegate {
    ($reserved:expr, $stream:ident => $call:expr) => {
        match &mut $reserved.get_mut().connection {
            Some(Connection::Tcp($stream, _)) => $call,
            Some(Connection::Unix($stream)) => $call,
            None => unreachable!("the connection is present until the drop"),
        }
    };
}

impl AsyncRead for Reserved {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Reserved {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
