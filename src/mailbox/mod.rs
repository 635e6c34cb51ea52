//! Mail: bounded batches of messages from one shard to another. Each mailbox has many producers, one consumer, and no lock.
//!
//! During a turn a shard gathers its messages for each other shard in one arena, a `Mail`, and
//! posts the arena as one batch. At most one batch is in flight per producer and destination. So a ring
//! with one slot per producer is never full, and the emptied arena that comes back is both the
//! credit for the next batch and its recycled memory:
//!
//! ```text
//!   producer p                                     consumer d
//!   gathering ──post, one wake──▶ ring of d ─────▶ take letters
//!       ▲                                              │
//!       └──────── returns of p ◀──emptied arena, ──────┘
//!                                 a wake if p sleeps with mail in hand
//! ```
//! A batch that can't be posted yet stays with its producer, in order. A batch that has reached its bound is full and takes
//! no further message: the sender keeps the message and waits. So a batch exceeds its bound by one message at
//! most, however many senders there are, and by a second one where a broadcast had to wait (see [`Mailbox::broadcast`]).
//! Taking mail never produces mail, so shards that flood each other can't dead-lock. The wake protocol is in `doorbell.rs`.
//!
//! A shard that ends sets the flag `ENDED` and then empties its ring. A producer that posts and then reads that flag
//! empties the ring, too. Whichever side comes last, each lost message is counted once, and each arena goes back.

mod doorbell;
mod mail;
#[cfg(all(test, pombo_loom))]
mod model;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel as ring;

pub(crate) use doorbell::{Doorbell, RingOutcome, Sleep};
use mail::Mail;
pub use mail::{Letter, SHARE_FROM};

use crate::message::{Kind, Payload};
use crate::uid::UidHash;

/// Wakes a sleeping poller; callable from any thread.
///
/// In production this is `mio::Waker::wake`, an eventfd write.
pub type Wake = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Whether a batch takes another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// The batch is below its bound: it takes a message.
    Left,
    /// The batch has reached its bound: it takes no message until it is posted.
    Full,
}

/// Wakes one shard; every thread that gives the shard work has a clone.
#[derive(Clone)]
pub struct ShardWaker {
    doorbell: Arc<Doorbell>,
    wake: Wake,
}

/// One shard's mail: the batches that it sends to the other shards, and the batches that it receives.
pub struct Mailbox {
    /// This shard's index.
    shard: usize,
    /// The batch that is being read; it stays here when a turn's budget runs out.
    reading: Option<Batch>,
    /// Arenas that come back from their destinations, emptied.
    returns: ring::Receiver<(usize, Mail)>,
    /// The shards, by index; this shard sends nothing to itself.
    peers: Vec<Peer>,
    /// Batches in hand: not empty and not posted yet.
    in_hand: usize,
    /// Sum of the weights of the batches in hand, in bytes.
    held: usize,
    /// Sum of the weights of the batches in flight from this shard, in bytes.
    in_flight: usize,
    /// While a broadcast waits: the index of the destination that it waits for. Every destination with a lower index has
    /// had room since the broadcast came; the number of shards means that all have. See [`Mailbox::broadcast`].
    awaited: Option<usize>,
    /// A batch of at least this weight is full, in bytes (`mailbox_bytes_max`).
    bytes_max: usize,
    /// How much memory an emptied arena keeps, in bytes.
    retained_max: usize,
    waker: ShardWaker,
}

/// A posted batch, with the index of the shard that it came from.
pub struct Batch {
    from: usize,
    /// When it was posted; `None` after [`Batch::take_posted`].
    posted: Option<Instant>,
    mail: Mail,
}

impl Batch {
    /// Takes the oldest letter; `None` when all are taken.
    #[inline]
    pub fn take(&mut self) -> Option<Letter<'_>> {
        self.mail.take()
    }

    /// Returns when the batch was posted at the first call, and `None` at later calls.
    #[inline]
    pub(crate) fn take_posted(&mut self) -> Option<Instant> {
        self.posted.take()
    }
}

/// One destination of a producer. A mailbox has an entry for its own shard, too, for the receiving end.
struct Peer {
    inbox: ring::Sender<Batch>,
    /// The receiving end of `inbox`, for the shard itself, and for its producers once it has ended.
    taken: ring::Receiver<Batch>,
    returns: ring::Sender<(usize, Mail)>,
    waker: ShardWaker,
    /// The messages for this shard since the last post.
    gathering: Mail,
    /// The arena for the next batch; absent while a batch is in flight.
    spare: Option<Mail>,
    /// Weight of the batch in flight; zero when none is.
    in_flight: usize,
}

