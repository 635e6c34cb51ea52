//! The wake protocol under loom: every interleaving and every reordering that the memory model allows.
//!
//! ```text
//! RUSTFLAGS="--cfg pombo_loom" cargo test --profile loom --target-dir target/loom --lib mailbox::model
//! ```
//! The doorbell is the real one. The ring is a stand-in, because loom can't look into crossbeam-channel's. Its
//! atomics are weaker: a slot's stamp is a release store and an acquire load, a place is taken with both, all
//! else is relaxed, nothing is sequentially consistent. The two sides go through the steps of [`super::Mailbox`]:
//! push, ring, take, give the arena back, ring for room, raise the flag, look once more, sleep. The eventfd is loom's
//! `Notify`. A lost wake leaves a thread asleep for ever, which loom reports as a deadlock. Two more models have a shard
//! that ends while others post to it, where each batch must be taken once, and a shard that looks into its external
//! queues only when the flag for external work is raised.
//!
//! Two producers, one consumer, capacity two: one batch in flight for each producer. The small models are
//! explored without a bound, the whole protocol with at most `PREEMPTIONS_MAX` switches away from a thread that
//! could have gone on. `LOOM_MAX_PREEMPTIONS` sets another bound for all of them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Count;
use std::sync::atomic::Ordering::SeqCst;

use loom::model::Builder;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::{Doorbell, RingOutcome, Sleep};
use crate::sync::{Fence, leave_out};

/// Producers, and places in a ring: one batch in flight for each.
const PRODUCERS: usize = 2;

/// Bound for the whole protocol: twenty seconds with two, more than five minutes with three. Few preemptions find
/// nearly all such bugs (Musuvathi and Qadeer, "Iterative Context Bounding", 2007).
const PREEMPTIONS_MAX: usize = 2;

/// A bounded ring with relaxed places; the consumer keeps its own.
struct Ring {
    slots: [Slot; PRODUCERS],
    tail: AtomicUsize,
}

struct Slot {
    /// `2 * place` while the slot is free for the batch at this place; `2 * place + 1` once the batch is written.
    stamp: AtomicUsize,
    batch: AtomicUsize,
}

/// The consumer's end of a ring.
#[derive(Default)]
struct Head(usize);

impl Ring {
    fn new() -> Self {
        let slot = |place: usize| Slot { stamp: AtomicUsize::new(2 * place), batch: AtomicUsize::new(0) };
        Self { slots: [slot(0), slot(1)], tail: AtomicUsize::new(0) }
    }

    fn push(&self, batch: usize) {
        // Acquire and release: pairs with itself. The producer that took the place before had a credit for it, so this
        // producer sees the consumer's stores up to that credit. That is why a ring of this length is never full.
        let place = self.tail.fetch_add(1, Ordering::AcqRel);
        let slot = &self.slots[place % PRODUCERS];
        // Relaxed: ordered by the line above after the consumer's store in `take`.
        assert_eq!(slot.stamp.load(Ordering::Relaxed), 2 * place, "the ring is never full");
        // Relaxed: the stamp publishes it.
        slot.batch.store(batch, Ordering::Relaxed);
        // Release: pairs with the load in `is_empty`.
        slot.stamp.store(2 * place + 1, Ordering::Release);
    }

    fn take(&self, head: &mut Head) -> Option<usize> {
        if self.is_empty(head) {
            return None;
        }
        let slot = &self.slots[head.0 % PRODUCERS];
        // Relaxed: the acquired stamp has ordered it after the store in `push`.
        let batch = slot.batch.load(Ordering::Relaxed);
        // Release, as in crossbeam; relaxed would be enough here.
        slot.stamp.store(2 * (head.0 + PRODUCERS), Ordering::Release);
        head.0 += 1;
        Some(batch)
    }

    fn is_empty(&self, head: &Head) -> bool {
        // Acquire: pairs with the store in `push`.
        self.slots[head.0 % PRODUCERS].stamp.load(Ordering::Acquire) != 2 * head.0 + 1
    }
}

/// A thread that sleeps in its poller: its doorbell, its eventfd, and the counts that bound its wakes.
struct Sleeper {
    doorbell: Doorbell,
    eventfd: Notify,
    /// How often it raised its flag, and was woken. Atomics of std: loom does not model these counts.
    sleeps: Count,
    wakes: Count,
}

