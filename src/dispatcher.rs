//! The way to the shards from outside the message path: asks the owner of a uid, or every shard, and brings the answers.
//!
//! The program around a node has it behind [`crate::Handle`], and other programs behind the control listener.
//! Whatever is asked for is cut into requests of bounded work, so that no caller takes a shard's turn for itself.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::SessionSettings;
use crate::frame::close;
use crate::mailbox::Bell;
use crate::message::{Delivery, Kind};
use crate::metrics::Stats;
use crate::presence::{AsOf, Ledger};
use crate::router;
use crate::shard::{self, Request, SessionInfo, SessionKey};
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
    /// What the service of the hook was told, if there is one.
    ledger: Option<Arc<Ledger>>,
}

/// The way to ask one shard.
pub(crate) struct ShardDoor {
    /// Bounded: past it the caller waits.
    pub(crate) requests: flume::Sender<Request>,
    pub(crate) bell: Bell,
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
    pub place: SessionKey,
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
        Self { hasher, doors: doors.into(), ledger }
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

    /// Delivers to one uid; `None` when its shard has drained.
    pub(crate) async fn push(&self, push: Push) -> Option<Delivery> {
        let (hash, shard) = self.locate(&push.uid);
        let pushes = vec![located(push, hash)];
        self.ask(shard, |answer| Request::Push { pushes, answer }).await?.first().copied()
    }

    /// Delivers each message, those to one uid in order; `None` stands for those whose shard has drained.
    pub(crate) async fn push_all(&self, pushes: Vec<Push>) -> Vec<Option<Delivery>> {
        let mut deliveries = vec![None; pushes.len()];
        let mut batches: Vec<Batch> = self.doors.iter().map(|_| Batch::default()).collect();
        let mut waiting = Vec::new();
        for (place, push) in pushes.into_iter().enumerate() {
            let (hash, shard) = self.locate(&push.uid);
            let batch = &mut batches[shard];
            batch.add(place, located(push, hash));
            if batch.is_full() {
                waiting.extend(self.post(shard, std::mem::take(batch)).await);
            }
        }
        for (shard, batch) in batches.into_iter().enumerate().filter(|(_, batch)| !batch.places.is_empty()) {
            waiting.extend(self.post(shard, batch).await);
        }
        for (places, answered) in waiting {
            let Ok(answers) = answered.recv_async().await else { continue };
            for (place, delivery) in places.into_iter().zip(answers) {
                deliveries[place] = Some(delivery);
            }
        }
        deliveries
    }

    /// Delivers to every session of the node but those of the uids in `except`; says how many it is due to.
    pub(crate) async fn broadcast(&self, kind: Kind, payload: Bytes, except: Vec<Box<str>>) -> usize {
        let kind = checked(kind, &payload);
        let mut left_out: Vec<Vec<_>> = self.doors.iter().map(|_| Vec::new()).collect();
        for uid in except {
            let (hash, shard) = self.locate(&uid);
            left_out[shard].push((hash, uid));
        }
        let mut waiting = Vec::new();
        for (shard, except) in left_out.into_iter().enumerate() {
            let payload = payload.clone();
            waiting.extend(self.request(shard, |answer| Request::Broadcast { kind, payload, except, answer }).await);
        }
        let mut sessions = 0;
        for answered in waiting {
            sessions += answered.recv_async().await.unwrap_or(0);
        }
        sessions
    }

    /// Tells the sessions of a uid, oldest first; none when it is offline or its shard has drained.
    pub(crate) async fn sessions(&self, uid: &str) -> Vec<SessionInfo> {
        let (hash, shard) = self.locate(uid);
        self.ask(shard, |answer| Request::Sessions { hash, uid: uid.into(), answer }).await.unwrap_or_default()
    }