impl ShardWaker {
    /// Makes a waker for the poller that `wake` wakes.
    pub fn new(wake: Wake) -> Self {
        Self { doorbell: Arc::new(Doorbell::new()), wake }
    }

    /// Makes the shard look into its external queues, and wakes it if it sleeps; call this after putting an entry there.
    pub fn wake(&self) {
        let _ = self.wake_unless_ended();
    }

    /// As [`ShardWaker::wake`]; [`RingOutcome::Ended`] says that the shard has ended and reads its queues no more.
    pub(crate) fn wake_unless_ended(&self) -> RingOutcome {
        self.doorbell.raise_external_work();
        self.wake_if_asleep()
    }

    /// Makes the shard look into its external queues in its next turn. Does not wake it.
    pub(crate) fn raise_external_work(&self) {
        self.doorbell.raise_external_work();
    }

    /// Wakes the shard if it has not lowered the flag since [`ShardWaker::raise_external_work`].
    pub(crate) fn wake_if_unseen(&self) {
        if self.doorbell.has_external_work() {
            self.wake();
        }
    }

    /// Wakes the shard if it sleeps; says whether it has ended.
    fn wake_if_asleep(&self) -> RingOutcome {
        let outcome = self.doorbell.ring();
        if outcome == RingOutcome::Wake {
            self.wake_poller();
        }
        outcome
    }

    /// Wakes the shard if it sleeps until an arena comes back.
    fn wake_for_room(&self) {
        if self.doorbell.ring_for_room() {
            self.wake_poller();
        }
    }

    fn wake_poller(&self) {
        // The eventfd lives as long as the shard, and a full counter is a wake already.
        (self.wake)().expect("the eventfd of a shard can be written to while its waker exists");
    }
}

/// Makes the mailboxes of a node, one per shard, connected to each other; `wakers` has the waker of each shard, by index.
///
/// A batch of at least `bytes_max` bytes is full. Between a producer and a destination there are two batches at most: one in
/// flight, and one in hand.
pub fn wire(wakers: &[ShardWaker], bytes_max: usize) -> Vec<Mailbox> {
    let count = wakers.len();
    // All emptied arenas of a shard together, two for each destination, keep up to four MiB, however many shards there are.
    let retained_max = (2 << 20) / count;
    let inboxes: Vec<_> = wakers.iter().map(|_| ring::bounded(count)).collect();
    let returns: Vec<_> = wakers.iter().map(|_| ring::bounded(count)).collect();
    (0..count)
        .map(|shard| Mailbox {
            shard,
            reading: None,
            returns: returns[shard].1.clone(),
            peers: (0..count)
                .map(|peer| Peer {
                    inbox: inboxes[peer].0.clone(),
                    taken: inboxes[peer].1.clone(),
                    returns: returns[peer].0.clone(),
                    waker: wakers[peer].clone(),
                    gathering: Mail::default(),
                    spare: Some(Mail::default()),
                    in_flight: 0,
                })
                .collect(),
            in_hand: 0,
            held: 0,
            in_flight: 0,
            awaited: None,
            bytes_max,
            retained_max,
            waker: wakers[shard].clone(),
        })
        .collect()
}

impl Mailbox {
    /// Returns how many shards the node has.
    pub fn shard_count(&self) -> usize {
        self.peers.len()
    }

    /// Gathers a message to one uid for the shard that owns it, unless the batch is full.
    ///
    /// [`Room::Full`] says that the message was not taken: the sender must wait until the batch is posted.
    pub fn unicast(&mut self, to: usize, hash: UidHash, uid: &[u8], kind: Kind, payload: &Payload<'_>) -> Room {
        debug_assert_ne!(to, self.shard);
        let gathering = &mut self.peers[to].gathering;
        if gathering.weight() >= self.bytes_max {
            return Room::Full;
        }
        self.in_hand += usize::from(gathering.is_empty());
        self.held += gathering.unicast(hash, uid, kind, payload);
        Room::Left
    }

