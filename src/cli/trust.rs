//! TLS as a client: the root certificates, the handshake, and what is wrong with a server's certificate.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::CertificateError::{
    self, BadSignature, ExpiredContext, NotValidForNameContext, NotValidYetContext, Other, UnknownIssuer,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock;
use crate::roots::{self, RootsError};

/// The stream under a WebSocket: TCP, or TLS over TCP.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// How a server's certificate is checked.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    check: Check,
    /// The name that the certificate must be for, if it isn't the host that is connected to.
    server_name: Option<String>,
}

#[derive(Clone, Debug)]
enum Check {
    /// It must lead to one of the root certificates.
    Roots(Arc<ClientConfig>),
    /// It must lead to one of the system's root certificates, except on a connection that stays on this machine.
    RootsElsewhere,
    /// It is not checked.
    Nothing,
}

impl Trust {
    /// Loads the root certificates in `file`, or else the system's.
    ///
    /// A certificate must be for `server_name`, or else for the host that is connected to.
    pub(super) fn load(file: Option<&Path>, server_name: Option<&str>) -> Result<Self, RootsError> {
        let check = Check::Roots(Arc::new(roots::client_config(roots::load("--ca", file)?)));
        Ok(Self { check, server_name: server_name.map(str::to_owned) })
    }

    /// Trusts a node on this machine without a check, and others as the system does.
    ///
    /// What stays on this machine needs no certificate: with the default settings it isn't even encrypted. The certificate
    /// of a node is for the name that its clients use, not for the address at which this machine calls it.
    pub(super) fn of_own_machine() -> Self {
        Self { check: Check::RootsElsewhere, server_name: None }
    }

    /// Accepts every certificate.
    pub(super) fn of_anybody() -> Self {
        Self { check: Check::Nothing, server_name: None }
    }

    /// Makes the handshake with a server whose certificate must be for `host`, unless it must be for another name.
    pub(super) async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Box<dyn Wire>> {
        let config = match &self.check {
            Check::Roots(config) => Arc::clone(config),
            Check::RootsElsewhere if !stays_here(&stream)? => {
                let roots = roots::load("--ca", None).map_err(io::Error::other)?;
                Arc::new(roots::client_config(roots))
            }
            Check::RootsElsewhere | Check::Nothing => Arc::new(config_without_check()),
        };
        let name = name(self.server_name.as_deref().unwrap_or(host))?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let failed = |error: io::Error| {
            let why = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(explain);
            let why = why.unwrap_or_else(|| error.to_string());
            io::Error::new(error.kind(), format!("no TLS with {host}: {why}"))
        };
        Ok(Box::new(stream.map_err(failed)?))
    }
}

fn name(host: &str) -> io::Result<ServerName<'static>> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?}: {error}"));
    ServerName::try_from(host.to_owned()).map_err(bad)
}

/// Returns whether both ends of a connection are on this machine.
fn stays_here(stream: &TcpStream) -> io::Result<bool> {
    let (local, peer) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    // The kernel sends nothing to the network that is for one of its own addresses.
    Ok(peer.to_canonical().is_loopback() || local == peer)
}

/// Explains an error of the handshake that a user can mend; `None` for any other.
fn explain(error: &Error) -> Option<String> {
    match error {
        Error::InvalidCertificate(error) => explain_certificate(error),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("the server doesn't speak TLS there, expected an address where it does".to_owned())
        }
        _ => None,
    }
}

fn explain_certificate(error: &CertificateError) -> Option<String> {
    let date = |time: UnixTime| clock::rfc3339_seconds(time.as_secs());
    Some(match error {
        // A bad signature is most often of an authority that was made again with the same name.
        UnknownIssuer | BadSignature => {
            "its certificate leads to no authority that is trusted here; name the root certificate of its \
                          authority with --ca"
                .to_owned()
        }
        NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!("its certificate is for no name, expected {} in its subjectAltName", expected.to_str())
        }
        NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {}, not for {}; connect to such a name, or expect it with --server-name",
            names(presented),
            expected.to_str()
        ),
        ExpiredContext { not_after, .. } => format!("its certificate has expired at {}", date(*not_after)),
        NotValidYetContext { not_before, .. } => format!("its certificate is not valid before {}", date(*not_before)),
        Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is self-signed: it is marked as an authority's (CA:TRUE), not as a server's; expected one \
             that an authority has signed"
                .to_owned()
        }
        Other(error) if error.to_string().starts_with("UnsupportedCertVersion") => {
            "its certificate is of X.509 version 1, expected version 3 with a subjectAltName".to_owned()
        }
        _ => return None,
    })
}

/// Shows the names of a certificate, which rustls writes as `DnsName("chat.example.org")`.
fn names(presented: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    let mut shown: Vec<String> = presented.iter().take(SHOWN_MAX).map(bare).collect();
    if presented.len() > SHOWN_MAX {
        shown.push("others".to_owned());
    }
    shown.join(", ")
}

/// Returns a TLS configuration that accepts every certificate.
fn config_without_check() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("AWS-LC has the ciphers of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        .with_no_client_auth()
}

/// Accepts every certificate. The server still proves that it holds the certificate's key.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
