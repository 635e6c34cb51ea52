//! Sends requests from outside the message path to the owner of a uid, or to every shard, and returns the answers.
//!
//! The program around a node reaches it through [`crate::Handle`], and other programs through the control listener.
//! A large call is cut into requests of bounded work, so that no caller takes up a whole turn of a shard.
//! A caller that can't wait for ever sets [a deadline](Dispatcher::by); [`Unanswered`] then says whether the shard may have
//! acted.

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
use crate::presence::{AsOf, HookProgress};
use crate::router;
use crate::shard::{self, Request, SessionInfo, UidPage};
use crate::uid::{UidHash, UidHasher};

/// Most messages, and most bytes of them, in one request to a shard.
const PUSHES_PER_REQUEST: usize = 256;
const BYTES_PER_REQUEST: usize = 1 << 20;

/// Longest reason that a close frame can hold, in bytes (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;

/// Sends requests to the shards of a node; cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    hasher: UidHasher,
    senders: Arc<[RequestSender]>,
    /// Until when to wait for an answer; `None` waits without end.
    deadline: Option<Instant>,
    /// Progress of the presence events; `None` without a hook.
    progress: Option<Arc<HookProgress>>,
    /// Broadcasts that at least one shard has taken, or may have taken.
    broadcasts: Arc<AtomicU64>,
}

/// Why a shard has not answered a request. Each reason says whether the shard may have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The shard has drained; it did not act.
    Drained,
    /// The shard's queue was full until the deadline; it did not act.
    Busy,
    /// The request is in the shard's queue, and the deadline has passed; the shard may have acted, or may act later.
    Silent,
}

/// What became of a broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broadcast {
    /// How many sessions will get it, counted by the shards that answered.
    pub(crate) sessions: usize,
    /// One reason for each shard that did not answer.
    pub(crate) unanswered: Vec<Unanswered>,
}

/// Sends requests to one shard.
pub(crate) struct RequestSender {
    /// Bounded; the caller waits while it is full.
    pub(crate) requests: flume::Sender<Request>,
    pub(crate) waker: ShardWaker,
}

/// A message to one uid.
#[derive(Clone, Debug)]
pub struct Push {
    /// The recipient.
    pub uid: Box<str>,
    /// Text or binary; a text payload that is not UTF-8 is sent as binary.
    pub kind: Kind,
    /// The message.
    pub payload: Bytes,
}

/// Where a page of uids begins; the default is the first page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the shard.
    pub shard: usize,
    /// Place in the shard's table of sessions.
    pub place: u32,
}

/// Some of the uids that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uids {
    /// The uids, in no order.
    pub uids: Vec<Box<str>>,
    /// Where the next page begins; `None` after the last page.
    pub next: Option<Cursor>,
    /// The last event of the hook that this page takes into account; `None` without a hook.
    pub as_of: Option<AsOf>,
}

/// Why sessions can't be closed with a code and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KickError {
    /// The code may not be sent in a close frame.
    #[error("close code {0} can't be sent, expected one of 1000 to 1003, 1007 to 1014, or 3000 to 4999")]
    Code(u16),
    /// The reason is too long for a close frame.
    #[error("reason has {0} bytes, expected at most {REASON_BYTES_MAX}")]
    Reason(usize),
}

impl Dispatcher {
    pub(crate) fn new(hasher: UidHasher, senders: Vec<RequestSender>, progress: Option<Arc<HookProgress>>) -> Self {
        Self { hasher, senders: senders.into(), deadline: None, progress, broadcasts: Arc::default() }
    }

