//! The keys that verify tokens: from a secret, from PEM files and from JWKS files, which are read again when they change.
//!
//! A key is for one algorithm, whatever a token's header says. So a public key is never used as a secret. If files can't be
//! read, the start fails; later the old keys stay in use, and an error is logged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{self, Digest};
use jsonwebtoken::Algorithm;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::Value;
use tracing::{error, info, warn};

use super::jwk;
use super::key::Key;
use crate::bounded_file;
use crate::config::{AuthSettings, Secret};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most keys. A token without a key's name is tried with every key of its algorithm.
const KEYS_MAX: usize = 64;

/// Why keys can't be used; the operator has to correct it. Never quotes a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the keys in {}: {reason}", path.display())]
pub(crate) struct KeyError {
    path: PathBuf,
    reason: String,
}

/// All keys, at one moment.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

/// The keys in use.
#[derive(Debug)]
pub(super) struct Keys {
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    keys: Arc<KeySet>,
    /// Digest of the files and the secret as they were read last, valid or not. While it stays the same, they are neither
    /// parsed nor logged again.
    digest: Digest,
}

/// Keys that were read again and have changed.
#[derive(Debug)]
pub(crate) struct ChangedKeys {
    digest: Digest,
    parsed: Result<KeySet, KeyError>,
}

/// The secret and the content of the files that the settings name, not parsed yet.
struct Sources<'a> {
    secret: Option<&'a Secret>,
    secret_file: Option<(&'a Path, io::Result<Vec<u8>>)>,
    key_files: Vec<(&'a Path, io::Result<Vec<u8>>)>,
}

impl KeySet {
    /// Returns the keys that may verify a token with this algorithm and this key name in its header.
    ///
    /// A key without a name matches every name, and a token without one matches every key.
    pub(super) fn matching(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| {
            let is_named = match (&key.id, id) {
                (Some(own), Some(asked)) => own == asked,
                _ => true,
            };
            key.algorithm == algorithm && is_named
        })
    }
}

impl Keys {
    /// Reads all keys.
    ///
    /// # Errors
    /// When any key can't be read.
    pub(super) fn load(settings: &AuthSettings) -> Result<Self, KeyError> {
        let sources = Sources::read(settings);
        let keys = Arc::new(sources.parse()?);
        info!(keys = keys.0.len(), "keys of tokens loaded");
        Ok(Self { loaded: Mutex::new(Loaded { keys, digest: sources.digest() }) })
    }

    /// Returns the keys in use.
    pub(super) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.lock().keys)
    }

    /// Reads all keys again; returns them for [`Keys::replace`], or `None` if they have not changed.
    ///
    /// Blocks while it reads files.
    pub(super) fn reread(&self, settings: &AuthSettings) -> Option<ChangedKeys> {
        let sources = Sources::read(settings);
        let digest = sources.digest();
        if self.lock().digest.as_ref() == digest.as_ref() {
            return None;
        }
        Some(ChangedKeys { digest, parsed: sources.parse() })
    }

    /// Replaces the keys by those that were read again; if these are not valid, the old ones stay in use.
    pub(super) fn replace(&self, changed: ChangedKeys) {
        let mut loaded = self.lock();
        loaded.digest = changed.digest;
        match changed.parsed {
            Ok(keys) => {
                info!(keys = keys.0.len(), "keys of tokens changed");
                loaded.keys = Arc::new(keys);
            }
            Err(error) => error!(error = %error, "keys of tokens not changed, the old ones stay"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // Each change is one assignment, so a panic of a lock holder leaves no half-done change.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Sources<'a> {
    fn read(settings: &'a AuthSettings) -> Self {
        let read = |path: &Path| bounded_file::read(path, FILE_BYTES_MAX);
        Self {
            secret: settings.jwt_secret.as_ref(),
            secret_file: settings.jwt_secret_file.as_deref().map(|path| (path, read(path))),
            key_files: settings.jwt_key_files.iter().map(|path| (path.as_path(), read(path))).collect(),
        }
    }

    fn files(&self) -> impl Iterator<Item = &(&'a Path, io::Result<Vec<u8>>)> {
        self.secret_file.iter().chain(&self.key_files)
    }

    /// Returns a digest of everything that was read, to notice changes.
    fn digest(&self) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&bytes.len().to_le_bytes());
            context.update(bytes);
        };
        add(self.secret.map_or("", Secret::reveal).as_bytes());
        for (path, content) in self.files() {
            add(path.as_os_str().as_encoded_bytes());
            match content {
                Ok(bytes) => add(bytes),
                Err(error) => add(error.to_string().as_bytes()),
            }
        }
        context.finish()
    }

    fn parse(&self) -> Result<KeySet, KeyError> {
        let mut keys = Vec::new();
        if let Some(secret) = self.secret {
            keys.push(Key::secret(secret.reveal().as_bytes()));
        }
        for file in self.files() {
            let is_secret = self.secret_file.as_ref().is_some_and(|secret| std::ptr::eq(secret, file));
            let (path, content) = file;
            let error = |reason: String| KeyError { path: (*path).to_owned(), reason };
            let bytes = content.as_ref().map_err(|reason| error(reason.to_string()))?;
            let found =
                if is_secret { parse_secret(bytes, path).map(|key| vec![key]) } else { parse_public_keys(bytes, path) };
            keys.extend(found.map_err(error)?);
            if keys.len() > KEYS_MAX {
                return Err(error(format!("there are more than {KEYS_MAX} keys in all")));
            }
        }
        Ok(KeySet(keys))
    }
}

