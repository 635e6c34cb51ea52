//! The expiry of a credential, by the wall clock.
//!
//! The other deadlines go by the monotonic clock, which stands still while the machine is suspended, and does not move
//! when the wall clock is set. A session's expiry is compared with the wall clock whenever its timer comes up, which is
//! at each heartbeat at the latest.

use std::time::{Duration, SystemTime};

use crate::clock;

/// An expiry in whole seconds since 1970; four bytes, since each session has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry(u32);

impl Expiry {
    /// The expiry of a credential that never expires, or not before the year 2106.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// Returns the expiry at `time`, rounded up: a session never ends early.
    pub(crate) fn at(time: SystemTime) -> Self {
        let since = clock::between_1970_and(time);
        let seconds = since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0));
        Self(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Returns the time that is left at `wall`, zero if it has expired; `None` if it never expires.
    pub(crate) fn left(self, wall: SystemTime) -> Option<Duration> {
        let end = Duration::from_secs(self.0.into());
        (self != Self::NEVER).then(|| end.saturating_sub(clock::between_1970_and(wall)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn an_expiry_is_never_early() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (time, left) in [(7_000, 2_000), (6_001, 2_000), (5_000, 0), (4_999, 0), (0, 0)] {
            assert_eq!(Expiry::at(at(time)).left(at(5_000)), Some(Duration::from_millis(left)), "{time}");
        }
        assert_eq!(Expiry::at(UNIX_EPOCH - Duration::from_secs(1)).left(at(0)), Some(Duration::ZERO));
    }

    #[test]
    fn an_expiry_too_far_ahead_is_never() {
        let far = UNIX_EPOCH + Duration::from_secs(1 << 33);
        assert_eq!(Expiry::at(far), Expiry::NEVER);
        assert_eq!(Expiry::NEVER.left(far), None);
        // Before 1970.
        assert_eq!(Expiry::NEVER.left(UNIX_EPOCH - Duration::from_secs(9)), None);
    }
}
