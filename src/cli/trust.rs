//! TLS as a client: the root certificates, the handshake, and what is wrong with a server's certificate.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError::{
    self, BadSignature, ExpiredContext, NotValidForNameContext, NotValidYetContext, Other, UnknownIssuer,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::bounded_file;
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
    /// It must be the node's own, or lead to one of the system's root certificates.
    Own(OwnCertificate),
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

    /// Trusts the certificate in `file`, the node's `tls_certificate`, for any host, and others as the system does.
    ///
    /// The certificate of a node is for the name that its clients use, not for the address at which its own machine calls it.
    /// That an address looks like one of this machine proves nothing: the kernel may forward it to another.
    pub(super) fn of_own_node(file: Option<PathBuf>) -> Self {
        Self { check: Check::Own(OwnCertificate(file)), server_name: None }
    }

    /// Accepts every certificate.
    pub(super) fn of_anybody() -> Self {
        Self { check: Check::Nothing, server_name: None }
    }

    /// Makes the handshake with a server whose certificate must be for `host`, unless it must be for another name.
    pub(super) async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Box<dyn Wire>> {
        let refused = |error: io::Error| explained(&error, host, "");
        match &self.check {
            Check::Roots(config) => self.shake_hands(Arc::clone(config), stream, host).await.map_err(refused),
            Check::Own(own) => self.secure_own_node(own, stream, host).await,
            Check::Nothing => {
                self.shake_hands(Arc::new(config_of(Accepted::Everything)), stream, host).await.map_err(refused)
            }
        }
    }

    /// Makes the handshake with the node that has the certificate in a file; shortly after a change of the file, which the node
    /// may not have read, as often as it needs.
    async fn secure_own_node(
        &self,
        own: &OwnCertificate,
        mut stream: TcpStream,
        host: &str,
    ) -> io::Result<Box<dyn Wire>> {
        let peer = stream.peer_addr()?;
        loop {
            let (accepted, remark) = own.accepted();
            let error = match self.shake_hands(Arc::new(config_of(accepted)), stream, host).await {
                Ok(wire) => return Ok(wire),
                Err(error) => error,
            };
            let is_of_certificate = matches!(tls_error(&error), Some(Error::InvalidCertificate(_)));
            if !is_of_certificate || !own.has_just_changed() {
                return Err(explained(&error, host, if is_of_certificate { &remark } else { "" }));
            }
            sleep(RENEWAL_PAUSE).await;
            stream = TcpStream::connect(peer).await?;
        }
    }

    async fn shake_hands(&self, config: Arc<ClientConfig>, stream: TcpStream, host: &str) -> io::Result<Box<dyn Wire>> {
        let name = name(self.server_name.as_deref().unwrap_or(host))?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

/// The file of the certificate of the node that is called; `None` if the settings don't name it.
#[derive(Clone, Debug)]
struct OwnCertificate(Option<PathBuf>);

/// Longest file of a certificate that is read, as by the node.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long after a change of its file a node may still have the certificate before: it waits until both files are written.
const RENEWAL_TIME: Duration = Duration::from_secs(10);

/// Time between two handshakes with a node that may not have read its new certificate.
const RENEWAL_PAUSE: Duration = Duration::from_millis(250);

impl OwnCertificate {
    /// Reads the file; returns what to accept, and what to say of the file when another certificate is refused.
    fn accepted(&self) -> (Accepted, String) {
        let Some(path) = &self.0 else {
            return (Accepted::Own(None), "; the settings here name no tls_certificate to compare it with".to_owned());
        };
        let read = bounded_file::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string());
        let own = read.and_then(|bytes| CertificateDer::from_pem_slice(&bytes).map_err(|error| error.to_string()));
        let path = path.display();
        match own {
            Ok(own) => (Accepted::Own(Some(own)), format!("; it is not the one in tls_certificate {path}")),
            Err(error) => {
                let remark =
                    format!("; it can't be compared with tls_certificate {path}, which can't be read: {error}");
                (Accepted::Own(None), remark)
            }
        }
    }

    /// Returns whether the file changed so shortly ago that the node may not have read it.
    fn has_just_changed(&self) -> bool {
        let changed = self.0.as_ref().and_then(|path| fs::metadata(path).ok()).map(|file| file.ctime());
        let changed = changed.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        changed.is_some_and(|changed| clock::since_1970().saturating_sub(changed) < RENEWAL_TIME)
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Says why there is no TLS with a host; `remark` follows the reason.
fn explained(error: &io::Error, host: &str, remark: &str) -> io::Error {
    let why = tls_error(error).and_then(explain).unwrap_or_else(|| error.to_string());
    io::Error::new(error.kind(), format!("no TLS with {host}: {why}{remark}"))
}

fn name(host: &str) -> io::Result<ServerName<'static>> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?}: {error}"));
    ServerName::try_from(host.to_owned()).map_err(bad)
}

/// Explains an error of the handshake that a user can mend; `None` for any other. `pombo-bench` says the same.
pub fn explain(error: &Error) -> Option<String> {
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

/// Returns a TLS configuration that accepts these certificates.
fn config_of(accepted: Accepted) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("AWS-LC has the ciphers of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { accepted, provider }))
        .with_no_client_auth()
}

/// Which certificates a [`Verifier`] accepts.
#[derive(Debug)]
enum Accepted {
    Everything,
    /// This one, byte for byte, and those that lead to the system's roots.
    Own(Option<CertificateDer<'static>>),
}

/// Accepts other certificates than those that lead to a root. The server still proves that it holds the certificate's key.
#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        found: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let own = match &self.accepted {
            Accepted::Everything => return Ok(ServerCertVerified::assertion()),
            Accepted::Own(own) => own,
        };
        if own.as_ref().is_some_and(|own| own == found) {
            return Ok(ServerCertVerified::assertion());
        }
        // A system without roots, such as an empty container, trusts nobody else.
        let roots = roots::load("--ca", None).map_err(|_| Error::InvalidCertificate(UnknownIssuer))?;
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
        let usual = usual.map_err(|error| Error::General(error.to_string()))?;
        usual.verify_server_cert(found, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
