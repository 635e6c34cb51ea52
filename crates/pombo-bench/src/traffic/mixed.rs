//! Everything at once: some connections write to each other, one of them also to everybody, most are idle, and some come
//! and go.
//!
//! ```text
//!   0 … active      unicasts on and on; connection 0 also broadcasts, at a fixed rate
//!   … idle          receive broadcasts; each is owed every one
//!   … visitors      write once to themselves, leave, come back, and so on
//! ```
//! A broadcast that is sent while a visitor comes or goes may reach the visitor or not. While it is there it must miss none:
//! the broadcasts are numbered, so a gap is a loss.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::generator::{Due, Traffic};
use super::super::ledger::{Tally, Visitor};
use super::super::wire::{EVERYBODY, Stamp};
use super::schedule::Schedule;
use super::{BROADCASTER, Broadcast, Load, LoadState, Outcome, Unicast};

/// Most broadcasts in flight: with more, the server is hopelessly behind.
const BROADCASTS_MAX: u64 = 1024;

/// Connections that come and go.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Visits {
    /// How many there are.
    pub(in super::super) visitors: u32,
    /// How long each stays.
    pub(in super::super) stay: Duration,
}

/// Unicasts, broadcasts and visitors.
pub(in super::super) struct Mixed {
    unicast: Unicast,
    broadcast: Broadcast,
    /// Of the broadcasts, if there are any.
    schedule: Option<Schedule>,
    /// When each broadcast that is not yet written was due.
    owed: VecDeque<u64>,
    /// Per connection that stays: what it has seen of the broadcaster.
    seen: Vec<Seen>,
    /// The visitors; their indices follow those of the connections that stay.
    visitors: Vec<Visitor>,
    /// The visitor that leaves next.
    next_visitor: usize,
    /// Time between two leavings, and when the next is due.
    interval: u64,
    next_leaving: u64,
    /// How often somebody came back.
    visits: u64,
    /// What visitors saw of the broadcasts, and what came in the wrong order between unicasts and broadcasts.
    tally: Tally,
}

impl Mixed {
    /// Combines the unicasts of `unicast` with `broadcasts` messages a second to everybody, and with visitors, whose indices
    /// follow those of the connections that stay.
    pub(in super::super) fn new(unicast: Unicast, broadcast: Broadcast, broadcasts: u32, visits: Visits) -> Self {
        let interval = visits.stay.as_nanos() as u64 / u64::from(visits.visitors.max(1));
        Self {
            schedule: (broadcasts > 0).then(|| Schedule::new(broadcasts)),
            owed: VecDeque::with_capacity(BROADCASTS_MAX as usize),
            seen: vec![Seen::default(); broadcast.ledger.receivers()],
            visitors: vec![Visitor::default(); visits.visitors as usize],
            next_visitor: 0,
            interval: interval.max(1_000_000),
            next_leaving: u64::MAX,
            visits: 0,
            tally: Tally::default(),
            unicast,
            broadcast,
        }
    }

    fn is_stopped(&self) -> bool {
        self.unicast.state.remaining == 0
    }

    fn first_visitor(&self) -> u32 {
        self.seen.len() as u32
    }

    /// Makes the next visitor leave, unless its message is not written yet, or in flight.
    fn send_away(&mut self, due: &mut Due) {
        let place = self.next_visitor;
        self.next_visitor = (place + 1) % self.visitors.len();
        let index = self.first_visitor() + place as u32;
        let visitor = &mut self.visitors[place];
        if visitor.is_here && !visitor.is_silent && self.unicast.ledger.is_idle(index) {
            visitor.is_here = false;
            due.leave(index);
        }
    }

    #[inline]
    fn take_broadcast(&mut self, receiver: u32, stamp: &Stamp, now: u64) {
        let ledger = &self.broadcast.ledger;
        let Some(seen) = self.seen.get_mut(receiver as usize) else {
            let visitor = &mut self.visitors[receiver as usize - self.seen.len()];
            if stamp.sender == BROADCASTER && stamp.number < ledger.departed() {
                visitor.arrive(stamp.number, &mut self.tally);
            } else {
                self.tally.damaged += 1;
            }
            return;
        };
        let unicasts_before = ledger.unicasts_before(stamp.number);
        let receipt = self.broadcast.take(receiver, stamp, now);
        if let Some(before) = unicasts_before.filter(|_| receipt.delivered) {
            self.tally.reordered += u64::from(seen.broadcast(before));
        }
    }
}

impl Traffic for Mixed {
    #[inline]
    fn look(&mut self, now: u64, due: &mut Due) -> Duration {
        let mut wait = self.unicast.look(now, due);
        if self.is_stopped() {
            return wait;
        }
        if let Some(schedule) = &mut self.schedule {
            while self.broadcast.in_flight() + (self.owed.len() as u64) < BROADCASTS_MAX {
                let Some((_, since)) = schedule.take(now) else { break };
                self.owed.push_back(since);
                due.owe(BROADCASTER, 1, now);
            }
            wait = wait.min(schedule.wait(now));
        }
        if self.next_leaving <= now {
            self.next_leaving = now + self.interval;
            self.send_away(due);
        }
        wait.min(Duration::from_nanos(self.next_leaving - now))
    }

