//! The way to the shards from outside the message path: asks the owner of a uid, or every shard, and brings the answers.
//!
//! The program around a node has it behind [`crate::Handle`], and other programs behind the control listener.
//! Whatever is asked for is cut into requests of bounded work, so that no caller takes a shard's turn for itself.
//! Who can't wait for ever asks [by a deadline](Dispatcher::by), and is told whether the shard may have acted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use crate::config::SessionSettings;
use crate::frame::close;
use crate::mailbox::{RingOutcome, ShardWaker};
use crate::message::{Delivery, Kind};
use crate::metrics::{NodeCounts, Stats};
use crate::presence::{AsOf, Ledger};
use crate::router;
use crate::shard::{self, Request, SessionInfo, UidPage};
use crate::uid::{UidHash, UidHasher};

/// Most messages, and most bytes of them, in one request to a shard.
const PUSHES_PER_REQUEST: usize = 256;
const BYTES_PER_REQUEST: usize = 1 << 20;

/// Longest reason that a close frame can hold, in bytes (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;

/// Asks the shards of a node; cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    hasher: UidHasher,
    doors: Arc<[ShardDoor]>,
    /// When asking ends; `None` waits as long as it takes.
    deadline: Option<Instant>,
    /// What the service of the hook was told, if there is one.
    ledger: Option<Arc<Ledger>>,
    /// Broadcasts that some shard has taken, or may have.
    broadcasts: Arc<AtomicU64>,
}

/// Why a shard has given no answer, and so whether it did what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It has drained: it did not.
    Drained,
    /// It had no room for the request until the deadline: it did not.
    Busy,
    /// It has the request and had not answered at the deadline: it may have, or will.
    Silent,
}

/// What became of a broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broadcast {
    /// How many sessions it is due to, of the shards that answered.
    pub(crate) sessions: usize,
    /// What kept the other shards from it.
    pub(crate) unanswered: Vec<Unanswered>,
}

/// The way to ask one shard.
pub(crate) struct ShardDoor {
    /// Bounded: past it the caller waits.
    pub(crate) requests: flume::Sender<Request>,
    pub(crate) waker: ShardWaker,
}

/// A message to one uid.
#[derive(Clone, Debug)]
pub struct Push {
    /// Whom it is for.
    pub uid: Box<str>,
    /// How it goes on the wire; a text that is not UTF-8 goes as binary.
    pub kind: Kind,
    /// The message.
    pub payload: Bytes,
}

/// Where a page of uids begins; the default is the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The shard.
    pub shard: usize,
    /// Its place there.
    pub place: u32,
}

/// Some of the uids that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uids {
    /// The uids, in no order.
    pub uids: Vec<Box<str>>,
    /// Where to go on; `None` when these are the last.
    pub next: Option<Cursor>,
    /// Which events these hold already; `None` without a hook.
    pub as_of: Option<AsOf>,
}

/// Why sessions can't be closed in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KickError {
    /// The code may not be sent in a close frame.
    #[error("close code {0} can't be sent, expected one of 1000 to 1003, 1007 to 1014, or 3000 to 4999")]
    Code(u16),
    /// The reason has no room in a close frame.
    #[error("reason has {0} bytes, expected at most {REASON_BYTES_MAX}")]
    Reason(usize),
}

impl Dispatcher {
    pub(crate) fn new(hasher: UidHasher, doors: Vec<ShardDoor>, ledger: Option<Arc<Ledger>>) -> Self {
        Self { hasher, doors: doors.into(), deadline: None, ledger, broadcasts: Arc::default() }
    }

