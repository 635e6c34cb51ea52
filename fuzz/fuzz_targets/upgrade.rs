//! A connection's bytes from its request to its login, in one piece and in small ones, with tokens and without.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pombo::fuzzing::Gateway;

// Made by the first input. libFuzzer has one thread.
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

/// Returns the uid that logs in, or the name of the reason of the refusal.
fn outcome(gateway: &Gateway, bytes: &[u8], piece: usize) -> Result<String, Option<&'static str>> {
    gateway.connect(bytes, piece).map_err(|reason| match reason {
        // hyper parses a head that arrives in pieces only once it is complete. Before that, a client that leaves counts as left.
        Some("left") => Some("not_http"),
        reason => reason,
    })
}
