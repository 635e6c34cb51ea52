//! The end of a client's sending, and when hyper is told of it.
//!
//! hyper's server gives a request up when its client ends its sending before the answer has begun; with its option
//! `half_close` it notices no end at all. Neither fits here. A client that asks for the page, or is refused at once, is
//! answered although it has ended its sending. A client whose upgrade waits has no use for it any more: a WebSocket
//! needs both directions, and the place of that client is for somebody else.
//!
//! Each [`HalfClose`] is owned by the hyper connection of one client, on a thread of the gateway. It holds no byte back,
//! only the end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the end of sending means now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The client has left: the request is not whole, or its answer waits for something.
    Left,
    /// The request is whole and nobody has looked at it yet: ask again after the next step.
    Unknown,
    /// The request has its answer, which is still to be sent.
    Finished,
}

/// A stream whose end is told only while it means that the client has left.
#[derive(Debug)]
pub(super) struct HalfClose<S, F> {
    stream: S,
    meaning: F,
}

impl<S, F: Fn() -> Meaning> HalfClose<S, F> {
    pub(super) fn new(stream: S, meaning: F) -> Self {
        Self { stream, meaning }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin, F: Fn() -> Meaning + Unpin> AsyncRead for HalfClose<S, F> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, has_room) = (buffer.filled().len(), buffer.remaining() > 0);
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before || !has_room {
            return Poll::Ready(Ok(()));
        }
        match (this.meaning)() {
            Meaning::Left => Poll::Ready(Ok(())),
            Meaning::Unknown => {
                // hyper looks at the request before this task is polled again, and reads then.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            // Nobody has to be woken: the connection ends by sending its answer.
            Meaning::Finished => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for HalfClose<S, F> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
