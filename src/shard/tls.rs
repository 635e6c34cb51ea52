//! TLS on a socket of a shard: drives rustls's connection without blocking.
//!
//! The gateway makes the handshake. Then the socket moves here with rustls's connection, and with the bytes of either
//! direction that rustls has buffered. The shard sees plaintext only. Plaintext is encrypted when it is sent, in full
//! records, at most [`ENCRYPTED_MAX`] ahead of the socket; ciphertext that the socket refuses stays here until it has
//! room. Received ciphertext lands in the caller's buffer, and the plaintext overwrites it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use rustix::net::{RecvFlags, SendFlags};
use rustls::ServerConnection;

/// Most plaintext that is encrypted ahead of the socket, in bytes: four full records. It bounds the ciphertext that
/// waits here.
const ENCRYPTED_MAX: usize = 64 << 10;

/// Most room behind an incomplete message for one receive call, in bytes; bounded since it must be zeroed first.
const RECEIVED_ONTO: usize = 64 << 10;

/// A client's stream over TLS.
#[derive(Debug)]
pub struct Tls {
    socket: mio::net::TcpStream,
    connection: ServerConnection,
    /// The socket may have bytes that were not received: it was not called yet, or the last call filled its buffer, or
    /// the last plaintext was returned without a call.
    may_have_more: bool,
    /// Whether our `close_notify` was sent. Input is discarded without being decrypted from then on: if rustls found a
    /// fault in it, it would have to send an alert, and asserts that none follows the `close_notify`.
    is_finished: bool,
}

impl Tls {
    /// Makes a stream of a socket and its connection, whose handshake is done.
    pub fn new(socket: mio::net::TcpStream, mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(ENCRYPTED_MAX));
        Self { socket, connection, may_have_more: true, is_finished: false }
    }

    pub(super) fn socket(&self) -> &mio::net::TcpStream {
        &self.socket
    }

    pub(super) fn socket_mut(&mut self) -> &mut mio::net::TcpStream {
        &mut self.socket
    }

    /// Receives plaintext; 0 is the peer's `close_notify`, or the end of its stream without one.
    ///
    /// The end without `close_notify` is no error here: WebSocket has its own close, and an incomplete message is
    /// discarded in any case.
    ///
    /// After [`Tls::finish`] it receives ciphertext, which the caller must discard.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_finished {
            let (received, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?;
            return Ok(received);
        }
        loop {
            match self.connection.reader().read(buffer) {
                Ok(length) => {
                    // The socket was not called, so that it may still have the bytes of the poller's last event.
                    self.may_have_more = true;
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.may_have_more = false;
            let (received, _) = rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
            if received == 0 {
                // Passes the end of the stream on to rustls.
                self.connection.read_tls(&mut io::empty())?;
                continue;
            }
            self.may_have_more = received == buffer.len();
            let length = self.decrypt(buffer, received).map_err(|error| self.refuse(buffer, error))?;
            if length > 0 {
                return Ok(length);
            }
            // It was a part of a record, or a record without data. The loop goes on, since the end of the stream may be
            // next, which the poller would not report again.
        }
    }

    /// Receives plaintext behind the content of `buffer`.
    pub(super) fn receive_onto(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let held = buffer.len();
        let end = buffer.capacity().min(held + RECEIVED_ONTO);
        buffer.resize(end, 0);
        let received = self.receive(&mut buffer[held..]);
        buffer.truncate(held + received.as_ref().map_or(0, |length| *length));
        received
    }

    /// Decrypts the first `received` bytes of `buffer` in place; returns the length of the plaintext.
    ///
    /// Plaintext overwrites ciphertext that rustls has read already. Plaintext that has no room, because a part of its
    /// record had been received before, stays in rustls: at most one record.
    fn decrypt(&mut self, buffer: &mut [u8], received: usize) -> io::Result<usize> {
        let (mut taken, mut filled) = (0, 0);
        while taken < received {
            let read = self.connection.read_tls(&mut &buffer[taken..received])?;
            if read == 0 {
                // rustls reads nothing behind a `close_notify`.
                break;
            }
            taken += read;
            self.connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            filled += self.read_left(&mut buffer[filled..taken])?;
        }
        filled += self.read_left(&mut buffer[filled..])?;
        if self.connection.wants_write() {
            // An answer of rustls's own, for example to a renegotiation. If the socket is full, the next send includes
            // it.
            match self.push() {
                Err(error) if !is_for_later(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(filled)
    }

    /// Reads the plaintext that rustls has, if any.
    fn read_left(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.connection.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }

    /// Ends the stream to a peer that violates TLS, with rustls's alert.
    ///
    /// The peer's input is read first: to close a socket with unread input would send an RST, which overtakes the
    /// alert.
    fn refuse(&mut self, scratch: &mut [u8], error: io::Error) -> io::Error {
        if self.push().is_ok() {
            self.socket.shutdown(Shutdown::Write).ok();
            rustix::net::recv(&self.socket, scratch, RecvFlags::empty()).ok();
        }
        error
    }

    /// Encrypts and sends as much of `pieces` as the socket takes; returns how many bytes were encrypted.
    ///
    /// The last of these may still be unsent: see [`Self::has_unsent`].
    pub(super) fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.push()?;
        let due: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut taken = self.connection.writer().write_vectored(pieces)?;
        let mut rest = Vec::new();
        loop {
            match self.push() {
                Ok(()) if taken < due => {}
                Ok(()) => return Ok(taken),
                Err(error) if is_for_later(&error) => return Ok(taken),
                Err(error) => return Err(error),
            }
            rest.clear();
            rest.extend_from_slice(pieces);
            let mut rest = &mut rest[..];
            IoSlice::advance_slices(&mut rest, taken);
            taken += self.connection.writer().write_vectored(rest)?;
        }
    }

    /// Whether ciphertext waits for room in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether more bytes may be received at once, although the last call did not fill its buffer.
    pub(super) fn has_unread(&self) -> bool {
        // rustls wants to read unless it has plaintext left, or the peer's `close_notify`.
        !self.is_finished && (self.may_have_more || !self.connection.wants_read())
    }

    /// Sends `close_notify`, and then the end of the stream; fails with `WouldBlock` while the socket has no room for
    /// them.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.is_finished = true;
        self.push()?;
        self.socket.shutdown(Shutdown::Write)
    }

    /// Sends ciphertext until none is left.
    fn push(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Outgoing(&self.socket))?;
        }
        Ok(())
    }
}