    /// Gathers a message to everybody for every other shard, or for none when a batch is full.
    ///
    /// [`Room::Full`] says that the message was not taken: the sender must wait, and try again after each post. A broadcast
    /// that waits needs room once at each destination, not at all of them at the same moment: other senders could fill
    /// one batch whenever another is posted, for ever. So a batch may take one broadcast above its bound, and no second
    /// one before it is posted.
    pub fn broadcast(&mut self, kind: Kind, payload: &Payload<'_>) -> Room {
        if self.peers.len() == 1 {
            return Room::Left;
        }
        if let Some(full) = self.first_full() {
            self.awaited = Some(full);
            return Room::Full;
        }
        self.awaited = None;
        for (to, peer) in self.peers.iter_mut().enumerate() {
            if to != self.shard {
                self.in_hand += usize::from(peer.gathering.is_empty());
                self.held += peer.gathering.broadcast(kind, payload);
            }
        }
        Room::Left
    }

    /// Says whether [`Mailbox::broadcast`] would take a message.
    pub(crate) fn takes_broadcast(&self) -> bool {
        self.first_full().is_none()
    }

    /// Returns the first destination that a broadcast must wait for.
    fn first_full(&self) -> Option<usize> {
        (self.awaited.unwrap_or(0)..self.peers.len()).find(|&to| self.room(to) == Room::Full)
    }

