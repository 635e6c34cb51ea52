//! Certificates made on the spot, and what a client needs to trust them.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use pombo::Config;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

/// The names of this machine.
pub(crate) const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Whom the clients of a test trust; the files of the certificate that it has issued last.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A client's stream over TLS; every read waits for plaintext, every write has left when it returns.
pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

impl Authority {
    /// Makes an authority, and files that it has issued.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be drawn");
        let mut params = CertificateParams::new(Vec::new()).expect("no name is a sound name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("it signs itself").der().clone();
        let folder = tempfile::tempdir().expect("a folder for the files");
        let authority = Self { folder, issuer: Issuer::new(params, key), root };
        authority.issue();
        authority
    }

    pub(crate) fn certificate_file(&self) -> PathBuf {
        self.folder.path().join("chain.pem")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The root's file, for who must be told whom to trust.
    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Writes new files for this machine's addresses; returns the certificate.
    pub(crate) fn issue(&self) -> CertificateDer<'static> {
        self.issue_for(1975, 4096)
    }

    /// Writes new files whose certificate is valid from the start of one year to the start of another.
    pub(crate) fn issue_for(&self, from: i32, to: i32) -> CertificateDer<'static> {
        let (certificate, chain, key) = self.sign_for(&LOCAL, from, to);
        fs::write(self.certificate_file(), chain).expect("the folder is writable");
        fs::write(self.key_file(), key).expect("the folder is writable");
        let root = pem("CERTIFICATE", &self.root);
        fs::write(self.root_file(), root).expect("the folder is writable");
        certificate
    }

    /// Writes new files whose certificate is for `name`, signed by an intermediate authority whose certificate follows it.
    pub(crate) fn issue_by_intermediate(&self, name: &str) {
        let key = KeyPair::generate().expect("a key can be drawn");
        let mut params = CertificateParams::new(Vec::new()).expect("no name is a sound name");
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let intermediate = params.signed_by(&key, &self.issuer).expect("the authority signs").der().clone();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key can be drawn");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        let own = params.signed_by(&key, &issuer).expect("the intermediate authority signs").der().clone();
        let chain = pem("CERTIFICATE", &own) + &pem("CERTIFICATE", &intermediate);
        fs::write(self.certificate_file(), chain).expect("the folder is writable");
        fs::write(self.key_file(), pem("PRIVATE KEY", &key.serialize_der())).expect("the folder is writable");
    }

    /// Writes new files whose certificate is the authority's own, as `openssl req -x509` makes one.
    pub(crate) fn issue_self_signed(&self) {
        let key = KeyPair::generate().expect("a key can be drawn");
        let names = LOCAL.map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names and addresses");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).expect("it signs itself").der().clone();
        fs::write(self.certificate_file(), pem("CERTIFICATE", &own)).expect("the folder is writable");
        fs::write(self.key_file(), pem("PRIVATE KEY", &key.serialize_der())).expect("the folder is writable");
    }

    /// Makes a certificate for these names: itself, its PEM, and its key's PEM.
    pub(crate) fn sign(&self, names: &[&str]) -> (CertificateDer<'static>, String, String) {
        self.sign_for(names, 1975, 4096)
    }

    fn sign_for(&self, names: &[&str], from: i32, to: i32) -> (CertificateDer<'static>, String, String) {
        let key = KeyPair::generate().expect("a key can be drawn");
        let names = names.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("names and addresses");
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let chain = pem("CERTIFICATE", certificate.der());
        (certificate.der().clone(), chain, pem("PRIVATE KEY", &key.serialize_der()))
    }

    /// Has a node speak TLS with the files.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.tls_certificate = Some(self.certificate_file());
        config.tls_key = Some(self.key_file());
    }

    /// What a server makes handshakes by, whose certificate is for these names.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (certificate, _, key) = self.sign(names);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("it is a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("rustls knows the versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the key is the certificate's");
        Arc::new(config)
    }

    /// What a client makes handshakes by, that trusts this authority alone.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("it is a root");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("rustls knows the versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// Makes the handshake over a connected socket.
pub(crate) fn secure(mut socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Secured> {
    let name = socket.peer_addr()?.ip().into();
    let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