impl Sleeper {
    fn new() -> Self {
        Self { doorbell: Doorbell::new(), eventfd: Notify::new(), sleeps: Count::new(0), wakes: Count::new(0) }
    }

    fn ring(&self) -> RingOutcome {
        let outcome = self.doorbell.ring();
        if outcome == RingOutcome::Wake {
            self.wake();
        }
        outcome
    }

    fn ring_for_room(&self) {
        if self.doorbell.ring_for_room() {
            self.wake();
        }
    }

    fn wake(&self) {
        let wakes = self.wakes.fetch_add(1, SeqCst) + 1;
        assert!(wakes <= self.sleeps.load(SeqCst), "at most one wake per sleep");
        self.eventfd.notify();
    }

    /// The poll of a turn: raises the flag, looks once more, sleeps unless there is work, lowers the flag.
    fn poll(&self, sleep: Sleep, idle: impl FnOnce() -> bool) {
        self.sleeps.fetch_add(1, SeqCst);
        self.doorbell.park(sleep);
        if idle() {
            self.eventfd.wait();
        }
        self.doorbell.unpark();
    }
}

/// A shard and its producers.
struct Node {
    inbox: Ring,
    consumer: Sleeper,
    /// The request to close: a store, after which the consumer's doorbell is rung.
    closing: AtomicBool,
    producers: [Producer; PRODUCERS],
}

struct Producer {
    sleeper: Sleeper,
    /// Arenas that come back: the credit for the next batch.
    returns: Ring,
}

impl Node {
    fn new() -> Self {
        let producer = || Producer { sleeper: Sleeper::new(), returns: Ring::new() };
        Self {
            inbox: Ring::new(),
            consumer: Sleeper::new(),
            closing: AtomicBool::new(false),
            producers: [producer(), producer()],
        }
    }

    /// Posts `batches` in order, each when the arena of the one before has come back.
    fn produce(&self, producer: usize, batches: std::ops::Range<usize>) {
        let Producer { sleeper, returns } = &self.producers[producer];
        let mut head = Head::default();
        for batch in batches {
            // A batch that can't be posted yet stays in hand, and the sleep then ends with room, too.
            while batch > 0 && returns.take(&mut head).is_none() {
                sleeper.poll(Sleep::UntilWorkOrRoom, || returns.is_empty(&head));
            }
            self.post(producer, batch);
        }
    }

    fn post(&self, producer: usize, batch: usize) {
        self.inbox.push(batch * PRODUCERS + producer);
        assert_ne!(self.consumer.ring(), RingOutcome::Ended);
    }

    /// Takes batches until as many have come from each producer as `expected` says, and the node closes.
    fn consume(&self, expected: [usize; PRODUCERS]) {
        let mut head = Head::default();
        let mut taken = [0; PRODUCERS];
        loop {
            while let Some(batch) = self.inbox.take(&mut head) {
                self.receive(batch, &mut taken);
            }
            // Relaxed: pairs with the store in `close`; it carries no data.
            let closing = || self.closing.load(Ordering::Relaxed);
            if taken == expected && closing() {
                return;
            }
            self.consumer.poll(Sleep::UntilWork, || self.inbox.is_empty(&head) && !(taken == expected && closing()));
        }
    }

    fn receive(&self, batch: usize, taken: &mut [usize; PRODUCERS]) {
        let (batch, from) = (batch / PRODUCERS, batch % PRODUCERS);
        assert_eq!(batch, taken[from], "each batch once and in order");
        taken[from] += 1;
        self.producers[from].returns.push(0);
        self.producers[from].sleeper.ring_for_room();
    }

    fn close(&self) {
        // Relaxed: pairs with the load in `consume`, ordered by the doorbell's fence.
        self.closing.store(true, Ordering::Relaxed);
        assert_ne!(self.consumer.ring(), RingOutcome::Ended);
    }
}

/// A shard that ends, and a ring that several may empty.
///
/// Each producer has a slot for its one batch: a batch is stored with release, looked for with acquire, and taken by
/// one swap. The order of several batches does not matter here.
struct Ending {
    doorbell: Doorbell,
    slots: [AtomicUsize; PRODUCERS],
    /// How often a batch of each producer was taken, by any thread. Atomics of std: loom does not model these counts.
    taken: [Count; PRODUCERS],
}

