//! Decides whether a shard that has nothing to do yields its core once before it sleeps.
//!
//! Where cores are shared, other threads are shards and clients that are about to bring work. A sleep costs them a
//! wake, costs the shard two context switches, and makes its batches smaller. So the shard yields its core and polls
//! once more, as long as that finds work. After a yield that found none, it skips the yield the next times, and more of
//! them after each failure. It never polls more than once: a shard does not spin.

/// Most sleeps in a row without a yield.
const SKIPS_MAX: u8 = 15;

/// Whether recent yields found work.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Yields to skip after the last failure.
    skips: u8,
    /// Yields still to skip.
    skips_left: u8,
}

impl Yielding {
    /// Returns whether to yield this time.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.skips_left == 0;
        self.skips_left = self.skips_left.saturating_sub(1);
        is_due
    }

    /// Records whether a yield found work.
    pub(super) fn note(&mut self, found: bool) {
        self.skips = if found { 0 } else { (2 * self.skips + 1).min(SKIPS_MAX) };
        self.skips_left = self.skips;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the times without yielding until the next one that is due.
    fn skipped(yielding: &mut Yielding) -> usize {
        (0..100).take_while(|_| !yielding.is_due()).count()
    }

    #[test]
    fn failures_make_yields_rarer_and_a_success_resets_that() {
        let mut yielding = Yielding::default();
        assert_eq!(skipped(&mut yielding), 0);
        for skips in [1, 3, 7, 15, 15] {
            yielding.note(false);
            assert_eq!(skipped(&mut yielding), skips);
        }
        yielding.note(true);
        assert_eq!(skipped(&mut yielding), 0);
        yielding.note(false);
        assert_eq!(skipped(&mut yielding), 1);
    }
}
