//! The connection slots of a control listener: their number, and which connection is evicted when all are taken.
//!
//! ```text
//!   a connection ──▶ an ordinary slot, if one is free ──▶ any request
//!                └─▶ else a probe slot ─────────────────▶ probes; another request waits for an ordinary slot
//! ```
//! A connection that waits for its client (between requests, within a head, a body, or lines) can be evicted: the one that has
//! waited longest is evicted as soon as another needs its slot. A connection whose request is served never is. A request
//! that waits for an ordinary slot is refused when a new connection needs its probe slot, the longest waiting first. So
//! clients can keep each other out for a moment, and probes not at all.
//!
//! When no descriptor is free for a new connection, the connection that has waited longest at any of the control listeners is
//! evicted, even if slots are free.
//!
//! All of this runs on the control thread, so the lock is never contended.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::counts::Counts;

/// A connection that has waited for less is not evicted: its next request may be on its way.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Pause between two searches for a connection to evict.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The connections in the slots of all control listeners; clones share them.
#[derive(Clone)]
pub(crate) struct Occupants {
    taken: Arc<Mutex<Taken>>,
    counts: Counts,
}

#[derive(Default)]
struct Taken {
    /// Number of the next listener or occupant; no two have the same.
    next: u64,
    slots: HashMap<u64, Occupant>,
}

impl Taken {
    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Evicts the occupant that has waited longest of those that `may_go`; refuses its request if that waits for an ordinary
    /// slot.
    ///
    /// Does nothing while another such eviction is in progress.
    fn evict_longest_waiting(&mut self, may_go: impl Fn(&Occupant) -> bool) {
        let now = Instant::now();
        let mut longest: Option<(Instant, &mut Occupant)> = None;
        for occupant in self.slots.values_mut().filter(|occupant| may_go(occupant)) {
            match occupant.activity.since() {
                None if matches!(occupant.activity, Activity::Evicted(_)) => return,
                Some(since) if longest.as_ref().is_none_or(|(earliest, _)| since < *earliest) => {
                    longest = Some((since, occupant));
                }
                _ => {}
            }
        }
        let Some((since, occupant)) = longest else { return };
        if now.saturating_duration_since(since) < WAIT_MIN {
            return;
        }
        let notified =
            if matches!(occupant.activity, Activity::AwaitsSlot(_)) { &occupant.refused } else { &occupant.cut };
        notified.notify_one();
        occupant.activity = Activity::Evicted(since);
    }
}

/// The slots of one listener; clones share them.
#[derive(Clone)]
pub(super) struct Slots(Arc<Inner>);

struct Inner {
    /// Number of the listener.
    listener: u64,
    ordinary: Arc<Semaphore>,
    probe: Arc<Semaphore>,
    ordinary_max: usize,
    occupants: Occupants,
}

/// A connection that has a slot.
struct Occupant {
    /// Number of its listener.
    listener: u64,
    class: Class,
    /// Frees the slot when it is dropped.
    _permit: OwnedSemaphorePermit,
    activity: Activity,
    /// Number of requests that it has begun to serve.
    requests: u64,
    /// Notified when the connection is evicted.
    cut: Arc<Notify>,
    /// Notified when the connection's request is refused instead of waiting for an ordinary slot.
    refused: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Ordinary,
    Probe,
}

/// The activity of a connection, with the time since when it waits; the longest wait is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It waits for its client, between two requests or within the head of one.
    AwaitsRequest(Instant),
    /// It waits for its client to send the rest of a body.
    AwaitsBody(Instant),
    /// Its request waits for an ordinary slot.
    AwaitsSlot(Instant),
    /// Its request is served.
    Serves,
    /// It has been notified that it is evicted or refused; the time is since when it had waited.
    Evicted(Instant),
}

impl Activity {
    fn since(self) -> Option<Instant> {
        match self {
            Self::AwaitsRequest(since) | Self::AwaitsBody(since) | Self::AwaitsSlot(since) => Some(since),
            Self::Serves | Self::Evicted(_) => None,
        }
    }
}

/// A request is refused, since a new connection needs its connection's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestRefused {
    /// Most connections in ordinary slots.
    pub(super) ordinary_max: usize,
}