impl Ending {
    fn new() -> Self {
        let slots = [AtomicUsize::new(0), AtomicUsize::new(0)];
        Self { doorbell: Doorbell::new(), slots, taken: [Count::new(0), Count::new(0)] }
    }

    /// Posts a batch; empties the ring if the shard has ended.
    fn post(&self, producer: usize) {
        // Release: pairs with the load and the swap in `empty`.
        self.slots[producer].store(1, Ordering::Release);
        if self.doorbell.ring() == RingOutcome::Ended {
            self.empty();
        }
    }

    /// The last act of a shard.
    fn end(&self) {
        self.doorbell.end();
        self.empty();
    }

    fn empty(&self) {
        for (slot, taken) in self.slots.iter().zip(&self.taken) {
            // Acquire: pairs with the store in `post`; so does the swap, which lets one thread take the batch.
            if slot.load(Ordering::Acquire) == 1 && slot.swap(0, Ordering::AcqRel) == 1 {
                taken.fetch_add(1, SeqCst);
            }
        }
    }
}

/// A shard, and producers of its external queues.
///
/// A slot for each producer stands in for the queues. The slots are relaxed, though the real queues have a lock inside:
/// the flag for external work alone must make the entries visible.
struct Outside {
    shard: Sleeper,
    slots: [AtomicUsize; PRODUCERS],
}

impl Outside {
    fn bring(&self, producer: usize) {
        // Relaxed: the flag publishes it.
        self.slots[producer].store(1, Ordering::Relaxed);
        self.shard.doorbell.raise_external_work();
        assert_ne!(self.shard.ring(), RingOutcome::Ended);
    }

    /// As the gateway does, which raises the flag at once and wakes a moment later.
    fn bring_and_wake_later(&self, producer: usize) {
        // Relaxed: the flag publishes it.
        self.slots[producer].store(1, Ordering::Relaxed);
        self.shard.doorbell.raise_external_work();
        if self.shard.doorbell.has_external_work() {
            self.shard.doorbell.raise_external_work();
            assert_ne!(self.shard.ring(), RingOutcome::Ended);
        }
    }

    /// Makes turns until it has received `expected` entries; looks into the queues only when the flag is raised.
    fn serve(&self, expected: usize) {
        let mut taken = 0;
        loop {
            if self.shard.doorbell.take_external_work() {
                for slot in &self.slots {
                    // Relaxed: lowering the flag has ordered it after the stores.
                    if slot.load(Ordering::Relaxed) == 1 {
                        slot.store(0, Ordering::Relaxed);
                        taken += 1;
                    }
                }
            }
            if taken == expected {
                return;
            }
            self.shard.poll(Sleep::UntilWork, || !self.shard.doorbell.has_external_work());
        }
    }
}

/// Explores a shard with `producers` of external work, without the fence `left_out`, within `preemptions_max`.
fn check_external_work(left_out: Option<Fence>, producers: usize, preemptions_max: Option<usize>) {
    leave_out(left_out);
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions_max);
    builder.check(move || {
        let slots = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let outside = Arc::new(Outside { shard: Sleeper::new(), slots });
        let bringing: Vec<_> = (0..producers)
            .map(|producer| {
                let outside = Arc::clone(&outside);
                thread::spawn(move || match producer {
                    0 => outside.bring_and_wake_later(producer),
                    _ => outside.bring(producer),
                })
            })
            .collect();
        outside.serve(producers);
        for producer in bringing {
            producer.join().expect("loom reports panics itself");
        }
    });
}

/// Explores a shard that ends while `producers` post to it, without the fence `left_out`, within `preemptions_max`.
fn check_end(left_out: Option<Fence>, producers: usize, preemptions_max: Option<usize>) {
    leave_out(left_out);
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions_max);
    builder.check(move || {
        let ending = Arc::new(Ending::new());
        let posting: Vec<_> = (0..producers)
            .map(|producer| {
                let ending = Arc::clone(&ending);
                thread::spawn(move || ending.post(producer))
            })
            .collect();
        ending.end();
        for producer in posting {
            producer.join().expect("loom reports panics itself");
        }
        for taken in &ending.taken[..producers] {
            assert_eq!(taken.load(SeqCst), 1, "each batch is taken once");
        }
    });
}

