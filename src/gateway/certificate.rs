//! The certificate that the node shows: read from its two files, and again when they change or a reload asks.
//!
//! Connections take the newest when they come in, and keep it: nobody is dropped for a new one. Files that make no
//! certificate, at a reload, leave the one in force where it is, and that is logged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::bounded_file;
use crate::clock;
use crate::watched_files::{Stamps, WatchedFiles};

/// Most bytes of either file: a chain takes a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is spoken inside TLS (RFC 7301); a client that asks for something else only, as for HTTP/2, gets an alert.
const PROTOCOL: &[u8] = b"http/1.1";

/// Where the certificate and its key are.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    /// The certificate, and those that lead from it to a root, PEM.
    pub(crate) certificate: PathBuf,
    /// The certificate's private key, PEM.
    pub(crate) key: PathBuf,
}

/// Why two files make no certificate; the operator's to mend.
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
        /// What the operating system said.
        reason: String,
    },
    /// A file holds something else.
    #[error("{setting} {} holds no {expected}: {reason}", path.display())]
    Malformed {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What was found in its place.
        reason: String,
    },
    /// The two can't be used together.
    #[error("tls_certificate {} can't be used with tls_key {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// The certificate in force, and what is known of its files.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: CertificateFiles,
    /// The files as they were when they were first read.
    read: Stamps,
    in_force: watch::Sender<Arc<ServerConfig>>,
    asked: Arc<Notify>,
}

impl CertificateFiles {
    /// Reads both files.
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
        let config = server_config(chain.clone(), key).map_err(|source| CertificateError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })?;
        self.warn_of_dates(&chain);
        Ok(config)
    }

    /// Logs which certificates of a chain are not valid now, and since when or until when.
    fn warn_of_dates(&self, chain: &[CertificateDer<'_>]) {
        let now = UnixTime::since_unix_epoch(clock::since_1970());
        let date = |time: UnixTime| clock::rfc3339_seconds(time.as_secs());
        let certificate = self.certificate.display();
        for (index, found) in chain.iter().enumerate() {
            let place = if index == 0 { "the server's own" } else { "on the way to a root" };
            match out_of_time(found, now) {
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
    /// Reads the certificate that the node begins with.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub(crate) fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        // Looked at first: a change while they are read is seen later.
        let read = Stamps::of(&files.paths());
        let in_force = watch::Sender::new(files.load()?);
        Ok(Self { files, read, in_force, asked: Arc::default() })
    }

    /// Returns where the certificate in force can be seen.
    pub(crate) fn in_force(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.in_force.subscribe()
    }

    /// Returns what asks for the files to be read again.
    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Reads the files again whenever they change, or that is asked for; for ever.
    pub(crate) async fn keep(self) {
        let mut watched = WatchedFiles::new(self.read);
        loop {
            tokio::select! {
                () = self.asked.notified() => watched.ask(),
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

/// Returns the first fault of a certificate that is looked at alone: its dates come before any other.
///
/// rustls's verifier is called without roots. It checks the dates before it looks for a root, and its error has them, so
/// no library that parses certificates is needed. The caller ignores every other fault.
fn out_of_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<rustls::CertificateError> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let nobody = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, &[]) {
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

/// Makes what handshakes are made by: TLS 1.2 and 1.3, with the ciphers that rustls holds to be safe.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Who comes back need not make the whole handshake again. The client keeps what that takes, sealed with a key that
    // changes every few hours: nothing of it is kept here.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
