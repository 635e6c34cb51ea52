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
//! What can't be posted stays with its producer, in order. A batch that has reached its bound is full and takes
//! no further message: its sender keeps the message and waits. So a batch holds its bound and one message at
//! most, however many senders there are, and one more where a broadcast had to wait (see [`Mailbox::broadcast`]).
//! Taking mail never makes mail, so shards that flood each other can't dead-lock. The wake protocol is `doorbell`'s.
//!
//! A shard that ends says so and then empties its ring. A producer that has posted and finds that the shard has ended
//! empties the ring, too: whichever of them comes last, each batch is counted once, and its arena goes back.

mod doorbell;
mod mail;
#[cfg(all(test, pombo_loom))]
mod model;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel as ring;

pub(crate) use doorbell::{Doorbell, Ring, Sleep};
use mail::Mail;
pub use mail::{Letter, SHARE_FROM};

use crate::message::{Kind, Payload};
use crate::uid::UidHash;

/// Wakes a sleeping poller; callable from any thread.
///
/// In production this is `mio::Waker::wake`, an eventfd write.
pub type Wake = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Whether a batch takes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// The batch is below its bound: it takes a message.
    Left,
    /// The batch has reached its bound: it takes no message until it was posted.
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
    /// The batch being read; kept over turns when a turn's budget runs out.
    reading: Option<Batch>,
    /// Arenas that come back from their destinations, emptied.
    returns: ring::Receiver<(usize, Mail)>,
    /// The shards, by index; this shard sends nothing to itself.
    peers: Vec<Peer>,
    /// Batches not empty and not posted yet.
    in_hand: usize,
    /// Weight of the batches in hand, all together.
    held: usize,
    /// Weight of the batches in flight from this shard, all together.
    in_flight: usize,
    /// While a broadcast waits: the destination that it waits for. Destinations below it have had room since the broadcast
    /// came; the number of shards means that all have. See [`Mailbox::broadcast`].
    awaited: Option<usize>,
    /// From which weight on a batch is full, in bytes (`mailbox_bytes_max`).
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

/// A shard as seen by one producer, or by itself.
struct Peer {
    inbox: ring::Sender<Batch>,
    /// The receiving end of `inbox`: used by the shard itself, and by producers when the shard has ended.
    taken: ring::Receiver<Batch>,
    returns: ring::Sender<(usize, Mail)>,
    bell: Bell,
    /// What was sent to it since the last post.
    gathering: Mail,
    /// The arena for the next batch; absent while a batch is in flight.
    spare: Option<Mail>,
    /// Weight of the batch in flight; zero when none is.
    in_flight: usize,
}

impl Bell {
    /// Makes a bell for the poller that `wake` wakes.
    pub fn new(wake: Wake) -> Self {
        Self { doorbell: Arc::new(Doorbell::new()), wake }
    }

    /// Has the shard look into its queues from outside, and wakes it if it sleeps; call it after something was put there.
    pub fn ring(&self) {
        let _ = self.ring_for_news();
    }

    /// As [`Bell::ring`]; says whether the shard has ended. Then it does not look into its queues any more.
    pub(crate) fn ring_for_news(&self) -> Ring {
        self.doorbell.announce();
        self.ring_or_end()
    }

    /// Has the shard look into its queues from outside in its next turn. Does not wake it.
    pub(crate) fn announce(&self) {
        self.doorbell.announce();
    }

    /// Rings if the shard has not taken the news down since [`Bell::announce`].
    pub(crate) fn ring_if_unheard(&self) {
        if self.doorbell.has_news() {
            self.ring();
        }
    }

    /// Wakes the shard if it sleeps; says whether it has ended.
    fn ring_or_end(&self) -> Ring {
        let ring = self.doorbell.ring();
        if ring == Ring::Wake {
            self.wake();
        }
        ring
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
/// A batch of at least `bytes_max` bytes is full. Between a producer and a destination wait two batches at most: one in
/// flight, and one in hand.
pub fn wire(bells: &[Bell], bytes_max: usize) -> Vec<Mailbox> {
    let count = bells.len();
    // All arenas of a shard together keep about two MiB, however many shards there are.
    let retained_max = (2 << 20) / count;
    let inboxes: Vec<_> = bells.iter().map(|_| ring::bounded(count)).collect();
    let returns: Vec<_> = bells.iter().map(|_| ring::bounded(count)).collect();
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
                    bell: bells[peer].clone(),
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
            bell: bells[shard].clone(),
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
    /// [`Room::Full`] says that the message was not taken: its sender waits until the batch was posted.
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
    /// [`Room::Full`] says that the message was not taken: its sender waits, and asks again after each post. A broadcast
    /// that waits needs room once at each destination, not at all of them in the same moment: other senders could fill
    /// one batch whenever another is posted, for ever. So a batch may get one broadcast above its bound, and no second
    /// one before it was posted.
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

    /// Returns the weight of the mail in hand, for all shards together, in bytes.
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

    /// Returns how many batches wait to be taken, the one being read among them.
    pub fn waiting(&self) -> usize {
        usize::from(self.reading.is_some()) + self.peers[self.shard].taken.len()
    }

    /// Posts every batch whose destination has none in flight, as of `now`: one slot and at most one wake each.
    ///
    /// Calls `posted` with each such destination; whoever waited for room there may go on. Returns how many
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
            if peer.bell.ring_or_end() == Ring::Ended {
                // Its uids are offline.
                lost += self.empty(to);
                self.take_returns();
            }
            posted(to);
        }
        // A batch that was just posted has room now; messages to one uid may fill it before the broadcast is asked for.
        if self.awaited.is_some() {
            self.awaited = self.first_full().or(Some(self.peers.len()));
        }
        lost
    }

