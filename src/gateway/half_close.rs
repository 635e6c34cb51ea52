//! The stream between a client and hyper, which decides when hyper sees the end of the client's sending.
//!
//! By default hyper drops a request when its client ends its sending before the answer has begun. With the option
//! `half_close` hyper doesn't notice the end at all. Neither fits here. A client that asks for the page, or is refused at once,
//! gets its answer although it has ended its sending. A client that ends its sending while its upgrade waits has left: a
//! WebSocket needs both directions, and another client needs the place.
//!
//! The stream also discards hyper's own answer to bytes that are no request, a status without a body. The gateway answers out
//! of its table of refusals instead.
//!
//! Each [`HalfClose`] is owned by the hyper connection of one client, on a thread of the gateway. The [`Exchange`](super::exchange::Exchange)
//! of that client says how far its request has come.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// How far the one request of a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is not whole. The end of sending means that the client has left; whatever hyper writes is an answer of its own.
    Receiving,
    /// It is whole, and nobody has looked at it: the meaning of the end of sending is not known yet.
    Received,
    /// Its answer waits for something. The end of sending means that the client has left.
    Waiting,
    /// Its answer is being sent. The end of sending means nothing.
    Answered,
}

/// A stream that shows its end only when that means that the client has left, and sends only the gateway's own answers.
#[derive(Debug)]
pub(super) struct HalfClose<S> {
    stream: S,
    stage: watch::Receiver<Stage>,
}

impl<S> HalfClose<S> {
    pub(super) fn new(stream: S, stage: watch::Receiver<Stage>) -> Self {
        Self { stream, stage }
    }

    fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HalfClose<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, has_room) = (buffer.filled().len(), buffer.remaining() > 0);
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before || !has_room {
            return Poll::Ready(Ok(()));
        }
        match this.stage() {
            Stage::Receiving | Stage::Waiting => Poll::Ready(Ok(())),
            Stage::Received => {
                // The task looks at the request as soon as hyper returns to it, and has hyper read again after that.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            // No wake is needed: the connection ends after its answer was sent.
            Stage::Answered => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HalfClose<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.stage() {
            Stage::Receiving => Poll::Ready(Ok(bytes.len())),
            _ => Pin::new(&mut this.stream).poll_write(context, bytes),
        }
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
        let this = self.get_mut();
        match this.stage() {
            Stage::Receiving => Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum())),
            _ => Pin::new(&mut this.stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
