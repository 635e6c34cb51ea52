//! One key that verifies the signatures of tokens.

use std::ops::RangeInclusive;

use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Bits of an RSA key: the fewest by RFC 7518, section 3.3; the most that AWS-LC verifies with.
pub(super) const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// A key that verifies signatures of one algorithm.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name, `kid`.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) verifier: DecodingKey,
}

impl Key {
    /// Makes the key of a shared secret, for HS256.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { id: None, algorithm: Algorithm::HS256, verifier: DecodingKey::from_secret(secret) }
    }

    /// Reads a public key (`SubjectPublicKeyInfo`, RFC 5280), which states its own kind.
    pub(super) fn public(der: &[u8]) -> Result<Self, String> {
        let key = |algorithm, verifier| Ok(Self { id: None, algorithm, verifier });
        if ParsedPublicKey::new(&ED25519, der).is_ok() {
            return key(Algorithm::EdDSA, DecodingKey::from_ed_der(der));
        }
        if ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).is_ok() {
            return key(Algorithm::ES256, DecodingKey::from_ec_der(der));
        }
        match PublicEncryptingKey::from_der(der) {
            Ok(rsa) if RSA_BITS.contains(&rsa.key_size_bits()) => key(Algorithm::RS256, DecodingKey::from_rsa_der(der)),
            _ => Err(format!(
                "a public key is of an unknown kind, expected RSA of {} to {} bits, P-256 or Ed25519",
                RSA_BITS.start(),
                RSA_BITS.end()
            )),
        }
    }
}