/// Makes a key of a file's bytes, without a byte order mark at the start and line ends at the end.
///
/// Editors add both, and the signer's secret has neither.
fn parse_secret(bytes: &[u8], path: &Path) -> Result<Key, String> {
    let secret = Secret::bare(bytes);
    // A public key as a secret would let everybody who knows it sign tokens.
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") || secret.trim_ascii_start().starts_with(b"{") {
        return Err("expected a secret, got PEM or JSON; public keys belong in jwt_key_files".to_owned());
    }
    // A secret that is no text consists of random bytes, and may contain line ends.
    if std::str::from_utf8(secret).is_ok_and(|text| text.contains(['\r', '\n'])) {
        return Err("expected a secret on one line, got several".to_owned());
    }
    if secret.len() < Secret::BYTES_MIN {
        return Err(format!("the secret has {} bytes, expected at least {}", secret.len(), Secret::BYTES_MIN));
    }
    let trimmed_bytes = bytes.len() - secret.len();
    // No warning for the one line end that every text file has.
    if trimmed_bytes > "\r\n".len() || bytes.starts_with(Secret::MARK) {
        warn!(path = %path.display(), bytes = trimmed_bytes, "a byte order mark, or ends of lines, are not taken for a part of the secret");
    }
    Ok(Key::secret(secret))
}

/// Finds the public keys in a file, PEM or JWKS.
fn parse_public_keys(bytes: &[u8], path: &Path) -> Result<Vec<Key>, String> {
    let bytes = Secret::bare(bytes);
    let keys = match bytes.trim_ascii_start() {
        [b'{', ..] => parse_jwks(bytes, path)?,
        _ => parse_pem(bytes)?,
    };
    if keys.is_empty() {
        return Err("no key for RS256, ES256 or EdDSA, expected PEM (BEGIN PUBLIC KEY) or a JWKS".to_owned());
    }
    Ok(keys)
}

fn parse_pem(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        match section {
            Ok((SectionKind::PublicKey, der)) => keys.push(Key::public(&der)?),
            Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                return Err("it holds a private key, which this server must not have; expected public ones".to_owned());
            }
            Ok(_) => {}
            // The parser's error may quote the file.
            Err(_) => return Err("it is not PEM".to_owned()),
        }
    }
    Ok(keys)
}

/// Returns the keys of a JWKS that verify signatures and are of a known kind; providers publish other keys beside them.
fn parse_jwks(bytes: &[u8], path: &Path) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("it is not JSON, from line {}, column {} on", error.line(), error.column()))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or("it is no JWKS, expected a list named keys")?;
    let mut keys = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        match jwk::key(value) {
            Ok(key) => keys.push(key),
            Err(reason) => warn!(path = %path.display(), index, reason, "a key of the JWKS is left out"),
        }
    }
    Ok(keys)
}

