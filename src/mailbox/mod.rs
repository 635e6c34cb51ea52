//! The bounded way into a shard from other shards: many producers, one consumer, no lock.
//!
//! During a turn a shard gathers what it has for each other shard in one arena, a `Mail`, and
//! posts it as one batch. One batch is in flight per producer and destination at most, so the
//! ring is as long as there are producers and is never full, and the emptied arena that comes
//! back is both the credit for the next batch and its recycled memory:
//!
//! ```text
//!   producer p                                     consumer d
//!   gathering ──post, one wake──▶ ring of d ─────▶ take letters
//!       ▲                                              │
//!       └──────── returns of p ◀──emptied arena, ──────┘
//!                                 a wake if p sleeps with mail in hand
//! ```
//! What can't be posted stays with its producer, in order; the bound says from which size on the
//! connections that fill it must wait. Taking mail never makes mail, so shards that flood each
//! other can't dead-lock. The wake protocol is `doorbell`'s.

mod doorbell;
mod mail;
#[cfg(all(test, pombo_loom))]
mod model;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel as ring;

pub(crate) use doorbell::{Doorbell, Sleep};
use mail::Mail;
pub use mail::{Letter, SHARE_FROM};

use crate::message::{Kind, Payload};
use crate::uid::UidHash;

/// Wakes a sleeping poller; callable from any thread.
///
/// In production this is `mio::Waker::wake`, an eventfd write.
pub type Wake = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Whether a producer may go on filling a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// The batch is below its bound.
    Left,
    /// The batch is at its bound: whoever filled it must wait until it was posted.
    Full,
}

/// Wakes one shard for work of any kind; shared by all who give it work.
#[derive(Clone)]
pub struct Bell {
    doorbell: Arc<Doorbell>,
    wake: Wake,
}

/// One shard's side of the mail: what it sends to the others and what it takes in.
pub struct Mailbox {
    /// This shard's index.
    shard: usize,
    /// Batches for this shard.
    inbox: ring::Receiver<Batch>,
    /// The batch being read; kept over turns when a turn's budget runs out.
    reading: Option<Batch>,
    /// Arenas that come back from their destinations, emptied.
    returns: ring::Receiver<(usize, Mail)>,
    /// The other shards, by index; this shard's own place is never used.
    peers: Vec<Peer>,
    /// Batches not empty and not posted yet.
    in_hand: usize,
    /// From which weight on a gathering batch is full, in bytes (`mailbox_bytes_max`).
    bytes_max: usize,
    /// How much memory an emptied arena keeps, in bytes.
    retained_max: usize,
    bell: Bell,
}

/// A batch being read, with the shard that it came from.
pub struct Batch {
    from: usize,
    /// When it was posted; nothing once it was asked for.
    posted: Option<Instant>,
    mail: Mail,
}

impl Batch {
    /// Takes the oldest letter; `None` when all are taken.
    #[inline]
    pub fn take(&mut self) -> Option<Letter<'_>> {
        self.mail.take()
    }

    /// Returns when it was posted, the first time it is asked.
    #[inline]
    pub(crate) fn take_posted(&mut self) -> Option<Instant> {
        self.posted.take()
    }
}

/// Another shard as seen by one producer.
struct Peer {
    inbox: ring::Sender<Batch>,
    returns: ring::Sender<(usize, Mail)>,
    bell: Bell,
    /// What was sent to it since the last post.
    gathering: Mail,
    /// The arena for the next batch; absent while a batch is in flight.
    spare: Option<Mail>,
}

impl Bell {
    /// Makes a bell for the poller that `wake` wakes.
    pub fn new(wake: Wake) -> Self {
        Self { doorbell: Arc::new(Doorbell::new()), wake }
    }

    /// Wakes the shard if it sleeps; call it after the work was put where the shard will look.
    pub fn ring(&self) {
        if self.doorbell.ring() {
            self.wake();
        }
    }

    fn ring_for_room(&self) {
        if self.doorbell.ring_for_room() {
            self.wake();
        }
    }

