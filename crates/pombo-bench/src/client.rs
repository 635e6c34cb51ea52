//! One WebSocket client: its socket, its phase, its unsent bytes, and the beginning of an incomplete frame.
//!
//! The generator owns it and calls it when the socket is ready; it never waits. An idle client holds no buffer.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use memchr::memmem;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::secure::{self, Secure};
use super::wire::Violation;

/// The key of every upgrade, and its accept value: the example of RFC 6455, section 1.3. A server needs no random keys.
const UPGRADE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE_ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Longest response head.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Unsent bytes beyond this, answers to pings included, end the connection.
const UNSENT_BYTES_MAX: usize = 128 << 20;

/// The phase of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP's handshake is under way.
    Connecting,
    /// The upgrade is asked for.
    Upgrading,
    /// The uid is sent, its reply awaited.
    LoggingIn,
    /// Logged in.
    Open,
    /// The client has sent a close frame.
    Closing,
    /// The client has sent a close frame, and will connect again.
    Leaving,
    /// The connection has ended.
    Ended,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// By a close frame of the server.
    Closed { code: Option<u16>, reason: String },
    /// By the server, without a close frame.
    EndOfFile,
    /// By an error of the transport.
    Broken(io::Error),
    /// By the client, because the server broke the protocol.
    Violation(Violation),
    /// By the client, because the upgrade failed.
    Refused(String),
    /// By the client, because the server does not read.
    Unread,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Closed { code: Some(code), reason } if reason.is_empty() => write!(f, "closed with code {code}"),
            Ending::Closed { code: Some(code), reason } => write!(f, "closed with code {code}, {reason:?}"),
            Ending::Closed { code: None, .. } => f.write_str("closed without a code"),
            Ending::EndOfFile => f.write_str("ended without a close frame"),
            Ending::Broken(error) => match secure::fault(error) {
                Some(fault) => write!(f, "broken: no TLS with the server: {fault}"),
                None => write!(f, "broken: {}", error.kind()),
            },
            Ending::Violation(violation) => write!(f, "given up: the server sent {violation}"),
            Ending::Refused(answer) => write!(f, "refused the upgrade: {answer}"),
            Ending::Unread => f.write_str("given up: the server does not read"),
        }
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Ending::Broken(error)
    }
}

impl From<Violation> for Ending {
    fn from(violation: Violation) -> Self {
        Ending::Violation(violation)
    }
}

/// The result of a read.
pub(super) enum Received {
    /// So many bytes at the start of the buffer, kept ones included; `full` if there was no room for more.
    Bytes { filled: usize, full: bool },
    /// The socket has nothing at present.
    Nothing,
}

/// The result of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The kernel took all bytes.
    All,
    /// The kernel refused some, which the client keeps: the caller must poll for writability.
    Blocked,
}

/// One connection to the server.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    /// Present if it speaks TLS.
    pub(super) secure: Option<Box<Secure>>,
    pub(super) phase: Phase,
    /// Bytes that the kernel refused. While there are any, nothing new is written for this client.
    unsent: Vec<u8>,
    /// The beginning of an incomplete frame.
    partial: Vec<u8>,
    /// The fragments of an unfinished message, if any.
    pub(super) fragments: Option<Vec<u8>>,
    /// When the connection was begun, on the generator's clock.
    pub(super) started: u64,
}

