//! The TLS handshake, in front of the HTTP upgrade; and a stream over TLS on its way through the gateway.

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

/// Makes the handshake, by `until`; a client that has said nothing yet ends when `draining` does.
///
/// # Errors
/// When the client was told off, by an alert or over HTTP, or is lost.
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
    // No TLS record begins like a method of HTTP: an alert would be no answer.
    if first.is_ascii_uppercase() {
        timeout(close_timeout, refusal::answer(&mut stream, Reason::PlainHttp)).await.ok();
        return Err(Refusal::Http(Reason::PlainHttp));
    }
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible();
    match timeout_at(deadline, accepted).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, mut stream))) => {
            // The alert has been sent; it is to arrive.
            timeout(close_timeout, refusal::end(&mut stream)).await.ok();
            Err(Refusal::Tls(error))
        }
        Err(_) => Err(Refusal::Http(Reason::HandshakeTimeout)),
    }
}

impl AcceptedStream for TlsStream<TcpStream> {
    async fn input_arrived(&self) -> io::Result<()> {
        let (stream, connection) = self.get_ref();
        // What came along with the end of the handshake is with rustls already, which then has enough to read.
        if connection.wants_read() { stream.input_arrived().await } else { Ok(()) }
    }

    fn into_stream(self) -> io::Result<Stream> {
        let (stream, connection) = self.into_inner();
        let stream = mio::net::TcpStream::from_std(stream.into_std()?);
        Ok(Stream::Tls(Box::new(Tls::new(stream, connection))))
    }
}
