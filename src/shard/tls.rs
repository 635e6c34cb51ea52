//! TLS on a socket of a shard: rustls's connection, driven without waiting.
//!
//! The gateway makes the handshake; then the connection moves here with its socket, and whatever rustls holds of
//! either direction moves with it. The shard sees plaintext only. What is sent is encrypted as it goes, in full
//! records, and no more of it than one send call may take; what the socket refuses of that stays here until it has
//! room. Received ciphertext lands in the caller's buffer, and the plaintext overwrites it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use rustix::net::{RecvFlags, SendFlags};
use rustls::ServerConnection;

/// Plaintext that is encrypted at once, in bytes: four full records. Ciphertext that waits for the socket is bounded by it.
const ENCRYPTED_MAX: usize = 64 << 10;

/// Room made behind a message for one receive call, in bytes; it has to be zeroed first.
const RECEIVED_ONTO: usize = 64 << 10;

/// A client's stream over TLS.
#[derive(Debug)]
pub struct Tls {
    socket: mio::net::TcpStream,
    connection: ServerConnection,
    /// The socket was not asked for all: the last receive call filled its buffer, or did without, or there was none yet.
    may_have_more: bool,
    /// Whether our `close_notify` was said. What the peer sends from then on is thrown away as it comes, and not decrypted:
    /// rustls must not find a fault in it, since it takes no second alert.
    is_finished: bool,
}

impl Tls {
    /// Takes over a connection whose handshake is done.
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
    /// The end without `close_notify` is no error here: WebSocket has its own close, and a message cut short is
    /// thrown away in any case.
    ///
    /// Behind [`Tls::finish`] it receives ciphertext, whose only use is to be thrown away.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_finished {
            let (received, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?;
            return Ok(received);
        }
        loop {
            match self.connection.reader().read(buffer) {
                Ok(length) => {
                    // The socket was not asked this time, and what the poller told of it would be forgotten.
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
                // Tells rustls of the end; there is nothing to read.
                self.connection.read_tls(&mut io::empty())?;
                continue;
            }
            self.may_have_more = received == buffer.len();
            let length = self.decrypt(buffer, received).map_err(|error| self.refuse(buffer, error))?;
            if length > 0 {
                return Ok(length);
            }
            // A part of a record, or one without data: the end of the stream may be next, and would not be told again.
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

    /// Turns the first `received` bytes of `buffer` from ciphertext into plaintext; returns the plaintext's length.
    ///
    /// Plaintext is put where ciphertext was taken from already. What finds no room (the rest of a record that had
    /// been received before) stays with rustls, at most a record.
    fn decrypt(&mut self, buffer: &mut [u8], received: usize) -> io::Result<usize> {
        let (mut taken, mut filled) = (0, 0);
        while taken < received {
            let read = self.connection.read_tls(&mut &buffer[taken..received])?;
            if read == 0 {
                // Behind a `close_notify` nothing counts.
                break;
            }
            taken += read;
            self.connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            filled += self.read_left(&mut buffer[filled..taken])?;
        }
        filled += self.read_left(&mut buffer[filled..])?;
        if self.connection.wants_write() {
            // An answer of rustls's own, as to an attempt to renegotiate; if the socket is full, it goes with the next send.
            match self.push() {
                Err(error) if !is_for_later(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(filled)
    }

    /// Reads what plaintext there is.
    fn read_left(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.connection.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }

    /// Ends the stream of a peer that breaks the protocol, with the alert that rustls has for it.
    ///
    /// What the peer has sent is read, or the socket's end would be an RST that overtakes the alert.
    fn refuse(&mut self, scratch: &mut [u8], error: io::Error) -> io::Error {
        if self.push().is_ok() {
            self.socket.shutdown(Shutdown::Write).ok();
            rustix::net::recv(&self.socket, scratch, RecvFlags::empty()).ok();
        }
        error
    }

    /// Sends what the socket takes of `pieces`; returns how much was taken, all of it encrypted.
    ///
    /// The last of it may still be here: see [`Self::has_unsent`].
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

    /// Whether more may be received at once, though the last call gave less than it might have.
    pub(super) fn has_unread(&self) -> bool {
        // rustls wants to read unless it has plaintext left, or the peer's `close_notify`.
        !self.is_finished && (self.may_have_more || !self.connection.wants_read())
    }

    /// Sends `close_notify`, and then the end of the stream; fails with `WouldBlock` while there is no room for that.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.is_finished = true;
        self.push()?;
        self.socket.shutdown(Shutdown::Write)
    }

    /// Sends ciphertext until there is none left.
    fn push(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Outgoing(&self.socket))?;
        }
        Ok(())
    }
}

/// Whether a failed call may do better later.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Where rustls writes its records to.
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

    /// What a peer sent behind our `close_notify` was decrypted: a record that was forged ended a debug build by an assertion of
    /// rustls's, which had no alert left to send.
    #[test]
    fn what_comes_behind_the_end_is_thrown_away_as_it_is() {
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

    /// Plaintext left over was given without asking the socket, whose event was forgotten then: it was never read again.
    #[test]
    fn after_what_was_left_over_the_socket_is_asked_again() {
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
