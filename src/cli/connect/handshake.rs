//! The opening handshake as a client sees it: the request over hyper, and the check of the answer (RFC 6455, section 4.1).
//!
//! tungstenite's own client takes only one value of `Connection`, any extension, and the raw bytes of a refusal's body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::cli::trust::Wire;

/// Longest body of a refusal that is read.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How long to wait for a refusal's body.
const BODY_TIME: Duration = Duration::from_secs(1);

/// Why the handshake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The server answered with another status than 101.
    #[error("the server answered HTTP {status}{}", explained(*status, body))]
    Refused { status: StatusCode, body: String },
    /// The server's 101 violates RFC 6455.
    #[error("the server's answer is no upgrade: {name} is {found}, expected {expected}")]
    Answer { name: &'static str, found: String, expected: String },
    /// There was no answer.
    #[error("connection lost: {0}")]
    Lost(#[from] hyper::Error),
}

/// Opens a WebSocket by `request` over a connection; offers neither extensions nor subprotocols.
///
/// # Errors
/// See [`HandshakeError`].
pub(super) async fn open(
    request: Request<()>,
    wire: Box<dyn Wire>,
) -> Result<WebSocketStream<Box<dyn Wire>>, HandshakeError> {
    let (mut sender, connection) = http1::Builder::new()
        // Some servers expect the header names in the case of RFC 6455.
        .title_case_headers(true)
        .handshake(TokioIo::new(AskFirst { wire, has_asked: false, reader: None }))
        .await?;
    // Its errors also reach the sender of the request.
    tokio::spawn(connection.with_upgrades());
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_owned()).unwrap_or_default();
    let mut request = request.map(|()| Empty::<Bytes>::new());
    // The host is in the header `Host`.
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    check(response.version(), response.headers(), &derive_accept_key(&key))?;
    let upgraded: Box<dyn Wire> = Box::new(TokioIo::new(hyper::upgrade::on(response).await?));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}

/// A connection that is read only after the first write.
///
/// Some servers refuse before they have read the request; hyper treats a response before its request as an error.
struct AskFirst {
    wire: Box<dyn Wire>,
    has_asked: bool,
    /// The task that waits to read until then.
    reader: Option<Waker>,
}

impl AsyncRead for AskFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_asked {
            return Pin::new(&mut self.wire).poll_read(context, buffer);
        }
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for AskFirst {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.wire).poll_write(context, bytes);
        // A failed write counts: the refusal may be there to be read.
        if written.is_ready() {
            self.has_asked = true;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

/// Reads the start of a refusal's body, in which servers give the reason.
async fn refusal(response: Response<Incoming>) -> HandshakeError {
    let status = response.status();
    let body = timeout(BODY_TIME, Limited::new(response.into_body(), BODY_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    HandshakeError::Refused { status, body: String::from_utf8_lossy(&body).trim().to_owned() }
}

/// Returns the body of a refusal behind a colon, or a hint at the mistake that leads to such a status.
fn explained(status: StatusCode, body: &str) -> String {
    match body {
        "" if status.is_redirection() => {
            " (is this the address of control? clients connect to one of listen, port 1234 by default)".to_owned()
        }
        "" => String::new(),
        body => format!(": {body}"),
    }
}

/// Checks the answer, point by point as the RFC lists them.
fn check(version: Version, headers: &HeaderMap, accept: &str) -> Result<(), HandshakeError> {
    let all = |name: &HeaderName| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let fault = |name, expected: &str, found: Vec<String>| {
        let found = if found.is_empty() { "(absent)".to_owned() } else { found.join(", ") };
        Err(HandshakeError::Answer { name, found, expected: expected.to_owned() })
    };
    if version != Version::HTTP_11 {
        return fault("its version", "HTTP/1.1", vec![format!("{version:?}")]);
    }
    let upgrade = all(&UPGRADE);
    if !matches!(&upgrade[..], [only] if only.trim().eq_ignore_ascii_case("websocket")) {
        return fault("Upgrade", "websocket", upgrade);
    }
    let connection = all(&CONNECTION);
    let mut tokens = connection.iter().flat_map(|values| values.split(','));
    if !tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade")) {
        return fault("Connection", "Upgrade", connection);
    }
    let accepted = all(&SEC_WEBSOCKET_ACCEPT);
    if !matches!(&accepted[..], [only] if only.trim() == accept) {
        return fault("Sec-WebSocket-Accept", accept, accepted);
    }
    for (name, header) in
        [("Sec-WebSocket-Extensions", SEC_WEBSOCKET_EXTENSIONS), ("Sec-WebSocket-Protocol", SEC_WEBSOCKET_PROTOCOL)]
    {
        let chosen = all(&header);
        // An empty list chooses none.
        if chosen.iter().flat_map(|values| values.split(',')).any(|value| !value.trim().is_empty()) {
            return fault(name, "none, since none was offered", chosen);
        }
    }
    Ok(())
}
