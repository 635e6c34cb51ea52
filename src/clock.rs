//! The wall clock, and its limits.
//!
//! hyper, rustls and jsonwebtoken panic when the clock shows a time before 1970, and hyper after the year 9999: the node
//! would go on with a gateway and a control that answer no request. So a node does not start with such a clock. The clock
//! can't get there while the node runs: Linux refuses to set a time before 1970 or after 2232 (settimeofday(2), EINVAL).
//!
//! Every room reads the clock here, where no time makes it panic; `tests/tidy.rs` looks for other ways to read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second of the year 9999, since 1970.
const SECONDS_MAX: u64 = 253_402_300_799;

/// The wall clock shows a time outside of 1970 to 9999; the operator must set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wall clock shows a time {}, expected one from 1970 to 9999: set the clock", if *before { "before 1970" } else { "after 9999" })]
pub struct ClockError {
    before: bool,
}

/// Checks that a node can run with the time that the clock shows.
///
/// # Errors
/// When that is before 1970 or after 9999.
pub(crate) fn check() -> Result<(), ClockError> {
    check_time(now())
}

fn check_time(time: SystemTime) -> Result<(), ClockError> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) if since.as_secs() <= SECONDS_MAX => Ok(()),
        outside => Err(ClockError { before: outside.is_err() }),
    }
}

/// A time of the wall clock in eight bytes: milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WallTime(u64);

impl WallTime {
    /// Rounds a time down to the millisecond; one before 1970 becomes 1970.
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(u64::try_from(between_1970_and(time).as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn time(self) -> SystemTime {
        after_1970(Duration::from_millis(self.0)).unwrap_or(UNIX_EPOCH)
    }
}

/// Returns the time that the clock shows, to compare it.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns the time since 1970; zero when the clock shows an earlier one.
pub(crate) fn since_1970() -> Duration {
    between_1970_and(now())
}

/// Returns how long after 1970 a time is; zero for an earlier one.
pub(crate) fn between_1970_and(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the time that is `time` after the start of 1970; `None` when a `SystemTime` can't hold it.
pub(crate) fn after_1970(time: Duration) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(time)
}

/// Formats a time by RFC 3339, to the millisecond; a time outside of 1970 to 9999 as the nearest one inside.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = between_1970_and(time);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(Duration::from_secs(SECONDS_MAX))).to_string()
}

/// Formats a time in seconds since 1970 by RFC 3339; a time after the year 9999 as the end of that year.
pub(crate) fn rfc3339_seconds(since_1970: u64) -> String {
    let since = Duration::from_secs(since_1970.min(SECONDS_MAX));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_can_be_written_and_only_those_of_dates_are_taken() {
        let seconds = Duration::from_secs;
        for (time, expected, taken) in [
            (UNIX_EPOCH - seconds(1 << 40), "1970-01-01T00:00:00.000Z", Err(ClockError { before: true })),
            (UNIX_EPOCH - Duration::from_millis(1), "1970-01-01T00:00:00.000Z", Err(ClockError { before: true })),
            (UNIX_EPOCH, "1970-01-01T00:00:00.000Z", Ok(())),
            (UNIX_EPOCH + Duration::from_millis(1_767_225_600_123), "2026-01-01T00:00:00.123Z", Ok(())),
            (UNIX_EPOCH + seconds(SECONDS_MAX), "9999-12-31T23:59:59.000Z", Ok(())),
            (UNIX_EPOCH + seconds(SECONDS_MAX + 1), "9999-12-31T23:59:59.000Z", Err(ClockError { before: false })),
            (UNIX_EPOCH + seconds(1 << 50), "9999-12-31T23:59:59.000Z", Err(ClockError { before: false })),
        ] {
            assert_eq!((&*rfc3339(time), check_time(time)), (expected, taken));
        }
    }
}