impl Client {
    /// Begins to connect without waiting, from `source` if given; from another port of its address if that one is taken.
    ///
    /// # Errors
    /// When the kernel refuses at once: no more descriptors or ports.
    pub(super) fn connect(to: SocketAddr, source: Option<SocketAddr>, started: u64) -> io::Result<Self> {
        match (Self::connect_from(to, source, started), source) {
            (Err(error), Some(mut source))
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) =>
            {
                source.set_port(0);
                Self::connect_from(to, Some(source), started)
            }
            (result, _) => result,
        }
    }

    fn connect_from(to: SocketAddr, source: Option<SocketAddr>, started: u64) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(source))?;
        }
        match socket.connect(&SockAddr::from(to)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let socket = TcpStream::from_std(socket.into());
        let phase = Phase::Connecting;
        Ok(Self { socket, secure: None, phase, unsent: Vec::new(), partial: Vec::new(), fragments: None, started })
    }

    /// Returns whether the TCP handshake is over.
    ///
    /// # Errors
    /// Why the connection failed.
    pub(super) fn connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty() || self.secure.as_ref().is_some_and(|secure| secure.holds_back())
    }

    /// Reads once into `buffer`, behind the partial frame if there is one.
    #[inline]
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, Ending> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        loop {
            let read = match &mut self.secure {
                None => self.socket.read(&mut buffer[kept..]),
                Some(secure) => secure.read(&mut self.socket, &mut buffer[kept..]),
            };
            match read {
                Ok(0) => return Err(Ending::EndOfFile),
                Ok(read) => {
                    if kept > 0 {
                        self.partial = Vec::new();
                    }
                    return Ok(Received::Bytes { filled: kept + read, full: kept + read == buffer.len() });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Keeps the beginning of a frame until the rest comes.
    #[inline]
    pub(super) fn keep(&mut self, partial: &[u8]) {
        if !partial.is_empty() {
            self.partial = partial.to_vec();
        }
    }

    /// Sends `bytes` with one call, behind what is still unsent.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<Sent, Ending> {
        if self.is_blocked() {
            return self.hold(bytes);
        }
        let written = self.write(bytes)?;
        if written == bytes.len() && !self.is_blocked() { Ok(Sent::All) } else { self.hold(&bytes[written..]) }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<Sent, Ending> {
        if self.unsent.len() + bytes.len() > UNSENT_BYTES_MAX {
            return Err(Ending::Unread);
        }
        self.unsent.extend_from_slice(bytes);
        Ok(Sent::Blocked)
    }

    /// Sends what was refused before.
    pub(super) fn resume(&mut self) -> Result<Sent, Ending> {
        let unsent = std::mem::take(&mut self.unsent);
        let written = self.write(&unsent)?;
        if written < unsent.len() {
            self.unsent = unsent;
            self.unsent.drain(..written);
        }
        Ok(if self.is_blocked() { Sent::Blocked } else { Sent::All })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match &mut self.secure {
                None => self.socket.write(bytes),
                Some(secure) => secure.write(&mut self.socket, bytes),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                other => return other,
            }
        }
    }
}

/// Returns the upgrade request.
pub(super) fn upgrade_request(authority: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {UPGRADE_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Finds the end of the response to the upgrade; `None` if it is incomplete.
///
/// # Errors
/// What the server answered instead of the upgrade.
pub(super) fn read_upgrade_response(bytes: &[u8]) -> Result<Option<usize>, Ending> {
    let first_line = |bytes: &[u8]| {
        let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
    };
    let Some(end) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        let is_long = bytes.len() > RESPONSE_BYTES_MAX;
        return if is_long { Err(Ending::Refused(first_line(bytes))) } else { Ok(None) };
    };
    if !bytes.starts_with(b"HTTP/1.1 101") {
        // A server states its reason in the body. What comes later than the head is not waited for.
        let (status, reason) = (first_line(bytes), first_line(&bytes[end..]));
        return Err(Ending::Refused(if reason.is_empty() { status } else { format!("{status}: {reason}") }));
    }
    if memmem::find(&bytes[..end], UPGRADE_ACCEPT).is_none() {
        return Err(Ending::Refused("a Sec-WebSocket-Accept that does not match the key".into()));
    }
    Ok(Some(end))
}

/// Reads a close frame's payload.
pub(super) fn read_close(payload: &[u8]) -> Ending {
    match payload.split_first_chunk() {
        Some((code, reason)) => Ending::Closed {
            code: Some(u16::from_be_bytes(*code)),
            reason: String::from_utf8_lossy(reason).into_owned(),
        },
        None => Ending::Closed { code: None, reason: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_response(bytes: &[u8], expected: Result<Option<usize>, &str>) {
        let read = read_upgrade_response(bytes).map_err(|ending| ending.to_string());
        assert_eq!(read, expected.map_err(str::to_owned));
    }

    #[test]
    fn upgrade_responses() {
        let good = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        check_response(good, Ok(Some(good.len())));
        check_response(&[good, &b"\x81\x02hi"[..]].concat(), Ok(Some(good.len())));
        check_response(&good[..good.len() - 1], Ok(None));
        check_response(b"", Ok(None));
        check_response(
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: other\r\n\r\n",
            Err("refused the upgrade: a Sec-WebSocket-Accept that does not match the key"),
        );
        check_response(
            b"HTTP/1.1 503 Service Unavailable\r\nServer: x\r\n\r\n",
            Err("refused the upgrade: HTTP/1.1 503 Service Unavailable"),
        );
        check_response(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\nthe node is full\n",
            Err("refused the upgrade: HTTP/1.1 503 Service Unavailable: the node is full"),
        );
        check_response(&[b'x'; RESPONSE_BYTES_MAX + 1], Err(&format!("refused the upgrade: {}", "x".repeat(200))));
    }

    #[test]
    fn the_key_and_its_answer_belong_together() {
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(UPGRADE_KEY.as_bytes());
        assert_eq!(accept.as_bytes(), UPGRADE_ACCEPT);
    }

    #[track_caller]
    fn check_close(payload: &[u8], expected: &str) {
        assert_eq!(read_close(payload).to_string(), expected);
    }

    #[test]
    fn closes() {
        check_close(b"", "closed without a code");
        check_close(b"\x03", "closed without a code");
        check_close(b"\x03\xe8", "closed with code 1000");
        check_close(b"\x0f\xa8slow", "closed with code 4008, \"slow\"");
    }
}
