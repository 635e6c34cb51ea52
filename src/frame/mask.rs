//! Unmasking of client payloads (RFC 6455, section 5.3), one pass over the bytes.

/// Unmasks `bytes` in place, the first byte with `mask[0]`, and returns whether all are ASCII.
///
/// Masking is the same operation. The ASCII check costs nothing here: the words are in
/// registers anyway, and ASCII text needs no second pass to be known as UTF-8.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> bool {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut seen = 0;
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        let plain = u64::from_ne_bytes(*word) ^ wide;
        seen |= plain;
        *word = plain.to_ne_bytes();
    }
    let (halves, tail) = tail.as_chunks_mut::<4>();
    for half in halves {
        let plain = u32::from_ne_bytes(*half) ^ u32::from_ne_bytes(mask);
        seen |= u64::from(plain);
        *half = plain.to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask) {
        *byte ^= key;
        seen |= u64::from(*byte);
    }
    seen & 0x8080_8080_8080_8080 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(plain: &[u8], mask: [u8; 4]) {
        let masked: Vec<u8> = plain.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let mut bytes = masked.clone();
        assert_eq!(unmask(&mut bytes, mask), plain.is_ascii(), "{plain:?}");
        assert_eq!(bytes, plain);
        unmask(&mut bytes, mask);
        assert_eq!(bytes, masked, "masking twice is no change");
    }

    #[test]
    fn every_length_and_every_place_of_a_byte_that_is_not_ascii() {
        for length in 0..100 {
            let mut plain: Vec<u8> = (0..length).collect();
            check(&plain, [0x12, 0x34, 0x56, 0x78]);
            check(&plain, [0xFF, 0x00, 0x80, 0x7F]);
            check(&plain, [0; 4]);
            for place in 0..plain.len() {
                plain[place] |= 0x80;
                check(&plain, [0x92, 0x34, 0xD6, 0x78]);
                plain[place] &= 0x7F;
            }
        }
    }
}
