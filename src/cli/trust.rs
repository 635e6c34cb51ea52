//! TLS towards a server: whom to trust, and the handshake.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a WebSocket runs over: TCP, or TLS over it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// By whom a server may be vouched for.
#[derive(Clone, Debug)]
pub(super) struct Trust(Arc<ClientConfig>);

/// Why there is nobody to trust; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("cannot read --ca {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("--ca {} holds no certificate in PEM that can be trusted", path.display())]
    Empty { path: PathBuf },
    #[error("the system trusts nobody, name a file of certificates with --ca")]
    NoSystemRoots,
    #[error("no TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Trust {
    /// Takes the roots in `file`, or the system's.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        match file {
            Some(path) => {
                let bytes =
                    fs::read(path).map_err(|source| TrustError::Unreadable { path: path.to_owned(), source })?;
                let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
                let (added, _) = roots.add_parsable_certificates(certificates.unwrap_or_default());
                if added == 0 {
                    return Err(TrustError::Empty { path: path.to_owned() });
                }
            }
            None => {
                let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if added == 0 {
                    return Err(TrustError::NoSystemRoots);
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Makes the handshake with a server that must be `host`.
    pub(super) async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Box<dyn Wire>> {
        let stream = TlsConnector::from(Arc::clone(&self.0)).connect(name(host)?, stream).await;
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("no TLS with {host}: {error}"));
        Ok(Box::new(stream.map_err(failed)?))
    }

    /// Begins a connection to a server that must be `host`, for who drives it alone.
    pub(super) fn connection(&self, host: &str) -> io::Result<ClientConnection> {
        ClientConnection::new(Arc::clone(&self.0), name(host)?).map_err(io::Error::other)
    }
}

fn name(host: &str) -> io::Result<ServerName<'static>> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?}: {error}"));
    ServerName::try_from(host.to_owned()).map_err(bad)
}