    /// Returns one that waits until `deadline` at most; to be called, and used, in a tokio runtime with a clock.
    pub(crate) fn by(&self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// Returns how many shards there are.
    pub(crate) fn shard_count(&self) -> usize {
        self.doors.len()
    }

    /// Returns the hash of a uid, and its owner.
    pub(crate) fn locate(&self, uid: &str) -> (UidHash, usize) {
        let hash = self.hasher.hash(uid.as_bytes());
        (hash, router::shard_of(hash, self.doors.len()))
    }

    /// Delivers to one uid.
    pub(crate) async fn push(&self, push: Push) -> Result<Delivery, Unanswered> {
        let (hash, shard) = self.locate(&push.uid);
        let pushes = vec![located(push, hash)];
        let deliveries = self.ask(shard, |answer| Request::Push { pushes, answer }).await?;
        Ok(deliveries.first().copied().expect("a shard answers each push"))
    }

    /// Delivers each message, those to one uid in order.
    pub(crate) async fn push_all(&self, pushes: Vec<Push>) -> Vec<Result<Delivery, Unanswered>> {
        let mut deliveries = vec![Err(Unanswered::Drained); pushes.len()];
        let mut batches: Vec<Vec<Batch>> = self.doors.iter().map(|_| Vec::new()).collect();
        for (place, push) in pushes.into_iter().enumerate() {
            let (hash, shard) = self.locate(&push.uid);
            let batches = &mut batches[shard];
            if batches.last().is_none_or(Batch::is_full) {
                batches.push(Batch::default());
            }
            batches.last_mut().expect("one was added").add(place, located(push, hash));
        }
        let shards = batches.into_iter().enumerate().filter(|(_, batches)| !batches.is_empty());
        for (places, answered) in join_all(shards.map(|(shard, batches)| self.post(shard, batches))).await.concat() {
            match answered {
                Ok(answers) => places.into_iter().zip(answers).for_each(|(place, delivery)| {
                    deliveries[place] = Ok(delivery);
                }),
                Err(unanswered) => places.into_iter().for_each(|place| deliveries[place] = Err(unanswered)),
            }
        }
        deliveries
    }

    /// Delivers to every session of the node but those of the uids in `except`.
    pub(crate) async fn broadcast(&self, kind: Kind, payload: Bytes, except: Vec<Box<str>>) -> Broadcast {
        let kind = checked(kind, &payload);
        let mut left_out: Vec<Vec<_>> = self.doors.iter().map(|_| Vec::new()).collect();
        for uid in except {
            let (hash, shard) = self.locate(&uid);
            left_out[shard].push((hash, uid));
        }
        let asking = left_out.into_iter().enumerate().map(|(shard, except)| {
            let payload = payload.clone();
            self.ask(shard, move |answer| Request::Broadcast { kind, payload, except, answer })
        });
        let mut broadcast = Broadcast::default();
        for answered in join_all(asking).await {
            match answered {
                Ok(sessions) => broadcast.sessions += sessions,
                Err(unanswered) => broadcast.unanswered.push(unanswered),
            }
        }
        let was_not_taken = |unanswered: &&Unanswered| **unanswered != Unanswered::Silent;
        if broadcast.unanswered.iter().filter(was_not_taken).count() < self.doors.len() {
            // Relaxed: a statistic.
            self.broadcasts.fetch_add(1, Ordering::Relaxed);
        }
        broadcast
    }

    /// Tells the sessions of a uid, oldest first; none when it is offline.
    pub(crate) async fn sessions(&self, uid: &str) -> Result<Vec<SessionInfo>, Unanswered> {
        let (hash, shard) = self.locate(uid);
        self.ask(shard, |answer| Request::Sessions { hash, uid: uid.into(), answer }).await
    }

    /// Tells up to `most` of the uids that are online, from `cursor` on; a shard that has drained has none.
    pub(crate) async fn uids(&self, cursor: Cursor, most: usize) -> Result<Uids, Unanswered> {
        // Held to the end.
        let (_reading, as_of) = self.ledger.as_ref().map(|ledger| ledger.read()).unzip();
        let mut found = Uids { uids: Vec::new(), next: Some(cursor), as_of };
        while let Some(Cursor { shard, place }) = found.next.filter(|cursor| cursor.shard < self.doors.len()) {
            let left = most - found.uids.len();
            if left == 0 {
                return Ok(found);
            }
            let page = match self.ask(shard, |answer| Request::Uids { from: place, most: left, answer }).await {
                Err(Unanswered::Drained) => UidPage::default(),
                page => page?,
            };
            found.uids.extend(page.uids);
            found.next = Some(match page.next {
                Some(place) => Cursor { shard, place },
                None => Cursor { shard: shard + 1, place: 0 },
            });
        }
        found.next = None;
        Ok(found)
    }

    /// Closes every session of a uid, behind what is due to it; says how many there were.
    pub(crate) async fn kick(&self, uid: &str, code: u16, reason: &str) -> Result<usize, Unanswered> {
        let (hash, shard) = self.locate(uid);
        let kick = |answer| Request::Kick { hash, uid: uid.into(), code, reason: reason.into(), answer };
        self.ask(shard, kick).await
    }

    /// Returns what each shard has counted, in their order.
    pub(crate) async fn stats(&self) -> Vec<Result<Stats, Unanswered>> {
        join_all((0..self.doors.len()).map(|shard| self.ask(shard, |answer| Request::Stats { answer }))).await
    }

    /// Adds what was counted on the way to the shards, and what the hook has counted.
    pub(crate) fn add_counts(&self, counts: &mut NodeCounts) {
        // Relaxed: a statistic.
        counts.broadcasts_pushed = self.broadcasts.load(Ordering::Relaxed);
        let Some(ledger) = &self.ledger else { return };
        [counts.hook_events, counts.hook_lost, counts.hook_failures] = ledger.counts();
    }

    /// Hands every shard settings that hold from its next turn on.
    pub(crate) fn reload(&self, settings: &Arc<SessionSettings>) {
        for door in self.doors.iter() {
            // A shard that has drained needs none.
            door.requests.send(Request::Reload(Arc::clone(settings))).ok();
            door.waker.wake();
        }
    }

    /// Has every shard close its sessions.
    pub(crate) async fn drain(&self, time_out: std::time::Duration) {
        for door in self.doors.iter() {
            door.requests.send_async(Request::Drain { time_out }).await.ok();
            door.waker.wake();
        }
    }

    /// Asks one shard and waits for its answer.
    async fn ask<T>(&self, shard: usize, request: impl FnOnce(flume::Sender<T>) -> Request) -> Result<T, Unanswered> {
        let asked = self.request(shard, request).await;
        self.answered(asked).await
    }

    /// Asks one shard; waits while it has too many requests.
    async fn request<T>(&self, shard: usize, request: impl FnOnce(flume::Sender<T>) -> Request) -> Asked<T> {
        let (answer, answered) = flume::bounded(1);
        let door = &self.doors[shard];
        match self.in_time(door.requests.send_async(request(answer))).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(Unanswered::Drained),
            // The request went with the future, unless the shard took it in this very moment.
            None if answered.is_disconnected() && answered.is_empty() => return Err(Unanswered::Busy),
            None => {}
        }
        // Whatever a shard had when it ended it did not do, but for what it has answered.
        if door.waker.wake_unless_ended() == RingOutcome::Ended && answered.is_empty() {
            return Err(Unanswered::Drained);
        }
        Ok(answered)
    }