    fn wake(&self) {
        // The eventfd lives as long as the shard, and a full counter is a wake already.
        (self.wake)().expect("a shard's waker can be written to while its bell exists");
    }
}

/// Makes the mailboxes of a node, one per shard, wired to each other; `bells` are the shards' in order.
///
/// `bytes_max` is the bound of a batch in bytes: up to twice that waits between a producer and a
/// destination (one batch in flight, one gathering), and one message more per connection that filled it.
pub fn wire(bells: &[Bell], bytes_max: usize) -> Vec<Mailbox> {
    let count = bells.len();
    // All arenas of a shard together keep about two MiB, however many shards there are.
    let retained_max = (2 << 20) / count;
    let inboxes: Vec<_> = bells.iter().map(|_| ring::bounded(count)).collect();
    let returns: Vec<_> = bells.iter().map(|_| ring::bounded(count)).collect();
    (0..count)
        .map(|shard| Mailbox {
            shard,
            inbox: inboxes[shard].1.clone(),
            reading: None,
            returns: returns[shard].1.clone(),
            peers: (0..count)
                .map(|peer| Peer {
                    inbox: inboxes[peer].0.clone(),
                    returns: returns[peer].0.clone(),
                    bell: bells[peer].clone(),
                    gathering: Mail::default(),
                    spare: Some(Mail::default()),
                })
                .collect(),
            in_hand: 0,
            bytes_max,
            retained_max,
            bell: bells[shard].clone(),
        })
        .collect()
}

impl Mailbox {
    /// Returns how many shards the node has.
    pub fn shard_count(&self) -> usize {
        self.peers.len()
    }

    /// Gathers a message to one uid for the shard that owns it.
    pub fn unicast(&mut self, to: usize, hash: UidHash, uid: &[u8], kind: Kind, payload: &Payload<'_>) -> Room {
        debug_assert_ne!(to, self.shard);
        let gathering = &mut self.peers[to].gathering;
        self.in_hand += usize::from(gathering.is_empty());
        gathering.unicast(hash, uid, kind, payload);
        self.room(to)
    }

    /// Gathers a message to everybody for every other shard.
    pub fn broadcast(&mut self, kind: Kind, payload: Payload<'_>) {
        if self.peers.len() == 1 {
            return;
        }
        let payload = match payload {
            large if large.as_slice().len() >= SHARE_FROM => Payload::Shared(large.into_shared()),
            small => small,
        };
        for (to, peer) in self.peers.iter_mut().enumerate() {
            if to != self.shard {
                self.in_hand += usize::from(peer.gathering.is_empty());
                peer.gathering.broadcast(kind, &payload);
            }
        }
    }

    /// Returns how many bytes of mail are in hand, for all shards together.
    pub fn held(&self) -> usize {
        self.peers.iter().map(|peer| peer.gathering.weight()).sum()
    }

    /// Says whether more may be gathered for the shard `to`.
    pub fn room(&self, to: usize) -> Room {
        if self.peers[to].gathering.weight() >= self.bytes_max { Room::Full } else { Room::Left }
    }

    /// Returns the first destination whose batch is full.
    pub fn first_full(&self) -> Option<usize> {
        (0..self.peers.len()).find(|&to| self.room(to) == Room::Full)
    }

    /// Returns how many batches wait to be taken, the one being read among them.
    pub fn waiting(&self) -> usize {
        usize::from(self.reading.is_some()) + self.inbox.len()
    }

