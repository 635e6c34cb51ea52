//! Checks signed tokens (JWT, RFC 7519) as RFC 8725 recommends, and reads their claims.
//!
//! The crate jsonwebtoken checks signatures. Its `decode` is not used for two reasons. It refuses a token whose header has a
//! member that is no text, though unknown members must be ignored (RFC 7515, section 4). And it panics while the wall clock
//! is before 1970.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use super::keys::KeySet;
use super::{Claims, check_expiry, rights, seconds};
use crate::clock;
use crate::config::AuthSettings;
use crate::gateway::Reason;

/// The parts of a token's header that are about its signature.
struct Header {
    algorithm: Algorithm,
    /// The key's name, `kid`.
    key: Option<String>,
}

/// Checks a token's signature and times, and its issuer and audience if the settings name them; returns its claims.
///
/// The expiry in the claims is `jwt_leeway` later than the token's own.
pub(super) fn verify(token: &[u8], keys: &KeySet, settings: &AuthSettings) -> Result<Claims, Reason> {
    let token = std::str::from_utf8(token).map_err(|_| Reason::TokenMalformed)?;
    let mut parts = token.split('.');
    let (Some(header), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reason::TokenMalformed);
    };
    let Header { algorithm, key } = Header::read(&object(header)?)?;
    let signed = &token.as_bytes()[..header.len() + 1 + body.len()];
    for key in keys.matching(algorithm, key.as_deref()) {
        // Fails when the signature is no base64.
        let is_signed = crypto::verify(signature, signed, &key.verifier, algorithm);
        if is_signed.map_err(|_| Reason::TokenMalformed)? {
            return claims(&object(body)?, settings);
        }
    }
    Err(Reason::TokenSignature)
}

/// Decodes a part of a token that holds a JSON object.
fn object(part: &str) -> Result<Map<String, Value>, Reason> {
    let json = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Reason::TokenMalformed)?;
    serde_json::from_slice(&json).map_err(|_| Reason::TokenMalformed)
}

impl Header {
    /// Reads `crit`, `alg` and `kid`, and ignores all other members.
    fn read(members: &Map<String, Value>) -> Result<Self, Reason> {
        // It names extensions that must be understood (RFC 7515, section 4.1.11). None is supported.
        if members.contains_key("crit") {
            return Err(Reason::TokenCritical);
        }
        let algorithm = members.get("alg").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let key = match members.get("kid") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(_) => return Err(Reason::TokenMalformed),
        };
        Ok(Self { algorithm: algorithm.ok_or(Reason::TokenMalformed)?, key })
    }
}

fn claims(claims: &Map<String, Value>, settings: &AuthSettings) -> Result<Claims, Reason> {
    let expires = claims.get("exp").and_then(seconds).ok_or(Reason::TokenEndless)?;
    let expires = check_expiry(expires.checked_add(settings.jwt_leeway).unwrap_or(expires))?;
    if let Some(not_before) = claims.get("nbf") {
        let from = seconds(not_before).ok_or(Reason::TokenEarly)?;
        let latest = clock::now().checked_add(settings.jwt_leeway).ok_or(Reason::TokenEarly)?;
        if from > latest {
            return Err(Reason::TokenEarly);
        }
    }
    // An issuer or audience that is absent or malformed is a wrong one.
    if let Some(issuer) = &settings.jwt_issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(Reason::TokenIssuer);
    }
    if let Some(audience) = &settings.jwt_audience
        && !claims.get("aud").is_some_and(|claimed| is_for(claimed, audience))
    {
        return Err(Reason::TokenAudience);
    }
    let uid = claims.get("sub").and_then(Value::as_str).ok_or(Reason::TokenSubject)?;
    let rights = match claims.get(&settings.rights_claim) {
        None => None,
        Some(words) => Some(rights(words).ok_or(Reason::TokenRights)?),
    };
    Ok(Claims { uid: uid.to_owned(), rights, expires: Some(expires) })
}

/// Returns whether the claim is `audience`, or a list that contains it (RFC 7519, section 4.1.3).
fn is_for(claimed: &Value, audience: &str) -> bool {
    match claimed {
        Value::Array(several) => several.iter().any(|one| one.as_str() == Some(audience)),
        one => one.as_str() == Some(audience),
    }
}

#[cfg(test)]
mod tests {

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::Config;
    use crate::rights::Rights;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn now() -> u64 {
        clock::since_1970().as_secs()
    }