impl Occupants {
    /// Evicted connections are counted in `counts`.
    pub(crate) fn new(counts: Counts) -> Self {
        Self { taken: Arc::default(), counts }
    }

    /// Evicts the connection that has waited longest at any listener. Its descriptor is free, or in the reserve, soon after.
    ///
    /// If that connection's request waits for an ordinary slot, only the request is refused. The connection then waits
    /// for its client, with the time of the earlier wait, and a later call evicts it. Does nothing while another
    /// eviction is in progress. The caller retries until a descriptor is free.
    pub(super) fn evict_for_descriptor(&self) {
        self.lock().evict_longest_waiting(|_| true);
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Makes as many ordinary slots, and as many that only probes are served in. The connections in them are of `occupants`.
    pub(super) fn new(ordinary_max: usize, probe_max: usize, occupants: Occupants) -> Self {
        let (ordinary, probe) = (Arc::new(Semaphore::new(ordinary_max)), Arc::new(Semaphore::new(probe_max)));
        let listener = occupants.lock().next_number();
        Self(Arc::new(Inner { listener, ordinary, probe, ordinary_max, occupants }))
    }

    /// Takes a slot for a new connection. If none is free, waits until another connection is evicted.
    ///
    /// # Cancel safety
    /// A dropped future takes no slot; a connection may have been evicted in vain.
    pub(super) async fn enter(&self) -> Slot {
        let Inner { ordinary, probe, .. } = &*self.0;
        if let Ok(permit) = Arc::clone(ordinary).try_acquire_owned() {
            return self.slot(Class::Ordinary, permit);
        }
        if let Ok(permit) = Arc::clone(probe).try_acquire_owned() {
            return self.slot(Class::Probe, permit);
        }
        loop {
            self.evict_longest_waiting(|_| true);
            tokio::select! {
                biased;
                permit = Arc::clone(ordinary).acquire_owned() => return self.slot(Class::Ordinary, open(permit)),
                permit = Arc::clone(probe).acquire_owned() => return self.slot(Class::Probe, open(permit)),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// As [`Occupants::evict_for_descriptor`].
    pub(super) fn evict_for_descriptor(&self) {
        self.0.occupants.evict_for_descriptor();
    }

    /// Waits for an ordinary slot, which a connection that waits for its client gives up.
    async fn ordinary_permit(&self) -> OwnedSemaphorePermit {
        loop {
            if self.0.ordinary.available_permits() == 0 {
                self.evict_longest_waiting(|class| class == Class::Ordinary);
            }
            tokio::select! {
                biased;
                permit = Arc::clone(&self.0.ordinary).acquire_owned() => return open(permit),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Evicts this listener's connection that has waited longest in a slot whose class `is_right`.
    fn evict_longest_waiting(&self, is_right: impl Fn(Class) -> bool) {
        let listener = self.0.listener;
        self.lock().evict_longest_waiting(|occupant| occupant.listener == listener && is_right(occupant.class));
    }

    fn slot(&self, class: Class, permit: OwnedSemaphorePermit) -> Slot {
        let (cut, refused) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let activity = Activity::AwaitsRequest(Instant::now());
        let occupant = Occupant {
            listener: self.0.listener,
            class,
            _permit: permit,
            activity,
            requests: 0,
            cut: Arc::clone(&cut),
            refused: Arc::clone(&refused),
        };
        let mut taken = self.lock();
        let number = taken.next_number();
        taken.slots.insert(number, occupant);
        drop(taken);
        Slot(Arc::new(Entry { slots: self.clone(), number, cut, refused }))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.occupants.lock()
    }
}

fn open(permit: Result<OwnedSemaphorePermit, tokio::sync::AcquireError>) -> OwnedSemaphorePermit {
    permit.expect("the semaphores are never closed")
}

/// The slot of one connection; dropping the last clone frees it.
#[derive(Clone)]
pub(super) struct Slot(Arc<Entry>);

struct Entry {
    slots: Slots,
    number: u64,
    cut: Arc<Notify>,
    refused: Arc<Notify>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The permit is dropped after the lock is released, since another task may wait for the permit.
        let occupant = self.slots.lock().slots.remove(&self.number);
        drop(occupant);
    }
}

impl Slot {
    /// Waits until the connection is evicted, and counts it.
    pub(super) async fn evicted(&self) {
        self.0.cut.notified().await;
        self.0.slots.0.occupants.counts.note_evicted();
    }

    /// Notes that the head of a request is complete, and that the request is served from now on.
    pub(super) fn begins_request(&self) {
        self.change(|occupant| {
            occupant.requests += 1;
            occupant.activity = Activity::Serves;
        });
    }

    /// Notes that the connection's request is served, and doesn't wait for its client.
    pub(super) fn serves_request(&self) {
        self.change(|occupant| {
            if !matches!(occupant.activity, Activity::Evicted(_)) {
                occupant.activity = Activity::Serves;
            }
        });
    }

    /// Notes that the connection waits for its client's next request. A connection that was waiting before keeps the time of
    /// that wait's begin.
    pub(super) fn awaits_request(&self) {
        self.change(|occupant| {
            let since = match occupant.activity {
                Activity::Serves => Instant::now(),
                // A connection whose request was refused is the next to be evicted.
                Activity::AwaitsRequest(since)
                | Activity::AwaitsBody(since)
                | Activity::AwaitsSlot(since)
                | Activity::Evicted(since) => since,
            };
            occupant.activity = Activity::AwaitsRequest(since);
        });
    }

    /// Notes that the connection's request waits for more of its body. A connection that was waiting before keeps the time of
    /// that wait's begin.
    pub(super) fn awaits_body(&self) {
        self.change(|occupant| {
            if occupant.activity == Activity::Serves {
                occupant.activity = Activity::AwaitsBody(Instant::now());
            }
        });
    }

    /// Waits for an ordinary slot, if the connection has none, and serves its request in that.
    ///
    /// # Errors
    /// When a new connection needs this connection's slot.
    pub(super) async fn enter_ordinary(&self) -> Result<(), RequestRefused> {
        let Entry { slots, number, refused, .. } = &*self.0;
        if slots.lock().slots.get(number).is_none_or(|occupant| occupant.class == Class::Ordinary) {
            return Ok(());
        }
        self.change(|occupant| occupant.activity = Activity::AwaitsSlot(Instant::now()));
        tokio::select! {
            biased;
            () = refused.notified() => Err(RequestRefused { ordinary_max: slots.0.ordinary_max }),
            permit = slots.ordinary_permit() => {
                self.change(|occupant| {
                    (occupant.class, occupant._permit) = (Class::Ordinary, permit);
                    occupant.activity = Activity::Serves;
                });
                Ok(())
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Occupant)) {
        change(self.0.slots.lock().slots.get_mut(&self.0.number).expect("the slot is taken until this is dropped"));
    }

    /// Returns the number of requests before the one whose head the connection waits for; `None` if it doesn't wait for one.
    fn awaited_head_number(&self) -> Option<u64> {
        let taken = self.0.slots.lock();
        let occupant = taken.slots.get(&self.0.number)?;
        matches!(occupant.activity, Activity::AwaitsRequest(_)).then_some(occupant.requests)
    }
}

/// A stream whose reads fail when the head of a request is not complete within `head_time` of its first bytes.
pub(super) struct Paced<S> {
    stream: S,
    slot: Slot,
    head_time: Duration,
    /// The head that has begun: the number of requests before it, and when it must be complete.
    head: Option<(u64, Instant)>,
    /// Wakes the reader at that time; `None` until a read has to wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, slot: Slot, head_time: Duration) -> Self {
        Self { stream, slot, head_time, head: None, alarm: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let awaited = this.slot.awaited_head_number();
        if this.head.is_some_and(|(number, _)| Some(number) != awaited) {
            (this.head, this.alarm) = (None, None);
        }
        let has_grown = buffer.filled().len() > before;
        if let (true, Some(number), None) = (has_grown, awaited, this.head) {
            this.head = Some((number, Instant::now() + this.head_time));
        }
        let (Poll::Pending, Some((_, until))) = (&read, this.head) else { return read };
        ready!(this.alarm.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::time::timeout;

    use super::*;

    /// Lets time pass, and everything that it is due to happen.
    async fn pass(time: Duration) {
        sleep(time).await;
    }

    #[track_caller]
    fn is_cut(slot: &Slot, expected: bool) {
        let is_notified =
            std::pin::pin!(slot.evicted()).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        assert_eq!(is_notified, expected);
    }

    async fn has_no_room(slots: &Slots) -> bool {
        timeout(WAIT_MIN * 3, slots.enter()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_longest_gives_way_and_nobody_else() {
        let slots = Slots::new(2, 1, Occupants::new(Counts::default()));
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(slots.enter().await);
            pass(WAIT_MIN).await;
        }
        // Serving, and then waiting again, makes the second the longest waiting.
        taken[0].begins_request();
        taken[0].awaits_request();
        assert!(has_no_room(&slots).await, "it is notified, and has not ended");
        for (number, expected) in [(0, false), (1, true), (2, false)] {
            is_cut(&taken[number], expected);
        }
        drop(taken.remove(1));
        let _fourth = slots.enter().await;
        assert!(has_no_room(&slots).await);
        for (slot, expected) in taken.iter().zip([false, true]) {
            is_cut(slot, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_of_another_listener_is_evicted_only_for_a_descriptor() {
        let occupants = Occupants::new(Counts::default());
        let [text, http] = [(); 2].map(|()| Slots::new(1, 0, occupants.clone()));
        let lines = text.enter().await;
        pass(WAIT_MIN).await;
        let idle = http.enter().await;
        assert!(has_no_room(&http).await);
        is_cut(&lines, false);
        is_cut(&idle, true);
        drop(idle);
        occupants.evict_for_descriptor();
        is_cut(&lines, true);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_served_stays() {
        let slots = Slots::new(1, 1, Occupants::new(Counts::default()));
        let [first, second] = [slots.enter().await, slots.enter().await];
        first.begins_request();
        second.begins_request();
        pass(WAIT_MIN * 2).await;
        assert!(has_no_room(&slots).await);
        // A slow body is no more than another wait.
        first.awaits_body();
        pass(WAIT_MIN).await;
        first.awaits_body();
        assert!(has_no_room(&slots).await);
        is_cut(&first, true);
        is_cut(&second, false);
    }

    #[tokio::test(start_paused = true)]
    async fn request_in_a_probe_place_waits_for_an_ordinary_one() {
        let slots = Slots::new(1, 2, Occupants::new(Counts::default()));
        let [ordinary, probe, other] = [slots.enter().await, slots.enter().await, slots.enter().await];
        ordinary.begins_request();
        assert_eq!(ordinary.enter_ordinary().await, Ok(()));
        probe.begins_request();
        let asked = tokio::spawn(async move { (probe.enter_ordinary().await, probe) });
        pass(WAIT_MIN * 2).await;
        other.begins_request();
        assert!(!asked.is_finished());
        ordinary.awaits_request();
        pass(WAIT_MIN * 2).await;
        is_cut(&ordinary, true);
        drop(ordinary);
        let (answer, probe) = asked.await.expect("no panic");
        assert_eq!(answer, Ok(()));
        // Its probe slot is free.
        let newcomer = slots.enter().await;
        drop((newcomer, probe, other));
    }

    #[tokio::test(start_paused = true)]
    async fn longest_waiting_request_is_refused_for_a_newcomer() {
        let slots = Slots::new(1, 1, Occupants::new(Counts::default()));
        let [ordinary, probe] = [slots.enter().await, slots.enter().await];
        ordinary.begins_request();
        probe.begins_request();
        let (refused, entered) = tokio::join!(probe.enter_ordinary(), timeout(WAIT_MIN * 2, slots.enter()));
        assert_eq!(refused, Err(RequestRefused { ordinary_max: 1 }));
        assert!(entered.is_err(), "it has its slot as long as it is answered");
        // Behind its answer it is the next to go.
        probe.awaits_request();
        assert!(has_no_room(&slots).await);
        is_cut(&probe, true);
        is_cut(&ordinary, false);
    }
}