    #[inline]
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due) {
        let Some(stamp) = self.unicast.state.writer.read(payload) else { return self.unicast.refuse(payload) };
        if stamp.receiver == EVERYBODY {
            return self.take_broadcast(receiver, &stamp, now);
        }
        let receipt = self.unicast.take(receiver, &stamp, now, due);
        if receipt.delivered && stamp.sender == BROADCASTER {
            self.tally.reordered += u64::from(self.seen[receiver as usize].unicast(stamp.number));
        }
    }

    #[inline]
    fn write(&mut self, sender: u32, mut owed: u32, since: u64, out: &mut Vec<u8>) {
        if sender == BROADCASTER {
            while let Some(since) = self.owed.pop_front() {
                owed -= 1;
                self.broadcast.send(sender, since, self.unicast.ledger.next(sender), out);
            }
        }
        if let Some(place) = sender.checked_sub(self.first_visitor()) {
            self.visitors[place as usize].is_silent = false;
        }
        self.unicast.write(sender, owed, since, out);
    }

    fn came_back(&mut self, index: u32, now: u64, due: &mut Due) {
        let place = (index - self.first_visitor()) as usize;
        self.visitors[place] = Visitor::here();
        self.visits += 1;
        due.owe(index, 1, now);
    }
}

impl Load for Mixed {
    fn state(&self) -> &LoadState {
        self.unicast.state()
    }

    fn state_mut(&mut self) -> &mut LoadState {
        self.unicast.state_mut()
    }

    fn start(&mut self, now: u64, due: &mut Due) {
        self.unicast.start(now, due);
        if let Some(schedule) = &mut self.schedule {
            schedule.start = now;
        }
        let first = self.first_visitor();
        for (visitor, index) in self.visitors.iter_mut().zip(first..) {
            *visitor = Visitor::here();
            due.owe(index, 1, now);
            self.next_leaving = now + self.interval;
        }
    }

    fn resume(&mut self, now: u64) {
        self.unicast.resume(now);
        if let Some(schedule) = &mut self.schedule {
            schedule.resume(now);
        }
    }

    fn lateness(&self) -> Option<&Histogram<u64>> {
        self.unicast.lateness()
    }

    fn is_overrun(&self) -> bool {
        self.unicast.is_overrun() || self.broadcast.in_flight() + self.owed.len() as u64 >= BROADCASTS_MAX
    }

    fn mark(&mut self, messages: Option<u64>) {
        self.unicast.mark(messages);
        self.broadcast.mark(None);
    }

    fn stop(&mut self) {
        self.unicast.stop();
        self.broadcast.stop();
    }

    fn in_flight(&self) -> u64 {
        self.unicast.in_flight() + self.broadcast.in_flight()
    }

    fn tally(&self) -> Tally {
        self.unicast.tally() + self.broadcast.tally() + self.tally
    }

    fn visits(&self) -> u64 {
        self.visits
    }

    fn close(self) -> Outcome {
        let (unicast, broadcast) = (self.unicast.close(), self.broadcast.close());
        Outcome {
            tally: unicast.tally + broadcast.tally + self.tally,
            latency: unicast.latency,
            to_last: broadcast.to_last,
            broadcasts: self.schedule.map(|_| broadcast.latency),
        }
    }
}

/// How far a connection has seen the broadcaster's unicasts and broadcasts, which must arrive in the order sent.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// One more than the highest number of a unicast from the broadcaster that arrived here.
    unicasts: u64,
    /// How many unicasts the broadcaster had sent before the latest broadcast that was seen.
    unicasts_before: u64,
}

impl Seen {
    /// Enters the unicast with this number; says whether a later broadcast has overtaken it.
    fn unicast(&mut self, number: u64) -> bool {
        self.unicasts = self.unicasts.max(number + 1);
        self.unicasts_before > number
    }

    /// Enters a broadcast that was sent behind so many unicasts; says whether a later unicast has overtaken it.
    fn broadcast(&mut self, unicasts_before: u64) -> bool {
        self.unicasts_before = self.unicasts_before.max(unicasts_before);
        self.unicasts > unicasts_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets unicasts (by number) and broadcasts (by the unicasts before them) arrive, and counts those overtaken.
    #[track_caller]
    fn check(arrivals: &[(&str, u64)], expected: usize) {
        let mut seen = Seen::default();
        let overtaken = arrivals.iter().filter(|(kind, at)| match *kind {
            "unicast" => seen.unicast(*at),
            _ => seen.broadcast(*at),
        });
        assert_eq!(overtaken.count(), expected, "{arrivals:?}");
    }

    #[test]
    fn order_between_unicasts_and_broadcasts() {
        check(&[("unicast", 0), ("broadcast", 1), ("unicast", 1), ("broadcast", 2)], 0);
        check(&[("broadcast", 0), ("broadcast", 0), ("unicast", 0)], 0);
        check(&[("unicast", 0), ("broadcast", 7), ("broadcast", 7), ("unicast", 7)], 0);
        check(&[("broadcast", 1), ("unicast", 0)], 1);
        check(&[("unicast", 0), ("broadcast", 0)], 1);
        check(&[("unicast", 1), ("broadcast", 1), ("unicast", 0), ("unicast", 2)], 2);
    }
}
