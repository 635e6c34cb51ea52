//! The node's TLS certificate: read from its two files at the start, when they change, and at a reload.
//!
//! A connection uses the newest certificate at its handshake, and is not dropped when another one follows. If the files are
//! not valid at a reload, the certificate in use stays, and an error is logged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::bounded_file;
use crate::clock;
use crate::watched_files::{Stamps, WatchedFiles};

/// Most bytes of either file: a chain takes a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The protocol for ALPN (RFC 7301). A client that offers only others, such as HTTP/2, gets an alert.
const PROTOCOL: &[u8] = b"http/1.1";

/// Paths of the certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    /// The certificate and its chain of intermediates, PEM.
    pub(crate) certificate: PathBuf,
    /// The certificate's private key, PEM.
    pub(crate) key: PathBuf,
}

/// Why the two files can't be used; the operator has to correct them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file can't be read, or is too large.
    #[error("cannot read {setting} {}: {reason}", path.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: String,
    },
    /// A file doesn't hold what its setting expects.
    #[error("{setting} {} holds no {expected}: {reason}", path.display())]
    Malformed {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// The parser's error.
        reason: String,
    },
    /// The key belongs to no certificate, or not to the first one.
    #[error(
        "tls_key {} is not the key of the certificate in tls_certificate {}: expected {}",
        key.display(), certificate.display(),
        match belongs_to {
            None => "the files of one certificate".to_owned(),
            Some(place) => format!("the server's own certificate first, and the key belongs to number {place} in the file"),
        }
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The place of the certificate that the key belongs to, from 1.
        belongs_to: Option<usize>,
    },
    /// The certificate and the key can't be used together.
    #[error("tls_certificate {} can't be used with tls_key {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The error of rustls.
        source: rustls::Error,
    },
}

/// The certificate in use, and the state of its files.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: CertificateFiles,
    /// The stamps of the files before they were read first.
    stamps: Stamps,
    in_force: watch::Sender<Arc<ServerConfig>>,
    /// Notified to have the files read again.
    reload: Arc<Notify>,
}

impl CertificateFiles {
    /// Reads both files, and warns of dates that are not valid now.
    fn load(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let chain = read("tls_certificate", &self.certificate)?;
        let key = read("tls_key", &self.key)?;
        let malformed = |setting, path: &Path, expected| {
            let path = path.to_owned();
            move |error: pem::Error| CertificateError::Malformed { setting, path, expected, reason: error.to_string() }
        };
        let not_a_chain = || malformed("tls_certificate", &self.certificate, "certificate in PEM");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(not_a_chain())?;
        if chain.is_empty() {
            return Err(not_a_chain()(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(malformed("tls_key", &self.key, "private key in PEM"))?;
        let config = server_config(chain.clone(), key.clone_key());
        let config = config.map_err(|source| self.unusable(source, &chain, &key))?;
        self.warn_of_dates(&chain);
        self.warn_of_authority(&chain);
        Ok(config)
    }

    /// Says why a chain and a key can't be used.
    fn unusable(
        &self,
        source: rustls::Error,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
    ) -> CertificateError {
        let (certificate, key_file) = (self.certificate.clone(), self.key.clone());
        let is_version_1 = |error: &rustls::OtherError| error.to_string().starts_with("UnsupportedCertVersion");
        if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(error)) = &source
            && is_version_1(error)
        {
            return CertificateError::Malformed {
                setting: "tls_certificate",
                path: certificate,
                expected: "certificate of X.509 version 3",
                reason: "it has an older version, which can't have the server's name in a subjectAltName".to_owned(),
            };
        }
        if !matches!(source, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            return CertificateError::Unusable { certificate, key: key_file, source };
        }
        let belongs = |found: &CertificateDer<'static>| server_config(vec![found.clone()], key.clone_key()).is_ok();
        let belongs_to = chain.iter().position(belongs).map(|index| index + 1);
        CertificateError::Mismatch { certificate, key: key_file, belongs_to }
    }

    /// Logs if the server's certificate is marked as an authority's, as `openssl req -x509` makes it.
    fn warn_of_authority(&self, chain: &[CertificateDer<'_>]) {
        let now = UnixTime::since_unix_epoch(clock::since_1970());
        let error = chain.first().and_then(|own| validity_error(own, now));
        if let Some(rustls::CertificateError::Other(error)) = error
            && error.to_string() == "CaUsedAsEndEntity"
        {
            let certificate = self.certificate.display();
            warn!(
                %certificate,
                "certificate is marked as an authority's (CA:TRUE), as self-signed ones are; many clients refuse it"
            );
        }
    }

    /// Logs the certificates of a chain that have expired or are not valid yet.
    fn warn_of_dates(&self, chain: &[CertificateDer<'_>]) {
        let now = UnixTime::since_unix_epoch(clock::since_1970());
        let date = |time: UnixTime| clock::rfc3339_seconds(time.as_secs());
        let certificate = self.certificate.display();
        for (index, found) in chain.iter().enumerate() {
            let place = if index == 0 { "the server's own" } else { "on the way to a root" };
            match validity_error(found, now) {
                Some(rustls::CertificateError::ExpiredContext { not_after, .. }) => {
                    let since = date(not_after);
                    warn!(%certificate, place, %since, "certificate has expired, clients may refuse it");
                }
                Some(rustls::CertificateError::NotValidYetContext { not_before, .. }) => {
                    let from = date(not_before);
                    warn!(%certificate, place, %from, "certificate is not valid yet, clients may refuse it");
                }
                _ => {}
            }
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.key.clone()]
    }
}

impl Certificate {
    /// Reads the certificate at the start of the node.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub(crate) fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        // Before the files are read, so that a change while they are read is noticed later.
        let stamps = Stamps::of(&files.paths());
        let in_force = watch::Sender::new(files.load()?);
        Ok(Self { files, stamps, in_force, reload: Arc::default() })
    }

    /// Returns a receiver of the configuration with the certificate in use.
    pub(crate) fn in_force(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.in_force.subscribe()
    }

    /// Returns the notification that has the files read again.
    pub(crate) fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Reads the files again whenever they change or a reload is requested. Never returns.
    pub(crate) async fn watch(self) {
        let mut watched = WatchedFiles::new(self.stamps);
        loop {
            tokio::select! {
                () = self.reload.notified() => watched.ask(),
                () = watched.next_look() => {}
            }
            let files = self.files.clone();
            match watched.look(files.paths(), move || files.load()).await {
                Ok(Some(Ok(config))) => {
                    self.in_force.send_replace(config);
                    info!(certificate = %self.files.certificate.display(), "certificate reloaded");
                }
                Ok(None) => {}
                Ok(Some(Err(error))) => error!(error = %error, "certificate not reloaded, the old one stays"),
                Err(error) => error!(error = %error, "certificate not reloaded, the old one stays"),
            }
        }
    }
}

/// Returns rustls's first error for a certificate without roots; an invalid date is reported before any other error.
///
/// The verifier checks the dates before it searches for a root, and its error holds the dates. So no library that parses
/// certificates is needed. The caller ignores all other errors.
fn validity_error(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<rustls::CertificateError> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let no_roots = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &no_roots, &[], now, &[]) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    bounded_file::read(path, FILE_BYTES_MAX).map_err(|error| CertificateError::Unreadable {
        setting,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Makes the configuration of handshakes: TLS 1.2 and 1.3, with the cipher suites that rustls considers safe.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Session tickets: a client that returns makes a shorter handshake. It keeps the state itself, encrypted with a key that
    // changes every few hours, so the node stores nothing for it.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
