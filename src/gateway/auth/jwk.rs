//! Parses a key of a JWKS (RFC 7517). A key that can't verify signatures is refused, with the reason.
//!
//! Each member that RFC 7517, RFC 7518 and RFC 8037 define is checked: the cause would be hard to find if a key was accepted
//! and then refused every token. Members that they don't define are ignored. `x5u`, `x5t` and `x5t#S256` only point at a
//! certificate of the key; none is fetched.

use std::collections::HashSet;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use memchr::memmem;
use serde_json::{Map, Value};

use super::key::{Key, RSA_BITS};
use crate::config::Secret;

/// Members that only a private key has.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Bytes of a coordinate of P-256 (RFC 7518, section 6.2.1.2).
const COORDINATE_BYTES: usize = 32;

/// Most bits of the exponent of an RSA key that AWS-LC accepts.
const EXPONENT_BITS_MAX: usize = 33;

type Members = Map<String, Value>;

/// Parses a key; the error says why the key can't be used.
pub(super) fn key(value: &Value) -> Result<Key, &'static str> {
    let members = value.as_object().ok_or("it is no object")?;
    // Some libraries write an absent member as null.
    let present = members.iter().filter(|(_, value)| !value.is_null());
    let members: &Members = &present.map(|(name, value)| (name.clone(), value.clone())).collect();
    let kind = text(members, "kty")?.ok_or("it has no kty")?;
    check_use(members)?;
    let (algorithm, verifier, public) = match (kind, text(members, "crv")?) {
        ("RSA", _) => rsa(members)?,
        ("EC", Some("P-256")) => p256(members)?,
        ("OKP", Some("Ed25519")) => ed25519(members)?,
        ("oct", _) => secret(members)?,
        _ => return Err("its kty and crv are another kind of key than RSA, P-256, Ed25519 and oct"),
    };
    let is_for = match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::EdDSA => "EdDSA",
        _ => "HS256",
    };
    if text(members, "alg")?.is_some_and(|name| name != is_for) {
        return Err("its alg is another than RS256, ES256, EdDSA and HS256, or not one for its kty");
    }
    if let Some(public) = public {
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            return Err("it is a private key, which this server must not have");
        }
        check_certificate(members, &public)?;
    }
    Ok(Key { id: text(members, "kid")?.map(str::to_owned), algorithm, verifier })
}

/// Returns a member that must be a text, if it is present.
fn text<'a>(members: &'a Members, name: &str) -> Result<Option<&'a str>, &'static str> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("a member of it that must be a text is none: kty, use, alg, kid, crv, n, e, x, y or k"),
    }
}

/// Checks that the key is for verifying signatures (RFC 7517, sections 4.2 and 4.3).
fn check_use(members: &Members) -> Result<(), &'static str> {
    if text(members, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("its use is not sig");
    }
    let Some(operations) = members.get("key_ops") else { return Ok(()) };
    let operations = operations.as_array().map(|listed| listed.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let Some(Some(operations)) = operations else { return Err("its key_ops is no list of texts") };
    if !operations.contains(&"verify") {
        return Err("its key_ops is without verify");
    }
    let distinct: HashSet<_> = operations.iter().collect();
    if distinct.len() == operations.len() { Ok(()) } else { Err("its key_ops lists an operation twice") }
}

/// Checks that a certificate in the key is a certificate of the same key (RFC 7517, section 4.7).
///
/// It only searches the certificate for the key's bytes. Some providers make certificates of version 1 of X.509, which
/// libraries refuse to parse.
fn check_certificate(members: &Members, public: &[u8]) -> Result<(), &'static str> {
    let Some(chain) = members.get("x5c") else { return Ok(()) };
    let first = chain.get(0).and_then(Value::as_str).and_then(|first| BASE64.decode(first.as_bytes()).ok());
    let first = first.ok_or("its x5c is no list of certificates in base64")?;
    let holds_key = memmem::find(&first, public).is_some();
    if holds_key { Ok(()) } else { Err("the first certificate of its x5c is one of another key") }
}

/// Decodes a required member (RFC 7515, section 2: base64url without padding).
fn bytes(members: &Members, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(members, name)?.ok_or("a member that its kty has is missing: n and e, x, x and y, or k")?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| "its n, e, x, y or k is not base64url without padding")
}

/// Decodes a number, without the leading zeros that some libraries write.
fn number(members: &Members, name: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = bytes(members, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}

/// Returns the number of bits of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// The algorithm of a key, its verifier, and its public bytes unless it is a secret.
type Parsed = (Algorithm, DecodingKey, Option<Vec<u8>>);

fn rsa(members: &Members) -> Result<Parsed, &'static str> {
    let (modulus, exponent) = (number(members, "n")?, number(members, "e")?);
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !RSA_BITS.contains(&bits(&modulus)) {
        return Err("its n has not 2048 to 8192 bits");
    }
    if !is_odd(&modulus) || !is_odd(&exponent) || !(2..=EXPONENT_BITS_MAX).contains(&bits(&exponent)) {
        return Err("its n and e are not those of an RSA key");
    }
    let verifier = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    Ok((Algorithm::RS256, verifier, Some(modulus)))
}

fn p256(members: &Members) -> Result<Parsed, &'static str> {
    let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
    if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
        return Err("its x and y have not 32 bytes each");
    }
    let point = [&[4], &x[..], &y].concat();
    if ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_err() {
        return Err("its x and y are no point of P-256");
    }
    Ok((Algorithm::ES256, DecodingKey::from_ec_der(&point), Some([x, y].concat())))
}

fn ed25519(members: &Members) -> Result<Parsed, &'static str> {
    let x = bytes(members, "x")?;
    if ParsedPublicKey::new(&ED25519, &x).is_err() {
        return Err("its x is no key of Ed25519");
    }
    Ok((Algorithm::EdDSA, DecodingKey::from_ed_der(&x), Some(x)))
}

