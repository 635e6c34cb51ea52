//! The books: every message sent is owed to its receiver exactly once, and in order.
//!
//! The generator's thread owns them. They hold only the messages in flight, so they are bounded by connections and windows,
//! and nothing is allocated per message. A message that a younger one from the same sender to the same receiver has overtaken
//! is presumed lost: it frees its place in the window, so that a server which drops messages does not stop the run. It is
//! counted when it arrives after all (out of order), or when the books are closed (lost).

use std::collections::{BTreeSet, VecDeque};
use std::ops::Add;

use super::wire::{EVERYBODY, Stamp};

/// Overtaken messages that are still waited for: per sender of unicasts, per run of broadcasts. Those beyond are lost.
const OVERTAKEN_MAX: usize = 4096;

/// The outcomes of a run's messages; every message that is not delivered is a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Messages sent.
    pub sent: u64,
    /// Deliveries that are owed for them: one for a unicast, one a receiver for a broadcast.
    pub owed: u64,
    /// First deliveries to the right connection.
    pub delivered: u64,
    /// Deliveries owed that never came.
    pub lost: u64,
    /// Deliveries of a message that had been delivered already.
    pub duplicated: u64,
    /// Deliveries to a wrong connection.
    pub misdelivered: u64,
    /// Deliveries that came behind a younger message of the same sender to the same receiver; delivered all the same.
    pub reordered: u64,
    /// Arrivals that differ from every message that was sent: cut, changed, or of another sender; also error texts of the
    /// server.
    pub damaged: u64,
    /// Connections that ended unexpectedly.
    pub closed: u64,
}

impl Tally {
    /// Faults of all kinds.
    pub fn faults(&self) -> u64 {
        self.lost + self.duplicated + self.misdelivered + self.reordered + self.damaged + self.closed
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            owed: self.owed + other.owed,
            delivered: self.delivered + other.delivered,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            misdelivered: self.misdelivered + other.misdelivered,
            reordered: self.reordered + other.reordered,
            damaged: self.damaged + other.damaged,
            closed: self.closed + other.closed,
        }
    }
}

/// The result of an arrival, for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Whether the message was the receiver's, and new.
    pub(super) delivered: bool,
    /// Places in the sender's window that it freed.
    pub(super) freed: u32,
}

const NOTHING: Receipt = Receipt { delivered: false, freed: 0 };

/// Books of messages to one receiver each.
pub(super) struct UnicastLedger {
    /// Per sender what is in flight, oldest first.
    flights: Vec<VecDeque<Flight>>,
    /// Per sender the number of its next message.
    next: Vec<u64>,
    /// Messages that hold a place in a window.
    in_flight: u64,
    pub(super) tally: Tally,
}

struct Flight {
    number: u64,
    receiver: u32,
    /// A younger message to the same receiver has arrived; the place in the window is free again.
    overtaken: bool,
}

impl UnicastLedger {
    /// Opens books for `all` connections, the first of which keep `window` messages in flight.
    pub(super) fn new(connections: u32, window: u32, all: u32) -> Self {
        let room = |sender| if sender < connections { window as usize } else { 0 };
        Self {
            flights: (0..all).map(|sender| VecDeque::with_capacity(room(sender))).collect(),
            next: vec![0; all as usize],
            in_flight: 0,
            tally: Tally::default(),
        }
    }

    /// Enters a message from `sender` to `receiver`, and returns its number.
    #[inline]
    pub(super) fn depart(&mut self, sender: u32, receiver: u32) -> u64 {
        let number = self.next[sender as usize];
        self.next[sender as usize] += 1;
        self.flights[sender as usize].push_back(Flight { number, receiver, overtaken: false });
        self.in_flight += 1;
        self.tally.sent += 1;
        self.tally.owed += 1;
        number
    }

