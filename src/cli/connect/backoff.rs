//! How long to wait before the next attempt: exponential, with full jitter, so that clients which
//! lost their server together don't come back together.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Bound of the first wait; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// No bound grows past this.
const LONGEST: Duration = Duration::from_secs(30);

/// Failed attempts since the last stable login.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failed: u32,
}

impl Backoff {
    /// Starts afresh: the next wait is a short one.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Draws the next wait, anything from nothing to the current bound.
    pub(super) fn next(&mut self) -> Duration {
        let bound = LONGEST.min(FIRST.saturating_mul(1u32.checked_shl(self.failed).unwrap_or(u32::MAX)));
        self.failed = self.failed.saturating_add(1);
        // Every `RandomState` has other keys, which is all the chance that this needs.
        let chance = RandomState::new().hash_one(self.failed) >> 11;
        bound.mul_f64(chance as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles_up_to_the_longest() {
        let mut backoff = Backoff::default();
        for bound in [1, 2, 4, 8, 16, 30, 30] {
            assert!(backoff.next() <= Duration::from_secs(bound));
        }
        let long: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        assert!(long.iter().all(|wait| *wait <= LONGEST));
        assert!(long.iter().any(|wait| *wait > LONGEST / 2), "a hundred draws, all in the lower half: {long:?}");
        assert!(long.iter().any(|wait| *wait < LONGEST / 2), "a hundred draws, all in the upper half: {long:?}");
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
