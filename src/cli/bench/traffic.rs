//! What the clients say to each other: unicasts in a closed loop or at a fixed rate, or broadcasts from one to all.
//!
//! In a closed loop a receipt frees a place in its sender's window, and the message that takes the place is due from that moment, not
//! from when the generator comes to write it: waiting in the generator or in a full socket counts as latency. At a fixed
//! rate a message is due when its schedule says, whatever became of those before it: no omission is coordinated with a
//! server that stalls.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::generator::{Due, Traffic, latency_histogram};
use super::ledger::{BroadcastLedger, Tally, UnicastLedger};
use super::wire::{Addresses, EVERYBODY, Writer};

/// The connection that broadcasts.
const BROADCASTER: u32 = 0;

/// Traffic that can be started, measured, stopped, and accounted for.
pub(super) trait Load: Traffic {
    /// Fills every window, or begins the schedule.
    fn start(&mut self, now: u64, due: &mut Due);

    /// Goes on after a pause of the generator's own, which is nobody's latency.
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
    fn mark(&mut self, messages: Option<u64>);

    /// Sends no more.
    fn stop(&mut self);

    /// Messages on their way.
    fn in_flight(&self) -> u64;

    /// Whether the last message was sent.
    fn is_exhausted(&self) -> bool;

    /// The books so far.
    fn tally(&mut self) -> &mut Tally;

    /// The first arrival that was not one of ours, if any.
    fn stray(&self) -> Option<&str>;

    /// Closes the books.
    fn close(self) -> Outcome;
}

/// What a load comes to.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Of each delivery since the mark.
    pub(super) latency: Histogram<u64>,
    /// Of each broadcast since the mark: to its last receiver.
    pub(super) to_last: Option<Histogram<u64>>,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Targets {
    /// 0 and 1 to each other, 2 and 3 to each other; an odd last one to itself.
    Pairs,
    /// Each to the next, the last to the first.
    Next,
    /// Each to itself.
    #[value(name = "self")]
    #[serde(rename = "self")]
    Itself,
    /// Each message to any of the others.
    Random,
}

impl Targets {
    #[inline]
    fn of(self, sender: u32, connections: u32, random: &mut Random) -> u32 {
        match self {
            Targets::Pairs if sender ^ 1 < connections => sender ^ 1,
            Targets::Next if sender + 1 < connections => sender + 1,
            Targets::Next => 0,
            Targets::Random if connections > 1 => {
                let other = random.below(connections - 1);
                other + u32::from(other >= sender)
            }
            Targets::Itself | Targets::Pairs | Targets::Random => sender,
        }
    }
}

/// Marsaglia's xorshift64: even enough to choose a receiver, and the same in every run.
struct Random(u64);

impl Random {
    #[inline]
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// What both loads keep beside their books.
struct Common {
    writer: Writer,
    latency: Histogram<u64>,
    /// Messages that may still be sent.
    remaining: u64,
    stray: Option<String>,
}

impl Common {
    fn new(writer: Writer) -> Self {
        Self { writer, latency: latency_histogram(), remaining: u64::MAX, stray: None }
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.latency.reset();
        self.remaining = messages.unwrap_or(u64::MAX);
    }

    #[cold]
    fn note_stray(&mut self, payload: &[u8]) {
        self.stray.get_or_insert_with(|| String::from_utf8_lossy(&payload[..payload.len().min(120)]).into_owned());
    }
}

/// Every connection keeps a window of messages in flight, or all of them together keep to a schedule.
pub(super) struct Unicast {
    /// In place of windows.
    schedule: Option<Schedule>,
    common: Common,
    ledger: UnicastLedger,
    addresses: Addresses,
    targets: Targets,
    random: Random,
    connections: u32,
    window: u32,
}

impl Unicast {
    /// Prepares `window` messages in flight from each of the connections that `addresses` has.
    pub(super) fn new(connections: u32, window: u32, targets: Targets, addresses: Addresses, writer: Writer) -> Self {
        Self {
            schedule: None,
            common: Common::new(writer),
            ledger: UnicastLedger::new(connections, window),
            addresses,
            targets,
            random: Random(0x9e37_79b9_7f4a_7c15),
            connections,
            window,
        }
    }