    fn signed(claims: &Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).expect("a token")
    }

    fn settings(change: impl FnOnce(&mut Config)) -> AuthSettings {
        let mut config = Config::default();
        change(&mut config);
        config.gateway().auth
    }

    fn verify_text(token: &str, settings: &AuthSettings) -> Result<Claims, Reason> {
        verify(token.as_bytes(), &KeySet::of_secret(SECRET), settings)
    }

    /// Checks a valid token with `changes` to its claims; null removes a claim.
    #[track_caller]
    fn check(changes: Value, change: impl FnOnce(&mut Config), expected: Result<Option<Rights>, Reason>) {
        let mut claims = json!({"sub": "alice", "exp": now() + 60});
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        let verified = verify_text(&signed(&claims), &settings(change));
        assert_eq!(verified.map(|claims| claims.rights), expected, "{claims}");
    }

    #[test]
    fn claims_are_taken() {
        check(json!({}), |_| {}, Ok(None));
        check(json!({"may": ["unicast"]}), |_| {}, Ok(Some(Rights::UNICAST)));
        check(json!({"may": []}), |_| {}, Ok(Some(Rights::RECEIVE)));
        check(json!({"may": "unicast"}), |_| {}, Err(Reason::TokenRights));
        check(json!({"may": ["unicast"]}), |config| config.rights_claim = "scope".to_owned(), Ok(None));
        check(json!({"sub": null}), |_| {}, Err(Reason::TokenSubject));
        check(json!({"sub": 7}), |_| {}, Err(Reason::TokenSubject));
    }

    #[test]
    fn times_are_checked() {
        let no_leeway = |config: &mut Config| config.jwt_leeway = std::time::Duration::ZERO;
        check(json!({"exp": null}), |_| {}, Err(Reason::TokenEndless));
        check(json!({"exp": "never"}), |_| {}, Err(Reason::TokenEndless));
        check(json!({"exp": now().to_string()}), |_| {}, Err(Reason::TokenEndless));
        check(json!({"exp": -1}), |_| {}, Err(Reason::TokenEndless));
        check(json!({"exp": 0}), |_| {}, Err(Reason::CredentialExpired));
        check(json!({"exp": now() - 60}), |_| {}, Err(Reason::CredentialExpired));
        check(json!({"exp": now() - 2}), |_| {}, Ok(None));
        check(json!({"exp": now() - 2}), no_leeway, Err(Reason::CredentialExpired));
        check(json!({"exp": (now() + 60) as f64 + 0.5}), |_| {}, Ok(None));
        check(json!({"nbf": now() + 60}), |_| {}, Err(Reason::TokenEarly));
        check(json!({"nbf": now() + 3}), |_| {}, Ok(None));
        check(json!({"nbf": "soon"}), |_| {}, Err(Reason::TokenEarly));
        check(json!({"nbf": now() - 60}), |_| {}, Ok(None));
    }

    #[test]
    fn issuer_and_audience_are_checked_when_set() {
        let issuer = |config: &mut Config| config.jwt_issuer = Some("us".to_owned());
        let audience = |config: &mut Config| config.jwt_audience = Some("pombo".to_owned());
        check(json!({"iss": "them", "aud": "other"}), |_| {}, Ok(None));
        check(json!({"iss": "us"}), issuer, Ok(None));
        check(json!({"iss": "them"}), issuer, Err(Reason::TokenIssuer));
        check(json!({"iss": 7}), issuer, Err(Reason::TokenIssuer));
        check(json!({}), issuer, Err(Reason::TokenIssuer));
        check(json!({"aud": "pombo"}), audience, Ok(None));
        check(json!({"aud": ["other", "pombo"]}), audience, Ok(None));
        check(json!({"aud": ["other"]}), audience, Err(Reason::TokenAudience));
        check(json!({"aud": {}}), audience, Err(Reason::TokenAudience));
        check(json!({}), audience, Err(Reason::TokenAudience));
    }

    #[test]
    fn what_is_no_token_of_ours_is_refused() {
        let settings = settings(|_| {});
        let good = signed(&json!({"sub": "alice", "exp": now() + 60}));
        let claims = good.split('.').nth(1).expect("three parts");
        let encoded = |header: Value| data_encoding::BASE64URL_NOPAD.encode(header.to_string().as_bytes());
        for header in [json!({"alg": "none"}), json!({"alg": "None"}), json!({}), json!({"alg": 1}), json!([])] {
            assert_eq!(verify_text(&format!("{}.{claims}.", encoded(header)), &settings), Err(Reason::TokenMalformed));
        }
        let crit = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::HS256) };
        let crit = encode(&crit, &json!({"sub": "a", "exp": now() + 60}), &EncodingKey::from_secret(SECRET));
        assert_eq!(verify_text(&crit.expect("a token"), &settings), Err(Reason::TokenCritical));
        for text in ["", ".", "..", "...", "a.b.c", &good[1..], claims, &format!("{good}.x")] {
            assert_eq!(verify_text(text, &settings), Err(Reason::TokenMalformed), "{text}");
        }
        let unsigned = &good[..=good.rfind('.').expect("three parts")];
        assert_eq!(verify_text(unsigned, &settings), Err(Reason::TokenSignature));
        assert_eq!(verify(good.as_bytes(), &KeySet::of_secret(&[0; 32]), &settings), Err(Reason::TokenSignature));
        assert_eq!(verify(good.as_bytes(), &KeySet::default(), &settings), Err(Reason::TokenSignature));
        assert!(verify_text(&good, &settings).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", parts in proptest::collection::vec("[A-Za-z0-9_=-]{0,40}", 0..5)) {
            let settings = settings(|_| {});
            prop_assert!(verify_text(&text, &settings).is_err());
            prop_assert!(verify_text(&parts.join("."), &settings).is_err());
        }

        #[test]
        fn no_json_makes_it_panic(header in "[{}\\[\\]\":,a-z0-9]{0,30}", at in 0..200usize, byte: u8) {
            let settings = settings(|_| {});
            let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
            let unsigned = format!("{}.{}.", encode(&header), encode(&header));
            prop_assert!(verify_text(&unsigned, &settings).is_err());
            // And one byte of a good one changed: only padding bits may survive that.
            let mut token = signed(&json!({"sub": "alice", "exp": now() + 60})).into_bytes();
            let at = at % token.len();
            token[at] = byte;
            let verified = verify(&token, &KeySet::of_secret(SECRET), &settings);
            prop_assert!(verified.is_err() || verified.is_ok_and(|claims| claims.uid == "alice"));
        }

        #[test]
        fn no_signed_claims_make_it_panic(sub in any::<Option<String>>(), exp in any::<f64>(), nbf in any::<i64>()) {
            let settings = settings(|_| {});
            verify_text(&signed(&json!({"sub": sub, "exp": exp, "nbf": nbf, "may": [sub, exp]})), &settings).ok();
        }
    }
}
