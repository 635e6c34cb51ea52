//! The root certificates that a TLS client trusts: the system's, or those in a file; and the client's TLS configuration.
//!
//! Read once by each part that connects as a client: `pombo connect`, `pombo-bench`, and the gateway for the service
//! that authenticates. Never on the message path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::bounded_file;

/// Longest file that is read; the system's own file has a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there are no root certificates; the user must fix it.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("cannot read {setting} {}: {source}", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("{setting} {} holds no certificate in PEM that can be trusted", path.display())]
    Empty { setting: &'static str, path: PathBuf },
    #[error("the system trusts nobody, name a file of certificates with {setting}")]
    NoSystemRoots { setting: &'static str },
}

/// Reads the root certificates in `file`, the value of `setting`, or else the system's.
///
/// # Errors
/// When there is no root, see [`RootsError`].
pub fn load(setting: &'static str, file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if added == 0 { Err(RootsError::NoSystemRoots { setting }) } else { Ok(roots) };
    };
    let bytes = bounded_file::read(path, FILE_BYTES_MAX).map_err(|source| RootsError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let (added, _) = roots.add_parsable_certificates(certificates.unwrap_or_default());
    if added == 0 { Err(RootsError::Empty { setting, path: path.to_owned() }) } else { Ok(roots) }
}

/// Returns a TLS configuration that accepts servers whose certificate leads to one of `roots`.
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("AWS-LC has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
