//! Places of connections on a listener of control: how many there are, and which connection gives way when all are taken.
//!
//! ```text
//!   a connection ──▶ an ordinary place, if one is free ──▶ any request
//!                └─▶ else a probe place ─────────────────▶ probes; another request waits for an ordinary place
//! ```
//! A connection that waits for its client (between requests, within a head, a body, or lines) gives way: the one that has
//! waited longest is cut as soon as somebody needs its place. A connection whose request is served never is. A request
//! that waits for an ordinary place is refused when a newcomer needs its probe place, the longest waiting first: so
//! clients can keep each other out for a moment, and probes not at all.
//!
//! All on the thread of control, so that the lock is never waited for.

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

/// A connection that has waited for less is not cut: its next request may be on its way.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Pause between two looks for a connection that may give way.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The places of one listener; clones stand for the same.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    ordinary: Arc<Semaphore>,
    probe: Arc<Semaphore>,
    ordinary_max: usize,
    taken: Mutex<Taken>,
    counts: Counts,
}

#[derive(Default)]
struct Taken {
    /// Number of the next place; no two places have the same.
    next: u64,
    places: HashMap<u64, Occupant>,
}

/// One connection that has a place.
struct Occupant {
    class: Class,
    /// Gives the place back when it is dropped.
    _permit: OwnedSemaphorePermit,
    activity: Activity,
    /// How many requests it has begun to serve.
    requests: u64,
    /// Tells the connection that it is cut.
    cut: Arc<Notify>,
    /// Tells a request that it is refused, instead of waiting for an ordinary place.
    refused: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Ordinary,
    Probe,
}

/// What a connection does, and since when if it may give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It waits for its client, between two requests or within the head of one.
    AwaitsRequest(Instant),
    /// It waits for its client to send the rest of a body.
    AwaitsBody(Instant),
    /// Its request waits for an ordinary place.
    AwaitsPlace(Instant),
    /// Its request is served.
    Serves,
    /// It gives way, and has been told; it had waited since then.
    GivesWay(Instant),
}

impl Activity {
    fn since(self) -> Option<Instant> {
        match self {
            Self::AwaitsRequest(since) | Self::AwaitsBody(since) | Self::AwaitsPlace(since) => Some(since),
            Self::Serves | Self::GivesWay(_) => None,
        }
    }
}

/// Why a request is not served: a newcomer needs its connection's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// How many connections there may be that are no probes.
    pub(super) ordinary_max: usize,
}

impl Places {
    /// Makes as many ordinary places, and as many that only probes are served in.
    ///
    /// Counts in `counts` who gives way.
    pub(super) fn new(ordinary_max: usize, probe_max: usize, counts: Counts) -> Self {
        let (ordinary, probe) = (Arc::new(Semaphore::new(ordinary_max)), Arc::new(Semaphore::new(probe_max)));
        Self(Arc::new(Inner { ordinary, probe, ordinary_max, taken: Mutex::default(), counts }))
    }

