//! The wake protocol: how a thread that sleeps in its poller learns of work in a queue.
//!
//! ```text
//!   producer                            sleeper
//!   publish to the ring                 flag = asleep
//!   fence(SeqCst)          ──╳──        fence(SeqCst)
//!   flag asleep? take it, wake          look at every ring once more; empty? sleep
//! ```
//! With both fences at least one side sees the other: either the producer sees the flag, or the
//! sleeper sees the work (store buffering is what they exclude). Without either, both can look
//! too early and the wake is lost; the loom model, `model.rs`, fails then. The doorbell decides who must
//! wake; the wake itself (one eventfd write) is the caller's, and comes at most once per sleep.
//!
//! The end of a shard goes the same way, so that no batch is left in a ring that nobody will read:
//!
//! ```text
//!   producer                            shard that ends
//!   publish to the ring                 flag = ended
//!   fence(SeqCst)          ──╳──        fence(SeqCst)
//!   flag ended? empty the ring          empty the ring
//! ```
//! At least one side sees the other, and a batch is taken out of the ring once.
//!
//! Hand-overs and requests come from outside the shards, in queues that have a lock inside. A producer outside puts an
//! entry into a queue, then raises a second flag, the news, and then rings. The shard receives from these queues only
//! after it has taken that flag down, so a turn without news takes no lock.

use crate::sync::{AtomicU8, Fence, Ordering, fence};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const ASLEEP_WITH_MAIL: u8 = 2;
const ENDED: u8 = 3;

/// What else than work may end the sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Work only.
    UntilWork,
    /// Work, or room in a mailbox: the sleeper holds mail that it could not post.
    UntilWorkOrRoom,
}

/// The next step of a producer that has published work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Ring {
    /// None: the shard is awake, or another producer wakes it.
    Heard,
    /// Wake the shard.
    Wake,
    /// Take the work back: the shard has ended and may not have seen it.
    Ended,
}

/// The sleeper's flag; one per shard, shared with everybody who gives it work.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Raised by the sleeper; lowered by the sleeper, or by the one producer that then wakes it. `ENDED` is the last.
    state: AtomicU8,
    /// 1 when something was put into a queue from outside since the shard last took this down.
    news: AtomicU8,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE), news: AtomicU8::new(0) }
    }

    /// Raises the news, after an entry was put into a queue from outside. Does not wake the shard.
    pub(crate) fn announce(&self) {
        // Release: pairs with the swap in `take_news`. A swap and no store: it keeps the
        // release sequence of earlier producers, so that one acquire sees the entries of all of them.
        self.news.swap(1, Ordering::Release);
    }

    /// Whether the news are up.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        // Relaxed: before a sleep it is ordered by the fence in `park`, which pairs with the one in `ring`; awake, the
        // shard sees it a turn later at worst.
        self.news.load(Ordering::Relaxed) != 0
    }

    /// Takes the news down; says whether they were up. If so, the shard must empty its queues from outside.
    #[inline]
    pub(crate) fn take_news(&self) -> bool {
        // Acquire: pairs with the swap in `announce`, so that the entries of the queues are visible.
        self.has_news() && self.news.swap(0, Ordering::Acquire) != 0
    }

    /// Raises the flag. The sleeper must then look at all its queues once more, and may sleep only if all are empty.
    pub(crate) fn park(&self, sleep: Sleep) {
        let state = match sleep {
            Sleep::UntilWork => ASLEEP,
            Sleep::UntilWorkOrRoom => ASLEEP_WITH_MAIL,
        };
        // Relaxed: the fence orders it against the look at the queues; pairs with the load in `ring`.
        self.state.store(state, Ordering::Relaxed);
        fence(Fence::Sleep);
    }

    /// Lowers the flag; whoever took it meanwhile has woken, or is about to wake, the poller for nothing.
    pub(crate) fn unpark(&self) {
        // Relaxed: a producer that still sees the flag raised wakes once too often, which is harmless.
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Says that the shard has ended. It must then empty its ring for the last time.
    pub(crate) fn end(&self) {
        // Relaxed: the fence orders it against the look at the ring; pairs with the load in `ring`.
        self.state.store(ENDED, Ordering::Relaxed);
        fence(Fence::End);
    }

    /// Returns the next step of a caller that has published work.
    pub(crate) fn ring(&self) -> Ring {
        fence(Fence::Publish);
        // Relaxed: ordered by the fence; pairs with the stores in `park` and `end`.
        match self.state.load(Ordering::Relaxed) {
            AWAKE => Ring::Heard,
            ENDED => Ring::Ended,
            // Relaxed: it makes one caller the waker; the work itself is handed over by the ring's own release and
            // acquire. Where it fails, the sleeper got up, or ended, behind the fence, and sees the work.
            asleep => match self.state.compare_exchange(asleep, AWAKE, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => Ring::Wake,
                Err(_) => Ring::Heard,
            },
        }
    }

    /// Says, after room was made, whether the caller must wake a sleeper that waits for room.
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
        assert_eq!(bell.ring(), Ring::Heard);
        bell.park(Sleep::UntilWork);
        assert!(!bell.ring_for_room(), "it does not wait for room");
        assert_eq!(bell.ring(), Ring::Wake);
        assert_eq!(bell.ring(), Ring::Heard, "woken already");
        bell.park(Sleep::UntilWorkOrRoom);
        assert!(bell.ring_for_room());
        assert!(!bell.ring_for_room());
        bell.park(Sleep::UntilWorkOrRoom);
        bell.unpark();
        assert_eq!(bell.ring(), Ring::Heard);
        bell.end();
        assert_eq!((bell.ring(), bell.ring()), (Ring::Ended, Ring::Ended));
        assert!(!bell.ring_for_room());
    }
}
