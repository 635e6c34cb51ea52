//! Reads the first data message of a connection: its uid, or the credential that its uid follows from.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::config::GatewaySettings;
use crate::frame::{self, Event, Opcode, Reader};

/// Size of one read before the login.
const READ_BYTES: usize = 1024;

/// Reads up to the end of the first message, and returns its payload. Answers pings that come before it.
///
/// `received` holds the bytes that came behind the upgrade request; afterwards, every byte that came behind the message.
///
/// # Errors
/// When the peer breaks the protocol, leaves, or sends no message within `login_timeout`; see [`Refusal`].
pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
    settings: &GatewaySettings,
) -> Result<Vec<u8>, Refusal> {
    timeout(settings.login_timeout, read_frames(stream, received, settings))
        .await
        .unwrap_or(Err(Refusal::LoginTimeout(settings.login_timeout)))
}

async fn read_frames<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
    settings: &GatewaySettings,
) -> Result<Vec<u8>, Refusal> {
    let mut reader = Reader::default();
    loop {
        let mut answers = Vec::new();
        let login = take_frames(&mut reader, received, &mut answers, settings);
        // Pongs go out before the reply to the login, or before its refusal.
        stream.write_all(&answers).await.map_err(Refusal::Lost)?;
        if let Some(login) = login? {
            received.shrink_to_fit();
            return Ok(login);
        }
        received.reserve(READ_BYTES);
        let length = (&mut *stream).take(READ_BYTES as u64).read_buf(received).await.map_err(Refusal::Lost)?;
        if length == 0 {
            return Err(Refusal::ClosedByPeer(None));
        }
    }
}

/// Removes whole frames from the front of `received`, up to the first message; appends pongs to `answers`.
fn take_frames(
    reader: &mut Reader,
    received: &mut Vec<u8>,
    answers: &mut Vec<u8>,
    settings: &GatewaySettings,
) -> Result<Option<Vec<u8>>, Refusal> {
    let mut at = 0;
    while at < received.len() {
        let (taken, event) = reader.read(&mut received[at..], settings.login_bytes_max);
        at += taken;
        match event.map_err(Refusal::Violation)? {
            Some(Event::Message { payload, .. }) => {
                let login = payload.as_slice().to_vec();
                received.drain(..at);
                return Ok(Some(login));
            }
            Some(Event::Ping(payload)) => frame::encode(answers, Opcode::Pong, payload),
            Some(Event::Fragment | Event::Pong(_)) | None => {}
            Some(Event::Close { code, .. }) => return Err(Refusal::ClosedByPeer(code)),
        }
    }
    received.clear();
    Ok(None)
}
