//! Notes the activity of an API connection in its slot, which decides on evictions: see [`slots`](crate::control::slots).

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::control::problem::Problem;
use crate::control::slots::{RequestRefused, Slot};

/// Middleware for all requests except those of probes: waits until the connection has an ordinary slot.
pub(super) async fn acquire(Extension(slot): Extension<Slot>, request: Request, next: Next) -> Response {
    match slot.enter_ordinary().await {
        Ok(()) => next.run(request).await,
        Err(RequestRefused { ordinary_max }) => Problem::Busy
            .with_detail(format!(
                "{ordinary_max} other requests are being served, the most that control_connections_max allows, and more \
                 wait; nothing was done, try again later"
            ))
            .retry_after(1)
            .into_response(),
    }
}

/// A request body that notes in the slot when it waits for the client.
pub(super) struct TrackedRequestBody {
    body: Incoming,
    slot: Slot,
}

impl TrackedRequestBody {
    pub(super) fn new(body: Incoming, slot: Slot) -> Self {
        Self { body, slot }
    }
}

impl HttpBody for TrackedRequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Pending => self.slot.awaits_body(),
            // A part of the body ends no wait: otherwise a client that sends a byte now and then could never be evicted.
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {}
            Poll::Ready(_) => self.slot.serves_request(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body that notes in the slot that the connection waits for its client, from the end of the response on.
pub(super) struct TrackedResponseBody {
    body: Body,
    slot: Slot,
}

impl TrackedResponseBody {
    pub(super) fn new(body: Body, slot: Slot) -> Self {
        Self { body, slot }
    }
}

impl HttpBody for TrackedResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // A streamed response reads its request as it goes. Only while it does nothing else does it wait for the client.
        self.slot.serves_request();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            // The client has to read the part that is sent.
            self.slot.awaits_request();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TrackedResponseBody {
    fn drop(&mut self) {
        self.slot.awaits_request();
    }
}
