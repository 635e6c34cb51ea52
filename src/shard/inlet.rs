//! A queue into a shard from outside, into which the shard looks only when somebody has said that there is something.
//!
//! The queue has a lock inside: a thread that is preempted in it would hold the shard up. So the shard touches it only
//! when the news of its bell were up (see [`crate::mailbox::Bell::ring`]), and from then on until it is empty. The one
//! place where a shard receives from such a queue; `tests/tidy.rs` sees to that.

/// The shard's end of a queue from outside.
#[derive(Debug)]
pub(super) struct Inlet<T> {
    queue: flume::Receiver<T>,
    /// Whether the queue may hold something: there were news, and it was not found empty since.
    may_hold: bool,
}

impl<T> Inlet<T> {
    /// Makes one that looks once without news: something may have been put there before there was a shard.
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
