//! TLS as a client: the root certificates, and the handshake.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::roots::{self, RootsError};

/// The stream under a WebSocket: TCP, or TLS over TCP.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// The root certificates that a server's certificate must lead to, as a TLS configuration.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Loads the root certificates in `file`, or else the system's.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, RootsError> {
        Ok(Self(Arc::new(roots::client_config(roots::load("--ca", file)?))))
    }

    /// Makes the handshake with a server whose certificate must be for `host`.
    pub(super) async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Box<dyn Wire>> {
        let stream = TlsConnector::from(Arc::clone(&self.0)).connect(name(host)?, stream).await;
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("no TLS with {host}: {error}"));
        Ok(Box::new(stream.map_err(failed)?))
    }
}

fn name(host: &str) -> io::Result<ServerName<'static>> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?}: {error}"));
    ServerName::try_from(host.to_owned()).map_err(bad)
}