/// Explores `model` with a node, without the fence `left_out`, within `preemptions_max`.
fn check(left_out: Option<Fence>, preemptions_max: Option<usize>, model: fn(Arc<Node>)) {
    leave_out(left_out);
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions_max);
    builder.check(move || model(Arc::new(Node::new())));
}

fn spawn(node: &Arc<Node>, part: impl FnOnce(&Node) + 'static) -> thread::JoinHandle<()> {
    let node = Arc::clone(node);
    thread::spawn(move || part(&node))
}

/// The consumer goes to sleep while the first batch is posted.
fn work(node: Arc<Node>) {
    // Relaxed: before the other thread begins.
    node.closing.store(true, Ordering::Relaxed);
    let consumer = spawn(&node, |node| node.consume([1, 0]));
    node.produce(0, 0..1);
    consumer.join().expect("loom reports panics itself");
}

/// A producer goes to sleep with its second batch in hand while the first is taken: only the arena that comes back wakes it.
fn room(node: Arc<Node>) {
    node.post(0, 0);
    let consumer = spawn(&node, |node| {
        let mut head = Head::default();
        let batch = node.inbox.take(&mut head).expect("posted before this thread began");
        node.receive(batch, &mut [0, 0]);
    });
    node.produce(0, 1..2);
    consumer.join().expect("loom reports panics itself");
}

/// The consumer goes to sleep while the request to close comes.
fn close(node: Arc<Node>) {
    let consumer = spawn(&node, |node| node.consume([0, 0]));
    node.close();
    consumer.join().expect("loom reports panics itself");
}

/// Two batches from each of two producers, and then the close.
fn whole(node: Arc<Node>) {
    let consumer = spawn(&node, |node| node.consume([2, 2]));
    let other = spawn(&node, |node| node.produce(1, 0..2));
    node.produce(0, 0..2);
    node.close();
    other.join().expect("loom reports panics itself");
    consumer.join().expect("loom reports panics itself");
}

#[test]
fn work_wakes_a_sleeper() {
    check(None, None, work);
}

#[test]
fn room_wakes_a_sleeper_with_mail_in_hand() {
    check(None, None, room);
}

#[test]
fn close_wakes_a_sleeper() {
    check(None, None, close);
}

#[test]
fn two_producers_fill_wait_and_close() {
    check(None, Some(PREEMPTIONS_MAX), whole);
}

#[test]
#[should_panic(expected = "deadlock")]
fn work_is_lost_without_the_publisher_s_fence() {
    check(Some(Fence::Publish), None, work);
}

#[test]
#[should_panic(expected = "deadlock")]
fn work_is_lost_without_the_sleeper_s_fence() {
    check(Some(Fence::Sleep), None, work);
}

#[test]
#[should_panic(expected = "deadlock")]
fn room_is_lost_without_the_publisher_s_fence() {
    check(Some(Fence::Publish), None, room);
}

#[test]
#[should_panic(expected = "deadlock")]
fn room_is_lost_without_the_sleeper_s_fence() {
    check(Some(Fence::Sleep), None, room);
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_close_is_lost_without_the_sleeper_s_fence() {
    check(Some(Fence::Sleep), None, close);
}

#[test]
fn no_batch_is_left_behind_by_a_shard_that_ends() {
    check_end(None, 1, None);
    check_end(None, 2, Some(PREEMPTIONS_MAX));
}

#[test]
#[should_panic(expected = "each batch is taken once")]
fn a_batch_is_left_behind_without_the_publisher_s_fence() {
    check_end(Some(Fence::Publish), 1, None);
}

#[test]
#[should_panic(expected = "each batch is taken once")]
fn a_batch_is_left_behind_without_the_fence_of_the_end() {
    check_end(Some(Fence::End), 1, None);
}

#[test]
fn external_work_wakes_a_sleeper_and_its_entries_are_visible() {
    check_external_work(None, 1, None);
    check_external_work(None, 2, Some(PREEMPTIONS_MAX));
}

#[test]
#[should_panic(expected = "deadlock")]
fn external_work_is_lost_without_the_publisher_s_fence() {
    check_external_work(Some(Fence::Publish), 1, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn external_work_is_lost_without_the_sleeper_s_fence() {
    check_external_work(Some(Fence::Sleep), 1, None);
}
