//! Why a connection did not become a session, and how it is told: never in silence, never by RST.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::auth::{Denied, Unidentified};
use crate::frame::{self, Opcode, Violation, close};
use crate::protocol::plain;
use crate::uid::UidError;

/// Bytes that are read and thrown away while a refused peer takes note.
const DISCARD_BYTES_MAX: usize = 4 << 20;

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// Answered over HTTP, with this status: a bad upgrade, or a page.
    #[error("answered with http status {0}")]
    Http(u16),
    #[error("no complete request within the handshake time-out")]
    HandshakeTimeout,
    #[error("request is not HTTP: {0}")]
    NotHttp(hyper::Error),
    #[error("login frame breaks the protocol: {0}")]
    Violation(Violation),
    #[error("{0}")]
    Uid(UidError),
    #[error("{0}")]
    Denied(Denied),
    #[error("no login within {0:?}")]
    LoginTimeout(Duration),
    #[error("closed by the peer before its login")]
    ClosedByPeer(Option<u16>),
    #[error("server is going away")]
    Draining,
    #[error("server is full")]
    Full,
    #[error("connection lost: {0}")]
    Lost(io::Error),
}

impl From<Unidentified> for Refusal {
    fn from(reason: Unidentified) -> Self {
        match reason {
            Unidentified::Denied(denied) => Self::Denied(denied),
            Unidentified::Uid(error) => Self::Uid(error),
        }
    }
}

/// Tells a peer that was upgraded why it is refused; ends as a session does: close frame, FIN, and the peer's end.
pub(crate) async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, refusal: &Refusal, time_out: Duration) {
    let mut last_words = Vec::new();
    match refusal {
        Refusal::Violation(violation) => {
            frame::encode_close(&mut last_words, violation.close_code(), &violation.to_string());
        }
        Refusal::Uid(error) => {
            frame::encode(&mut last_words, Opcode::Text, plain::error(error).as_bytes());
            frame::encode_close(&mut last_words, close::POLICY, &error.to_string());
        }
        Refusal::Denied(denied) => {
            frame::encode(&mut last_words, Opcode::Text, plain::error(denied).as_bytes());
            frame::encode_close(&mut last_words, denied.close_code(), &denied.to_string());
        }
        Refusal::LoginTimeout(_) => frame::encode_close(&mut last_words, close::POLICY, &refusal.to_string()),
        Refusal::ClosedByPeer(Some(code)) => frame::encode_close(&mut last_words, *code, ""),
        Refusal::ClosedByPeer(None) => frame::encode(&mut last_words, Opcode::Close, &[]),
        Refusal::Draining => frame::encode_close(&mut last_words, close::GOING_AWAY, &refusal.to_string()),
        Refusal::Full | Refusal::Lost(_) | Refusal::Http(_) | Refusal::HandshakeTimeout | Refusal::NotHttp(_) => return,
    }
    timeout(time_out, async {
        stream.write_all(&last_words).await?;
        end(stream).await
    })
    .await
    .ok();
}

/// Ends a stream so that what was sent arrives: FIN, then reads and throws away until the peer's end, or a bound.
///
/// Closing with input unread would send an RST, and the peer might never see the answer. The caller bounds the time.
pub(crate) async fn end<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut left = DISCARD_BYTES_MAX;
    let mut scratch = [0; 1024];
    loop {
        let received = stream.read(&mut scratch).await?;
        left = left.saturating_sub(received);
        if received == 0 || left == 0 {
            return Ok(());
        }
    }
}
