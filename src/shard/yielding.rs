//! Whether a shard that has nothing to do lets other threads run once before it sleeps.
//!
//! Where the cores are shared, those others are shards and clients about to bring work; a shard that sleeps costs them
//! a wake, itself two switches, and cuts its batches short. So it yields its core and looks once more, as long as that
//! finds something; when it doesn't, it goes to sleep at once the next times, more of them after every failure.
//! Never more than one look: a shard doesn't spin.

/// Most times in a row that a shard goes to sleep without yielding first.
const SKIPS_MAX: u8 = 15;

/// What yielding was worth lately.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Times that yielding is left out after the last failure.
    skips: u8,
    /// How many of them are still to come.
    skips_left: u8,
}

impl Yielding {
    /// Says whether to yield this time.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.skips_left == 0;
        self.skips_left = self.skips_left.saturating_sub(1);
        is_due
    }

    /// Takes note of whether there was something to do after yielding.
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
    fn failures_make_it_rarer_and_one_success_brings_it_back() {
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
