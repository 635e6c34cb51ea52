//! The timers of a shard's sessions: a timing wheel (Varghese and Lauck, 1987).
//!
//! A session has one timer, for the earliest of its deadlines. An entry is never taken out early: if the session has
//! another timer by the time it comes up, it is stale, and ignored. So receiving from a peer touches no timer.
//!
//! A bit for each slot is set while the slot has entries. A shard looks for the next deadline two or three times
//! before each sleep, and finds it in a few words instead of up to a thousand lists.

use std::time::{Duration, Instant};

use super::io::SessionKey;
use super::session::Session;

/// Length of a tick. A timer comes up late by a tick or two, never early.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Slots of the wheel. A deadline beyond them waits in the last slot, and is set again when that comes up.
const SLOTS: usize = 1024;

/// Words of the bitmap with a bit for each slot.
const WORDS: usize = SLOTS / 64;

/// Ticks since the wheel was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tick(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// The first tick whose slot was not taken yet.
    next: Tick,
    /// Entries by their tick modulo `SLOTS`.
    slots: Vec<Vec<(Tick, SessionKey)>>,
    /// A bit for each slot that is not empty.
    taken: [u64; WORDS],
    /// Number of entries in all slots.
    waiting: usize,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            next: Tick(0),
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            taken: [0; WORDS],
            waiting: 0,
        }
    }

    /// Returns the tick that `instant` falls into.
    pub(crate) fn tick(&self, instant: Instant) -> Tick {
        let ticks = instant.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Adds an entry for `session` at the tick `at`; returns the tick at which it comes up, which is earlier if `at` is
    /// beyond the wheel.
    fn put(&mut self, at: Tick, session: SessionKey) -> Tick {
        let horizon = Tick(self.next.0 + SLOTS as u32 - 1);
        let at = at.clamp(self.next, horizon);
        let slot = at.0 as usize % SLOTS;
        self.slots[slot].push((at, session));
        self.taken[slot / 64] |= 1 << (slot % 64);
        self.waiting += 1;
        at
    }

    /// Makes sure that a session's timer comes up at the tick `at` or earlier; it adds an entry only if the timer is
    /// later now.
    #[inline]
    pub(super) fn wake_at<S>(&mut self, key: SessionKey, session: &mut Session<S>, at: Tick) {
        if at < session.timer {
            session.timer = self.put(at, key);
        }
    }

    /// Moves the entries that have come up by `now` to `due`.
    pub(crate) fn take_due(&mut self, now: Tick, due: &mut Vec<(Tick, SessionKey)>) {
        while self.next <= now {
            if self.waiting == 0 {
                self.next = Tick(now.0 + 1);
                return;
            }
            let index = self.next.0 as usize % SLOTS;
            let slot = &mut self.slots[index];
            self.taken[index / 64] &= !(1 << (index % 64));
            self.waiting -= slot.len();
            due.append(slot);
            // The memory of a large slot is freed.
            if slot.capacity() > 64 {
                *slot = Vec::new();
            }
            self.next.0 += 1;
        }
    }

    /// Asserts that every session has a timer, and that it is on the wheel.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn check<S>(&self, sessions: &super::sessions::Sessions<S>) {
        let entries: std::collections::HashSet<_> = self.slots.iter().flatten().copied().collect();
        for (key, session) in sessions.iter() {
            assert_ne!(session.timer, Tick::NEVER, "every session has a deadline");
            assert!(entries.contains(&(session.timer, key)), "its timer is not on the wheel");
        }
    }

    /// Returns the time until the next entry comes up; `None` without entries.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.waiting == 0 {
            return None;
        }
        let up = self.start + TICK * (self.next.0 + self.ahead()? + 1);
        Some(up.saturating_duration_since(now))
    }

    /// Returns how many ticks after `next` the first slot with entries comes up.
    fn ahead(&self) -> Option<u32> {
        let next = self.next.0 as usize % SLOTS;
        let (word, bit) = (next / 64, next % 64);
        // The word of the next slot is searched twice: its upper bits first, its lower bits last.
        let upper = self.taken[word] >> bit;
        if upper != 0 {
            return Some(upper.trailing_zeros());
        }
        let index = (1..=WORDS).find(|index| self.taken[(word + index) % WORDS] != 0)?;
        Some((index * 64 - bit) as u32 + self.taken[(word + index) % WORDS].trailing_zeros())
    }
}