    /// Takes a place for a new connection; waits until another connection has given way if there is none.
    ///
    /// # Cancel safety
    /// No place is taken when the future is dropped; a connection may have given way for nothing.
    pub(super) async fn enter(&self) -> Place {
        let Inner { ordinary, probe, .. } = &*self.0;
        if let Ok(permit) = Arc::clone(ordinary).try_acquire_owned() {
            return self.place(Class::Ordinary, permit);
        }
        if let Ok(permit) = Arc::clone(probe).try_acquire_owned() {
            return self.place(Class::Probe, permit);
        }
        loop {
            self.make_room(|_| true);
            tokio::select! {
                biased;
                permit = Arc::clone(ordinary).acquire_owned() => return self.place(Class::Ordinary, open(permit)),
                permit = Arc::clone(probe).acquire_owned() => return self.place(Class::Probe, open(permit)),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Waits for an ordinary place, which a connection that waits for its client gives up.
    async fn ordinary_permit(&self) -> OwnedSemaphorePermit {
        loop {
            if self.0.ordinary.available_permits() == 0 {
                self.make_room(|class| class == Class::Ordinary);
            }
            tokio::select! {
                biased;
                permit = Arc::clone(&self.0.ordinary).acquire_owned() => return open(permit),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Has the connection that has waited longest give way, of those in a place of the right class.
    ///
    /// Does nothing while another such connection gives way already.
    fn make_room(&self, is_right: impl Fn(Class) -> bool) {
        let mut taken = self.lock();
        let now = Instant::now();
        let mut longest: Option<(Instant, &mut Occupant)> = None;
        for occupant in taken.places.values_mut().filter(|occupant| is_right(occupant.class)) {
            match occupant.activity.since() {
                None if matches!(occupant.activity, Activity::GivesWay(_)) => return,
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
        let told =
            if matches!(occupant.activity, Activity::AwaitsPlace(_)) { &occupant.refused } else { &occupant.cut };
        told.notify_one();
        occupant.activity = Activity::GivesWay(since);
    }

    fn place(&self, class: Class, permit: OwnedSemaphorePermit) -> Place {
        let (cut, refused) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let activity = Activity::AwaitsRequest(Instant::now());
        let occupant = Occupant {
            class,
            _permit: permit,
            activity,
            requests: 0,
            cut: Arc::clone(&cut),
            refused: Arc::clone(&refused),
        };
        let mut taken = self.lock();
        let number = taken.next;
        taken.next += 1;
        taken.places.insert(number, occupant);
        drop(taken);
        Place(Arc::new(Entry { places: self.clone(), number, cut, refused }))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(permit: Result<OwnedSemaphorePermit, tokio::sync::AcquireError>) -> OwnedSemaphorePermit {
    permit.expect("the semaphores are never closed")
}

/// The place of one connection; it is free when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Place(Arc<Entry>);

struct Entry {
    places: Places,
    number: u64,
    cut: Arc<Notify>,
    refused: Arc<Notify>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The permit goes back behind the lock: somebody may wait for it.
        let occupant = self.places.lock().places.remove(&self.number);
        drop(occupant);
    }
}

impl Place {
    /// Waits until the connection has to end, since another one needs its place.
    pub(super) async fn cut(&self) {
        self.0.cut.notified().await;
        self.0.places.0.counts.note_gave_way();
    }

    /// Notes that the head of a request is there, and that it is served from now on.
    pub(super) fn begins_request(&self) {
        self.change(|occupant| {
            occupant.requests += 1;
            occupant.activity = Activity::Serves;
        });
    }

    /// Notes that the connection's request is served, and waits for its client no more.
    pub(super) fn serves(&self) {
        self.change(|occupant| {
            if !matches!(occupant.activity, Activity::GivesWay(_)) {
                occupant.activity = Activity::Serves;
            }
        });
    }

    /// Notes that the connection waits for its client's next request; from now on, or as long as it did already.
    pub(super) fn awaits_request(&self) {
        self.change(|occupant| {
            let since = match occupant.activity {
                Activity::Serves => Instant::now(),
                // One whose request was refused is the next to be cut.
                Activity::AwaitsRequest(since)
                | Activity::AwaitsBody(since)
                | Activity::AwaitsPlace(since)
                | Activity::GivesWay(since) => since,
            };
            occupant.activity = Activity::AwaitsRequest(since);
        });
    }

    /// Notes that the connection's request has to wait for more of its body; from now on, or as long as it did already.
    pub(super) fn awaits_body(&self) {
        self.change(|occupant| {
            if occupant.activity == Activity::Serves {
                occupant.activity = Activity::AwaitsBody(Instant::now());
            }
        });
    }

    /// Waits for an ordinary place, if the connection has none, and serves its request in that.
    ///
    /// # Errors
    /// When a newcomer needs this connection's place.
    pub(super) async fn enter_ordinary(&self) -> Result<(), Refused> {
        let Entry { places, number, refused, .. } = &*self.0;
        if places.lock().places.get(number).is_none_or(|occupant| occupant.class == Class::Ordinary) {
            return Ok(());
        }
        self.change(|occupant| occupant.activity = Activity::AwaitsPlace(Instant::now()));
        tokio::select! {
            biased;
            () = refused.notified() => Err(Refused { ordinary_max: places.0.ordinary_max }),
            permit = places.ordinary_permit() => {
                self.change(|occupant| {
                    (occupant.class, occupant._permit) = (Class::Ordinary, permit);
                    occupant.activity = Activity::Serves;
                });
                Ok(())
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Occupant)) {
        change(self.0.places.lock().places.get_mut(&self.0.number).expect("the place is taken until this is dropped"));
    }

    /// Returns how many requests came before the one whose head the connection waits for; `None` if it doesn't.
    fn awaited_head(&self) -> Option<u64> {
        let taken = self.0.places.lock();
        let occupant = taken.places.get(&self.0.number)?;
        matches!(occupant.activity, Activity::AwaitsRequest(_)).then_some(occupant.requests)
    }
}

/// A stream whose reads fail when the head of a request is not whole in time after its first bytes.
pub(super) struct Paced<S> {
    stream: S,
    place: Place,
    head_time: Duration,
    /// The head that has begun, by the number of requests before it, and until when it has to be whole.
    head: Option<(u64, Instant)>,
    /// Wakes the reader at that time; absent as long as no read had to wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, place: Place, head_time: Duration) -> Self {
        Self { stream, place, head_time, head: None, alarm: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let awaited = this.place.awaited_head();
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
    fn is_cut(place: &Place, expected: bool) {
        let told = std::pin::pin!(place.cut()).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        assert_eq!(told, expected);
    }

    async fn has_no_room(places: &Places) -> bool {
        timeout(WAIT_MIN * 3, places.enter()).await.is_err()
    }

    #[tokio::test]
    async fn who_waited_longest_gives_way_and_nobody_else() {
        let places = Places::new(2, 1, Counts::default());
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(places.enter().await);
            pass(WAIT_MIN).await;
        }
        // Serving, and then waiting again, makes the second the longest waiting.
        taken[0].begins_request();
        taken[0].awaits_request();
        assert!(has_no_room(&places).await, "it was told, and has not gone");
        for (number, expected) in [(0, false), (1, true), (2, false)] {
            is_cut(&taken[number], expected);
        }
        drop(taken.remove(1));
        let _fourth = places.enter().await;
        assert!(has_no_room(&places).await);
        for (place, expected) in taken.iter().zip([false, true]) {
            is_cut(place, expected);
        }
    }

    #[tokio::test]
    async fn who_is_served_stays() {
        let places = Places::new(1, 1, Counts::default());
        let [first, second] = [places.enter().await, places.enter().await];
        first.begins_request();
        second.begins_request();
        pass(WAIT_MIN * 2).await;
        assert!(has_no_room(&places).await);
        // A slow body is no more than another wait.
        first.awaits_body();
        pass(WAIT_MIN).await;
        first.awaits_body();
        assert!(has_no_room(&places).await);
        is_cut(&first, true);
        is_cut(&second, false);
    }

    #[tokio::test]
    async fn request_in_a_probe_place_waits_for_an_ordinary_one() {
        let places = Places::new(1, 2, Counts::default());
        let [ordinary, probe, other] = [places.enter().await, places.enter().await, places.enter().await];
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
        // Its probe place is free.
        let newcomer = places.enter().await;
        drop((newcomer, probe, other));
    }

    #[tokio::test]
    async fn longest_waiting_request_is_refused_for_a_newcomer() {
        let places = Places::new(1, 1, Counts::default());
        let [ordinary, probe] = [places.enter().await, places.enter().await];
        ordinary.begins_request();
        probe.begins_request();
        let (refused, entered) = tokio::join!(probe.enter_ordinary(), timeout(WAIT_MIN * 2, places.enter()));
        assert_eq!(refused, Err(Refused { ordinary_max: 1 }));
        assert!(entered.is_err(), "it has its place as long as it is answered");
        // Behind its answer it is the next to go.
        probe.awaits_request();
        assert!(has_no_room(&places).await);
        is_cut(&probe, true);
        is_cut(&ordinary, false);
    }
}
