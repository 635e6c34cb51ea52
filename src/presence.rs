//! Presence events: a uid comes online with its first session, and goes offline with its last.
//!
//! ```text
//!   shards ── Event, bounded, try_send ──▶ control: hooks ── numbered ──▶ the service at hook_url
//!                                              │
//!                                              ▼
//!                                        HookProgress ──▶ pages of uids: the number of the last event before the page
//! ```
//! A node without `hook_url` has neither the channel nor the progress. Nothing here is on the message path.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most events that may wait for control; further ones are dropped, and counted.
const EVENTS_MAX: usize = 64 << 10;

/// Longest time that a reader of pages of uids may take between the end of one page and the request for the next.
pub(crate) const PAGE_PAUSE: Duration = Duration::from_secs(60);

/// What happened to a uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has its first session.
    Online,
    /// It is still online, but its oldest session has gone: from now on it may be on another page of uids.
    Moved,
    /// Its last session has gone.
    Offline,
}

/// A change of one uid, sent by the shard that owns it. The changes of one uid are in order.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) uid: Box<str>,
    pub(crate) change: Change,
    /// When the shard's turn began in which it happened.
    pub(crate) at: Instant,
}

/// Sends a shard's events to control; cheap to clone.
#[derive(Clone, Debug)]
pub struct PresenceSender {
    events: flume::Sender<Event>,
    progress: Arc<HookProgress>,
}

/// How far the events have got on their way to the service: written by control, read for pages of uids and for metrics.
#[derive(Debug)]
pub(crate) struct HookProgress {
    node: Arc<str>,
    /// Number of the last event that was queued for the service.
    sequence: AtomicU64,
    /// Events that the service has taken.
    delivered: AtomicU64,
    /// Events that the service will never get, including those that a shard dropped.
    lost: AtomicU64,
    /// Events that a shard dropped since [`HookProgress::take_dropped`].
    dropped: AtomicU64,
    /// Attempts to deliver a batch that failed.
    failures: AtomicU64,
    page_reads: Mutex<PageReads>,
}

/// The pages of uids that are being read now, and when the last read ended.
#[derive(Debug, Default)]
struct PageReads {
    under_way: usize,
    last_end: Option<Instant>,
}

/// Held while a page of uids is read; its drop marks the end of the read.
#[derive(Debug)]
pub(crate) struct PageRead<'a>(&'a HookProgress);

/// The last event that a page of uids takes into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The node's name, drawn when it started; every batch of events has it.
    pub node: Arc<str>,
    /// The number of that event. Events with a higher number than the first page has apply on top of all pages.
    pub sequence: u64,
}

/// Makes the channel from the shards to control, and the progress of its events.
pub(crate) fn channel(node: Arc<str>) -> (PresenceSender, flume::Receiver<Event>, Arc<HookProgress>) {
    let (sender, receiver) = flume::bounded(EVENTS_MAX);
    let progress = Arc::new(HookProgress::new(node));
    (PresenceSender { events: sender, progress: Arc::clone(&progress) }, receiver, progress)
}

impl PresenceSender {
    /// Sends an event without waiting; drops it and counts it as lost if the channel is full.
    pub(crate) fn send(&self, uid: Box<str>, change: Change, at: Instant) {
        if self.events.try_send(Event { uid, change, at }).is_err() {
            // Relaxed: a count, which control reads again and again.
            self.progress.dropped.fetch_add(1, Ordering::Relaxed);
            self.progress.add_lost(1);
        }
    }
}

/// The counts. All are statistics, except `sequence` and `dropped`.
impl HookProgress {
    fn new(node: Arc<str>) -> Self {
        Self {
            node,
            sequence: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            page_reads: Mutex::default(),
        }
    }

    /// Returns the node's name.
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Sets the number of the last event that was queued.
    pub(crate) fn set_sequence(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::SeqCst);
    }

    pub(crate) fn add_delivered(&self, events: u64) {
        // Relaxed: a statistic.
        self.delivered.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn add_lost(&self, events: u64) {
        // Relaxed: a statistic.
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn add_failure(&self) {
        // Relaxed: a statistic.
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many events the shards have dropped since the last call.
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

/// Reads of pages of uids: a service reads them to catch up after it has lost events.
impl HookProgress {
    /// Begins to read a page, which takes into account all events that are queued by now.
    pub(crate) fn read_page(&self) -> (PageRead<'_>, AsOf) {
        self.page_reads().under_way += 1;
        let sequence = self.sequence.load(Ordering::SeqCst);
        (PageRead(self), AsOf { node: Arc::clone(&self.node), sequence })
    }

    /// Says whether a reader may be between two pages at `now`, or has read a page that ended after `since`.
    ///
    /// Then its pages may be wrong about a uid that went offline and came back, or moved, unless an event corrects them.
    pub(crate) fn has_reader_since(&self, since: Option<Instant>, now: Instant) -> bool {
        let reads = self.page_reads();
        let is_paging = |end: Instant| now.saturating_duration_since(end) < PAGE_PAUSE;
        let is_since = |end: Instant| since.is_some_and(|since| end >= since);
        reads.under_way > 0 || reads.last_end.is_some_and(|end| is_paging(end) || is_since(end))
    }

    fn page_reads(&self) -> MutexGuard<'_, PageReads> {
        // A poisoned lock is taken: each change is one assignment, so a panic leaves no half of one.
        self.page_reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PageRead<'_> {
    fn drop(&mut self) {
        let mut reads = self.0.page_reads();
        reads.under_way -= 1;
        reads.last_end = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_find_the_channel_full_are_counted() {
        let (presence, events, progress) = channel("node".into());
        for number in 0..EVENTS_MAX + 3 {
            presence.send(number.to_string().into(), Change::Online, Instant::now());
        }
        assert_eq!((events.len(), progress.counts()), (EVENTS_MAX, [0, 3, 0]));
        assert_eq!((progress.take_dropped(), progress.take_dropped()), (3, 0));
    }

    #[test]
    fn a_page_is_read_until_a_minute_after_it() {
        let progress = HookProgress::new("node".into());
        let before = Instant::now();
        assert!(!progress.has_reader_since(Some(before), before));
        progress.set_sequence(7);
        let (reading, as_of) = progress.read_page();
        assert_eq!(as_of.sequence, 7);
        assert!(progress.has_reader_since(None, before + PAGE_PAUSE * 2), "for as long as it takes");
        drop(reading);
        let after = Instant::now();
        assert!(progress.has_reader_since(None, after));
        assert!(!progress.has_reader_since(None, after + PAGE_PAUSE), "no other page follows");
        assert!(progress.has_reader_since(Some(before), after + PAGE_PAUSE), "who was gone then is missing on it");
        assert!(!progress.has_reader_since(Some(after + PAGE_PAUSE), after + PAGE_PAUSE));
    }
}