    /// Enters what `at` has received.
    #[inline]
    pub(super) fn arrive(&mut self, at: u32, stamp: &Stamp) -> Receipt {
        let sender = stamp.sender as usize;
        if self.next.get(sender).is_none_or(|next| stamp.number >= *next) {
            self.tally.damaged += 1;
            return NOTHING;
        }
        let flights = &mut self.flights[sender];
        let Some(position) = flights.iter().position(|flight| flight.number >= stamp.number) else {
            return self.unowed(at, stamp);
        };
        if flights[position].number != stamp.number {
            return self.unowed(at, stamp);
        }
        let mut freed = 0;
        if position > 0 && at == stamp.receiver {
            for older in flights.range_mut(..position) {
                if older.receiver == at && !older.overtaken {
                    older.overtaken = true;
                    freed += 1;
                }
            }
        }
        let flight = flights.remove(position).expect("the position was just found");
        if !flight.overtaken {
            freed += 1;
        }
        while flights.front().is_some_and(|front| front.overtaken) && flights.len() > OVERTAKEN_MAX {
            flights.pop_front();
            self.tally.lost += 1;
        }
        self.in_flight -= u64::from(freed);
        let delivered = at == flight.receiver;
        if delivered {
            self.tally.delivered += 1;
            self.tally.reordered += u64::from(flight.overtaken);
        } else {
            self.tally.misdelivered += 1;
        }
        Receipt { delivered, freed }
    }

    #[cold]
    fn unowed(&mut self, at: u32, stamp: &Stamp) -> Receipt {
        if at == stamp.receiver {
            self.tally.duplicated += 1;
        } else {
            self.tally.misdelivered += 1;
        }
        NOTHING
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// The number that the next message of `sender` will have.
    #[inline]
    pub(super) fn next(&self, sender: u32) -> u64 {
        self.next[sender as usize]
    }

    /// Whether nothing of `sender` is on its way.
    pub(super) fn is_idle(&self, sender: u32) -> bool {
        self.flights[sender as usize].is_empty()
    }

    /// Closes the books: what is still in flight is lost.
    pub(super) fn close(mut self) -> Tally {
        self.tally.lost += self.flights.iter().map(|flights| flights.len() as u64).sum::<u64>();
        self.tally
    }
}

/// Books of messages from one sender to everybody.
pub(super) struct BroadcastLedger {
    /// Index of the one sender.
    sender: u32,
    /// Per receiver the number it must see next.
    expected: Vec<u64>,
    /// What receivers have not seen although they saw a younger one.
    overtaken: BTreeSet<(u32, u64)>,
    /// The broadcasts in flight, the oldest first.
    rounds: VecDeque<Round>,
    /// Number of the oldest in flight; those before it are complete.
    oldest: u64,
    pub(super) tally: Tally,
}

struct Round {
    /// Receivers that neither got it nor saw a younger one.
    remaining: u32,
    due: u64,
    /// Unicasts that its sender had sent before it.
    unicasts_before: u64,
}

/// A broadcast that everybody has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complete {
    /// When it was due to be sent.
    pub(super) due: u64,
}

impl BroadcastLedger {
    pub(super) fn new(connections: u32, window: u32, sender: u32) -> Self {
        Self {
            sender,
            expected: vec![0; connections as usize],
            overtaken: BTreeSet::new(),
            rounds: VecDeque::with_capacity(window as usize),
            oldest: 0,
            tally: Tally::default(),
        }
    }

    /// Enters a broadcast that is due at `due` and sent behind so many unicasts of its sender; returns its number.
    pub(super) fn depart(&mut self, due: u64, unicasts_before: u64) -> u64 {
        self.rounds.push_back(Round { remaining: self.expected.len() as u32, due, unicasts_before });
        self.tally.sent += 1;
        self.tally.owed += self.expected.len() as u64;
        self.departed() - 1
    }

    /// How many were entered.
    #[inline]
    pub(super) fn departed(&self) -> u64 {
        self.oldest + self.rounds.len() as u64
    }

    /// Connections that each broadcast is owed to.
    pub(super) fn receivers(&self) -> usize {
        self.expected.len()
    }

    /// Unicasts that the sender had sent before this broadcast, if it is in flight.
    #[inline]
    pub(super) fn unicasts_before(&self, number: u64) -> Option<u64> {
        let place = number.checked_sub(self.oldest)?;
        Some(self.rounds.get(usize::try_from(place).ok()?)?.unicasts_before)
    }

    /// Enters what `at` has received, and calls `complete` for each broadcast that is over with it.
    #[inline]
    pub(super) fn arrive(&mut self, at: u32, stamp: &Stamp, mut complete: impl FnMut(Complete)) -> Receipt {
        if stamp.sender != self.sender || stamp.receiver != EVERYBODY || stamp.number >= self.departed() {
            self.tally.damaged += 1;
            return NOTHING;
        }
        let expected = self.expected[at as usize];
        if stamp.number < expected {
            return self.late(at, stamp.number);
        }
        for number in expected..stamp.number {
            self.overtake(at, number);
        }
        self.expected[at as usize] = stamp.number + 1;
        for number in expected..=stamp.number {
            self.rounds[(number - self.oldest) as usize].remaining -= 1;
        }
        self.tally.delivered += 1;
        let mut freed = 0;
        // Receivers see ever younger numbers, so no round is over before the one in front of it.
        while self.rounds.front().is_some_and(|round| round.remaining == 0) {
            let round = self.rounds.pop_front().expect("it was just looked at");
            self.oldest += 1;
            freed += 1;
            complete(Complete { due: round.due });
        }
        Receipt { delivered: true, freed }
    }

