//! The queue of events for the service: it numbers them, is bounded, and cuts batches, of which one is being sent at a time.
//!
//! ```text
//!   enqueue ─▶ waiting, at most queue_max ─▶ batch ─▶ delivered
//!                 │ past it the oldest          ▲ │ failed: again, later
//!                 ▼                             └─┤
//!               lost ◀── given up ────────────────┘
//!                 └──▶ reported in the next batch
//! ```
//! Does no I/O and reads no clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::backoff::Backoff;
use crate::config::HookSettings;
use crate::presence::HookProgress;

/// Most bytes of a batch, but for its last event.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Bound of the wait after the first attempt that failed.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// An event for the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", content = "uid", rename_all = "kebab-case")]
pub(super) enum HookEvent {
    NodeStarted,
    Online(Arc<str>),
    Offline(Arc<str>),
    NodeStopped,
}

/// An event with its number and time, as it is written in a batch.
#[derive(Debug, Serialize)]
struct QueuedEvent {
    sequence: u64,
    #[serde(flatten)]
    event: HookEvent,
    /// Milliseconds since 1970.
    at_ms: u64,
}

/// The events that wait for the service.
#[derive(Debug)]
pub(super) struct Queue {
    progress: Arc<HookProgress>,
    sequence: u64,
    waiting: VecDeque<QueuedEvent>,
    /// Since when an event or a loss waits that no batch holds; `None` if there is none.
    since: Option<Instant>,
    /// Number of lost events that no batch has reported.
    lost: u64,
    batch: Option<Batch>,
    backoff: Backoff,
}

/// The batch being sent; it stays the same until it is delivered or given up.
#[derive(Debug)]
struct Batch {
    body: Bytes,
    events: u64,
    /// Number of lost events that it reports.
    lost: u64,
    /// When it was tried first.
    since: Instant,
    /// When it is tried next; `None` while it is being tried.
    at: Option<Instant>,
}

impl Queue {
    pub(super) fn new(progress: Arc<HookProgress>) -> Self {
        let backoff = Backoff::new(FIRST_RETRY);
        Self { progress, sequence: 0, waiting: VecDeque::new(), since: None, lost: 0, batch: None, backoff }
    }

    /// Numbers an event and enqueues it; past `queue_max` the oldest event is lost.
    pub(super) fn enqueue(&mut self, event: HookEvent, at_ms: u64, now: Instant, queue_max: usize) {
        self.sequence += 1;
        self.waiting.push_back(QueuedEvent { sequence: self.sequence, event, at_ms });
        self.progress.set_sequence(self.sequence);
        self.since.get_or_insert(now);
        while self.waiting.len() > queue_max {
            self.waiting.pop_front();
            self.progress.add_lost(1);
            self.lost += 1;
        }
    }

    /// Notes events that were lost before they could be enqueued; they are counted already.
    pub(super) fn note_lost(&mut self, events: u64, now: Instant) {
        if events > 0 {
            self.lost += events;
            self.since.get_or_insert(now);
        }
    }

    /// Returns the body to send now, if there is one. The caller must report [`Self::delivered`] or [`Self::failed`] before the
    /// next.
    pub(super) fn next(&mut self, now: Instant, settings: &HookSettings) -> Option<Bytes> {
        if self.batch.is_none() && self.since.is_some_and(|since| self.is_due(since, now, settings)) {
            self.batch = Some(self.cut(now, settings.batch_max));
        }
        let batch = self.batch.as_mut()?;
        batch.at.take_if(|at| *at <= now)?;
        Some(batch.body.clone())
    }

    /// Returns when a batch is to be sent next; `None` if nothing waits, or the batch is being sent now.
    pub(super) fn next_due(&self, settings: &HookSettings) -> Option<Instant> {
        match &self.batch {
            Some(batch) => batch.at,
            None => self.since.map(|since| since + settings.delay),
        }
    }