impl Tick {
    /// Later than every deadline: no timer.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// Returns the tick `duration` later, rounded up: a deadline never comes early.
    pub(crate) fn after(self, duration: Duration) -> Self {
        let ticks = duration.as_millis().div_ceil(TICK.as_millis());
        Self(self.0.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)).saturating_add(1))
    }

    /// Returns the latest tick from which `duration` is over now: the inverse of [`Tick::after`].
    pub(crate) fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(Self(0).after(duration).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.take_due(Tick(now), &mut due);
        due.into_iter().map(|(_, session)| session.slot()).collect()
    }

    fn put(wheel: &mut Wheel, at: u32, slot: u32) -> Tick {
        wheel.put(Tick(at), SessionKey::new(slot, 7))
    }

    #[test]
    fn sessions_come_up_in_order_and_once() {
        let mut wheel = Wheel::new(Instant::now());
        assert_eq!(put(&mut wheel, 5, 1), Tick(5));
        assert_eq!(put(&mut wheel, 2, 2), Tick(2));
        assert_eq!(due(&mut wheel, 1), [0; 0]);
        assert_eq!(due(&mut wheel, 6), [2, 1]);
        assert_eq!(due(&mut wheel, 5000), [0; 0]);
        assert_eq!(put(&mut wheel, 3, 3), Tick(5001), "the past comes up at once");
        assert_eq!(due(&mut wheel, 5001), [3]);
    }

    #[test]
    fn deadlines_past_the_horizon_come_up_early_to_be_set_again() {
        let mut wheel = Wheel::new(Instant::now());
        assert_eq!(put(&mut wheel, 10_000, 1), Tick(SLOTS as u32 - 1));
        assert_eq!(due(&mut wheel, 2000), [1]);
    }

    #[test]
    fn idle_time_ends_when_the_next_comes_up() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        assert_eq!(wheel.idle_for(start), None);
        put(&mut wheel, 3, 1);
        assert_eq!(wheel.idle_for(start), Some(TICK * 4));
        assert_eq!(wheel.idle_for(start + TICK * 9), Some(Duration::ZERO));
    }

    /// The bitmap agrees with the lists, wherever on the wheel the next tick is.
    #[test]
    fn the_next_deadline_is_the_first_of_all() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut wheel = Wheel::new(Instant::now());
        let mut now = 0;
        for session in 0..20_000 {
            let expected =
                (0..SLOTS as u32).find(|ahead| !wheel.slots[(wheel.next.0 + ahead) as usize % SLOTS].is_empty());
            assert_eq!(wheel.ahead(), expected);
            let ticks = 1 << random.u32(..12);
            match random.u32(..4) {
                0 => {
                    now += random.u32(..ticks);
                    due(&mut wheel, now);
                }
                _ if wheel.waiting > 3 => {}
                _ => _ = put(&mut wheel, now + random.u32(..ticks), session),
            }
        }
    }

    #[test]
    fn deadlines_are_never_early() {
        assert_eq!(Tick(7).after(Duration::from_millis(1)), Tick(9));
        assert_eq!(Tick(7).after(TICK * 2), Tick(10));
        assert!(Tick(u32::MAX).after(Duration::MAX) == Tick(u32::MAX));
        assert_eq!(Tick(9).before(Duration::from_millis(1)), Tick(7));
        assert_eq!(Tick(10).before(TICK * 2), Tick(7));
    }
}
