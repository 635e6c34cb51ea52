//! From a uid to the shard that owns it; stateless, the same on every thread.

use crate::uid::UidHash;

/// Returns the index of the shard that owns the uids with this hash, of `shard_count`, at least one.
///
/// The multiply-and-shift spreads evenly for any count, not only powers of two (Lemire, "Fast
/// Random Integer Generation in an Interval", 2019). It takes the bits from the 57th down: the
/// registry's table uses the top seven for its tags and the lowest for its index, and within one
/// shard neither may be constant. Taking the top bits here multiplied key compares by 60 at 64 shards.
///
/// # Examples
/// ```
/// use pombo::router::shard_of;
/// use pombo::uid::UidHasher;
///
/// let hasher = UidHasher::random();
/// let shard = shard_of(hasher.hash(b"alice"), 4);
/// assert!(shard < 4);
/// assert_eq!(shard_of(hasher.hash(b"alice"), 4), shard, "always the same within a process");
/// ```
#[inline]
pub fn shard_of(hash: UidHash, shard_count: usize) -> usize {
    ((u128::from(hash.0 << 7) * shard_count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uid::UidHasher;

    #[test]
    fn every_shard_gets_its_share() {
        let hasher = UidHasher::fixed(3);
        for shard_count in [1, 2, 3, 7, 64] {
            let mut owned = vec![0_u32; shard_count];
            for index in 0..20_000 {
                owned[shard_of(hasher.hash(format!("u{index}").as_bytes()), shard_count)] += 1;
            }
            let fair = 20_000 / shard_count as u32;
            assert!(owned.iter().all(|&n| n > fair / 2 && n < fair * 2), "{shard_count} shards: {owned:?}");
        }
    }
}