    async fn answered<T>(&self, asked: Asked<T>) -> Result<T, Unanswered> {
        match self.in_time(asked?.recv_async()).await {
            Some(Ok(answer)) => Ok(answer),
            // A shard answers what it does; what it still had when it ended it did not do.
            Some(Err(_)) => Err(Unanswered::Drained),
            None => Err(Unanswered::Silent),
        }
    }

    async fn in_time<F: Future>(&self, future: F) -> Option<F::Output> {
        match self.deadline {
            None => Some(future.await),
            Some(deadline) => timeout_at(deadline, future).await.ok(),
        }
    }

    /// Asks one shard for several batches in turn, and only then waits for its answers.
    async fn post(&self, shard: usize, batches: Vec<Batch>) -> Vec<(Vec<usize>, Result<Vec<Delivery>, Unanswered>)> {
        let mut posted = Vec::with_capacity(batches.len());
        for Batch { places, pushes, .. } in batches {
            posted.push((places, self.request(shard, |answer| Request::Push { pushes, answer }).await));
        }
        let mut answers = Vec::with_capacity(posted.len());
        for (places, asked) in posted {
            answers.push((places, self.answered(asked).await));
        }
        answers
    }
}

/// Where the answer to a request will be.
type Asked<T> = Result<flume::Receiver<T>, Unanswered>;

/// Tells whether sessions can be closed with this code and reason.
pub(crate) fn check_close(code: u16, reason: &str) -> Result<(), KickError> {
    if !close::is_valid_from_peer(code) {
        return Err(KickError::Code(code));
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(KickError::Reason(reason.len()));
    }
    Ok(())
}

/// Messages on their way to one shard.
#[derive(Default)]
struct Batch {
    /// Where each stands among all that were given.
    places: Vec<usize>,
    pushes: Vec<shard::Push>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, place: usize, push: shard::Push) {
        self.places.push(place);
        self.bytes += push.payload.len();
        self.pushes.push(push);
    }

    fn is_full(&self) -> bool {
        self.pushes.len() == PUSHES_PER_REQUEST || self.bytes >= BYTES_PER_REQUEST
    }
}

