//! A long turn, cut into slices: between two of them those are served who would wait for all of it.
//!
//! With thousands of busy clients a turn takes tens of milliseconds, and a push from outside would take as long to be
//! answered. It has a budget of its own for that, so that neither side starves the other.

use std::time::{Duration, Instant};

use super::Shard;
use super::io::Network;

/// How long is worked at a stretch.
const SLICE: Duration = Duration::from_millis(1);

/// Slices of sending between two looks at what other shards have posted: they need not wait for all of our sends. Looking
/// sooner sends by itself what would have shared a send a moment later.
const SLICES_PER_MAIL: u32 = 4;

/// Sessions served, or deliveries made, between two looks at the clock; few in tests, whose simulated nodes have a dozen.
const SESSIONS_PER_LOOK: u32 = if cfg!(test) { 2 } else { 16 };
const DELIVERIES_PER_LOOK: usize = 512;

/// A stretch of work.
pub(super) struct Slice {
    end: Instant,
    /// Which one of the flush it is, from 0.
    number: u32,
    /// Sessions served in it.
    sessions: u32,
    /// What was left of the turn's budget at the last look.
    deliveries: usize,
}

impl<N: Network> Shard<N> {
    /// Begins at `now`.
    pub(super) fn slice(&self, now: Instant) -> Slice {
        Slice { end: now + SLICE, number: 0, sessions: 0, deliveries: self.budget.left().deliveries }
    }

    /// Ends a slice of receiving if its time is over: answers requests.
    pub(super) fn serve_between_reads(&mut self, slice: &mut Slice) {
        if self.is_over(slice) {
            self.take_requests_mid_turn();
            slice.end = self.network.now() + SLICE;
        }
    }

    /// Ends a slice of sending if its time is over: answers requests, and now and then takes mail within the turn's budget.
    pub(super) fn serve_between_sends(&mut self, slice: &mut Slice) {
        if !self.is_over(slice) {
            return;
        }
        self.take_requests_mid_turn();
        slice.number += 1;
        // A single shard has no others who wait for it.
        if slice.number.is_multiple_of(SLICES_PER_MAIL) && self.mailbox.shard_count() > 1 {
            self.poll(Some(Duration::ZERO));
            self.take_mail();
            self.post_mid_flush(self.now);
        }
        slice.end = self.network.now() + SLICE;
    }

    /// Ends a slice of a broadcast's fan-out if its time is over: takes in what clients, callers and other shards have
    /// brought since, within the turn's budget, and sends what comes of it, for as long as a slice. A broadcast to thousands
    /// takes tens of milliseconds, for which nobody else's messages are held up; and these hold it up for no longer.
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
        self.inlets.check_news(&self.mailbox);
        if !self.inlets.requests.may_hold() {
            return;
        }
        self.budget.switch();
        while !self.budget.is_spent() && self.take_request() {}
        self.budget.switch();
    }
}