    /// Posts every batch whose destination has none in flight, as of `now`: one slot and at most one wake each.
    ///
    /// Calls `posted` with each such destination; whoever waited for room there may go on. Returns how many
    /// messages are lost because their shard has ended.
    pub fn post(&mut self, now: Instant, mut posted: impl FnMut(usize)) -> usize {
        while let Ok((from, mail)) = self.returns.try_recv() {
            self.peers[from].spare = Some(mail);
        }
        let mut lost = 0;
        if self.in_hand == 0 {
            return lost;
        }
        for (to, peer) in self.peers.iter_mut().enumerate() {
            if peer.gathering.is_empty() {
                continue;
            }
            let Some(spare) = peer.spare.take() else { continue };
            let mail = std::mem::replace(&mut peer.gathering, spare);
            self.in_hand -= 1;
            match peer.inbox.try_send(Batch { from: self.shard, posted: Some(now), mail }) {
                Ok(()) => peer.bell.ring(),
                // The shard has drained and gone: its uids are offline.
                Err(ring::TrySendError::Disconnected(batch)) => {
                    lost += batch.mail.len();
                    peer.spare = Some(Mail::default());
                }
                Err(ring::TrySendError::Full(_)) => unreachable!("one batch in flight per producer"),
            }
            posted(to);
        }
        lost
    }

    /// Takes the batch to read on with, oldest first; `None` when there is none. Pair it with [`Mailbox::put_back`].
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.reading.take().or_else(|| self.inbox.try_recv().ok())
    }

    /// Takes back a batch: one that was read to its end returns to its producer, another is read on next time.
    pub fn put_back(&mut self, batch: Batch) {
        if !batch.mail.is_empty() {
            self.reading = Some(batch);
            return;
        }
        let Batch { from, mut mail, .. } = batch;
        mail.clear(self.retained_max);
        let peer = &self.peers[from];
        // A producer that has gone needs no arena; a ring of `count` places holds one per destination.
        if peer.returns.try_send((self.shard, mail)).is_ok() {
            peer.bell.ring_for_room();
        }
    }

    /// Gives up all mail, as the last act of a shard; returns how many messages nobody will read or post.
    ///
    /// The arenas go back: a producer without one would wait for it for ever, instead of learning that this shard
    /// has gone.
    pub(crate) fn abandon(&mut self) -> usize {
        let mut lost = self.peers.iter().map(|peer| peer.gathering.len()).sum();
        while let Some(mut batch) = self.next_batch() {
            lost += batch.mail.len();
            batch.mail.clear(0);
            self.put_back(batch);
        }
        lost
    }

    /// Says whether letters wait that are this shard's to read.
    pub(crate) fn has_unread(&self) -> bool {
        self.reading.is_some() || !self.inbox.is_empty()
    }

    /// Says whether letters wait, or whether a batch in hand could be posted.
    pub(crate) fn has_work(&self) -> bool {
        self.has_unread() || (self.in_hand > 0 && !self.returns.is_empty())
    }

    /// Raises this shard's flag and looks once more: says whether it may sleep.
    ///
    /// `idle` looks at the shard's other queues. Pair it with [`Mailbox::get_up`].
    pub fn lie_down(&self, idle: impl FnOnce() -> bool) -> bool {
        let sleep = if self.in_hand > 0 { Sleep::UntilWorkOrRoom } else { Sleep::UntilWork };
        self.bell.doorbell.lie_down(sleep);
        !self.has_work() && idle()
    }

    /// Lowers this shard's flag: it is awake and will look at its queues by itself.
    pub fn get_up(&self) {
        self.bell.doorbell.get_up();
    }
}