#[cfg(test)]
impl KeySet {
    /// A set of one secret without a name.
    pub(super) fn of_secret(secret: &[u8]) -> Self {
        Self(vec![Key::secret(secret)])
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
    use data_encoding::{BASE64, BASE64URL_NOPAD};
    use jsonwebtoken::DecodingKey;
    use serde_json::json;

    use super::*;

    fn pem(tag: &str, der: &[u8]) -> String {
        format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", BASE64.encode(der))
    }

    fn ed25519() -> Vec<u8> {
        let pair = Ed25519KeyPair::generate().expect("a key");
        AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("DER").as_ref().to_vec()
    }

    #[track_caller]
    fn check(bytes: &str, expected: Result<&[(Algorithm, Option<&str>)], &str>) {
        let found = parse_public_keys(bytes.as_bytes(), Path::new("x"));
        let found = found.map(|keys| keys.iter().map(|key| (key.algorithm, key.id.clone())).collect::<Vec<_>>());
        let owned = |id: &Option<&str>| id.map(str::to_owned);
        match expected {
            Ok(keys) => assert_eq!(found, Ok(keys.iter().map(|(algorithm, id)| (*algorithm, owned(id))).collect())),
            Err(words) => {
                let error = found.expect_err("it is refused");
                assert!(error.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn reads_pem() {
        let key = pem("PUBLIC KEY", &ed25519());
        check(&key, Ok(&[(Algorithm::EdDSA, None)]));
        check(&format!("a comment\n{key}{key}"), Ok(&[(Algorithm::EdDSA, None), (Algorithm::EdDSA, None)]));
        check("", Err("no key"));
        check("s3cret", Err("no key"));
        check(&pem("CERTIFICATE", b"x"), Err("no key"));
        check(&pem("PUBLIC KEY", b"x"), Err("unknown kind"));
        check(&pem("PRIVATE KEY", b"x"), Err("private key"));
        check("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", Err("not PEM"));
        let other = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = other.public_key().as_der().expect("DER");
        check(&pem("PUBLIC KEY", der.as_ref()), Err("unknown kind"));
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = rsa.public_key().as_der().expect("DER");
        check(&pem("PUBLIC KEY", der.as_ref()), Ok(&[(Algorithm::RS256, None)]));
    }

    #[test]
    fn reads_jwks() {
        let x = BASE64URL_NOPAD.encode(Ed25519KeyPair::generate().expect("a key").public_key().as_ref());
        let k = BASE64URL_NOPAD.encode(&[7; 32]);
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "a"});
        let keys = json!({"keys": [
            ed,
            {"kty": "oct", "k": k, "alg": "HS256"},
            {"kty": "oct", "k": k, "alg": "HS512"},
            {"kty": "oct", "k": "c2hvcnQ"},
            {"kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc"},
            {"kty": "EC", "crv": "P-256", "x": x, "y": x},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "new"},
            "x",
        ]});
        check(&keys.to_string(), Ok(&[(Algorithm::EdDSA, Some("a")), (Algorithm::HS256, None)]));
        check(&json!({"keys": []}).to_string(), Err("no key"));
        check(&ed.to_string(), Err("a list named keys"));
        check("{", Err("not JSON, from line 1"));
    }

    #[test]
    fn reads_secrets() {
        let secret = "x".repeat(32);
        let take = |bytes: &[u8]| parse_secret(bytes, Path::new("x"));
        for (front, behind) in
            [("", ""), ("", "\n"), ("", "\r\n"), ("", "\n\n\r\n"), ("\u{feff}", ""), ("\u{feff}", "\n\n")]
        {
            let key = take(format!("{front}{secret}{behind}").as_bytes()).expect("a secret");
            assert_eq!((key.algorithm, key.verifier.as_bytes()), (Algorithm::HS256, secret.as_bytes()));
        }
        // What is no text may hold any byte, but for ends of lines at its own end.
        let random = [&[0xff, b'\n'][..], &[7; 31], &[0xfe]].concat();
        assert_eq!(take(&random).expect("a secret").verifier.as_bytes(), random);
        let bad = [
            secret[1..].to_owned(),
            format!("{}\n", &secret[1..]),
            pem("PUBLIC KEY", &ed25519()),
            format!("\n{{\"keys\": []}}{secret}"),
            format!("{secret}\n{secret}"),
            format!("{secret}\r{secret}"),
        ];
        for bad in bad {
            take(bad.as_bytes()).expect_err(&bad);
        }
    }

    #[test]
    fn a_key_matches_its_own_algorithm_and_name() {
        let key = |id: Option<&str>, algorithm| Key {
            id: id.map(str::to_owned),
            algorithm,
            verifier: DecodingKey::from_secret(b""),
        };
        let set = KeySet(vec![
            key(Some("a"), Algorithm::RS256),
            key(Some("b"), Algorithm::RS256),
            key(None, Algorithm::RS256),
            key(None, Algorithm::HS256),
        ]);
        let count = |algorithm, id| set.matching(algorithm, id).count();
        assert_eq!(count(Algorithm::RS256, None), 3);
        assert_eq!(count(Algorithm::RS256, Some("a")), 2);
        assert_eq!(count(Algorithm::RS256, Some("c")), 1);
        assert_eq!(count(Algorithm::HS256, Some("a")), 1);
        assert_eq!(count(Algorithm::ES256, Some("a")), 0);
    }

    #[test]
    fn changed_keys_are_used_if_they_are_valid() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |content: &str| std::fs::write(file.path(), content).expect("it can be written");
        let secret = "x".repeat(32);
        let keys = || vec![file.path().to_owned()];
        let settings = crate::config::Config { jwt_key_files: keys(), ..Default::default() }.gateway().auth;
        write(&pem("PUBLIC KEY", &ed25519()));
        let keys = Keys::load(&settings).expect("sound keys");
        let first = keys.current();
        let refresh = |settings: &AuthSettings| {
            if let Some(changed) = keys.reread(settings) {
                keys.replace(changed);
            }
        };
        let is_first = |keys: &Keys| Arc::ptr_eq(&first, &keys.current());

        refresh(&settings);
        assert!(is_first(&keys), "nothing has changed");
        for unsound in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &secret] {
            write(unsound);
            refresh(&settings);
            assert!(is_first(&keys), "{unsound}");
        }
        std::fs::remove_file(file.path()).expect("it is there");
        refresh(&settings);
        assert!(is_first(&keys), "a file that is missing for a moment removes no key");

        let both = format!("{}{}", pem("PUBLIC KEY", &ed25519()), pem("PUBLIC KEY", &ed25519()));
        write(&both);
        refresh(&settings);
        assert_eq!(keys.current().0.len(), 2);
        // Other settings count as a change, too.
        let more = AuthSettings { jwt_secret: Some(Secret::new(secret)), ..settings };
        refresh(&more);
        assert_eq!(keys.current().0.len(), 3);
    }
}
