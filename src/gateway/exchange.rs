//! One HTTP request and its answer on hyper's HTTP/1 server, which gives the stream back afterwards.
//!
//! ```text
//!   new ─▶ request ─▶ wait_unless_left ─▶ respond ─▶ into_stream
//!             │           │             │            ▲
//!             └───────────┴─────────────┴── failed ──┘
//! ```
//! hyper calls a service for each request. This service sends the request to the task that owns the [`Exchange`] and waits for
//! the answer. So that task's code reads, decides and answers in one straight line. Only that task polls the connection.

use std::cell::Cell;
use std::future::{Future, poll_fn};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

use super::half_close::{HalfClose, Stage};
use super::refusal::Refusal;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Most header lines of a request.
const HEADERS_MAX: usize = 64;

/// The answer to a request, with its whole body in memory.
pub(super) type Response = hyper::Response<Full<Bytes>>;

/// The one request of a connection, and its answer.
///
/// # Cancel safety
/// Every future of this type may be dropped before it completes, as at a time-out; `into_stream` still returns the stream.
pub(super) struct Exchange<S: AsyncRead + AsyncWrite + Unpin> {
    connection: http1::Connection<TokioIo<HalfClose<S>>, RequestForwarder>,
    stage: watch::Sender<Stage>,
    /// Receives the request from the service.
    received: oneshot::Receiver<ReceivedRequest>,
    /// Sends the answer to the service; present from the request until the answer.
    answer: Option<oneshot::Sender<Response>>,
}

/// A request from the service, without its body: a request with a body is refused.
struct ReceivedRequest {
    request: Request<()>,
    answer: oneshot::Sender<Response>,
}

/// The service that hyper calls: it forwards the request, and waits for the answer.
struct RequestForwarder {
    /// Taken by the first request. A connection has no second one, because `respond` closes it.
    sender: Cell<Option<oneshot::Sender<ReceivedRequest>>>,
    stage: watch::Sender<Stage>,
}

impl Service<Request<Incoming>> for RequestForwarder {
    type Response = Response;
    type Error = oneshot::error::RecvError;
    type Future = oneshot::Receiver<Response>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        self.stage.send_replace(Stage::Received);
        if let Some(sender) = self.sender.take() {
            sender.send(ReceivedRequest { request: request.map(drop), answer }).ok();
        }
        answered
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    pub(super) fn new(stream: S) -> Self {
        let stage = watch::Sender::new(Stage::Receiving);
        let (sender, receiver) = oneshot::channel();
        let service = RequestForwarder { sender: Cell::new(Some(sender)), stage: stage.clone() };
        let connection = http1::Builder::new()
            // The caller bounds all of the request's time, however the bytes trickle. hyper would bound the head's only.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(HalfClose::new(stream, stage.subscribe())), service);
        Self { connection, stage, received: receiver, answer: None }
    }

    /// Receives the request.
    ///
    /// # Errors
    /// When the client leaves, or sends something other than a request.
    pub(super) async fn request(&mut self) -> Result<Request<()>, Refusal> {
        let received = tokio::select! {
            biased;
            ended = poll_fn(|context| self.connection.poll_without_shutdown(context)) => return Err(ended_early(ended)),
            Ok(received) = &mut self.received => received,
        };
        self.answer = Some(received.answer);
        Ok(received.request)
    }

    /// Waits for a future that the answer depends on.
    ///
    /// # Errors
    /// When the client leaves before the future completes.
    pub(super) async fn wait_unless_left<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T, Refusal> {
        self.stage.send_replace(Stage::Waiting);
        tokio::select! {
            biased;
            result = awaited => Ok(result),
            ended = poll_fn(|context| self.connection.poll_without_shutdown(context)) => Err(ended_early(ended)),
        }
    }

    /// Answers the request; returns when the answer is sent.
    ///
    /// # Errors
    /// hyper's: the client has gone, or has ended its sending within a request body.
    pub(super) async fn respond(&mut self, mut response: Response) -> Result<(), hyper::Error> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Set here: hyper's option for one request per connection would overwrite the `Connection` header of an upgrade.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.stage.send_replace(Stage::Answered);
        if let Some(answer) = self.answer.take() {
            // Fails only if the connection has ended. The poll below returns that error.
            answer.send(response).ok();
        }
        poll_fn(|context| self.connection.poll_without_shutdown(context)).await
    }

    /// Returns whether `respond` was called; the answer may not have been sent yet.
    pub(super) fn is_answered(&self) -> bool {
        *self.stage.borrow() == Stage::Answered
    }

    /// Returns the stream, and every byte that was received after the request.
    pub(super) fn into_stream(self) -> (S, Vec<u8>) {
        let parts = self.connection.into_parts();
        (parts.io.into_inner().into_inner(), parts.read_buf.into())
    }
}