    /// Returns the weight of all mail in hand, in bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns the weight of the mail in hand and in flight from this shard, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.held + self.in_flight
    }

    /// Says whether the batch for the shard `to` takes a message.
    pub fn room(&self, to: usize) -> Room {
        if self.peers[to].gathering.weight() >= self.bytes_max { Room::Full } else { Room::Left }
    }

    /// Returns how many batches wait to be read to their end, the one that is being read included.
    pub fn waiting(&self) -> usize {
        usize::from(self.reading.is_some()) + self.peers[self.shard].taken.len()
    }

    /// Posts every batch whose destination has none in flight, at `now`: one slot and at most one wake each.
    ///
    /// Calls `posted` with each such destination: senders that waited for room there can go on. Returns how many
    /// messages are lost because their shard has ended.
    pub fn post(&mut self, now: Instant, mut posted: impl FnMut(usize)) -> usize {
        self.take_returns();
        let mut lost = 0;
        if self.in_hand == 0 {
            return lost;
        }
        for to in 0..self.peers.len() {
            let peer = &mut self.peers[to];
            if peer.gathering.is_empty() {
                continue;
            }
            let Some(spare) = peer.spare.take() else { continue };
            let mail = std::mem::replace(&mut peer.gathering, spare);
            self.in_hand -= 1;
            self.held -= mail.weight();
            self.in_flight += mail.weight();
            peer.in_flight = mail.weight();
            let batch = Batch { from: self.shard, posted: Some(now), mail };
            peer.inbox.try_send(batch).expect("one batch is in flight per producer, and this mailbox holds both ends");
            if peer.waker.wake_if_asleep() == RingOutcome::Ended {
                // The uids of a shard that has ended are offline.
                lost += self.empty(to);
                self.take_returns();
            }
            posted(to);
        }
        // A batch that was just posted has room now; messages to one uid may fill it before the broadcast is tried again.
        if self.awaited.is_some() {
            self.awaited = self.first_full().or(Some(self.peers.len()));
        }
        lost
    }

    /// Takes back the arenas of batches that their destinations have read.
    pub(crate) fn take_returns(&mut self) {
        while let Ok((from, mail)) = self.returns.try_recv() {
            let peer = &mut self.peers[from];
            self.in_flight -= std::mem::take(&mut peer.in_flight);
            peer.spare = Some(mail);
        }
    }

    /// Empties the ring of a shard that has ended; returns how many messages were in it. All arenas go back.
    fn empty(&self, shard: usize) -> usize {
        let mut lost = 0;
        while let Ok(batch) = self.peers[shard].taken.try_recv() {
            lost += batch.mail.len();
            self.give_back(shard, batch, 0);
        }
        lost
    }

    /// Says whether a batch in hand could be posted at once. Right after a post, that can only be one for a shard that has
    /// ended.
    pub(crate) fn can_post(&self) -> bool {
        self.in_hand > 0 && self.peers.iter().any(|peer| peer.spare.is_some() && !peer.gathering.is_empty())
    }

    /// Takes the oldest batch that was not read to its end; `None` when there is none. Pair it with [`Mailbox::put_back`].
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.reading.take().or_else(|| self.peers[self.shard].taken.try_recv().ok())
    }

    /// Puts a batch back. The arena of one that was read to its end returns to the producer; any other stays to be read on.
    pub fn put_back(&mut self, batch: Batch) {
        if !batch.mail.is_empty() {
            self.reading = Some(batch);
            return;
        }
        self.give_back(self.shard, batch, self.retained_max);
    }

    /// Empties the arena of a batch for `shard`, and gives it back to its producer with at most `retained_max` bytes of memory.
    fn give_back(&self, shard: usize, Batch { from, mut mail, .. }: Batch, retained_max: usize) {
        mail.clear(retained_max);
        let peer = &self.peers[from];
        // Fails only if the producer has gone, which needs no arena: the ring has a slot for each destination.
        if peer.returns.try_send((shard, mail)).is_ok() {
            peer.waker.wake_for_room();
        }
    }

    /// Drops all mail when the shard ends; returns how many messages nobody will read or post.
    ///
    /// The arenas go back: a producer without one would wait for it for ever, and never find out that this shard
    /// has ended. From now on, a producer that posts a batch takes it back.
    pub(crate) fn abandon(&mut self) -> usize {
        self.waker.doorbell.end();
        let mut lost: usize = self.peers.iter().map(|peer| peer.gathering.len()).sum();
        for peer in &mut self.peers {
            peer.gathering.clear(0);
        }
        (self.in_hand, self.held) = (0, 0);
        if let Some(batch) = self.reading.take() {
            lost += batch.mail.len();
            self.give_back(self.shard, batch, 0);
        }
        lost + self.empty(self.shard)
    }

    /// Says whether there are messages for this shard to read.
    pub(crate) fn has_unread(&self) -> bool {
        self.reading.is_some() || !self.peers[self.shard].taken.is_empty()
    }

    /// Says whether there are messages to read, or an arena came back while messages are in hand.
    pub(crate) fn has_work(&self) -> bool {
        self.has_unread() || (self.in_hand > 0 && !self.returns.is_empty())
    }

    /// Says whether the flag for external work is raised; see [`ShardWaker::wake`].
    #[inline]
    pub fn has_external_work(&self) -> bool {
        self.waker.doorbell.has_external_work()
    }

    /// Lowers the flag for external work; says whether it was raised. If so, the shard must empty its external queues.
    #[inline]
    pub fn take_external_work(&self) -> bool {
        self.waker.doorbell.take_external_work()
    }

    /// Raises this shard's flag and looks once more: says whether it may sleep. Pair it with [`Mailbox::unpark`].
    pub fn park(&self) -> bool {
        let sleep = if self.in_hand > 0 { Sleep::UntilWorkOrRoom } else { Sleep::UntilWork };
        self.waker.doorbell.park(sleep);
        !self.has_work() && !self.has_external_work()
    }

    /// Fails unless the counts and weights kept in this mailbox agree with its batches.
    ///
    /// Looks at every shard; in this crate's unit tests, at every message in hand as well.
    pub(crate) fn check(&self) {
        let weights = self.peers.iter().map(|peer| (peer.gathering.weight(), peer.in_flight));
        let (held, in_flight) = weights.fold((0, 0), |sum, weights| (sum.0 + weights.0, sum.1 + weights.1));
        debug_assert_eq!((self.held, self.in_flight), (held, in_flight), "weights in hand and in flight");
        let in_hand = self.peers.iter().filter(|peer| !peer.gathering.is_empty()).count();
        debug_assert_eq!(self.in_hand, in_hand, "batches in hand");
        debug_assert!(self.awaited.is_none_or(|awaited| awaited <= self.peers.len()));
        debug_assert!(
            self.reading.as_ref().is_none_or(|batch| !batch.mail.is_empty()),
            "a batch read to its end is kept"
        );
        for (to, peer) in self.peers.iter().enumerate() {
            let Peer { gathering, spare, in_flight, .. } = peer;
            debug_assert_eq!(spare.is_none(), *in_flight > 0, "an arena is a spare or in flight, for shard {to}");
            debug_assert!(spare.as_ref().is_none_or(|spare| spare.is_empty() && spare.weight() == 0));
            // The message that made it full, and one broadcast.
            debug_assert!(
                gathering.weight_without_last(2) < self.bytes_max,
                "a full batch for shard {to} took a message"
            );
            debug_assert!(to != self.shard || (gathering.is_empty() && *in_flight == 0), "a shard has mail for itself");
            if cfg!(test) {
                gathering.check();
            }
        }
    }

    /// Lowers this shard's flag: it is awake and will look at its queues by itself.
    pub fn unpark(&self) {
        self.waker.doorbell.unpark();
    }
}

