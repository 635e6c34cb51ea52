//! What a connection of the API does, noted where its place is decided on: see [`places`](crate::control::places).

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::control::places::{Place, Refused};
use crate::control::problem::Problem;

/// Has a request wait until its connection has an ordinary place: for all requests but those of probes.
pub(super) async fn take(Extension(place): Extension<Place>, request: Request, next: Next) -> Response {
    match place.enter_ordinary().await {
        Ok(()) => next.run(request).await,
        Err(Refused { ordinary_max }) => Problem::Busy
            .with_detail(format!(
                "{ordinary_max} other requests are being served, the most that control_connections_max allows, and more \
                 wait; nothing was done, try again later"
            ))
            .retry_after(1)
            .into_response(),
    }
}

/// The body of a request, which notes when it waits for the client.
pub(super) struct Received {
    body: Incoming,
    place: Place,
}

impl Received {
    pub(super) fn new(body: Incoming, place: Place) -> Self {
        Self { body, place }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Pending => self.place.awaits_body(),
            // A part of it changes nothing: a client that sends a byte now and then does not wait for less.
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {}
            Poll::Ready(_) => self.place.serves(),
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

/// The body of an answer, which notes that the connection waits for its client when the answer is over.
pub(super) struct Answered {
    body: Body,
    place: Place,
}

impl Answered {
    pub(super) fn new(body: Body, place: Place) -> Self {
        Self { body, place }
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // An answer that reads its request on the way waits for that only as long as it does nothing else.
        self.place.serves();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            // For what is sent to be read.
            self.place.awaits_request();
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

impl Drop for Answered {
    fn drop(&mut self) {
        self.place.awaits_request();
    }
}
