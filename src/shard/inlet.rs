//! The receiving ends of the queues from outside the shards, which a shard touches only after an entry was announced.
//!
//! Such a queue has a lock inside: a thread that is preempted while it holds the lock would hold the shard up. So the
//! shard touches a queue only after it has lowered its flag for external work (see
//! [`crate::mailbox::ShardWaker::wake`]), and
//! then until it finds the queue empty. No other file of the shard receives from such a queue: `tests/tidy.rs` fails
//! otherwise.

use super::handover::Handover;
use super::request::Request;
use crate::mailbox::Mailbox;

/// The queues of a shard from outside. One flag announces entries in both (see [`Mailbox::take_external_work`]), so it is taken
/// down here, where both are noted.
#[derive(Debug)]
pub(super) struct Inlets<S> {
    pub(super) handovers: Inlet<Handover<S>>,
    pub(super) requests: Inlet<Request>,
}

impl<S> Inlets<S> {
    pub(super) fn new(handovers: flume::Receiver<Handover<S>>, requests: flume::Receiver<Request>) -> Self {
        Self { handovers: Inlet::new(handovers), requests: Inlet::new(requests) }
    }

    /// Takes the flag down; if it was up, both queues are looked into until they are found empty.
    #[inline]
    pub(super) fn check_external_work(&mut self, mailbox: &Mailbox) {
        if mailbox.take_external_work() {
            self.handovers.may_hold = true;
            self.requests.may_hold = true;
        }
    }

    /// Whether there may be an entry.
    #[inline]
    pub(super) fn may_hold(&self) -> bool {
        self.handovers.may_hold || self.requests.may_hold
    }

    /// Drops all entries, as the last act of a shard: their senders learn of it when their answer channels close.
    pub(super) fn abandon(&mut self) {
        while self.requests.queue.try_recv().is_ok() {}
        while self.handovers.queue.try_recv().is_ok() {}
    }
}

/// The receiving end of one queue.
#[derive(Debug)]
pub(super) struct Inlet<T> {
    queue: flume::Receiver<T>,
    /// Whether the queue may hold an entry: one was announced, and the queue was not found empty since.
    may_hold: bool,
}

impl<T> Inlet<T> {
    /// Makes an inlet that looks once unannounced: an entry may have been sent before the shard was made.
    fn new(queue: flume::Receiver<T>) -> Self {
        Self { queue, may_hold: true }
    }

    /// Whether there may be an entry.
    #[inline]
    pub(super) fn may_hold(&self) -> bool {
        self.may_hold
    }

    /// Takes the oldest entry; `None` when there is none, or none was announced.
    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        if !self.may_hold {
            return None;
        }
        let taken = self.queue.try_recv().ok();
        self.may_hold = taken.is_some();
        taken
    }

    /// Whether the queue is empty, and every sender is gone. It locks the queue: for a drain only.
    pub(super) fn is_exhausted(&self) -> bool {
        self.queue.is_disconnected() && self.queue.is_empty()
    }

    /// Returns how many entries there are, announced or not.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