    /// Returns a dispatcher that waits until `deadline` at most. Call and use it inside a tokio runtime with timers.
    pub(crate) fn by(&self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// Returns how many shards there are.
    pub(crate) fn shard_count(&self) -> usize {
        self.senders.len()
    }

    /// Returns the hash of a uid, and the index of the shard that owns it.
    pub(crate) fn locate(&self, uid: &str) -> (UidHash, usize) {
        let hash = self.hasher.hash(uid.as_bytes());
        (hash, router::shard_of(hash, self.senders.len()))
    }

    /// Delivers to one uid.
    pub(crate) async fn push(&self, push: Push) -> Result<Delivery, Unanswered> {
        let (hash, shard) = self.locate(&push.uid);
        let pushes = vec![with_hash(push, hash)];
        let deliveries = self.ask(shard, |answer| Request::Push { pushes, answer }).await?;
        Ok(deliveries.first().copied().expect("a shard answers each push"))
    }

    /// Delivers each message; those to one uid stay in order.
    pub(crate) async fn push_all(&self, pushes: Vec<Push>) -> Vec<Result<Delivery, Unanswered>> {
        let mut deliveries = vec![Err(Unanswered::Drained); pushes.len()];
        let mut chunks: Vec<Vec<PushChunk>> = self.senders.iter().map(|_| Vec::new()).collect();
        for (index, push) in pushes.into_iter().enumerate() {
            let (hash, shard) = self.locate(&push.uid);
            let chunks = &mut chunks[shard];
            if chunks.last().is_none_or(PushChunk::is_full) {
                chunks.push(PushChunk::default());
            }
            chunks.last_mut().expect("one was added").add(index, with_hash(push, hash));
        }
        let shards = chunks.into_iter().enumerate().filter(|(_, chunks)| !chunks.is_empty());
        for (indices, answered) in
            join_all(shards.map(|(shard, chunks)| self.push_chunks(shard, chunks))).await.concat()
        {
            match answered {
                Ok(answers) => indices.into_iter().zip(answers).for_each(|(index, delivery)| {
                    deliveries[index] = Ok(delivery);
                }),
                Err(unanswered) => indices.into_iter().for_each(|index| deliveries[index] = Err(unanswered)),
            }
        }
        deliveries
    }

    /// Delivers to every session of the node, except those of the uids in `except`.
    pub(crate) async fn broadcast(&self, kind: Kind, payload: Bytes, except: Vec<Box<str>>) -> Broadcast {
        let kind = sendable_kind(kind, &payload);
        let mut excluded: Vec<Vec<_>> = self.senders.iter().map(|_| Vec::new()).collect();
        for uid in except {
            let (hash, shard) = self.locate(&uid);
            excluded[shard].push((hash, uid));
        }
        let asking = excluded.into_iter().enumerate().map(|(shard, except)| {
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
        if broadcast.unanswered.iter().filter(was_not_taken).count() < self.senders.len() {
            // Relaxed: a statistic.
            self.broadcasts.fetch_add(1, Ordering::Relaxed);
        }
        broadcast
    }

    /// Returns the sessions of a uid, oldest first; none when it is offline.
    pub(crate) async fn sessions(&self, uid: &str) -> Result<Vec<SessionInfo>, Unanswered> {
        let (hash, shard) = self.locate(uid);
        self.ask(shard, |answer| Request::Sessions { hash, uid: uid.into(), answer }).await
    }

    /// Returns up to `most` of the uids that are online, from `cursor` on; a shard that has drained has none.
    pub(crate) async fn uids(&self, cursor: Cursor, most: usize) -> Result<Uids, Unanswered> {
        // Held until the page is complete.
        let (_page_read, as_of) = self.progress.as_ref().map(|progress| progress.read_page()).unzip();
        let mut found = Uids { uids: Vec::new(), next: Some(cursor), as_of };
        while let Some(Cursor { shard, place }) = found.next.filter(|cursor| cursor.shard < self.senders.len()) {
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

    /// Closes every session of a uid after all messages that are due to it; returns how many there were.
    pub(crate) async fn kick(&self, uid: &str, code: u16, reason: &str) -> Result<usize, Unanswered> {
        let (hash, shard) = self.locate(uid);
        let kick = |answer| Request::Kick { hash, uid: uid.into(), code, reason: reason.into(), answer };
        self.ask(shard, kick).await
    }

    /// Returns the counts of each shard, by index.
    pub(crate) async fn stats(&self) -> Vec<Result<Stats, Unanswered>> {
        join_all((0..self.senders.len()).map(|shard| self.ask(shard, |answer| Request::Stats { answer }))).await
    }

    /// Sets the counts of the dispatcher and of the hook.
    pub(crate) fn add_counts(&self, counts: &mut NodeCounts) {
        // Relaxed: a statistic.
        counts.broadcasts_pushed = self.broadcasts.load(Ordering::Relaxed);
        let Some(progress) = &self.progress else { return };
        [counts.hook_events, counts.hook_lost, counts.hook_failures] = progress.counts();
    }

    /// Sends new settings to every shard, which uses them from its next turn on.
    pub(crate) fn reload(&self, settings: &Arc<SessionSettings>) {
        for sender in self.senders.iter() {
            // A shard that has drained needs none.
            sender.requests.send(Request::Reload(Arc::clone(settings))).ok();
            sender.waker.wake();
        }
    }

    /// Makes every shard close its sessions and end.
    pub(crate) async fn drain(&self, time_out: std::time::Duration) {
        for sender in self.senders.iter() {
            sender.requests.send_async(Request::Drain { time_out }).await.ok();
            sender.waker.wake();
        }
    }

    /// Sends a request to one shard and waits for its answer.
    async fn ask<T>(&self, shard: usize, request: impl FnOnce(flume::Sender<T>) -> Request) -> Result<T, Unanswered> {
        let pending = self.request(shard, request).await;
        self.answer(pending).await
    }

    /// Sends a request to one shard; waits while its queue is full.
    async fn request<T>(&self, shard: usize, request: impl FnOnce(flume::Sender<T>) -> Request) -> PendingAnswer<T> {
        let (answer, answered) = flume::bounded(1);
        let sender = &self.senders[shard];
        match self.before_deadline(sender.requests.send_async(request(answer))).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(Unanswered::Drained),
            // The request was dropped with the future, unless the shard took it at that very moment.
            None if answered.is_disconnected() && answered.is_empty() => return Err(Unanswered::Busy),
            None => {}
        }
        // A shard that has ended did not act on the requests in its queue; those that it acted on are answered.
        if sender.waker.wake_unless_ended() == RingOutcome::Ended && answered.is_empty() {
            return Err(Unanswered::Drained);
        }
        Ok(answered)
    }

    async fn answer<T>(&self, pending: PendingAnswer<T>) -> Result<T, Unanswered> {
        match self.before_deadline(pending?.recv_async()).await {
            Some(Ok(answer)) => Ok(answer),
            // A shard answers each request that it acts on. It has ended with this one in its queue.
            Some(Err(_)) => Err(Unanswered::Drained),
            None => Err(Unanswered::Silent),
        }
    }

    async fn before_deadline<F: Future>(&self, future: F) -> Option<F::Output> {
        match self.deadline {
            None => Some(future.await),
            Some(deadline) => timeout_at(deadline, future).await.ok(),
        }
    }

    /// Sends several chunks to one shard, and only then waits for the answers. Returns the indices of each with its answer.
    async fn push_chunks(
        &self,
        shard: usize,
        chunks: Vec<PushChunk>,
    ) -> Vec<(Vec<usize>, Result<Vec<Delivery>, Unanswered>)> {
        let mut pending_chunks = Vec::with_capacity(chunks.len());
        for PushChunk { indices, pushes, .. } in chunks {
            pending_chunks.push((indices, self.request(shard, |answer| Request::Push { pushes, answer }).await));
        }
        let mut answers = Vec::with_capacity(pending_chunks.len());
        for (indices, pending) in pending_chunks {
            answers.push((indices, self.answer(pending).await));
        }
        answers
    }
}

/// The receiver of an answer that was not given yet.
type PendingAnswer<T> = Result<flume::Receiver<T>, Unanswered>;

/// Checks that sessions can be closed with this code and reason.
pub(crate) fn check_close(code: u16, reason: &str) -> Result<(), KickError> {
    if !close::is_valid_from_peer(code) {
        return Err(KickError::Code(code));
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(KickError::Reason(reason.len()));
    }
    Ok(())
}

/// Messages of one [`Request::Push`].
#[derive(Default)]
struct PushChunk {
    /// Index of each message among all that the caller gave.
    indices: Vec<usize>,
    pushes: Vec<shard::HashedPush>,
    bytes: usize,
}

impl PushChunk {
    fn add(&mut self, index: usize, push: shard::HashedPush) {
        self.indices.push(index);
        self.bytes += push.payload.len();
        self.pushes.push(push);
    }

    fn is_full(&self) -> bool {
        self.pushes.len() == PUSHES_PER_REQUEST || self.bytes >= BYTES_PER_REQUEST
    }
}

fn with_hash(Push { uid, kind, payload }: Push, hash: UidHash) -> shard::HashedPush {
    shard::HashedPush { hash, uid, kind: sendable_kind(kind, &payload), payload }
}

/// Returns [`Kind::Binary`] for a text payload that is not UTF-8: text on the wire must be (RFC 6455, section 5.6).
fn sendable_kind(kind: Kind, payload: &[u8]) -> Kind {
    if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() { Kind::Binary } else { kind }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mailbox;
    use crate::message::Shed;
    use crate::shard::Poller;

    /// A dispatcher to `count` shards that don't run, each with room for one request.
    fn dispatcher(count: usize) -> (Dispatcher, Vec<flume::Receiver<Request>>) {
        let (mut senders, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (_, wake) = Poller::new().expect("a poller");
            let (requests, receiver) = flume::bounded(1);
            senders.push(RequestSender { requests, waker: ShardWaker::new(wake) });
            taken.push(receiver);
        }
        (Dispatcher::new(UidHasher::fixed(1), senders, None), taken)
    }

    fn push(uid: &str) -> Push {
        Push { uid: uid.into(), kind: Kind::Text, payload: Bytes::from_static(b"hi") }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn a_request_that_was_not_taken_is_told_from_one_that_may_have_been() {
        let (dispatcher, mut taken) = dispatcher(1);
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
        let (dispatcher, mut taken) = dispatcher(1);
        let asking = tokio::spawn(async move { dispatcher.push(push("a")).await });
        let requests = taken.remove(0);
        drop(requests.recv_async().await);
        assert_eq!(asking.await.expect("no panic"), Err(Unanswered::Drained));
    }

    /// Regression: the queue kept the request, and with it the sender of the answer. The caller waited for ever.
    #[tokio::test]
    async fn request_that_a_shard_never_saw_is_answered_by_its_end() {
        let (_, wake) = Poller::new().expect("a poller");
        let (requests, _queue) = flume::bounded(1);
        let waker = ShardWaker::new(wake);
        let mut mailboxes = mailbox::wire(std::slice::from_ref(&waker), 1);
        let dispatcher = Dispatcher::new(UidHasher::fixed(1), vec![RequestSender { requests, waker }], None);
        mailboxes[0].abandon();
        assert_eq!(dispatcher.push(push("a")).await, Err(Unanswered::Drained));
    }

    #[tokio::test]
    async fn one_silent_shard_hides_no_answer_of_the_others() {
        let (dispatcher, taken) = dispatcher(2);
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