fn located(Push { uid, kind, payload }: Push, hash: UidHash) -> shard::Push {
    shard::Push { hash, uid, kind: checked(kind, &payload), payload }
}

/// Text on the wire is UTF-8, always: what isn't goes as binary.
fn checked(kind: Kind, payload: &[u8]) -> Kind {
    if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() { Kind::Binary } else { kind }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mailbox;
    use crate::message::Shed;
    use crate::shard::Poller;

    /// A dispatcher to shards that nobody runs, each with room for one request.
    fn doors(count: usize) -> (Dispatcher, Vec<flume::Receiver<Request>>) {
        let (mut doors, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (_, wake) = Poller::new().expect("a poller");
            let (requests, receiver) = flume::bounded(1);
            doors.push(ShardDoor { requests, waker: ShardWaker::new(wake) });
            taken.push(receiver);
        }
        (Dispatcher::new(UidHasher::fixed(1), doors, None), taken)
    }

    fn push(uid: &str) -> Push {
        Push { uid: uid.into(), kind: Kind::Text, payload: Bytes::from_static(b"hi") }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn what_was_not_taken_is_told_from_what_may_have_been() {
        let (dispatcher, mut taken) = doors(1);
        assert_eq!(dispatcher.by(soon()).push(push("a")).await, Err(Unanswered::Silent), "it waits at the shard");
        assert_eq!(dispatcher.by(soon()).push(push("a")).await, Err(Unanswered::Busy), "there is no room");
        let requests = taken.remove(0);
        assert_eq!(requests.len(), 1, "the second is not there");
        drop(requests);
        assert_eq!(dispatcher.by(soon()).push(push("a")).await, Err(Unanswered::Drained));
        assert_eq!(dispatcher.push(push("a")).await, Err(Unanswered::Drained));
    }

    #[tokio::test]
    async fn request_that_a_shard_ends_with_was_not_taken() {
        let (dispatcher, mut taken) = doors(1);
        let asking = tokio::spawn(async move { dispatcher.push(push("a")).await });
        let requests = taken.remove(0);
        drop(requests.recv_async().await);
        assert_eq!(asking.await.expect("no panic"), Err(Unanswered::Drained));
    }

    /// The queue kept what was in it, and with it the way to answer: its asker waited for ever.
    #[tokio::test]
    async fn request_that_a_shard_never_saw_is_answered_by_its_end() {
        let (_, wake) = Poller::new().expect("a poller");
        let (requests, _queue) = flume::bounded(1);
        let waker = ShardWaker::new(wake);
        let mut mailboxes = mailbox::wire(std::slice::from_ref(&waker), 1);
        let dispatcher = Dispatcher::new(UidHasher::fixed(1), vec![ShardDoor { requests, waker }], None);
        mailboxes[0].abandon();
        assert_eq!(dispatcher.push(push("a")).await, Err(Unanswered::Drained));
    }

    #[tokio::test]
    async fn one_silent_shard_hides_no_answer_of_the_others() {
        let (dispatcher, taken) = doors(2);
        let uid_of = |shard| {
            let mut names = (0..).map(|number| format!("user{number}"));
            names.find(|uid| dispatcher.locate(uid).1 == shard).expect("every shard owns some uid")
        };
        let pushes = [1, 0, 1].map(|shard| push(&uid_of(shard))).to_vec();
        let awake = taken[1].clone();
        tokio::spawn(async move {
            let Ok(Request::Push { pushes, answer }) = awake.recv_async().await else { panic!("expected a push") };
            assert_eq!(pushes.len(), 2);
            answer.send(vec![Delivery::Offline, Delivery::Shed(Shed::Lost)]).expect("the asker waits");
            let Ok(Request::Broadcast { answer, .. }) = awake.recv_async().await else {
                panic!("expected a broadcast")
            };
            answer.send(7).expect("the asker waits");
        });
        let deliveries = dispatcher.by(soon()).push_all(pushes).await;
        let expected = [Ok(Delivery::Offline), Err(Unanswered::Silent), Ok(Delivery::Shed(Shed::Lost))];
        assert_eq!(deliveries, expected);
        let broadcast = dispatcher.by(soon()).broadcast(Kind::Text, Bytes::new(), Vec::new()).await;
        assert_eq!(broadcast, Broadcast { sessions: 7, unanswered: vec![Unanswered::Busy] });
    }
}