fn secret(members: &Members) -> Result<Parsed, &'static str> {
    let secret = bytes(members, "k")?;
    if secret.len() < Secret::BYTES_MIN {
        return Err("its k has less than 32 bytes");
    }
    Ok((Algorithm::HS256, DecodingKey::from_secret(&secret), None))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    /// Checks a valid key with `changes` to its members; null removes a member.
    #[track_caller]
    fn check(good: &Value, changes: Value, expected: Result<(), &str>) {
        let mut changed = good.clone();
        let members = changed.as_object_mut().expect("an object");
        members.extend(changes.as_object().expect("an object").clone());
        match (key(&changed), expected) {
            (Ok(_), Ok(())) => {}
            (Err(reason), Err(words)) => assert!(reason.contains(words), "{changed}: {reason}"),
            (taken, expected) => panic!("{changed}: {taken:?} is not {expected:?}"),
        }
    }

    fn encoded(bytes: &[u8]) -> String {
        BASE64URL_NOPAD.encode(bytes)
    }

    #[test]
    fn use_of_a_key_is_checked() {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let public = pair.public_key().as_ref();
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(public)});
        check(&good, json!({}), Ok(()));
        check(&good, json!({"use": "sig", "key_ops": ["verify"], "alg": "EdDSA", "kid": ""}), Ok(()));
        check(&good, json!({"key_ops": ["sign", "verify", "new"], "new": [1]}), Ok(()));
        for (changes, words) in [
            (json!({"kty": null}), "no kty"),
            (json!({"kty": "okp"}), "another kind"),
            (json!({"crv": "X25519"}), "another kind"),
            (json!({"use": "enc"}), "not sig"),
            (json!({"use": ["sig"]}), "must be a text"),
            (json!({"key_ops": []}), "without verify"),
            (json!({"key_ops": ["sign"], "use": "sig"}), "without verify"),
            (json!({"key_ops": ["verify", 1]}), "no list of texts"),
            (json!({"key_ops": "verify"}), "no list of texts"),
            (json!({"key_ops": ["verify", "verify"]}), "twice"),
            (json!({"alg": "ES256"}), "alg is another"),
            (json!({"alg": 1}), "must be a text"),
            (json!({"kid": 1}), "must be a text"),
            (json!({"x": null}), "missing"),
            (json!({"x": format!("{}=", encoded(public))}), "not base64url"),
            (json!({"x": encoded(&public[1..])}), "no key of Ed25519"),
            (json!({"d": encoded(public)}), "private key"),
        ] {
            check(&good, changes, Err(words));
        }
        let certificate = |of: &[u8]| BASE64.encode(&[b"\x30\x82", of, b"\x01"].concat());
        check(&good, json!({"x5c": [certificate(public), "whatever"]}), Ok(()));
        check(&good, json!({"x5t": 1, "x5u": "http://127.0.0.1/", "x5t#S256": "x"}), Ok(()));
        check(&good, json!({"x5c": [certificate(&[7; 32])]}), Err("another key"));
        for malformed in [json!([]), json!([1]), json!("x"), json!(["-"])] {
            check(&good, json!({"x5c": malformed}), Err("no list of certificates"));
        }
    }

    #[test]
    fn numbers_are_those_of_the_standard() {
        let modulus = |bytes: usize, last: u8| [&vec![0xC3; bytes - 1][..], &[last]].concat();
        let good = json!({"kty": "RSA", "n": encoded(&modulus(256, 1)), "e": "AQAB"});
        check(&good, json!({}), Ok(()));
        check(&good, json!({"n": encoded(&[&[0, 0][..], &modulus(256, 1)].concat()), "e": "AAEAAQ"}), Ok(()));
        check(&good, json!({"n": encoded(&modulus(1024, 1)), "e": "Aw"}), Ok(()));
        for (changes, words) in [
            (json!({"n": encoded(&modulus(255, 1))}), "bits"),
            (json!({"n": encoded(&[&[0; 8][..], &modulus(255, 1)].concat())}), "bits"),
            (json!({"n": encoded(&[&[1][..], &modulus(1024, 1)].concat())}), "bits"),
            (json!({"n": ""}), "bits"),
            (json!({"n": encoded(&modulus(256, 2))}), "not those of an RSA key"),
            (json!({"e": "Ag"}), "not those of an RSA key"),
            (json!({"e": "AQ"}), "not those of an RSA key"),
            (json!({"e": "AA"}), "not those of an RSA key"),
            (json!({"e": encoded(&[3, 0, 0, 0, 1])}), "not those of an RSA key"),
            (json!({"e": "AQAB=="}), "not base64url"),
            (json!({"e": null}), "missing"),
            (json!({"qi": "AQAB"}), "private key"),
            (json!({"alg": "RS512"}), "alg is another"),
        ] {
            check(&good, changes, Err(words));
        }
        let point = json!({"kty": "EC", "crv": "P-256", "x": encoded(&[1; 32]), "y": encoded(&[1; 32])});
        check(&point, json!({}), Err("no point"));
        check(&point, json!({"x": encoded(&[1; 31]), "y": encoded(&[1; 33])}), Err("32 bytes each"));
        let secret = json!({"kty": "oct", "k": encoded(&[7; 32])});
        check(&secret, json!({"alg": "HS256", "key_ops": ["verify", "sign"]}), Ok(()));
        check(&secret, json!({"k": encoded(&[7; 31])}), Err("less than 32 bytes"));
        check(&secret, json!({"alg": "HS384"}), Err("alg is another"));
        assert_eq!(key(&json!(["oct"])).err(), Some("it is no object"));
    }
}
