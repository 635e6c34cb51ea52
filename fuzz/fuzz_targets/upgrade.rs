//! A connection's bytes from its request to its login, in one piece and in small ones, with tokens and without.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pombo::fuzzing::Gateway;

// Made by whoever comes first: libFuzzer has one thread.
thread_local! {
    static GATEWAYS: LazyLock<[Gateway; 2]> = LazyLock::new(|| [Gateway::open(), Gateway::with_tokens()]);
}

fuzz_target!(|bytes: &[u8]| {
    let [first, bytes @ ..] = bytes else { return };
    GATEWAYS.with(|gateways| {
        let gateway = &gateways[usize::from(first & 1)];
        let whole = outcome(gateway, bytes, bytes.len());
        assert_eq!(outcome(gateway, bytes, usize::from(first >> 1)), whole, "the cuts change nothing");
    });
});

/// Who logs in, or what the refusal is counted under.
fn outcome(gateway: &Gateway, bytes: &[u8], piece: usize) -> Result<String, Option<&'static str>> {
    gateway.welcome(bytes, piece).map_err(|reason| match reason {
        // hyper reads a head that comes in pieces only once it is whole: who left before is not known to have sent none.
        Some("left") => Some("not_http"),
        reason => reason,
    })
}
