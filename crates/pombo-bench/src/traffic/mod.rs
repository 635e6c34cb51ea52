//! The messages between the clients: unicasts in a closed loop or at a fixed rate, broadcasts from one to all, or both.
//!
//! In a closed loop an arrival frees a place in its sender's window. The message that takes the place is due from that
//! moment, not from when the generator writes it: waiting in the generator or in a full socket counts as latency.
//! At a fixed rate a message is due at its time in the schedule, whether or not the messages before it have arrived, so
//! there is no coordinated omission when a server stalls.

mod broadcast;
mod mixed;
mod schedule;
mod targets;
mod unicast;

use hdrhistogram::Histogram;

use super::generator::{Due, Traffic};
use super::latency::latency_histogram;
use super::ledger::Tally;
use super::wire::Writer;

pub(super) use self::broadcast::Broadcast;
pub(super) use self::mixed::{Mixed, Visits};
pub use self::targets::Targets;
pub(super) use self::unicast::Unicast;

/// The connection that broadcasts.
const BROADCASTER: u32 = 0;

/// Traffic that can be started, measured, stopped, and accounted for.
pub(super) trait Load: Traffic {
    /// The state that it shares with all loads.
    fn state(&self) -> &LoadState;

    /// The same, to change.
    fn state_mut(&mut self) -> &mut LoadState;

    /// Fills every window, or begins the schedule.
    fn start(&mut self, now: u64, due: &mut Due);

    /// Goes on after a pause of the generator itself, which must not count as latency.
    fn resume(&mut self, _now: u64) {}

    /// How late the generator was to take up what its schedule said, if it has one.
    fn lateness(&self) -> Option<&Histogram<u64>> {
        None
    }

    /// Whether the server is so far behind the schedule that it makes no sense to go on.
    fn is_overrun(&self) -> bool {
        false
    }

    /// Begins what is measured: forgets latencies so far, and sends no more than `messages` from here on.
    fn mark(&mut self, messages: Option<u64>) {
        self.state_mut().mark(messages);
    }

    /// Ends a part of what is measured, and returns the latency of the deliveries in it.
    fn lap(&mut self) -> Histogram<u64> {
        self.state_mut().lap()
    }

    /// Sends no more.
    fn stop(&mut self) {
        self.state_mut().remaining = 0;
    }

    /// Messages on their way.
    fn in_flight(&self) -> u64;

    /// Whether the last message was sent.
    fn is_exhausted(&self) -> bool {
        self.state().remaining == 0
    }

    /// The counts so far.
    fn tally(&self) -> Tally;

    /// How often a connection came back.
    fn visits(&self) -> u64 {
        0
    }

    /// The first arrival that was not one of ours, if any.
    fn stray(&self) -> Option<&str> {
        self.state().stray.as_deref()
    }

    /// Ends the load; returns its counts and latencies.
    fn close(self) -> Outcome;
}

/// The counts and latencies of a load.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Of each delivery since the mark; of unicasts only, if there are both.
    pub(super) latency: Histogram<u64>,
    /// Of each broadcast since the mark: to its last receiver.
    pub(super) to_last: Option<Histogram<u64>>,
    /// Of each delivery of a broadcast since the mark, if there are both.
    pub(super) broadcasts: Option<Histogram<u64>>,
}

/// The state that all loads have besides their ledger.
pub(super) struct LoadState {
    writer: Writer,
    /// Of the laps before this one.
    latency: Histogram<u64>,
    /// Of the present lap.
    lap: Histogram<u64>,
    /// Messages that may still be sent.
    remaining: u64,
    stray: Option<String>,
}

impl LoadState {
    fn new(writer: Writer) -> Self {
        Self { writer, latency: latency_histogram(), lap: latency_histogram(), remaining: u64::MAX, stray: None }
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.latency.reset();
        self.lap.reset();
        self.remaining = messages.unwrap_or(u64::MAX);
    }

    fn lap(&mut self) -> Histogram<u64> {
        self.latency.add(&self.lap).expect("both have the same bounds");
        std::mem::replace(&mut self.lap, latency_histogram())
    }

    /// The latency of all laps.
    fn close(mut self) -> Histogram<u64> {
        self.lap();
        self.latency
    }

    #[cold]
    fn note_stray(&mut self, payload: &[u8]) {
        self.stray.get_or_insert_with(|| String::from_utf8_lossy(&payload[..payload.len().min(120)]).into_owned());
    }
}
