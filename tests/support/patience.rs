//! How long a test waits, and for what.

use std::thread;
use std::time::{Duration, Instant};

/// How long any one step may take: generous, since only a failure ever waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
///
/// # Panics
/// At the deadline, with `what` was waited for.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain for {DEADLINE:?}: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}