    /// Sends `rate` messages a second in place of the windows, the connections taking turns; no more than
    /// `in_flight_max` are on their way.
    pub(super) fn with_rate(mut self, rate: u32, in_flight_max: u64) -> Self {
        self.schedule = Some(Schedule::new(rate, in_flight_max));
        self
    }
}

impl Traffic for Unicast {
    #[inline]
    fn look(&mut self, now: u64, due: &mut Due) -> Duration {
        let Some(schedule) = &mut self.schedule else { return Duration::MAX };
        if self.common.remaining == 0 || self.ledger.in_flight() > schedule.in_flight_max {
            return Duration::MAX;
        }
        while schedule.time_of(schedule.next) <= now {
            let since = schedule.time_of(schedule.next);
            schedule.lateness.saturating_record(now - since);
            due.owe((schedule.next % u64::from(self.connections)) as u32, 1, since);
            schedule.next += 1;
        }
        Duration::from_nanos(schedule.time_of(schedule.next) - now)
    }

    #[inline]
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due) {
        let Some(stamp) = self.common.writer.read(payload) else {
            self.common.note_stray(payload);
            self.ledger.tally().damaged += 1;
            return;
        };
        let receipt = self.ledger.arrive(receiver, &stamp);
        if receipt.delivered {
            self.common.latency.saturating_record(now.saturating_sub(stamp.due));
        }
        if receipt.freed > 0 && self.common.remaining > 0 && self.schedule.is_none() {
            due.owe(stamp.sender, receipt.freed, now);
        }
    }

    #[inline]
    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>) {
        let messages = u64::from(owed).min(self.common.remaining);
        self.common.remaining -= messages;
        for _ in 0..messages {
            let receiver = self.targets.of(sender, self.connections, &mut self.random);
            let number = self.ledger.depart(sender, receiver);
            // Connections take turns, so the number tells the message's place in the schedule.
            let since = self
                .schedule
                .as_ref()
                .map_or(since, |schedule| schedule.time_of(number * u64::from(self.connections) + u64::from(sender)));
            self.common.writer.write(out, self.addresses.of(receiver), sender, receiver, number, since);
        }
    }
}

impl Load for Unicast {
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
            schedule.start += now.saturating_sub(schedule.time_of(schedule.next));
        }
    }

    fn lateness(&self) -> Option<&Histogram<u64>> {
        self.schedule.as_ref().map(|schedule| &schedule.lateness)
    }

    fn is_overrun(&self) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| self.ledger.in_flight() > schedule.in_flight_max)
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.common.mark(messages);
        if let Some(schedule) = &mut self.schedule {
            schedule.lateness.reset();
        }
    }

    fn stop(&mut self) {
        self.common.remaining = 0;
    }

    fn in_flight(&self) -> u64 {
        self.ledger.in_flight()
    }

    fn is_exhausted(&self) -> bool {
        self.common.remaining == 0
    }

    fn tally(&mut self) -> &mut Tally {
        self.ledger.tally()
    }

    fn stray(&self) -> Option<&str> {
        self.common.stray.as_deref()
    }

    fn close(self) -> Outcome {
        Outcome { tally: self.ledger.close(), latency: self.common.latency, to_last: None }
    }
}

/// When each message is due, the connections taking turns.
struct Schedule {
    /// Messages a second.
    rate: u32,
    /// When the first message is due, on the generator's clock; later by each pause that was the generator's own.
    start: u64,
    /// Place of the next message.
    next: u64,
    in_flight_max: u64,
    lateness: Histogram<u64>,
}

impl Schedule {
    fn new(rate: u32, in_flight_max: u64) -> Self {
        Self { rate, start: 0, next: 0, in_flight_max, lateness: latency_histogram() }
    }

    /// When the message at `place` is due.
    #[inline]
    fn time_of(&self, place: u64) -> u64 {
        let rate = u64::from(self.rate);
        // Whole seconds apart: nothing overflows in the centuries of the clock.
        self.start + place / rate * 1_000_000_000 + place % rate * 1_000_000_000 / rate
    }
}

/// One connection keeps a window of messages to everybody in flight.
pub(super) struct Broadcast {
    common: Common,
    ledger: BroadcastLedger,
    addresses: Addresses,
    window: u32,
    to_last: Histogram<u64>,
}

