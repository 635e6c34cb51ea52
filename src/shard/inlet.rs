//! The receiving end of a queue from outside, which the shard touches only after an entry was announced.
//!
//! The queue has a lock inside: a thread that is preempted in it would hold the shard up. So the shard touches it only
//! after it has lowered its flag for external work (see [`crate::mailbox::ShardWaker::wake`]), and then until the queue is empty.
//! No other file of the shard receives from such a queue: `tests/tidy.rs` fails otherwise.

/// The shard's end of a queue from outside.
#[derive(Debug)]
pub(super) struct Inlet<T> {
    queue: flume::Receiver<T>,
    /// Whether the queue may hold something: there were news, and it was not found empty since.
    may_hold: bool,
}

impl<T> Inlet<T> {
    /// Makes one that looks once without news: an entry may have been put there before the shard was made.
    pub(super) fn new(queue: flume::Receiver<T>) -> Self {
        Self { queue, may_hold: true }
    }

    /// Takes note of news: the queue is looked into from now on, until it is found empty.
    pub(super) fn note(&mut self) {
        self.may_hold = true;
    }

    /// Whether there may be something to take.
    #[inline]
    pub(super) fn may_hold(&self) -> bool {
        self.may_hold
    }

    /// Takes the oldest entry; `None` when there is none, or none that was announced.
    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        if !self.may_hold {
            return None;
        }
        let taken = self.queue.try_recv().ok();
        self.may_hold = taken.is_some();
        taken
    }

    /// Throws away what is left, as the last act of a shard: whoever put it there is told by its loss.
    pub(super) fn abandon(&mut self) {
        while self.queue.try_recv().is_ok() {}
    }

    /// Whether nothing is left and nothing can come; locks, so it is for a drain only.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_disconnected() && self.queue.is_empty()
    }

    /// Returns how many entries wait, announced or not.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