    /// Notes that the service has taken the batch.
    pub(super) fn delivered(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.progress.add_delivered(batch.events);
        }
        self.backoff.reset();
    }

    /// Notes that the attempt has failed; returns whether the batch is given up.
    pub(super) fn failed(&mut self, now: Instant, retry_time: Duration) -> bool {
        self.progress.add_failure();
        let wait = self.backoff.next();
        let is_over = self.batch.take_if(|batch| now.saturating_duration_since(batch.since) >= retry_time);
        if let Some(batch) = &mut self.batch {
            batch.at = Some(now + wait);
        }
        let Some(batch) = is_over else { return false };
        self.progress.add_lost(batch.events);
        self.note_lost(batch.events + batch.lost, now);
        // The events behind it have waited long enough; but the service gets its pause.
        self.since = Some(now + wait);
        true
    }

    /// Ends the waits between attempts, since no more events will come.
    pub(super) fn retry_now(&mut self, now: Instant) {
        self.backoff.reset();
        if let Some(at) = self.batch.as_mut().and_then(|batch| batch.at.as_mut()) {
            *at = now;
        }
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_none() && self.since.is_none()
    }

    /// Gives up all events that wait; returns their number.
    pub(super) fn abandon(&mut self) -> u64 {
        let events = self.waiting.len() as u64 + self.batch.take().map_or(0, |batch| batch.events);
        self.waiting.clear();
        self.since = None;
        self.progress.add_lost(events);
        events
    }

    fn is_due(&self, since: Instant, now: Instant, settings: &HookSettings) -> bool {
        // Not before `since`, which lies in the future after a batch was given up.
        since <= now && (since + settings.delay <= now || self.waiting.len() >= settings.batch_max)
    }

    fn cut(&mut self, now: Instant, batch_max: usize) -> Batch {
        let lost = std::mem::take(&mut self.lost);
        let mut body = format!(r#"{{"node":"{}","lost":{lost},"events":["#, self.progress.node()).into_bytes();
        let mut events = 0;
        while events < batch_max && body.len() < BATCH_BYTES_MAX {
            let Some(event) = self.waiting.pop_front() else { break };
            if events > 0 {
                body.push(b',');
            }
            serde_json::to_writer(&mut body, &event).expect("texts and numbers in a struct are JSON");
            events += 1;
        }
        body.extend_from_slice(b"]}");
        self.since = (!self.waiting.is_empty()).then_some(now);
        if self.waiting.is_empty() {
            self.waiting.shrink_to(batch_max);
        }
        Batch { body: body.into(), events: events as u64, lost, since: now, at: Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::presence;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> HookSettings {
        let url = Some("http://127.0.0.1/".parse().expect("an address"));
        let config = Config { hook_url: url, hook_batch_max: 2, hook_queue_max: 4, ..Config::default() };
        config.hook_settings().expect("there is an address")
    }

    /// A queue in which these many uids wait since `now`.
    fn queue(uids: usize, now: Instant) -> (Queue, Arc<HookProgress>) {
        let (_, _, progress) = presence::channel("n".into());
        let mut queue = Queue::new(Arc::clone(&progress));
        for uid in 1..=uids {
            queue.enqueue(HookEvent::Online(uid.to_string().into()), 7, now, settings().queue_max);
        }
        (queue, progress)
    }

    /// What the next batch says to be lost, and its numbers.
    fn next(queue: &mut Queue, now: Instant) -> Option<(u64, Vec<u64>)> {
        let body: Value = serde_json::from_slice(&queue.next(now, &settings())?).expect("JSON");
        let events = body["events"].as_array().expect("a list").iter();
        let numbers = events.map(|event| event["sequence"].as_u64().expect("a number")).collect();
        Some((body["lost"].as_u64().expect("a number"), numbers))
    }

    #[test]
    fn a_batch_is_written_as_documented() {
        let now = Instant::now();
        let (mut queue, _) = queue(0, now);
        queue.enqueue(HookEvent::NodeStarted, 1, now, 9);
        queue.enqueue(HookEvent::Offline("a\"b".into()), 2, now, 9);
        let body: Value = serde_json::from_slice(&queue.next(now, &settings()).expect("it is full")).expect("JSON");
        let events = json!([
            {"sequence": 1, "event": "node-started", "at_ms": 1},
            {"sequence": 2, "event": "offline", "uid": "a\"b", "at_ms": 2},
        ]);
        assert_eq!(body, json!({"node": "n", "lost": 0, "events": events}));
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_has_waited() {
        let now = Instant::now();
        let (mut queue, progress) = queue(3, now);
        assert_eq!(next(&mut queue, now), Some((0, vec![1, 2])));
        assert_eq!((next(&mut queue, now + SECOND), queue.next_due(&settings())), (None, None), "one at a time");
        queue.delivered();
        assert_eq!(next(&mut queue, now), None);
        assert_eq!(queue.next_due(&settings()), Some(now + settings().delay));
        assert_eq!(next(&mut queue, now + settings().delay), Some((0, vec![3])));
        queue.delivered();
        assert!(queue.is_empty());
        assert_eq!(progress.counts(), [3, 0, 0]);
    }

    #[test]
    fn a_batch_that_failed_goes_again_before_the_others() {
        let now = Instant::now();
        let (mut queue, progress) = queue(4, now);
        assert_eq!(next(&mut queue, now), Some((0, vec![1, 2])));
        for _ in 0..5 {
            assert!(!queue.failed(now, SECOND));
            let at = queue.next_due(&settings()).expect("it is tried again");
            assert_eq!(next(&mut queue, at), Some((0, vec![1, 2])));
        }
        queue.delivered();
        assert_eq!(next(&mut queue, now), Some((0, vec![3, 4])));
        assert_eq!(progress.counts(), [2, 0, 5]);
    }

    #[test]
    fn what_is_lost_is_told_until_that_is_delivered() {
        let now = Instant::now();
        let (mut queue, progress) = queue(4, now);
        assert_eq!(next(&mut queue, now), Some((0, vec![1, 2])));
        for uid in 5..=7_u8 {
            queue.enqueue(HookEvent::Online(uid.to_string().into()), 7, now, settings().queue_max);
        }
        assert_eq!(progress.counts(), [0, 1, 0], "the oldest that waited");
        assert!(queue.failed(now + SECOND, SECOND), "its time is over");
        let later = now + SECOND * 60;
        assert_eq!(next(&mut queue, later), Some((3, vec![4, 5])));
        assert!(queue.failed(later + SECOND, SECOND));
        assert_eq!(next(&mut queue, later + SECOND * 60), Some((5, vec![6, 7])));
        queue.delivered();
        assert_eq!((next(&mut queue, later + SECOND * 99), queue.is_empty()), (None, true));
        assert_eq!(progress.counts(), [2, 5, 2]);
    }

    #[test]
    fn a_loss_is_told_even_if_nothing_else_is() {
        let now = Instant::now();
        let (mut queue, _) = queue(0, now);
        queue.note_lost(9, now);
        assert_eq!(next(&mut queue, now + SECOND), Some((9, vec![])));
    }
}
