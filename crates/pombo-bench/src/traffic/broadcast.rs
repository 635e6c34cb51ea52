//! One connection keeps a window of messages to everybody in flight.

use hdrhistogram::Histogram;

use super::super::generator::{Due, Traffic};
use super::super::latency::latency_histogram;
use super::super::ledger::{BroadcastLedger, Receipt, Tally};
use super::super::wire::{Addresses, EVERYBODY, Stamp, Writer};
use super::{BROADCASTER, Load, LoadState, Outcome};

/// Broadcasts from one connection to all.
pub(in super::super) struct Broadcast {
    pub(super) state: LoadState,
    pub(super) ledger: BroadcastLedger,
    addresses: Addresses,
    window: u32,
    to_last: Histogram<u64>,
}

impl Broadcast {
    /// Prepares `window` broadcasts in flight to all `connections`, the sender among them.
    pub(in super::super) fn new(connections: u32, window: u32, writer: Writer) -> Self {
        Self {
            state: LoadState::new(writer),
            ledger: BroadcastLedger::new(connections, window, BROADCASTER),
            addresses: Addresses::new(["all"]),
            window,
            to_last: latency_histogram(),
        }
    }

    /// Appends one broadcast, due since `since`, to `out`, unless the last was sent; its sender has sent so many unicasts.
    pub(super) fn send(&mut self, sender: u32, since: u64, unicasts_before: u64, out: &mut Vec<u8>) {
        if self.state.remaining > 0 {
            self.state.remaining -= 1;
            let number = self.ledger.depart(since, unicasts_before);
            self.state.writer.write(out, self.addresses.of(0), sender, EVERYBODY, number, since);
        }
    }

    /// Enters an arrival whose stamp is read.
    #[inline]
    pub(super) fn take(&mut self, receiver: u32, stamp: &Stamp, now: u64) -> Receipt {
        let to_last = &mut self.to_last;
        let receipt = self.ledger.arrive(receiver, stamp, |complete| {
            to_last.saturating_record(now.saturating_sub(complete.due));
        });
        if receipt.delivered {
            self.state.lap.saturating_record(now.saturating_sub(stamp.due));
        }
        receipt
    }
}

impl Traffic for Broadcast {
    #[inline]
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due) {
        let Some(stamp) = self.state.writer.read(payload) else {
            self.state.note_stray(payload);
            self.ledger.tally.damaged += 1;
            return;
        };
        let receipt = self.take(receiver, &stamp, now);
        if receipt.freed > 0 && self.state.remaining > 0 {
            due.owe(BROADCASTER, receipt.freed, now);
        }
    }

    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>) {
        for _ in 0..owed {
            self.send(sender, since, 0, out);
        }
    }
}

impl Load for Broadcast {
    fn state(&self) -> &LoadState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut LoadState {
        &mut self.state
    }

    fn start(&mut self, now: u64, due: &mut Due) {
        due.owe(BROADCASTER, self.window, now);
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.state.mark(messages);
        self.to_last.reset();
    }

    fn in_flight(&self) -> u64 {
        self.ledger.in_flight()
    }

    fn tally(&self) -> Tally {
        self.ledger.tally
    }

    fn close(self) -> Outcome {
        Outcome {
            tally: self.ledger.close(),
            latency: self.state.close(),
            to_last: Some(self.to_last),
            broadcasts: None,
        }
    }
}