#[cfg(all(test, not(pombo_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn node(count: usize, bytes_max: usize) -> (Vec<Mailbox>, Vec<Arc<AtomicUsize>>) {
        let wakes: Vec<Arc<AtomicUsize>> = (0..count).map(|_| Arc::default()).collect();
        let bells: Vec<_> = wakes
            .iter()
            .map(|wakes| {
                let wakes = Arc::clone(wakes);
                Bell::new(Arc::new(move || {
                    wakes.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }))
            })
            .collect();
        (wire(&bells, bytes_max), wakes)
    }

    fn send(mailbox: &mut Mailbox, to: usize, text: &str) -> Room {
        mailbox.unicast(to, UidHash(0), b"u", Kind::Text, &Payload::Borrowed(text.as_bytes()))
    }

    fn drain(mailbox: &mut Mailbox) -> Vec<String> {
        let text = |letter: Letter<'_>| match letter {
            Letter::Unicast { payload, .. } | Letter::Broadcast { payload, .. } => {
                String::from_utf8_lossy(payload.as_slice()).into_owned()
            }
        };
        let mut all = Vec::new();
        while let Some(mut batch) = mailbox.next_batch() {
            while let Some(letter) = batch.take() {
                all.push(text(letter));
            }
            mailbox.put_back(batch);
        }
        all
    }

    #[test]
    fn one_batch_is_in_flight_and_the_rest_waits_in_order() {
        let (mut node, _) = node(2, 1 << 20);
        let [a, b] = &mut node[..] else { unreachable!() };
        assert_eq!(send(a, 1, "1"), Room::Left);
        a.post(Instant::now(), |_| {});
        let _ = send(a, 1, "2");
        let _ = send(a, 1, "3");
        let mut posted = Vec::new();
        a.post(Instant::now(), |to| posted.push(to));
        assert!(posted.is_empty(), "the first batch was not read yet");
        assert_eq!(drain(b), ["1"]);
        a.post(Instant::now(), |to| posted.push(to));
        assert_eq!((posted, drain(b)), (vec![1], vec!["2".to_owned(), "3".to_owned()]));
    }

    #[test]
    fn a_batch_at_its_bound_is_full_until_posted() {
        let (mut node, _) = node(3, 100);
        let a = &mut node[0];
        while send(a, 2, "x") == Room::Left {}
        assert_eq!((a.room(1), a.room(2), a.first_full()), (Room::Left, Room::Full, Some(2)));
        a.post(Instant::now(), |_| {});
        assert_eq!(a.first_full(), None);
    }

    #[test]
    fn a_broadcast_reaches_every_other_shard() {
        let (mut node, _) = node(3, 100);
        node[1].broadcast(Kind::Text, Payload::Borrowed(b"all"));
        node[1].post(Instant::now(), |_| {});
        assert_eq!(node.iter_mut().map(drain).map(|got| got.len()).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn a_sleeper_is_woken_once_per_batch_and_for_room_only_with_mail_in_hand() {
        let (mut node, wakes) = node(2, 1 << 20);
        let count = |shard: usize| wakes[shard].load(Ordering::Relaxed);
        let [a, b] = &mut node[..] else { unreachable!() };
        assert!(b.lie_down(|| true));
        let (_, _) = (send(a, 1, "1"), send(a, 1, "2"));
        a.post(Instant::now(), |_| {});
        assert_eq!(count(1), 1);
        assert!(!b.lie_down(|| true), "there is mail");
        b.get_up();
        assert!(a.lie_down(|| true), "nothing in hand");
        drain(b);
        assert_eq!(count(0), 0, "the room is not waited for");
        a.get_up();
        for text in ["3", "4"] {
            let _ = send(a, 1, text);
            a.post(Instant::now(), |_| {});
        }
        assert!(a.lie_down(|| true), "one batch in hand, none came back");
        assert_eq!(drain(b), ["3"]);
        assert_eq!(count(0), 1, "room was waited for");
        assert!(!a.lie_down(|| true), "the batch in hand can go");
    }

    /// A batch in flight to a shard that ended never came back: what was sent there next waited for it for ever,
    /// and so did the sessions that filled it.
    #[test]
    fn a_batch_in_flight_to_a_shard_that_ends_comes_back() {
        let (mut node, _) = node(2, 1);
        assert_eq!(send(&mut node[0], 1, "1"), Room::Full);
        node[0].post(Instant::now(), |_| {});
        assert_eq!(node[1].abandon(), 1);
        node.pop();
        assert_eq!(send(&mut node[0], 1, "2"), Room::Full);
        assert_eq!(node[0].post(Instant::now(), |_| {}), 1);
        assert_eq!(node[0].first_full(), None);
    }

    #[test]
    fn mail_to_a_shard_that_has_gone_is_let_go() {
        let (mut node, _) = node(2, 1);
        node.pop();
        for _ in 0..3 {
            assert_eq!(send(&mut node[0], 1, "x"), Room::Full);
            node[0].post(Instant::now(), |_| {});
            assert_eq!(node[0].first_full(), None);
        }
    }
}
