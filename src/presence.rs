//! What a shard tells when a uid comes online or goes offline, and up to where that has been told to others.
//!
//! ```text
//!   shards ── Event, bounded, try_send ──▶ control: hooks ── numbered ──▶ the service at hook_url
//!                                              │
//!                                              ▼
//!                                           Ledger ◀── whoever reads pages of uids: as of which number they hold
//! ```
//! Where there is no hook there is none of this. Nothing here is on the way of a message: a uid comes and goes with
//! its first and last session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Events of the shards that may wait for control; past these they are dropped, and counted.
const EVENTS_MAX: usize = 64 << 10;

/// Longest time between two pages of uids of which the later takes up where the former ended.
pub(crate) const PAGE_PAUSE: Duration = Duration::from_secs(60);

/// What happened to a uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has its first session.
    Came,
    /// It is still online, and another session is its oldest now: it may stand on another page of uids.
    Moved,
    /// Its last session has gone.
    Went,
}

/// One change, as its shard tells it; those of one uid come in order.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) uid: Box<str>,
    pub(crate) change: Change,
    /// When the turn began that it happened in.
    pub(crate) at: Instant,
}

/// A shard's way to tell; cheap to clone.
#[derive(Clone, Debug)]
pub struct Teller {
    events: flume::Sender<Event>,
    ledger: Arc<Ledger>,
}

/// What has been told to the service, as far as others must know.
#[derive(Debug)]
pub(crate) struct Ledger {
    node: Arc<str>,
    /// Number of the last event that was lined up for the service.
    sequence: AtomicU64,
    delivered: AtomicU64,
    /// Events that the service is not told, those that a shard dropped among them.
    lost: AtomicU64,
    /// Those of them that a shard dropped.
    dropped: AtomicU64,
    failures: AtomicU64,
    reads: Mutex<Reads>,
}

/// Who reads pages of uids.
#[derive(Debug, Default)]
struct Reads {
    under_way: usize,
    last_end: Option<Instant>,
}

/// A page of uids is being read; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Reading<'a>(&'a Ledger);

/// Which events a page of uids holds already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The node's name, drawn when it started; every batch of events bears it.
    pub node: Arc<str>,
    /// Events with a higher number than that of the first page apply after all pages.
    pub sequence: u64,
}

/// Makes the way from the shards to control.
pub(crate) fn wire(node: Arc<str>) -> (Teller, flume::Receiver<Event>, Arc<Ledger>) {
    let (sender, receiver) = flume::bounded(EVENTS_MAX);
    let ledger = Arc::new(Ledger::new(node));
    (Teller { events: sender, ledger: Arc::clone(&ledger) }, receiver, ledger)
}

impl Teller {
    /// Tells without waiting; what there is no room for is counted as lost.
    pub(crate) fn tell(&self, uid: Box<str>, change: Change, at: Instant) {
        if self.events.try_send(Event { uid, change, at }).is_err() {
            // Relaxed: a count, which control looks at time and again.
            self.ledger.dropped.fetch_add(1, Ordering::Relaxed);
            self.ledger.lost(1);
        }
    }
}

/// What is counted; all of it statistics, but for the sequence and what shards dropped.
impl Ledger {
    fn new(node: Arc<str>) -> Self {
        Self {
            node,
            sequence: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            reads: Mutex::default(),
        }
    }

    /// Returns the node's name.
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Notes the number of an event that has been lined up.
    pub(crate) fn line_up(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::SeqCst);
    }

    pub(crate) fn delivered(&self, events: u64) {
        // Relaxed: a statistic.
        self.delivered.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn lost(&self, events: u64) {
        // Relaxed: a statistic.
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        // Relaxed: a statistic.
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes how many events the shards have dropped since it was asked last.
    pub(crate) fn take_dropped(&self) -> u64 {
        // Relaxed: nothing else is ordered by it.
        self.dropped.swap(0, Ordering::Relaxed)
    }

    /// Returns how many events were delivered, how many lost, and how many attempts to deliver failed.
    pub(crate) fn counts(&self) -> [u64; 3] {
        // Relaxed: statistics.
        [&self.delivered, &self.lost, &self.failures].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Pages of uids, from which a service may take up again what it lost.
impl Ledger {
    /// Begins to read a page; what it says holds as of the events told by now.
    pub(crate) fn read(&self) -> (Reading<'_>, AsOf) {
        self.reads().under_way += 1;
        let sequence = self.sequence.load(Ordering::SeqCst);
        (Reading(self), AsOf { node: Arc::clone(&self.node), sequence })
    }

    /// Tells whether somebody may be between two pages now, or has read one that ended after `since`.
    ///
    /// Then what a page says of a uid that went and came, or moved, may be wrong, unless an event puts it right.
    pub(crate) fn is_read(&self, since: Option<Instant>, now: Instant) -> bool {
        let reads = self.reads();
        let is_paging = |end: Instant| now.saturating_duration_since(end) < PAGE_PAUSE;
        let is_since = |end: Instant| since.is_some_and(|since| end >= since);
        reads.under_way > 0 || reads.last_end.is_some_and(|end| is_paging(end) || is_since(end))
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        // Each change is one assignment.
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut reads = self.0.reads();
        reads.under_way -= 1;
        reads.last_end = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let (teller, events, ledger) = wire("node".into());
        for number in 0..EVENTS_MAX + 3 {
            teller.tell(number.to_string().into(), Change::Came, Instant::now());
        }
        assert_eq!((events.len(), ledger.counts()), (EVENTS_MAX, [0, 3, 0]));
        assert_eq!((ledger.take_dropped(), ledger.take_dropped()), (3, 0));
    }

    #[test]
    fn a_page_is_read_until_a_minute_after_it() {
        let ledger = Ledger::new("node".into());
        let before = Instant::now();
        assert!(!ledger.is_read(Some(before), before));
        ledger.line_up(7);
        let (reading, as_of) = ledger.read();
        assert_eq!(as_of.sequence, 7);
        assert!(ledger.is_read(None, before + PAGE_PAUSE * 2), "for as long as it takes");
        drop(reading);
        let after = Instant::now();
        assert!(ledger.is_read(None, after));
        assert!(!ledger.is_read(None, after + PAGE_PAUSE), "no other page follows");
        assert!(ledger.is_read(Some(before), after + PAGE_PAUSE), "who was gone then is missing on it");
        assert!(!ledger.is_read(Some(after + PAGE_PAUSE), after + PAGE_PAUSE));
    }
}