    /// Takes back the arenas of batches that were read.
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

    /// Says whether a batch in hand could be posted at once: after a post only one for a shard that has ended.
    pub(crate) fn can_post(&self) -> bool {
        self.in_hand > 0 && self.peers.iter().any(|peer| peer.spare.is_some() && !peer.gathering.is_empty())
    }

    /// Takes the batch to read on with, oldest first; `None` when there is none. Pair it with [`Mailbox::put_back`].
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.reading.take().or_else(|| self.peers[self.shard].taken.try_recv().ok())
    }

    /// Takes back a batch: one that was read to its end returns to its producer, another is read on next time.
    pub fn put_back(&mut self, batch: Batch) {
        if !batch.mail.is_empty() {
            self.reading = Some(batch);
            return;
        }
        self.give_back(self.shard, batch, self.retained_max);
    }

    /// Gives the arena of a batch for `shard` back to its producer, emptied; it keeps `retained_max` bytes of memory.
    fn give_back(&self, shard: usize, Batch { from, mut mail, .. }: Batch, retained_max: usize) {
        mail.clear(retained_max);
        let peer = &self.peers[from];
        // A producer that has gone needs no arena; a ring of `count` places holds one per destination.
        if peer.returns.try_send((shard, mail)).is_ok() {
            peer.bell.ring_for_room();
        }
    }

    /// Gives up all mail, as the last act of a shard; returns how many messages nobody will read or post.
    ///
    /// The arenas go back: a producer without one would wait for it for ever, instead of learning that this shard
    /// has gone. From now on, a producer that posts a batch takes it back.
    pub(crate) fn abandon(&mut self) -> usize {
        self.bell.doorbell.end();
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

    /// Says whether letters wait that are this shard's to read.
    pub(crate) fn has_unread(&self) -> bool {
        self.reading.is_some() || !self.peers[self.shard].taken.is_empty()
    }

    /// Says whether letters wait, or whether a batch in hand could be posted.
    pub(crate) fn has_work(&self) -> bool {
        self.has_unread() || (self.in_hand > 0 && !self.returns.is_empty())
    }

    /// Whether the news of this shard are up; see [`Bell::ring`].
    #[inline]
    pub fn has_news(&self) -> bool {
        self.bell.doorbell.has_news()
    }

    /// Takes the news down; says whether they were up. If so, the shard must empty its queues from outside.
    #[inline]
    pub fn take_news(&self) -> bool {
        self.bell.doorbell.take_news()
    }

    /// Raises this shard's flag and looks once more: says whether it may sleep. Pair it with [`Mailbox::unpark`].
    pub fn park(&self) -> bool {
        let sleep = if self.in_hand > 0 { Sleep::UntilWorkOrRoom } else { Sleep::UntilWork };
        self.bell.doorbell.park(sleep);
        !self.has_work() && !self.has_news()
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
        self.bell.doorbell.unpark();
    }
}

impl Drop for Mailbox {
    /// Abandons the mail, so that no producer waits for an arena of a shard that is gone.
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

    /// Each sender added a message of its own to a full batch before it waited.
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

    /// It would wait for ever where one batch is filled whenever another is posted.
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

    /// A batch in flight to a shard that ended never came back: what was sent there next waited for it for ever,
    /// and so did the sessions that filled it.
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

    /// A batch that was posted after the shard's last look stayed in the ring: its producer waited for the arena for ever,
    /// and its messages were not counted.
    #[test]
    fn a_batch_posted_behind_the_last_look_of_a_shard_that_ends_comes_back() {
        let (mut node, _) = node(3, 1);
        for sender in [0, 2] {
            assert_eq!(send(&mut node[sender], 1, "in flight"), Room::Left);
        }
        node[0].post(Instant::now(), |_| {});
        assert_eq!(node[1].abandon(), 1);
        // The shard's thread is not over yet: its end of the ring is still there.
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