    #[cold]
    fn overtake(&mut self, at: u32, number: u64) {
        if self.overtaken.len() < OVERTAKEN_MAX {
            self.overtaken.insert((at, number));
        } else {
            self.tally.lost += 1;
        }
    }

    #[cold]
    fn late(&mut self, at: u32, number: u64) -> Receipt {
        if self.overtaken.remove(&(at, number)) {
            self.tally.reordered += 1;
            self.tally.delivered += 1;
            return Receipt { delivered: true, freed: 0 };
        }
        self.tally.duplicated += 1;
        NOTHING
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.rounds.len() as u64
    }

    /// Closes the books: what is still owed is lost.
    pub(super) fn close(mut self) -> Tally {
        self.tally.lost += self.overtaken.len() as u64;
        self.tally.lost += self.rounds.iter().map(|round| u64::from(round.remaining)).sum::<u64>();
        self.tally
    }
}

/// A connection that comes and goes, and what it must see of the broadcasts while it is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visitor {
    /// Logged in, and not told to leave.
    pub(super) is_here: bool,
    /// Has still to write the message of this visit.
    pub(super) is_silent: bool,
    /// The broadcast that must come next; none before the first of a visit.
    next: Option<u64>,
}

impl Visitor {
    /// One that has just logged in.
    pub(super) fn here() -> Self {
        Self { is_here: true, is_silent: true, next: None }
    }