/// Whether a failed call may succeed later.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The socket as the writer of rustls's records.
struct Outgoing<'a>(&'a mio::net::TcpStream);

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        match records {
            // As for a stream without TLS.
            [record] => self.write(record),
            records => Ok(rustix::io::writev(self.0, records)?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

    use super::*;

    /// A client with its socket, and the server's end as a shard has it.
    fn pair() -> (ClientConnection, TcpStream, Tls) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let provider = || Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server.expect("they fit"))).expect("a connection");
        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a connection");
        while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).expect("a Vec takes all");
            let mut wire = &wire[..];
            while !wire.is_empty() {
                server.read_tls(&mut wire).expect("it has room");
                server.process_new_packets().expect("the client is sound");
            }
            let mut wire = Vec::new();
            server.write_tls(&mut wire).expect("a Vec takes all");
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).expect("it has room");
                client.process_new_packets().expect("the server is sound");
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        socket.set_nodelay(true).expect("a socket can do that");
        let (accepted, _) = listener.accept().expect("a connection");
        accepted.set_nonblocking(true).expect("a socket can do that");
        (client, socket, Tls::new(mio::net::TcpStream::from_std(accepted), server))
    }

    /// Receives once there is something.
    fn receive(tls: &mut Tls, buffer: &mut [u8]) -> usize {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            match tls.receive(buffer) {
                Ok(length) => return length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(std::time::Instant::now() < deadline, "nothing came");
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Input behind our `close_notify` was decrypted: a forged record ended a debug build by an assertion of
    /// rustls's, which must not send an alert then.
    #[test]
    fn input_behind_the_end_is_discarded_without_being_decrypted() {
        let (_client, mut socket, mut tls) = pair();
        tls.finish().expect("there is room");
        let forged = [&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat();
        socket.write_all(&forged).expect("it is read");
        let mut buffer = [0; 1000];
        assert_eq!(receive(&mut tls, &mut buffer), forged.len());
        assert!(!tls.has_unread());
        socket.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(receive(&mut tls, &mut buffer), 0, "the end");
    }

    /// Plaintext left in rustls was returned without calling the socket, whose last event was forgotten then: the
    /// socket was never read again.
    #[test]
    fn after_plaintext_left_in_rustls_the_socket_is_called_again() {
        let (mut client, mut socket, mut tls) = pair();
        client.writer().write_all(&[7; 16 << 10]).expect("it fits");
        let mut record = Vec::new();
        client.write_tls(&mut record).expect("a Vec takes all");
        let mut buffer = [0; 1000];
        // The last piece of the record is short, and brings more plaintext than fits.
        socket.write_all(&record).expect("it is read");
        assert_eq!(receive(&mut tls, &mut buffer), buffer.len());
        let mut left = 15_384;
        while left > 0 {
            assert!(tls.has_unread(), "{left} bytes left");
            left -= receive(&mut tls, &mut buffer);
        }
        assert!(tls.has_unread(), "the socket was not asked since");
        assert!(matches!(tls.receive(&mut buffer), Err(error) if error.kind() == io::ErrorKind::WouldBlock));
        assert!(!tls.has_unread());
    }
}
