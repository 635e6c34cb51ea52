//! The wake protocol: how a thread that sleeps in its poller learns of work in a queue.
//!
//! ```text
//!   producer                            sleeper
//!   publish to the ring                 flag = asleep
//!   fence(SeqCst)          ──╳──        fence(SeqCst)
//!   flag asleep? take it, wake          look at every ring once more; empty? sleep
//! ```
//! With both fences at least one side sees the other: either the producer sees the flag, or the
//! sleeper sees the work (the fences exclude store buffering). If either fence is missing, both sides can look
//! too early and the wake is lost; the loom model, `model.rs`, fails then. The doorbell decides which thread must
//! wake the sleeper. That thread makes the wake itself (one eventfd write), at most once per sleep.
//!
//! A shard that ends follows the same order, so that no batch stays in a ring that nobody reads:
//!
//! ```text
//!   producer                            shard that ends
//!   publish to the ring                 flag = ended
//!   fence(SeqCst)          ──╳──        fence(SeqCst)
//!   flag ended? empty the ring          empty the ring
//! ```
//! At least one side sees the other, and the ring gives each batch to one of them only.
//!
//! Hand-overs and requests come from other threads than shards, through external queues, which have a lock inside. Their
//! producer puts an entry into a queue, then raises a second flag, `external_work`, and then rings. The shard receives from
//! these queues only after it has lowered that flag, so a turn without external work takes no lock.

use crate::sync::{AtomicU8, Fence, Ordering, fence};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const ASLEEP_WITH_MAIL: u8 = 2;
const ENDED: u8 = 3;

/// The events that end a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Work only.
    UntilWork,
    /// Work, or a free arena: the sleeper holds mail that it could not post.
    UntilWorkOrRoom,
}

/// The next step of a producer that has published work and rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum RingOutcome {
    /// Nothing: the shard is awake, or another producer wakes it.
    NoWake,
    /// Wake the shard.
    Wake,
    /// Take the work back: the shard has ended and may not have seen it.
    Ended,
}

/// A shard's flags, shared with every thread that gives the shard work.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// The sleeper raises it. The sleeper lowers it, or else the one producer that then wakes the sleeper. `ENDED` is final.
    state: AtomicU8,
    /// 1 if an entry was put into an external queue since the shard last lowered this flag.
    external_work: AtomicU8,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE), external_work: AtomicU8::new(0) }
    }

    /// Raises the flag for external work, after an entry was put into an external queue. Does not wake the shard.
    pub(crate) fn raise_external_work(&self) {
        // Release: pairs with the swap in `take_external_work`. A swap, not a store: it continues the
        // release sequence of earlier producers, so that one acquire sees the entries of all of them.
        self.external_work.swap(1, Ordering::Release);
    }

    /// Says whether the flag for external work is raised.
    #[inline]
    pub(crate) fn has_external_work(&self) -> bool {
        // Relaxed: before a sleep, the fence in `park` orders this load; it pairs with the fence in `ring`. While awake,
        // the shard sees the flag a turn later at worst.
        self.external_work.load(Ordering::Relaxed) != 0
    }

    /// Lowers the flag for external work; says whether it was raised. If so, the shard must empty its external queues.
    #[inline]
    pub(crate) fn take_external_work(&self) -> bool {
        // Acquire: pairs with the swap in `raise_external_work`, so that the entries of the queues are visible.
        self.has_external_work() && self.external_work.swap(0, Ordering::Acquire) != 0
    }

    /// Sets the state to asleep. The sleeper must then look at all its queues once more, and may sleep only if all are empty.
    pub(crate) fn park(&self, sleep: Sleep) {
        let state = match sleep {
            Sleep::UntilWork => ASLEEP,
            Sleep::UntilWorkOrRoom => ASLEEP_WITH_MAIL,
        };
        // Relaxed: the fence orders it against the look at the queues; pairs with the load in `ring`.
        self.state.store(state, Ordering::Relaxed);
        fence(Fence::Sleep);
    }

    /// Sets the state to awake. If a producer has done so already, its wake of the poller is superfluous.
    pub(crate) fn unpark(&self) {
        // Relaxed: a producer that still sees the shard asleep wakes once too often, which is harmless.
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Marks the shard as ended. It must then empty its ring for the last time.
    pub(crate) fn end(&self) {
        // Relaxed: the fence orders it against the look at the ring; pairs with the load in `ring`.
        self.state.store(ENDED, Ordering::Relaxed);
        fence(Fence::End);
    }

    /// Returns the next step of a caller that has published work.
    pub(crate) fn ring(&self) -> RingOutcome {
        fence(Fence::Publish);
        // Relaxed: ordered by the fence; pairs with the stores in `park` and `end`.
        match self.state.load(Ordering::Relaxed) {
            AWAKE => RingOutcome::NoWake,
            ENDED => RingOutcome::Ended,
            // Relaxed: this only chooses the one producer that wakes; the ring's own release and acquire publish the
            // work. If it fails, the sleeper woke up, or ended, behind its fence, and sees the work.
            asleep => match self.state.compare_exchange(asleep, AWAKE, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => RingOutcome::Wake,
                Err(_) => RingOutcome::NoWake,
            },
        }
    }

    /// Says, after an arena was given back, whether the caller must wake a sleeper that waits for one.
    #[must_use]
    pub(crate) fn ring_for_room(&self) -> bool {
        fence(Fence::Publish);
        // Relaxed, as in `ring`.
        self.state.load(Ordering::Relaxed) == ASLEEP_WITH_MAIL
            && self.state.compare_exchange(ASLEEP_WITH_MAIL, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(pombo_loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_one_ringer_wakes_and_only_a_sleeper_is_woken() {
        let bell = Doorbell::new();
        assert_eq!(bell.ring(), RingOutcome::NoWake);
        bell.park(Sleep::UntilWork);
        assert!(!bell.ring_for_room(), "it does not wait for room");
        assert_eq!(bell.ring(), RingOutcome::Wake);
        assert_eq!(bell.ring(), RingOutcome::NoWake, "woken already");
        bell.park(Sleep::UntilWorkOrRoom);
        assert!(bell.ring_for_room());
        assert!(!bell.ring_for_room());
        bell.park(Sleep::UntilWorkOrRoom);
        bell.unpark();
        assert_eq!(bell.ring(), RingOutcome::NoWake);
        bell.end();
        assert_eq!((bell.ring(), bell.ring()), (RingOutcome::Ended, RingOutcome::Ended));
        assert!(!bell.ring_for_room());
    }
}
