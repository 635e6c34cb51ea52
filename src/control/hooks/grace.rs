//! The uids that went offline and are within their grace period: if they return in time, no event is sent.
//!
//! Holds no others: neither uids that are online, nor those whose going was reported. Does no I/O and reads no clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// When a grace ends, and a number that makes the key unique.
type Due = (Instant, u64);

/// Uids within their grace.
#[derive(Debug, Default)]
pub(super) struct Grace {
    uids: HashMap<Arc<str>, Due>,
    by_due: BTreeMap<Due, Gone>,
    /// Number of graces that have begun.
    begun: u64,
}

/// A uid that has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) uid: Arc<str>,
    /// When it went.
    pub(super) at: Instant,
}

impl Grace {
    /// Begins the grace of a uid that went at `at`, until `due`.
    ///
    /// A uid that is within its grace already keeps that one: the event of its return was lost.
    pub(super) fn begin(&mut self, uid: Box<str>, at: Instant, due: Instant) {
        if self.uids.contains_key(&*uid) {
            return;
        }
        let uid: Arc<str> = uid.into();
        let due = (due, self.begun);
        self.begun += 1;
        self.uids.insert(Arc::clone(&uid), due);
        self.by_due.insert(due, Gone { uid, at });
    }

    /// Ends the grace of a uid that came back; returns when it went, or `None` if it was not within its grace.
    pub(super) fn end(&mut self, uid: &str) -> Option<Instant> {
        let due = self.uids.remove(uid)?;
        self.by_due.remove(&due).map(|gone| gone.at)
    }

    /// Removes a uid whose grace is over at `now`; with more than `most` uids, the one whose grace ends first.
    pub(super) fn take_due(&mut self, now: Instant, most: usize) -> Option<Gone> {
        let first = self.by_due.first_entry()?;
        if first.key().0 > now && self.uids.len() <= most {
            return None;
        }
        let gone = first.remove();
        self.uids.remove(&gone.uid);
        Some(gone)
    }

    /// Removes the uid whose grace ends first.
    pub(super) fn take(&mut self) -> Option<Gone> {
        let (_, gone) = self.by_due.pop_first()?;
        self.uids.remove(&gone.uid);
        Some(gone)
    }

    /// Returns when the next grace ends.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_due.first_key_value().map(|(due, _)| due.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_comes_back_in_time_was_never_gone() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        grace.begin("alice".into(), start, after(5));
        grace.begin("bob".into(), after(1), after(6));
        assert_eq!(grace.take_due(after(4), 9), None);
        assert_eq!((grace.end("alice"), grace.end("alice")), (Some(start), None));
        assert_eq!(grace.next_due(), Some(after(6)));
        assert_eq!(grace.take_due(after(6), 9), Some(Gone { uid: "bob".into(), at: after(1) }));
        assert_eq!((grace.take_due(after(9), 9), grace.end("bob"), grace.next_due()), (None, None, None));
    }

    #[test]
    fn too_many_end_the_oldest_grace() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        for name in ["a", "b", "c"] {
            grace.begin(name.into(), start, start + Duration::from_secs(5));
        }
        let taken: Vec<_> = std::iter::from_fn(|| grace.take_due(start, 1)).map(|gone| gone.uid).collect();
        assert_eq!(taken, ["a".into(), "b".into()]);
        assert_eq!(grace.end("c"), Some(start));
    }

    #[test]
    fn flapping_keeps_nothing() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        for _ in 0..1000 {
            grace.begin("a".into(), start, start + Duration::from_secs(5));
            assert_eq!(grace.end("a"), Some(start));
        }
        assert!(grace.uids.is_empty() && grace.by_due.is_empty());
    }
}
