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
        // By its login only: a request with a body whose sender leaves at once is counted as either of the two.
        let whole = gateway.welcome(bytes, bytes.len()).ok();
        assert_eq!(gateway.welcome(bytes, usize::from(first >> 1)).ok(), whole, "the cuts change nothing");
    });
});
