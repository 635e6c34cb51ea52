//! The wait before the next attempt: exponential, with full jitter, so that clients which
//! lost a server at the same time don't come back at the same time.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Longest bound of a wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failed attempts since the last success, and draws the waits between them.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    failed: u32,
}

impl Backoff {
    /// Makes a backoff whose first wait is at most `first`; the bound doubles with each further one.
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, failed: 0 }
    }

    /// Notes a success: the next wait is at most `first` again.
    pub(crate) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Draws the next wait, evenly from zero to the current bound.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = LONGEST.min(self.first.saturating_mul(1u32.checked_shl(self.failed).unwrap_or(u32::MAX)));
        self.failed = self.failed.saturating_add(1);
        // Every `RandomState` has other keys: that is random enough here.
        let chance = RandomState::new().hash_one(self.failed) >> 11;
        bound.mul_f64(chance as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for bound in [1, 2, 4, 8, 16, 30, 30] {
            assert!(backoff.next() <= Duration::from_secs(bound));
        }
        let long: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        assert!(long.iter().all(|wait| *wait <= LONGEST));
        assert!(long.iter().any(|wait| *wait > LONGEST / 2), "a hundred draws, all in the lower half: {long:?}");
        assert!(long.iter().any(|wait| *wait < LONGEST / 2), "a hundred draws, all in the upper half: {long:?}");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