impl Drop for Mailbox {
    /// Abandons the mail, so that no producer waits for an arena from a shard that has gone.
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(all(test, not(pombo_loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn node(count: usize, bytes_max: usize) -> (Vec<Mailbox>, Vec<Arc<AtomicUsize>>) {
        let wakes: Vec<Arc<AtomicUsize>> = (0..count).map(|_| Arc::default()).collect();
        let wakers: Vec<_> = wakes
            .iter()
            .map(|wakes| {
                let wakes = Arc::clone(wakes);
                ShardWaker::new(Arc::new(move || {
                    wakes.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }))
            })
            .collect();
        (wire(&wakers, bytes_max), wakes)
    }

    fn send(mailbox: &mut Mailbox, to: usize, text: &str) -> Room {
        let room = mailbox.unicast(to, UidHash(0), b"u", Kind::Text, &Payload::Borrowed(text.as_bytes()));
        mailbox.check();
        room
    }

    fn broadcast(mailbox: &mut Mailbox) -> Room {
        let room = mailbox.broadcast(Kind::Text, &Payload::Borrowed(b"all"));
        mailbox.check();
        room
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
            mailbox.check();
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

    /// Regression: each sender added a message of its own to a full batch before it waited.
    #[test]
    fn a_full_batch_takes_no_message_until_it_was_posted() {
        let (mut node, _) = node(3, 100);
        let a = &mut node[0];
        while send(a, 2, "x") == Room::Left {}
        assert_eq!((a.room(1), a.room(2), a.takes_broadcast()), (Room::Left, Room::Full, false));
        let held = a.held();
        assert_eq!(send(a, 2, "x"), Room::Full);
        assert_eq!(broadcast(a), Room::Full);
        assert_eq!((a.held(), a.memory()), (held, held));
        a.post(Instant::now(), |_| {});
        assert_eq!((a.takes_broadcast(), a.held(), a.memory()), (true, 0, held));
        assert_eq!(broadcast(a), Room::Left);
        drain(&mut node[2]);
        node[0].post(Instant::now(), |_| {});
        drain(&mut node[1]);
        drain(&mut node[2]);
        node[0].post(Instant::now(), |_| {});
        assert_eq!((node[0].held(), node[0].memory()), (0, 0));
    }

    /// It would wait for ever if one batch was filled whenever another was posted.
    #[test]
    fn a_broadcast_that_waits_needs_room_once_at_each_destination() {
        let (mut node, _) = node(3, 10);
        let a = &mut node[0];
        for to in [1, 2] {
            // One is in flight, and one in hand is full.
            assert_eq!(send(a, to, "in flight"), Room::Left);
            a.post(Instant::now(), |_| {});
            assert_eq!(send(a, to, "in hand"), Room::Left);
        }
        assert_eq!((broadcast(a), a.awaited), (Room::Full, Some(1)));
        for emptied in [1, 2] {
            assert!(!node[0].takes_broadcast());
            drain(&mut node[emptied]);
            node[0].post(Instant::now(), |_| {});
            assert_eq!(node[0].awaited, Some(emptied + 1));
            assert_eq!(send(&mut node[0], emptied, "another's"), Room::Left);
        }
        let a = &mut node[0];
        assert_eq!(broadcast(a), Room::Left, "each has had room");
        assert_eq!((broadcast(a), a.awaited), (Room::Full, Some(1)), "but once");
    }

    #[test]
    fn a_broadcast_reaches_every_other_shard() {
        let (mut node, _) = node(3, 100);
        assert_eq!(broadcast(&mut node[1]), Room::Left);
        node[1].post(Instant::now(), |_| {});
        assert_eq!(node.iter_mut().map(drain).map(|got| got.len()).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn a_sleeper_is_woken_once_per_batch_and_for_room_only_with_mail_in_hand() {
        let (mut node, wakes) = node(2, 1 << 20);
        let count = |shard: usize| wakes[shard].load(Ordering::Relaxed);
        let [a, b] = &mut node[..] else { unreachable!() };
        assert!(b.park());
        let (_, _) = (send(a, 1, "1"), send(a, 1, "2"));
        a.post(Instant::now(), |_| {});
        assert_eq!(count(1), 1);
        assert!(!b.park(), "there is mail");
        b.unpark();
        assert!(a.park(), "nothing in hand");
        drain(b);
        assert_eq!(count(0), 0, "the room is not waited for");
        a.unpark();
        for text in ["3", "4"] {
            let _ = send(a, 1, text);
            a.post(Instant::now(), |_| {});
        }
        assert!(a.park(), "one batch in hand, none came back");
        assert_eq!(drain(b), ["3"]);
        assert_eq!(count(0), 1, "room was waited for");
        assert!(!a.park(), "the batch in hand can go");
    }

    /// Regression: a batch in flight to a shard that ended never came back. The next batch waited for ever for its arena,
    /// and so did the sessions that had filled it.
    #[test]
    fn a_batch_in_flight_to_a_shard_that_ends_comes_back() {
        let (mut node, _) = node(2, 1);
        assert_eq!(send(&mut node[0], 1, "1"), Room::Left);
        node[0].post(Instant::now(), |_| {});
        assert_eq!(node[1].abandon(), 1);
        node.pop();
        assert_eq!(send(&mut node[0], 1, "2"), Room::Left);
        assert_eq!(node[0].post(Instant::now(), |_| {}), 1);
        assert!(node[0].takes_broadcast());
    }

    /// Regression: a batch that was posted after the shard's last look stayed in the ring. Its producer waited for the arena
    /// for ever, and its messages were not counted.
    #[test]
    fn a_batch_posted_behind_the_last_look_of_a_shard_that_ends_comes_back() {
        let (mut node, _) = node(3, 1);
        for sender in [0, 2] {
            assert_eq!(send(&mut node[sender], 1, "in flight"), Room::Left);
        }
        node[0].post(Instant::now(), |_| {});
        assert_eq!(node[1].abandon(), 1);
        // The mailbox of the ended shard still exists, and with it the receiving end of the ring.
        assert_eq!(node[2].post(Instant::now(), |_| {}), 1);
        for sender in [0, 2] {
            assert_eq!(send(&mut node[sender], 1, "behind"), Room::Left);
            assert_eq!(node[sender].post(Instant::now(), |_| {}), 1);
            assert_eq!((node[sender].takes_broadcast(), node[sender].memory()), (true, 0));
        }
    }

    /// Three threads post while a shard ends: each message is either read or counted as lost, once.
    #[test]
    fn every_message_to_a_shard_that_ends_is_counted_once() {
        const BATCHES: usize = 200;
        for round in 0..50 {
            let (mut node, _) = node(4, 1);
            let mut ending = node.pop().expect("four were wired");
            let posting: Vec<_> = node
                .into_iter()
                .map(|mut mailbox| {
                    thread::spawn(move || {
                        let (mut sent, mut lost) = (0, 0);
                        while sent < BATCHES {
                            sent += usize::from(send(&mut mailbox, 3, "x") == Room::Left);
                            lost += mailbox.post(Instant::now(), |_| {});
                            thread::yield_now();
                        }
                        while mailbox.memory() > 0 {
                            lost += mailbox.post(Instant::now(), |_| {});
                            thread::yield_now();
                        }
                        lost
                    })
                })
                .collect();
            let mut seen = 0;
            while seen <= round {
                seen += drain(&mut ending).len();
            }
            seen += ending.abandon();
            let lost: usize = posting.into_iter().map(|shard| shard.join().expect("no panic")).sum();
            assert_eq!(seen + lost, 3 * BATCHES);
        }
    }

    #[test]
    fn mail_to_a_shard_that_has_gone_is_let_go() {
        let (mut node, _) = node(2, 1);
        node.pop();
        for _ in 0..3 {
            assert_eq!(send(&mut node[0], 1, "x"), Room::Left);
            assert_eq!(send(&mut node[0], 1, "x"), Room::Full);
            node[0].post(Instant::now(), |_| {});
            assert!(node[0].takes_broadcast());
        }
    }
}