    /// Tells up to `most` of the uids that are online, from `cursor` on.
    pub(crate) async fn uids(&self, cursor: Cursor, most: usize) -> Uids {
        // Held to the end.
        let (_reading, as_of) = self.ledger.as_ref().map(|ledger| ledger.read()).unzip();
        let mut found = Uids { uids: Vec::new(), next: Some(cursor), as_of };
        while let Some(Cursor { shard, place }) = found.next.filter(|cursor| cursor.shard < self.doors.len()) {
            let left = most - found.uids.len();
            if left == 0 {
                return found;
            }
            let page = self.ask(shard, |answer| Request::Uids { from: place, most: left, answer }).await;
            let page = page.unwrap_or_default();
            found.uids.extend(page.uids);
            found.next = Some(match page.next {
                Some(place) => Cursor { shard, place },
                None => Cursor { shard: shard + 1, place: 0 },
            });
        }
        found.next = None;
        found
    }

    /// Closes every session of a uid, behind what is due to it; says how many there were.
    pub(crate) async fn kick(&self, uid: &str, code: u16, reason: &str) -> Result<usize, KickError> {
        if !close::is_valid_from_peer(code) {
            return Err(KickError::Code(code));
        }
        if reason.len() > REASON_BYTES_MAX {
            return Err(KickError::Reason(reason.len()));
        }
        let (hash, shard) = self.locate(uid);
        let kick = |answer| Request::Kick { hash, uid: uid.into(), code, reason: reason.into(), answer };
        Ok(self.ask(shard, kick).await.unwrap_or(0))
    }

    /// Returns what each shard has counted, in their order; one that has drained counts nothing.
    pub(crate) async fn stats(&self) -> Vec<Stats> {
        let mut waiting = Vec::new();
        for shard in 0..self.doors.len() {
            waiting.push(self.request(shard, |answer| Request::Stats { answer }).await);
        }
        let mut stats = Vec::new();
        for answered in waiting {
            let counted = match answered {
                Some(answered) => answered.recv_async().await.ok(),
                None => None,
            };
            stats.push(counted.unwrap_or_default());
        }
        stats
    }

    /// Adds what the hook has counted.
    pub(crate) fn add_hook_counts(&self, stats: &mut Stats) {
        let Some(ledger) = &self.ledger else { return };
        [stats.hook_events, stats.hook_lost, stats.hook_failures] = ledger.counts();
    }

    /// Hands every shard settings that hold from its next turn on.
    pub(crate) fn reload(&self, settings: &Arc<SessionSettings>) {
        for door in self.doors.iter() {
            // A shard that has drained needs none.
            door.requests.send(Request::Reload(Arc::clone(settings))).ok();
            door.bell.ring();
        }
    }

    /// Has every shard close its sessions.
    pub(crate) async fn drain(&self, time_out: std::time::Duration) {
        for door in self.doors.iter() {
            door.requests.send_async(Request::Drain { time_out }).await.ok();
            door.bell.ring();
        }
    }

    /// Asks one shard and waits for its answer; `None` when the shard has drained.
    async fn ask<T>(&self, shard: usize, request: impl FnOnce(flume::Sender<T>) -> Request) -> Option<T> {
        self.request(shard, request).await?.recv_async().await.ok()
    }

    /// Asks one shard; waits while it has too many requests.
    async fn request<T>(
        &self,
        shard: usize,
        request: impl FnOnce(flume::Sender<T>) -> Request,
    ) -> Option<flume::Receiver<T>> {
        let (answer, answered) = flume::bounded(1);
        let door = &self.doors[shard];
        door.requests.send_async(request(answer)).await.ok()?;
        door.bell.ring();
        Some(answered)
    }

    async fn post(&self, shard: usize, batch: Batch) -> Option<(Vec<usize>, flume::Receiver<Vec<Delivery>>)> {
        let Batch { places, pushes, .. } = batch;
        let answered = self.request(shard, |answer| Request::Push { pushes, answer }).await?;
        Some((places, answered))
    }
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
