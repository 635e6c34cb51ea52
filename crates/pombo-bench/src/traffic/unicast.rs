//! The active connections each keep a window of messages in flight, or together follow a schedule.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::generator::{Due, Traffic};
use super::super::ledger::{Receipt, Tally, UnicastLedger};
use super::super::wire::{Addresses, Stamp, Writer};
use super::schedule::Schedule;
use super::targets::Chooser;
use super::{Load, LoadState, Outcome, Targets};

/// Unicasts between connections.
pub(in super::super) struct Unicast {
    pub(super) state: LoadState,
    pub(super) ledger: UnicastLedger,
    /// In place of windows.
    schedule: Option<Schedule>,
    /// At a fixed rate: while more messages than this are in flight, no more are sent.
    in_flight_max: u64,
    addresses: Addresses,
    chooser: Chooser,
    /// Connections that send on and on.
    connections: u32,
    window: u32,
}

impl Unicast {
    /// Prepares `window` messages in flight from each of the first `connections`, of those that `addresses` has; each
    /// writes to `fan_out` others by turns, where the targets say so.
    pub(in super::super) fn new(
        connections: u32,
        window: u32,
        targets: Targets,
        fan_out: u32,
        addresses: Addresses,
        writer: Writer,
    ) -> Self {
        Self {
            state: LoadState::new(writer),
            ledger: UnicastLedger::new(connections, window, addresses.count()),
            schedule: None,
            in_flight_max: u64::MAX,
            addresses,
            chooser: Chooser::new(targets, connections, fan_out),
            connections,
            window,
        }
    }

    pub(in super::super) fn writer(&self) -> &Writer {
        &self.state.writer
    }

    /// Sends `rate` messages a second in place of the windows, the connections taking turns. While more than `in_flight_max`
    /// are in flight, it sends nothing; it may exceed that by the messages that are due at once.
    pub(in super::super) fn with_rate(mut self, rate: u32, in_flight_max: u64) -> Self {
        self.schedule = Some(Schedule::new(rate));
        self.in_flight_max = in_flight_max;
        self
    }

    /// Records a message that arrived, by its stamp.
    #[inline]
    pub(super) fn take(&mut self, receiver: u32, stamp: &Stamp, now: u64, due: &mut Due) -> Receipt {
        let receipt = self.ledger.arrive(receiver, stamp);
        if receipt.delivered {
            self.state.lap.saturating_record(now.saturating_sub(stamp.due));
        }
        if receipt.freed > 0 && self.state.remaining > 0 && self.schedule.is_none() && stamp.sender < self.connections {
            due.owe(stamp.sender, receipt.freed, now);
        }
        receipt
    }

    /// Records an arrival that this generator did not send.
    #[cold]
    pub(super) fn refuse(&mut self, payload: &[u8]) {
        self.state.note_stray(payload);
        self.ledger.tally.damaged += 1;
    }
}

impl Traffic for Unicast {
    #[inline]
    fn look(&mut self, now: u64, due: &mut Due) -> Duration {
        let Some(schedule) = &mut self.schedule else { return Duration::MAX };
        if self.state.remaining == 0 || self.ledger.in_flight() > self.in_flight_max {
            return Duration::MAX;
        }
        while let Some((place, since)) = schedule.take(now) {
            due.owe((place % u64::from(self.connections)) as u32, 1, since);
        }
        schedule.wait(now)
    }

    #[inline]
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due) {
        match self.state.writer.read(payload) {
            Some(stamp) => {
                self.take(receiver, &stamp, now, due);
            }
            None => self.refuse(payload),
        }
    }

    #[inline]
    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>) {
        let messages = u64::from(owed).min(self.state.remaining);
        self.state.remaining -= messages;
        for _ in 0..messages {
            let receiver = self.chooser.receiver(sender, self.ledger.next(sender));
            let number = self.ledger.depart(sender, receiver);
            // Connections take turns, so the number tells the message's place in the schedule.
            let since = match &self.schedule {
                Some(schedule) if sender < self.connections => {
                    schedule.time_of(number * u64::from(self.connections) + u64::from(sender))
                }
                _ => since,
            };
            self.state.writer.write(out, self.addresses.of(receiver), sender, receiver, number, since);
        }
    }
}

impl Load for Unicast {
    fn state(&self) -> &LoadState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut LoadState {
        &mut self.state
    }

    fn start(&mut self, now: u64, due: &mut Due) {
        if let Some(schedule) = &mut self.schedule {
            schedule.start = now;
            return;
        }
        for sender in 0..self.connections {
            due.owe(sender, self.window, now);
        }
    }

    fn resume(&mut self, now: u64) {
        if let Some(schedule) = &mut self.schedule {
            schedule.resume(now);
        }
    }

    fn lateness(&self) -> Option<&Histogram<u64>> {
        self.schedule.as_ref().map(|schedule| &schedule.lateness)
    }

    fn is_overrun(&self) -> bool {
        self.ledger.in_flight() > self.in_flight_max
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.state.mark(messages);
        if let Some(schedule) = &mut self.schedule {
            schedule.lateness.reset();
        }
    }

    fn in_flight(&self) -> u64 {
        self.ledger.in_flight()
    }

    fn tally(&self) -> Tally {
        self.ledger.tally
    }

    fn close(self) -> Outcome {
        Outcome { tally: self.ledger.close(), latency: self.state.close(), to_last: None, broadcasts: None }
    }
}
