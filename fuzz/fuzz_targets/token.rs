//! Tokens: any bytes in place of one, and any claims well signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pombo::fuzzing::{Gateway, sign};

thread_local! {
    static GATEWAY: LazyLock<Gateway> = LazyLock::new(Gateway::with_tokens);
}

fuzz_target!(|bytes: &[u8]| {
    GATEWAY.with(|gateway| {
        assert_eq!(gateway.verify_token(bytes), None, "only this target knows the secret");
        let Ok(serde_json::Value::Object(claims)) = serde_json::from_slice(bytes) else { return };
        let subject = claims.get("sub").and_then(|subject| subject.as_str()).map(str::to_owned);
        let key = claims.get("kid").and_then(|key| key.as_str()).map(str::to_owned);
        let Some(token) = sign(claims, key) else { return };
        if let Some(uid) = gateway.verify_token(token.as_bytes()) {
            assert_eq!(Some(uid), subject);
        }
        // A token with a truncated signature is refused.
        assert_eq!(gateway.verify_token(&token.as_bytes()[..token.len() - 1]), None);
    });
});