    /// Enters a broadcast: from the first one of a visit on it is owed each.
    pub(super) fn arrive(&mut self, number: u64, tally: &mut Tally) {
        let next = self.next.unwrap_or(number);
        if number < next {
            tally.duplicated += 1;
            return;
        }
        tally.owed += number - next + 1;
        tally.lost += number - next;
        tally.delivered += 1;
        self.next = Some(number + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends four messages from 0 to 1, lets `arrivals` (number, at) arrive, and compares delivered, lost, duplicated,
    /// misdelivered, reordered.
    #[track_caller]
    fn check_unicast(arrivals: &[(u64, u32)], expected: [u64; 5]) {
        let mut ledger = UnicastLedger::new(3, 4, 3);
        for number in 0..4 {
            assert_eq!(ledger.depart(0, 1), number);
        }
        let mut freed = 0;
        for &(number, at) in arrivals {
            freed += ledger.arrive(at, &Stamp { sender: 0, receiver: 1, number, run: 0, due: 0 }).freed;
        }
        assert_eq!(u64::from(freed) + ledger.in_flight(), 4, "places in the window");
        let tally = ledger.close();
        assert_eq!([tally.delivered, tally.lost, tally.duplicated, tally.misdelivered, tally.reordered], expected);
        assert_eq!((tally.sent, tally.owed, tally.damaged, tally.closed), (4, 4, 0, 0));
    }

    #[test]
    fn unicasts() {
        check_unicast(&[(0, 1), (1, 1), (2, 1), (3, 1)], [4, 0, 0, 0, 0]);
        check_unicast(&[], [0, 4, 0, 0, 0]);
        check_unicast(&[(0, 1), (2, 1), (3, 1)], [3, 1, 0, 0, 0]);
        check_unicast(&[(3, 1)], [1, 3, 0, 0, 0]);
        check_unicast(&[(0, 1), (0, 1), (1, 1), (2, 1), (3, 1), (0, 1)], [4, 0, 2, 0, 0]);
        check_unicast(&[(1, 1), (0, 1), (3, 1), (2, 1)], [4, 0, 0, 0, 2]);
        check_unicast(&[(3, 1), (2, 1), (1, 1), (0, 1)], [4, 0, 0, 0, 3]);
        check_unicast(&[(0, 2), (1, 1), (2, 1), (3, 1)], [3, 0, 0, 1, 0]);
        check_unicast(&[(0, 1), (0, 2), (1, 1), (2, 1), (3, 1)], [4, 0, 0, 1, 0]);
        check_unicast(&[(1, 1), (0, 2), (2, 1), (3, 1)], [3, 0, 0, 1, 0]);
        check_unicast(&[(0, 2), (0, 1), (1, 1), (2, 1), (3, 1)], [3, 0, 1, 1, 0]);
    }

    #[test]
    fn order_is_promised_per_receiver_only() {
        let mut ledger = UnicastLedger::new(3, 2, 3);
        ledger.depart(0, 1);
        ledger.depart(0, 2);
        for (number, receiver) in [(1, 2), (0, 1)] {
            let receipt = ledger.arrive(receiver, &Stamp { sender: 0, receiver, number, run: 0, due: 0 });
            assert_eq!(receipt, Receipt { delivered: true, freed: 1 });
        }
        assert_eq!(ledger.close().faults(), 0);
    }

    #[test]
    fn what_was_never_sent_is_damaged() {
        let mut ledger = UnicastLedger::new(2, 2, 2);
        ledger.depart(0, 1);
        for (sender, number) in [(0, 1), (1, 0), (2, 0), (EVERYBODY, 0)] {
            assert_eq!(ledger.arrive(1, &Stamp { sender, receiver: 1, number, run: 0, due: 0 }), NOTHING);
        }
        assert_eq!(ledger.tally.damaged, 4);
        assert_eq!(ledger.close().lost, 1);
    }

    /// Sends three broadcasts to two receivers, lets `arrivals` (number, at) arrive, and compares completed, delivered,
    /// lost, duplicated, reordered.
    #[track_caller]
    fn check_broadcast(arrivals: &[(u64, u32)], expected: [u64; 5]) {
        let mut ledger = BroadcastLedger::new(2, 3, 0);
        for number in 0..3 {
            assert_eq!(ledger.depart(number, 10 * number), number);
        }
        let (mut completed, mut freed) = (0, 0);
        for &(number, at) in arrivals {
            let stamp = Stamp { sender: 0, receiver: EVERYBODY, number, run: 0, due: 0 };
            freed += ledger.arrive(at, &stamp, |_| completed += 1).freed;
        }
        assert_eq!(u64::from(freed), completed);
        assert_eq!(ledger.in_flight() + completed, 3, "places in the window");
        let tally = ledger.close();
        assert_eq!([completed, tally.delivered, tally.lost, tally.duplicated, tally.reordered], expected);
        assert_eq!((tally.sent, tally.owed), (3, 6));
    }

    #[test]
    fn rounds_remember_what_was_before_them() {
        let mut ledger = BroadcastLedger::new(1, 2, 0);
        ledger.depart(0, 5);
        ledger.depart(0, 6);
        let stamp = Stamp { sender: 0, receiver: EVERYBODY, number: 0, run: 0, due: 0 };
        ledger.arrive(0, &stamp, |_| ());
        assert_eq!([0, 1, 2, u64::MAX].map(|number| ledger.unicasts_before(number)), [None, Some(6), None, None]);
        assert_eq!((ledger.departed(), ledger.receivers()), (2, 1));
    }

    /// Lets a visitor see broadcasts, and compares owed, delivered, lost, duplicated.
    #[track_caller]
    fn check_visit(arrivals: &[u64], expected: [u64; 4]) {
        let (mut visitor, mut tally) = (Visitor::default(), Tally::default());
        for number in arrivals {
            visitor.arrive(*number, &mut tally);
        }
        assert_eq!([tally.owed, tally.delivered, tally.lost, tally.duplicated], expected, "{arrivals:?}");
    }

    #[test]
    fn visits() {
        check_visit(&[], [0, 0, 0, 0]);
        check_visit(&[7, 8, 9], [3, 3, 0, 0]);
        check_visit(&[7, 9, 10], [4, 3, 1, 0]);
        check_visit(&[7, 7, 8], [2, 2, 0, 1]);
        check_visit(&[7, 6], [1, 1, 0, 1]);
    }

    #[test]
    fn broadcasts() {
        check_broadcast(&[(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)], [3, 6, 0, 0, 0]);
        check_broadcast(&[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)], [3, 6, 0, 0, 0]);
        check_broadcast(&[(0, 0), (1, 0), (2, 0)], [0, 3, 3, 0, 0]);
        check_broadcast(&[(2, 0), (2, 1)], [3, 2, 4, 0, 0]);
        check_broadcast(&[(1, 0), (0, 0), (2, 0), (0, 1), (1, 1), (2, 1)], [3, 6, 0, 0, 1]);
        check_broadcast(&[(0, 0), (0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (2, 1)], [3, 6, 0, 2, 0]);
    }
}