impl Broadcast {
    /// Prepares `window` broadcasts in flight to all `connections`, the sender among them.
    pub(super) fn new(connections: u32, window: u32, writer: Writer) -> Self {
        Self {
            common: Common::new(writer),
            ledger: BroadcastLedger::new(connections, window, BROADCASTER),
            addresses: Addresses::new(["all"]),
            window,
            to_last: latency_histogram(),
        }
    }
}

impl Traffic for Broadcast {
    #[inline]
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due) {
        let Some(stamp) = self.common.writer.read(payload) else {
            self.common.note_stray(payload);
            self.ledger.tally().damaged += 1;
            return;
        };
        let to_last = &mut self.to_last;
        let receipt = self.ledger.arrive(receiver, &stamp, |complete| {
            to_last.saturating_record(now.saturating_sub(complete.due));
        });
        if receipt.delivered {
            self.common.latency.saturating_record(now.saturating_sub(stamp.due));
        }
        if receipt.freed > 0 && self.common.remaining > 0 {
            due.owe(BROADCASTER, receipt.freed, now);
        }
    }

    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>) {
        let messages = u64::from(owed).min(self.common.remaining);
        self.common.remaining -= messages;
        for _ in 0..messages {
            let number = self.ledger.depart(since);
            self.common.writer.write(out, self.addresses.of(0), sender, EVERYBODY, number, since);
        }
    }
}

impl Load for Broadcast {
    fn start(&mut self, now: u64, due: &mut Due) {
        due.owe(BROADCASTER, self.window, now);
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.common.mark(messages);
        self.to_last.reset();
    }

    fn stop(&mut self) {
        self.common.remaining = 0;
    }

    fn in_flight(&self) -> u64 {
        self.ledger.in_flight()
    }

    fn is_exhausted(&self) -> bool {
        self.common.remaining == 0
    }

    fn tally(&mut self) -> &mut Tally {
        self.ledger.tally()
    }

    fn stray(&self) -> Option<&str> {
        self.common.stray.as_deref()
    }

    fn close(self) -> Outcome {
        Outcome { tally: self.ledger.close(), latency: self.common.latency, to_last: Some(self.to_last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_targets(targets: Targets, connections: u32, expected: &[u32]) {
        let mut random = Random(1);
        let receivers: Vec<u32> = (0..connections).map(|sender| targets.of(sender, connections, &mut random)).collect();
        assert_eq!(receivers, expected);
    }

    #[test]
    fn targets() {
        check_targets(Targets::Pairs, 4, &[1, 0, 3, 2]);
        check_targets(Targets::Pairs, 3, &[1, 0, 2]);
        check_targets(Targets::Next, 3, &[1, 2, 0]);
        check_targets(Targets::Itself, 3, &[0, 1, 2]);
        check_targets(Targets::Random, 2, &[1, 0]);
        for targets in [Targets::Pairs, Targets::Next, Targets::Itself, Targets::Random] {
            check_targets(targets, 1, &[0]);
        }
    }

    #[track_caller]
    fn check_time(rate: u32, place: u64, expected: u64) {
        let schedule = Schedule { start: 7, ..Schedule::new(rate, 1) };
        assert_eq!(schedule.time_of(place), expected);
    }

    #[test]
    fn a_schedule_keeps_its_rate() {
        check_time(1, 0, 7);
        check_time(1, 3, 3_000_000_007);
        check_time(1000, 1, 1_000_007);
        check_time(3, 1, 333_333_340);
        check_time(3, 300_000_000, 100_000_000_000_000_007);
        check_time(u32::MAX, u64::from(u32::MAX) * 5 + 1, 5_000_000_007);
    }

    #[test]
    fn random_targets_reach_all_others_evenly() {
        let (mut random, mut hits) = (Random(1), [0; 10]);
        for _ in 0..90_000 {
            hits[Targets::Random.of(3, 10, &mut random) as usize] += 1;
        }
        assert_eq!(hits[3], 0);
        assert!(hits.iter().enumerate().all(|(index, hits)| index == 3 || (9_000..11_000).contains(hits)), "{hits:?}");
    }
}
