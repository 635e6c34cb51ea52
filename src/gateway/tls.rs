//! The TLS handshake before the HTTP upgrade, and TLS streams while the gateway has them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::AcceptedStream;
use super::refusal::{self, Reason, Refusal};
use crate::shard::{Stream, Tls};

/// Makes the handshake by `deadline`. A connection that has sent nothing by the time `draining` completes is ended.
///
/// # Errors
/// When the handshake fails, of which an alert or an HTTP status has informed the client; or when the connection is lost.
pub(super) async fn handshake(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    deadline: Instant,
    close_timeout: Duration,
    draining: impl Future,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let first_byte = async {
        let mut first = [0];
        tokio::select! {
            biased;
            peeked = stream.peek(&mut first) => match peeked {
                Ok(0) => Err(Refusal::ClosedByPeer(None)),
                Ok(_) => Ok(first[0]),
                Err(error) => Err(Refusal::Lost(error)),
            },
            _ = draining => Err(Refusal::Http(Reason::Draining)),
        }
    };
    let first = timeout_at(deadline, first_byte).await.map_err(|_| Refusal::Http(Reason::HandshakeTimeout))??;
    // A TLS record never begins with a capital letter, an HTTP method does. An HTTP client can't read an alert.
    if first.is_ascii_uppercase() {
        timeout(close_timeout, refusal::answer_over_http(&mut stream, Reason::PlainHttp)).await.ok();
        return Err(Refusal::Http(Reason::PlainHttp));
    }
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible();
    match timeout_at(deadline, accepted).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, mut stream))) => {
            // Without RST, so that the alert, which has been sent, arrives.
            timeout(close_timeout, refusal::end_stream(&mut stream)).await.ok();
            Err(Refusal::Tls(error))
        }
        Err(_) => Err(Refusal::Http(Reason::HandshakeTimeout)),
    }
}

impl AcceptedStream for TlsStream<TcpStream> {
    async fn input_arrived(&self) -> io::Result<()> {
        let (stream, connection) = self.get_ref();
        // Data may have come with the last handshake record. rustls holds it then, and doesn't want to read more.
        if connection.wants_read() { stream.input_arrived().await } else { Ok(()) }
    }

    fn into_stream(self) -> io::Result<Stream> {
        let (stream, connection) = self.into_inner();
        let stream = mio::net::TcpStream::from_std(stream.into_std()?);
        Ok(Stream::Tls(Box::new(Tls::new(stream, connection))))
    }
}