/// Returns the refusal of a connection that ended before its request was answered.
fn ended_early(ended: Result<(), hyper::Error>) -> Refusal {
    ended.map_or_else(Refusal::from, |()| Refusal::ClosedByPeer(None))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;
    use crate::gateway::Reason;

    const REQUEST: &[u8] = b"GET /path HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Fails if `future` doesn't complete in time.
    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(60), future).await.expect("it should be done long ago")
    }

    /// Begins an exchange with a client that has sent `bytes`.
    async fn client(bytes: &[u8]) -> (DuplexStream, Exchange<DuplexStream>) {
        let (mut client, server) = duplex(64 << 10);
        client.write_all(bytes).await.expect("there is room");
        (client, Exchange::new(server))
    }

    fn response(status: StatusCode) -> Response {
        let mut response = Response::new(Full::from("text"));
        *response.status_mut() = status;
        response
    }

    async fn received(client: &mut DuplexStream) -> String {
        let mut received = String::new();
        soon(client.read_to_string(&mut received)).await.expect("text");
        received
    }

    #[tokio::test]
    async fn request_is_answered_and_what_is_behind_it_is_kept() {
        let (mut client, mut exchange) = client(&[REQUEST, b"behind"].concat()).await;
        let request = soon(exchange.request()).await.expect("a request");
        assert_eq!(request.uri().path(), "/path");
        assert_eq!(soon(exchange.wait_unless_left(async { 7 })).await.expect("the client is here"), 7);
        assert!(!exchange.is_answered());
        soon(exchange.respond(response(StatusCode::OK))).await.expect("the answer is sent");
        assert!(exchange.is_answered());
        let (stream, behind) = exchange.into_stream();
        assert_eq!(behind, b"behind");
        drop(stream);
        let received = received(&mut client).await;
        assert!(received.starts_with("HTTP/1.1 200 OK\r\nconnection: close\r\n"), "{received}");
        assert!(received.ends_with("\r\n\r\ntext"), "{received}");
    }

    #[tokio::test]
    async fn end_of_sending_behind_a_request_is_no_leaving_until_the_answer_waits() {
        for waits in [false, true] {
            let (mut client, mut exchange) = client(REQUEST).await;
            client.shutdown().await.expect("the pipe is whole");
            soon(exchange.request()).await.expect("a request");
            if waits {
                let left = soon(exchange.wait_unless_left(pending::<()>())).await.expect_err("the client has left");
                assert_eq!(left.reason(), Some(Reason::Left));
            } else {
                soon(exchange.respond(response(StatusCode::OK))).await.expect("the answer is sent");
            }
            drop(exchange);
            assert_eq!(received(&mut client).await.is_empty(), waits);
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_to_who_sends_no_request() {
        for (bytes, reason) in
            [(&b"\r\nno request\r\n\r\n"[..], Reason::NotHttp), (b"", Reason::Left), (b"GET ", Reason::Left)]
        {
            let (mut client, mut exchange) = client(bytes).await;
            client.shutdown().await.expect("the pipe is whole");
            let refusal = soon(exchange.request()).await.expect_err("there is no request");
            assert_eq!(refusal.reason(), Some(reason), "{refusal}");
            assert!(!exchange.is_answered());
            drop(exchange);
            assert_eq!(received(&mut client).await, "");
        }
    }

    /// A caller that stops waiting for a request still gets the stream.
    #[tokio::test]
    async fn stream_is_taken_back_from_an_exchange_that_was_given_up() {
        let (mut client, mut exchange) = client(b"GET / HT").await;
        timeout(Duration::from_millis(10), exchange.request()).await.expect_err("it is not whole");
        let (mut stream, _) = exchange.into_stream();
        stream.write_all(b"too late").await.expect("the client reads");
        drop(stream);
        assert_eq!(received(&mut client).await, "too late");
    }
}
