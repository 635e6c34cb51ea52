//! Frames under arbitrary cuts, compared with tungstenite; how they are cut is in the first bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/reference/mod.rs"]
mod reference;

fuzz_target!(|bytes: &[u8]| {
    let [first, second, max, bytes @ ..] = bytes else { return };
    if bytes.is_empty() {
        return;
    }
    let sizes = [usize::from(*first) + 1, usize::from(*second) + 1];
    // No less than a control frame may have, which the reference holds against the same limit.
    let max = 125 + 8 * usize::from(*max);
    reference::check_against_reference(bytes, &sizes, max);
    let (seen, end) = reference::read(bytes, &sizes, max);
    assert_eq!(reference::read_directly(bytes, sizes[0], max), (seen, end));
});
