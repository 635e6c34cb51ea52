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

use crate::sync::{AtomicU8, Fence, Ordering, fence};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const ASLEEP_WITH_MAIL: u8 = 2;

/// What else than work may end the sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Work only.
    UntilWork,
    /// Work, or room in a mailbox: the sleeper holds mail that it could not post.
    UntilWorkOrRoom,
}

/// The sleeper's flag; one per shard, shared with everybody who gives it work.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Raised by the sleeper; lowered by the sleeper, or by the one producer that then wakes it.
    state: AtomicU8,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(AWAKE) }
    }

    /// Raises the flag. The sleeper must then look at all its queues once more, and may sleep only if all are empty.
    pub(crate) fn lie_down(&self, sleep: Sleep) {
        let state = match sleep {
            Sleep::UntilWork => ASLEEP,
            Sleep::UntilWorkOrRoom => ASLEEP_WITH_MAIL,
        };
        // Relaxed: the fence orders it against the look at the queues; pairs with the load in `ring`.
        self.state.store(state, Ordering::Relaxed);
        fence(Fence::Sleep);
    }

    /// Lowers the flag; whoever took it meanwhile has woken, or is about to wake, the poller for nothing.
    pub(crate) fn get_up(&self) {
        // Relaxed: a producer that still sees the flag raised wakes once too often, which is harmless.
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Says, after work was published, whether the caller must wake the sleeper.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        fence(Fence::Publish);
        // Relaxed: ordered by the fence; pairs with the store in `lie_down`. The swap makes one caller the waker;
        // the work itself is handed over by the ring's own release and acquire.
        self.state.load(Ordering::Relaxed) != AWAKE && self.state.swap(AWAKE, Ordering::Relaxed) != AWAKE
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
        assert!(!bell.ring());
        bell.lie_down(Sleep::UntilWork);
        assert!(!bell.ring_for_room(), "it does not wait for room");
        assert!(bell.ring());
        assert!(!bell.ring(), "woken already");
        bell.lie_down(Sleep::UntilWorkOrRoom);
        assert!(bell.ring_for_room());
        assert!(!bell.ring_for_room());
        bell.lie_down(Sleep::UntilWorkOrRoom);
        bell.get_up();
        assert!(!bell.ring());
    }
}
