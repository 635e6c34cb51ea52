//! Cuts long work into slices of time, and serves others between two slices.
//!
//! With thousands of busy clients a turn takes tens of milliseconds, and a push from outside would wait as long for its
//! answer. Requests that are served between slices have a budget of their own, so that neither side starves the other.

use std::time::{Duration, Instant};

use super::Shard;
use super::io::Network;

/// Length of a slice.
const SLICE: Duration = Duration::from_millis(1);

/// Slices of sending after which mail from other shards is taken, so that it does not wait for the whole flush. Taken
/// more often, messages would go out alone that could have shared a send call a moment later.
const SLICES_PER_MAIL: u32 = 4;

/// Sessions served, or deliveries made, between two looks at the clock. Few in tests: a simulated node has a dozen
/// sessions.
const SESSIONS_PER_LOOK: u32 = if cfg!(test) { 2 } else { 16 };
const DELIVERIES_PER_LOOK: usize = 512;

/// A slice of work.
pub(super) struct Slice {
    end: Instant,
    /// Index of the slice in its flush.
    number: u32,
    /// Sessions served since the work began.
    sessions: u32,
    /// Deliveries left in the turn's budget at the last look at the clock.
    deliveries: usize,
}

impl<N: Network> Shard<N> {
    /// Returns a slice that begins at `now`.
    pub(super) fn slice(&self, now: Instant) -> Slice {
        Slice { end: now + SLICE, number: 0, sessions: 0, deliveries: self.budget.left().deliveries }
    }

    /// Called after each session that is read: if the slice is over, answers requests and begins another.
    pub(super) fn serve_between_reads(&mut self, slice: &mut Slice) {
        if self.is_over(slice) {
            self.take_requests_mid_turn();
            slice.end = self.network.now() + SLICE;
        }
    }

    /// Called after each session that is flushed: if the slice is over, answers requests, takes mail after every
    /// [`SLICES_PER_MAIL`]th slice, and begins another.
    pub(super) fn serve_between_sends(&mut self, slice: &mut Slice) {
        if !self.is_over(slice) {
            return;
        }
        self.take_requests_mid_turn();
        slice.number += 1;
        // A single shard gets no mail.
        if slice.number.is_multiple_of(SLICES_PER_MAIL) && self.mailbox.shard_count() > 1 {
            self.poll(Some(Duration::ZERO));
            self.take_mail();
            self.post_mid_flush(self.now);
        }
        slice.end = self.network.now() + SLICE;
    }

    /// Called after each receiver of a broadcast: if the slice is over, serves clients, requests and mail within the
    /// turn's budget, flushes for at most as long as a slice, and begins another.
    ///
    /// A broadcast to thousands takes tens of milliseconds. Other messages do not wait for its end.
    pub(super) fn serve_during_fan_out(&mut self, slice: &mut Slice) {
        if !self.is_over(slice) {
            return;
        }
        self.poll(Some(Duration::ZERO));
        self.take_requests_mid_turn();
        self.receive_ready();
        self.take_mail();
        self.post_mid_flush(self.now);
        let mut others = self.slice(self.now);
        for _ in 0..self.lists.dirty_len() {
            self.flush_dirty();
            if self.is_over(&mut others) {
                break;
            }
        }
        slice.end = self.network.now() + SLICE;
    }

    fn is_over(&self, slice: &mut Slice) -> bool {
        slice.sessions += 1;
        let delivered = slice.deliveries.saturating_sub(self.budget.left().deliveries);
        if !slice.sessions.is_multiple_of(SESSIONS_PER_LOOK) && delivered < DELIVERIES_PER_LOOK {
            return false;
        }
        slice.deliveries = self.budget.left().deliveries;
        self.network.now() >= slice.end
    }

    fn take_requests_mid_turn(&mut self) {
        self.inlets.check_external_work(&self.mailbox);
        if !self.inlets.requests.may_hold() {
            return;
        }
        self.budget.switch();
        while !self.budget.is_spent() && self.take_request() {}
        self.budget.switch();
    }
}
