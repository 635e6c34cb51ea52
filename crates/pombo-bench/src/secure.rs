//! TLS of a load client: rustls's connection, driven without waiting.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use mio::net::TcpStream;
use pombo::cli::trust;
use pombo::roots;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::BenchError;

/// The identity that a server's certificate must prove: its name, and the trusted root certificates.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Identity {
    /// Takes the roots in `ca`, or the system's, for a server whose certificate is for `host`.
    pub(super) fn load(host: &str, ca: Option<&Path>) -> Result<Self, BenchError> {
        let roots = roots::load("--ca", ca).map_err(|error| BenchError::Arguments(error.to_string()))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| BenchError::Arguments(format!("server is {host:?}: {error}")))?;
        Ok(Self { name, config: Arc::new(roots::client_config(roots)) })
    }
}

/// Says what is wrong with the server's TLS, if that is how the connection broke.
pub(super) fn fault(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(trust::explain(error).unwrap_or_else(|| error.to_string()))
}

/// The state of one client's TLS; its socket is the client's.
pub(super) struct Secure(ClientConnection);

impl Secure {
    pub(super) fn new(identity: &Identity) -> io::Result<Self> {
        let connection = ClientConnection::new(Arc::clone(&identity.config), identity.name.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        // The client itself bounds its unsent bytes.
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }

    /// Reads plaintext until the socket has no more, or `buffer` no more room; goes on with the handshake meanwhile.
    pub(super) fn read(&mut self, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(length) => {
                    filled += length;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(filled),
                Err(error) => return Err(error),
            }
            match self.0.read_tls(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => return Ok(filled),
                read => read?,
            };
            let was_handshaking = self.0.is_handshaking();
            let processed =
                self.0.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            // After the handshake only `write` and the client's `resume` send: the generator then polls for writability.
            if was_handshaking || processed.is_err() {
                self.push(socket)?;
            }
            processed?;
        }
        Ok(filled)
    }

    /// Takes all of `bytes`, and sends what the socket takes.
    pub(super) fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        self.0.writer().write_all(bytes)?;
        self.push(socket)?;
        Ok(bytes.len())
    }

    /// Whether ciphertext waits for the socket.
    pub(super) fn holds_back(&self) -> bool {
        self.0.wants_write()
    }

    fn push(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                written => written?,
            };
        }
        Ok(())
    }
}
